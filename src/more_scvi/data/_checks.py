"""Checks of what a user hands over, before anything is registered, trained or written.

All functions are pure: they read the AnnData, never change it, draw no random number, and raise an error that names
the object, the value, the legal values and the next step. Matrices are read in blocks
(:mod:`more_scvi.data._values`), so sparse and backed data stay so.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from anndata import AnnData

from more_scvi._compat import layer_names

from ._arguments import check_option, listing, nearest
from ._columns import as_batch_array, as_label_array, check_column, check_continuous, check_key_list, value_text
from ._values import ValueScan, scan_values

DataType = Literal["counts", "lognorm"]
DATA_TYPES = ("auto", "counts", "lognorm")
LOG_MAXIMUM = 20.0
"""log1p of 485 million: log-normalised values stay below, measured counts rarely do."""


@dataclass(frozen=True)
class DataSummary:
    """What :func:`check_setup` learned about the data.

    Attributes
    ----------
    n_cells, n_genes
        Shape of the matrix.
    data_type
        ``"counts"`` or ``"lognorm"`` (log1p of normalised counts).
    maximum
        Largest value of the matrix.
    n_empty_cells
        Cells without any count.
    batches
        Values of ``batch_key`` as sorted text; empty without one.
    labels
        Known values of ``labels_key`` as sorted text, without the unlabelled category; empty without one.
    n_labeled
        Cells with a known label.
    """

    n_cells: int
    n_genes: int
    data_type: DataType
    maximum: float
    n_empty_cells: int = 0
    batches: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    n_labeled: int = 0

    @property
    def is_counts(self) -> bool:
        """The matrix holds counts."""
        return self.data_type == "counts"


def check_setup(
    adata: AnnData,
    *,
    layer: str | None = None,
    batch_key: str | None = None,
    labels_key: str | None = None,
    unlabeled_category: str = "Unknown",
    categorical_covariate_keys: Sequence[str] | None = None,
    continuous_covariate_keys: Sequence[str] | None = None,
    gene_key: str | None = None,
    data_type: str = "auto",
) -> DataSummary:
    """Check everything ``setup_anndata`` is given; the arguments are those of ``MoRE.setup_anndata``.

    Returns
    -------
    :class:`DataSummary`.

    Raises
    ------
    TypeError
        Not an AnnData, or an argument of the wrong type.
    KeyError
        A layer or column that does not exist.
    ValueError
        A view, no or one cell, no gene, duplicate names, values that are not finite, negative or not of `data_type`,
        a batch or covariate column with missing values.
    """
    check_anndata(adata, min_cells=2)
    if adata.is_view:
        raise ValueError("adata is a view of another AnnData; set up a copy of its own: adata = adata.copy().")
    for axis, names in (("obs", adata.obs_names), ("var", adata.var_names)):
        if not names.is_unique:
            twice = names[names.duplicated()].unique()
            raise ValueError(
                f"adata.{axis}_names holds {len(twice)} names more than once: {listing(twice, 5)}. "
                f"Make them unique first: adata.{axis}_names_make_unique()."
            )
    if gene_key is not None:
        check_column(adata.var, gene_key, "gene_key", "adata.var")
    batches: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    n_labeled = 0
    if batch_key is not None:
        batches = tuple(sorted(set(as_batch_array(check_column(adata.obs, batch_key, "batch_key"), batch_key))))
    if labels_key is not None:
        if labels_key == batch_key:
            raise ValueError(
                f"batch_key and labels_key are both {batch_key!r}; aligning batches would remove the labels. Give two"
                " columns."
            )
        values = as_label_array(check_column(adata.obs, labels_key, "labels_key"), unlabeled_category)
        known = values != value_text(unlabeled_category)
        labels, n_labeled = tuple(sorted(set(values[known]))), int(known.sum())
    for key in check_key_list("categorical_covariate_keys", categorical_covariate_keys):
        as_batch_array(check_column(adata.obs, key, "categorical_covariate_keys"), key)
    for key in check_key_list("continuous_covariate_keys", continuous_covariate_keys):
        check_continuous(check_column(adata.obs, key, "continuous_covariate_keys"), key)
    scan, found = check_matrix(adata, layer=layer, data_type=data_type)
    empty = len(scan.empty_cells)
    return DataSummary(adata.n_obs, adata.n_vars, found, scan.maximum, empty, batches, labels, n_labeled)


def check_anndata(adata: Any, *, min_cells: int = 1) -> AnnData:
    """`adata` if it is an AnnData with at least `min_cells` cells and one gene; TypeError or ValueError otherwise."""
    if not isinstance(adata, AnnData):
        kind = type(adata).__name__
        step = {
            "MuData": "give one modality, e.g. mdata.mod['rna'].",
            "str": "read it first: anndata.read_h5ad(path).",
            "PosixPath": "read it first: anndata.read_h5ad(path).",
        }.get(kind, "wrap the matrix: anndata.AnnData(X, obs=cells, var=genes).")
        raise TypeError(f"adata is a {kind}; expected an anndata.AnnData (cells x genes), in memory or backed; {step}")
    if adata.n_obs < min_cells:
        raise ValueError(
            f"adata has {adata.n_obs} cell{'s' * (adata.n_obs != 1)} and {adata.n_vars} genes; at least {min_cells} "
            f"cell{'s are' if min_cells > 1 else ' is'} needed. Check the filter or subset that came before."
        )
    if adata.n_vars == 0:
        raise ValueError(
            f"adata has {adata.n_obs} cells and 0 genes; at least 1 gene is needed. Check the gene subset that came"
            " before."
        )
    return adata


def check_matrix(adata: AnnData, *, layer: str | None = None, data_type: str = "auto") -> tuple[ValueScan, DataType]:
    """Read the matrix once: values finite, not negative, and of which kind.

    Parameters
    ----------
    adata
        Cells by genes.
    layer
        Key of ``adata.layers``; None: ``adata.X``.
    data_type
        ``"auto"``, or the kind the values must have: ``"counts"``, ``"lognorm"``.

    Returns
    -------
    The scan, and ``"counts"`` or ``"lognorm"``.

    Raises
    ------
    KeyError, TypeError
        An unknown layer, a matrix that is not numeric.
    ValueError
        NaN, infinite or negative values, only zeros, or values that contradict `data_type`.
    """
    check_option("data_type", data_type, DATA_TYPES)
    name = "adata.X" if layer is None else f"adata.layers[{layer!r}]"
    others = f" adata.layers holds: {listing(layer_names(adata))}."
    if layer is not None and not isinstance(layer, str):
        raise TypeError(
            f"layer is {layer!r} ({type(layer).__name__}); expected the key of a layer as a string, or None for"
            " adata.X."
        )
    if layer is not None and layer not in layer_names(adata):
        raise KeyError(
            f"layer={layer!r} is not in adata.layers.{nearest(layer, layer_names(adata))}{others} None uses adata.X."
        )
    x = adata.X if layer is None else adata.layers[layer]
    if x is None:
        raise ValueError(f"{name} is empty (None); name the layer that holds the counts.{others}")
    try:
        scan = scan_values(x)
    except TypeError as error:
        raise TypeError(f"{name}: {error}") from None

    def at(kind: str) -> str:
        cell, gene, value = scan.first[kind]
        return f"first {value:g} in cell {adata.obs_names[cell]!r}, gene {adata.var_names[gene]!r}"

    if scan.n_nonfinite:
        raise ValueError(
            f"{name} holds {scan.n_nonfinite} NaN or infinite values, {at('nonfinite')}; every value must be finite. "
            "Drop these genes or cells, or use the layer with the raw counts."
        )
    if scan.n_negative:
        raise ValueError(
            f"{name} holds {scan.n_negative} negative values, {at('negative')}; it looks scaled or corrected. "
            f"Counts or log1p-normalised values are needed: name their layer with layer=.{others}"
        )
    if scan.n_nonzero == 0:
        raise ValueError(f"{name} holds zeros only; give the matrix or layer with the counts.{others}")
    found = _decide_type(scan, name, data_type, at)
    if len(scan.empty_cells):
        warnings.warn(
            f"{name}: {len(scan.empty_cells)} of {adata.n_obs} cells have no counts at all (first"
            f" {adata.obs_names[scan.empty_cells[0]]!r}); their embedding says nothing. Filter them:"
            " scanpy.pp.filter_cells(adata, min_genes=1).",
            UserWarning,
            stacklevel=3,
        )
    return scan, found


def _decide_type(scan: ValueScan, name: str, data_type: str, at) -> DataType:
    share = scan.n_fractional / max(scan.n_nonzero, 1)
    if data_type == "lognorm":
        if scan.maximum > LOG_MAXIMUM:
            raise ValueError(
                f"{name} reaches {scan.maximum:g}, too large for data_type='lognorm' (log1p stays below"
                f" {LOG_MAXIMUM:g}). For counts give data_type='counts'; for unlogged normalised values apply"
                " scanpy.pp.log1p."
            )
        return "lognorm"
    if scan.is_integer:
        return "counts"
    if data_type == "counts":
        if scan.maximum <= LOG_MAXIMUM:
            raise ValueError(
                f"data_type='counts', but {share:.0%} of the non-zero values of {name} are not whole"
                f" ({at('fractional')}) and the largest is {scan.maximum:g}: it looks log-normalised. Name the layer"
                " with the counts, or give data_type='lognorm'."
            )
        warnings.warn(
            f"data_type='counts', but {share:.0%} of the non-zero values of {name} are not whole"
            f" ({at('fractional')}); they are used as they are. Right for estimated counts (RSEM, SoupX); otherwise"
            " name the layer with the raw counts.",
            UserWarning,
            stacklevel=4,
        )
        return "counts"
    if scan.maximum <= LOG_MAXIMUM:
        return "lognorm"
    raise ValueError(
        f"{name} is neither counts nor log-normalised: {share:.0%} of the non-zero values are not whole"
        f" ({at('fractional')}) and the largest is {scan.maximum:g}. Name the layer with the counts; or give"
        " data_type='counts' for estimated counts; or apply scanpy.pp.log1p."
    )


def check_vocabulary(
    n_matched: int, names: Sequence[str], known: Sequence[str], backbone: str, minimum: int = 10
) -> None:
    """ValueError if fewer than `minimum` genes of the user are known to the backbone, with examples of both namings."""
    if n_matched < min(minimum, len(names)) or n_matched == 0:
        raise ValueError(
            f"{n_matched} of {len(names)} genes are known to the backbone {backbone!r}: yours are"
            f" {listing(names, 3)}, it knows {listing(known, 3)}. Give gene symbols or Ensembl ids of a species it"
            " knows, in adata.var_names or in a column of adata.var named by gene_key=."
        )
