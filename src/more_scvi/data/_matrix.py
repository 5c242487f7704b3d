"""The matrix of one modality: values are finite, not negative, and counts or log-normalised.

One pass reads stored values in blocks of a fixed size: a sparse matrix is never made dense, a backed one never read
whole, and the answer never depends on a random draw.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import scipy.sparse as sp
from anndata import AnnData

from ._arguments import check_option, listing, nearest, warn
from ._rows import Lines, RowReader

DataType = str
BLOCK_VALUES = 1 << 21
"""Values held in memory at a time (16 MB as float64)."""

LOG_MAXIMUM = 20.0
"""log1p of 485 million: log-normalised values stay below, measured counts rarely do."""

PROBED = 256
"""Cells whose values are looked at to tell log-normalised values from others."""

EQUAL = 0.01
"""Totals of cells that differ by less than this part were made equal."""


@dataclass(frozen=True)
class ValueRules:
    """Which values a modality may hold, besides that all are finite, none is negative and some are not zero.

    Attributes
    ----------
    data_types
        ``("counts", "lognorm")``, which are told apart by the values, or the name of the only type. Values of the only
        type ``"counts"`` are whole.
    needed
        What is needed, as messages say it; ``""`` where both types will do.
    feature
        Word for one feature.
    maximum
        Largest legal value.
    """

    data_types: tuple[str, ...] = ("counts", "lognorm")
    needed: str = ""
    feature: str = "gene"
    maximum: float = math.inf

    @property
    def only(self) -> str | None:
        """The only legal type of data, if there is one."""
        return self.data_types[0] if len(self.data_types) == 1 else None


GENES = ValueRules()


@dataclass
class ValueScan:
    """What :func:`scan_values` found in a (cells, genes) matrix."""

    has_counts: np.ndarray  # bool (cells,): the cell holds at least one value other than zero
    n_nonfinite: int = 0
    n_negative: int = 0
    n_fractional: int = 0
    n_nonzero: int = 0
    maximum: float = 0.0  # 0.0 where nothing is stored
    first: dict[str, tuple[int, int, float]] = field(default_factory=dict)  # kind -> cell, gene, value of the first met
    said: str = ""  # what the values were found to be, in words

    @property
    def is_integer(self) -> bool:
        """All values are whole numbers."""
        return self.n_fractional == 0

    @property
    def empty_cells(self) -> np.ndarray:
        """Positions of the cells without a single non-zero value, int64."""
        return np.flatnonzero(~self.has_counts)


def scan_values(x) -> ValueScan:
    """Look at every value of a (cells, genes) matrix once, dense, sparse or backed; TypeError for anything else.

    Parts that a sparse matrix stores for one place count as their sum.
    """
    lines = Lines(x)
    scan = ValueScan(np.zeros(lines.shape[0], dtype=bool))
    for start, piece in lines.pieces(BLOCK_VALUES):
        stored = sp.coo_matrix(piece)
        values, cells, genes = stored.data, stored.row, stored.col
        cells, genes = (cells + start, genes) if lines.by_row else (cells, genes + start)
        if not values.size:
            continue
        finite = np.isfinite(values)
        whole = np.where(finite, values, 0)  # one NaN would be the maximum of all
        scan.has_counts[cells[values != 0]] = True
        scan.n_nonzero += int(np.count_nonzero(values))
        scan.maximum = max(scan.maximum, float(whole.max()))
        for name, bad in {"nonfinite": ~finite, "fractional": np.rint(whole) != whole, "negative": whole < 0}.items():
            at = np.flatnonzero(bad)
            if len(at) and name not in scan.first:
                scan.first[name] = int(cells[at[0]]), int(genes[at[0]]), float(values[at[0]])
            setattr(scan, f"n_{name}", getattr(scan, f"n_{name}") + len(at))
    return scan


def check_matrix(
    adata: AnnData, *, layer: str | None = None, data_type: str = "auto", query: bool = False, rules: ValueRules = GENES
) -> tuple[ValueScan, DataType]:
    """Read the matrix once: values finite, not negative, and of which kind; an error says why it cannot be used.

    Parameters
    ----------
    layer
        Key of ``adata.layers``; None: ``adata.X``.
    data_type
        ``"auto"``, or the kind the values must have: ``"counts"``, ``"lognorm"``.
    query
        The data are given to a model that was set up with `layer` and `data_type`: messages do not offer these
        arguments, and cells without counts are no error even if there are no others.
    rules
        What the modality may hold.

    Returns
    -------
    The scan, with what was found in words, and the type of data.
    """
    check_option("data_type", data_type, ("auto", *rules.data_types))
    name = "adata.X" if layer is None else f"adata.layers[{layer!r}]"
    layers = [key for key in adata.layers if key is not None]  # anndata 0.13 lists X as the layer None

    def others() -> str:  # a function: it reads adata.raw, which only an error or a warning needs
        such = f" The model reads {name}: put {'counts' if data_type == 'counts' else 'such values'} there."
        return (
            f"{such if query else ''} adata.layers holds: {listing(layers)}.{raw_counts(adata, name if query else '')}"
        )

    if layer is not None and not isinstance(layer, str):
        raise TypeError(
            f"layer is {layer!r} ({type(layer).__name__}); expected the key of a layer as a string, or None for"
            " adata.X."
        )
    if layer is not None and layer not in layers:
        raise KeyError(
            f"layer={layer!r} is not in adata.layers.{nearest(layer, layers)}{others()}"
            + (
                " adata.raw is no layer: adata.raw.to_adata() has it as X."
                if layer == "raw" and adata.raw is not None
                else ""
            )
            + ("" if query else " None uses adata.X.")
        )
    x = adata.X if layer is None else adata.layers[layer]
    if x is None:
        raise ValueError(
            f"{name} is empty (None); {'' if query else 'name the layer that holds the counts.'}{others()}"
        )
    try:
        scan = scan_values(x)
    except TypeError as error:
        raise TypeError(f"{name}: {error}") from None

    def at(kind: str) -> str:
        cell, gene, value = scan.first[kind]
        return f"first {value:g} in cell {adata.obs_names[cell]!r}, {rules.feature} {adata.var_names[gene]!r}"

    if scan.n_nonfinite:
        raise ValueError(
            f"{name} holds {scan.n_nonfinite} NaN or infinite values, {at('nonfinite')}; every value must be finite. "
            "Drop these genes or cells, or use the raw counts."
        )
    refused = [] if rules.only is None else ["negative", "fractional"] if rules.only == "counts" else ["negative"]
    needed = f"{rules.needed}.{'' if query else ' Name it with layer=.'}"
    for kind in refused:
        if kind in scan.first:
            n = getattr(scan, f"n_{kind}")
            raise ValueError(f"{name} holds {n} {kind} values, {at(kind)}; {needed}{others()}")
    if scan.maximum > rules.maximum:
        raise ValueError(f"{name} reaches {scan.maximum:g}; {needed}{others()}")
    if scan.n_negative:
        raise ValueError(
            f"{name} holds {scan.n_negative} negative values, {at('negative')}; it looks scaled or corrected. Counts or"
            f" log1p-normalised values are needed{'.' if query else ': name their layer with layer=.'}{others()}"
        )
    if scan.n_nonzero == 0 and not query:
        raise ValueError(f"{name} holds zeros only; give the matrix or layer with the counts.{others()}")
    found = rules.only or _decide_type(scan, adata, layer, data_type, query, name, others, at)
    if len(scan.empty_cells):
        warn(
            f"{name}: {len(scan.empty_cells)} of {adata.n_obs} cells have no counts at all (first"
            f" {adata.obs_names[scan.empty_cells[0]]!r}); their embedding says nothing. Filter them:"
            " scanpy.pp.filter_cells(adata, min_genes=1)."
        )
    return scan, found


def _decide_type(
    scan: ValueScan,
    adata: AnnData,
    layer: str | None,
    data_type: str,
    query: bool,
    name: str,
    others: Callable[[], str],
    at: Callable[[str], str],
) -> DataType:
    share = f"{scan.n_fractional / max(scan.n_nonzero, 1):.0%} of the non-zero values of {name} are not whole"
    if data_type == "lognorm":
        if scan.maximum > LOG_MAXIMUM:
            raise ValueError(
                f"{name} reaches {scan.maximum:g}, too large for data_type='lognorm' (log1p stays below"
                f" {LOG_MAXIMUM:g}). "
                + ("The model was trained on log1p of counts per 10,000: apply scanpy.pp.normalize_total(adata,"
                   " target_sum=1e4) and scanpy.pp.log1p(adata)." if query else
                   "For counts give data_type='counts'; for unlogged normalised values apply scanpy.pp.log1p.")
            )  # fmt: skip
        if scan.is_integer and scan.n_nonzero:
            warn(f"{name} is read as log-normalised, but all its values are whole: they look like counts.{others()}")
        scan.said = "log-normalised values"
        return "lognorm"
    if scan.is_integer:
        scan.said = f"counts (the largest is {scan.maximum:g})"
        return "counts"
    kind, words = _reading(adata, layer) if scan.maximum <= LOG_MAXIMUM else ("", "")
    if data_type == "counts":
        if kind == "lognorm":
            raise ValueError(
                f"{share} ({at('fractional')}) and the largest is {scan.maximum:g}: it looks log-normalised ({words}),"
                + (" but the model was trained on counts." if query else
                   " but data_type='counts'. Name the layer with the counts, or give data_type='lognorm'.") + others()
            )  # fmt: skip
        warn(
            f"{share} ({at('fractional')}); they are used as counts. Right for estimated counts (RSEM, SoupX);"
            f" otherwise use the raw counts.{others()}"
        )
        scan.said = "estimated counts, not whole"
        return "counts"
    if not kind or kind == "scaled":
        raise ValueError(
            f"{name} is neither counts nor log-normalised: {share} ({at('fractional')}) and the largest is"
            f" {scan.maximum:g}{words and f' ({words})'}. Name the layer with the counts; or give data_type='counts'"
            f" for estimated counts; or apply scanpy.pp.log1p.{others()}"
        )
    if kind == "unsure":
        warn(
            f"{share} and the largest is {scan.maximum:g}: {name} is read as log-normalised, but may hold estimated"
            f" counts ({words}). Say which: data_type='lognorm' or data_type='counts'.{others()}"
        )
    elsewhere = "".join(
        f" adata.layers[{key!r}] holds whole numbers: name it with layer=."
        for key in adata.layers
        if key is not None and key != layer and _is_whole(adata.layers[key])
    )
    hint = elsewhere + raw_counts(adata)
    scan.said = f"log-normalised values ({words})" + (f"; counts carry more.{hint}" if hint else "")
    return "lognorm"


def _reading(adata: AnnData, layer: str | None) -> tuple[Literal["lognorm", "scaled", "unsure"], str]:
    """What values of at most 20 that are not whole are, and why: the totals of cells with and without ``expm1`` decide.

    Where genes were left out after the normalisation totals differ; then within a cell the values of measured counts
    are multiples of the least one.
    """
    reader = RowReader(adata, layer)
    n = PROBED // 8
    starts = np.unique(np.linspace(0, max(len(reader) - n, 0), 8).astype(int))
    plain = sp.vstack([reader[start : start + n] for start in starts], format="csr").astype(np.float64)
    plain.eliminate_zeros()
    plain = plain[np.flatnonzero(np.diff(plain.indptr))]  # reduceat in _multiples takes no empty row
    logged = plain.copy()
    logged.data = np.expm1(plain.data)
    totals, plain_totals = (np.asarray(x.sum(1)).ravel() for x in (logged, plain))
    if _equal(totals):
        return "lognorm", f"log1p of values that add up to {np.median(totals):.4g} in every cell"
    if _equal(plain_totals):
        return (
            "scaled",
            f"they add up to {np.median(plain_totals):.4g} in every cell, as normalised values without log do",
        )
    if _whole(logged.data) or _multiples(logged):
        return "lognorm", f"log1p of scaled counts that add up to {totals.min():.4g} to {totals.max():.4g} in a cell"
    if _multiples(plain):
        return "scaled", "within a cell they are multiples of the least one, as scaled counts without log are"
    return "unsure", f"expm1 of them adds up to {totals.min():.4g} to {totals.max():.4g} in a cell"


def _equal(totals: np.ndarray) -> bool:
    low, middle, high = np.quantile(totals, [0.05, 0.5, 0.95])
    return len(totals) > 2 and high - low < EQUAL * middle


def _multiples(x: sp.csr_matrix) -> bool:
    """Nearly all values are whole multiples of the least value of their cell; false where none exceeds it."""
    return _whole(x.data / np.repeat(np.minimum.reduceat(x.data, x.indptr[:-1]), np.diff(x.indptr)))


def _whole(values: np.ndarray) -> bool:
    """Nearly all values of a size that can tell are whole."""
    values = values[(values > 1.5) & (values < 50)]  # 1 is the least itself; far above, the tolerance takes all
    return len(values) > 0 and float((np.abs(values - np.rint(values)) < 2e-3 * values).mean()) > 0.9


def raw_counts(adata: AnnData, name: str = "") -> str:
    """How to get at counts in ``adata.raw``, for a model that reads `name`; nothing if it holds none."""
    if adata.raw is None or not _is_whole(adata.raw.X):
        return ""
    step = "adata = adata.raw.to_adata()."
    if adata.var_names.isin(adata.raw.var_names).all():
        place, then = (name, "") if name else ("adata.layers['counts']", ", and name it with layer=")
        step = f"{place} = adata.raw[:, adata.var_names].X{then}. Or take all its genes: {step}"
    return f" adata.raw holds whole numbers: {step}"


def _is_whole(x: Any) -> bool:
    """The first lines of a matrix hold whole numbers, some above zero."""
    try:
        piece = next((piece for _, piece in Lines(x).pieces(1 << 16)), np.zeros((0, 0)))
    except TypeError:  # another layer, which was not asked for: no hint instead of an error
        return False
    values: Any = piece.data if sp.issparse(piece) else piece
    return bool(values.size and (values >= 0).all() and values.any() and (np.rint(values) == values).all())
