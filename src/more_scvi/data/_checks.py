"""Checks of what a user hands over, before anything is registered, trained or written.

All functions are pure: they read the data, never change them, draw no random number, and raise an error that names
the object, the value, the legal values and the next step. An AnnData is checked as a MuData of one modality is.
"""

import logging
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData

from ._arguments import check_option, listing, warn
from ._batches import BatchKey, batch_values, check_batch_key
from ._cells import Cells, read_cells
from ._columns import (
    as_batch_array,
    as_label_array,
    check_column,
    check_continuous,
    check_key,
    check_key_list,
    value_text,
    warn_of_unlabeled,
)
from ._fields import RNA
from ._genes import naming_hint
from ._matrix import GENES, DataType, ValueRules, ValueScan, check_matrix
from ._objects import check_anndata, check_modalities, check_names, check_roles, refuse_views

logger = logging.getLogger("more_scvi")

MANY_BATCHES = 10
"""From this many values on, a column with few cells each is taken for something other than batches."""

CELLS_PER_BATCH = (2, 10)
"""Fewer cells per value than the first: refused as batch; fewer than the second: warned of."""

T = TypeVar("T")


@dataclass(frozen=True)
class DataSummary:
    """What :func:`check_setup` learned about one matrix and its cells."""

    data_type: DataType
    labels: tuple[str, ...]  # known values of ``labels_key`` as sorted text, without the unlabelled category
    said: str  # what the values were found to be, and where counts are if these are none


def check_setup(
    adata: AnnData, *, layer: str | None = None, gene_key: str | None = None, data_type: str = "auto", **columns: Any
) -> DataSummary:
    """Check everything ``setup_anndata`` is given; the arguments are those of ``MoRE.setup_anndata``.

    Raises
    ------
    TypeError, KeyError
        Not an AnnData, an argument of the wrong type, a layer or column that does not exist.
    ValueError
        A view, no or one cell, no gene, duplicate names, values that are not finite, negative or not of `data_type`,
        a batch or covariate column with missing values, or with nearly as many values as cells.
    """
    check_anndata(adata, min_cells=2)
    refuse_views(adata)
    check_names(adata, "adata")
    if gene_key is not None:
        check_column(adata.var, gene_key, "gene_key", "adata.var")
    return _check(adata, None, {RNA: layer}, {RNA: data_type}, {}, **columns)[1][RNA]


def check_mudata(
    mdata: MuData,
    *,
    modalities: Mapping[str, str],
    layers: Mapping[str, str | None] | None = None,
    data_types: Mapping[str, str] | None = None,
    rules: Mapping[str, ValueRules] | None = None,
    **columns: Any,
) -> tuple[Cells, dict[str, DataSummary]]:
    """Check everything ``setup_mudata`` is given; the arguments are those of ``MoRE.setup_mudata``.

    Parameters
    ----------
    data_types
        Role -> ``"auto"``, ``"counts"`` or ``"lognorm"``; default ``"auto"``.
    rules
        Legal roles, in the order in which they are returned, and the values of each; None: any, as given, with counts
        or log-normalised values.

    Returns
    -------
    The cells, and per role a :class:`DataSummary` of its matrix and of the labels of its cells.

    Raises
    ------
    TypeError, KeyError, ValueError
        As :func:`check_setup`; further a modality without cells or features, and what :func:`read_cells` refuses.
    """
    if isinstance(mdata, AnnData):
        raise TypeError(
            "mdata is an AnnData; a MuData is needed here. For one RNA modality: MoRE.setup_anndata(adata, ...); for"
            " several: mudata.MuData({'rna': rna, 'prot': protein})."
        )
    chosen = check_modalities(mdata, modalities, rules)
    refuse_views(mdata, chosen.values())
    layers, data_types = check_roles("layers", layers, chosen), check_roles("data_types", data_types, chosen)
    return _check(mdata, chosen, layers, data_types, rules or {}, **columns)


def _check(
    data: AnnData | MuData,
    modalities: Mapping[str, str] | None,
    layers: Mapping[str, str | None],
    data_types: Mapping[str, str],
    rules: Mapping[str, ValueRules],
    *,
    batch_key: BatchKey = None,
    labels_key: str | None = None,
    unlabeled_category: Any = "Unknown",
    categorical_covariate_keys: Sequence[str] | None = None,
    continuous_covariate_keys: Sequence[str] | None = None,
) -> tuple[Cells, dict[str, DataSummary]]:
    """Check columns and matrices; `modalities`: role -> name in a MuData, None for an AnnData."""
    own = "adata" if modalities is None else "mdata"
    checked = check_batch_key(batch_key)
    batches = [] if checked is None else checked if isinstance(checked, list) else [checked]
    if labels_key is not None and labels_key in batches:
        raise ValueError(
            f"batch_key and labels_key are both {labels_key!r}; aligning batches would remove the labels. Give two"
            " columns."
        )
    named = {
        "batch_key": batches,
        "labels_key": [] if labels_key is None else [labels_key],
        "categorical_covariate_keys": check_key_list("categorical_covariate_keys", categorical_covariate_keys),
        "continuous_covariate_keys": check_key_list("continuous_covariate_keys", continuous_covariate_keys),
    }
    arguments: dict[str, str] = {}
    for argument, keys in named.items():
        for key in keys:
            check_key(key, argument, f"{own}.obs")
            arguments.setdefault(key, argument)
    cells = read_cells(data, modalities, arguments, labels_key=labels_key, unlabeled_category=unlabeled_category)
    if len(cells) < 2:
        raise ValueError(
            f"{own} has {len(cells)} cell; at least 2 cells are needed. Check the filter that came before."
        )
    for argument in ("batch_key", "categorical_covariate_keys"):
        for key in named[argument]:
            speak_of(own, _check_batches, cells.obs[key], key, argument)
    if len(batches) > 1:
        _check_batches(pd.Series(speak_of(own, batch_values, cells.obs, batches)), batches, "batch_key")
    labels = None if labels_key is None else speak_of(own, _labels, cells.obs[labels_key], unlabeled_category)
    for key in named["continuous_covariate_keys"]:
        speak_of(own, check_continuous, cells.obs[key], key)
    summaries = {}
    for role, adata in cells.adatas.items():
        where = own if modalities is None else f"mdata[{modalities[role]!r}]"
        known = () if labels is None else set(labels[cells.rows[role] >= 0]) - {value_text(unlabeled_category)}
        scan, kind = _check_values(
            role, where, adata, layers.get(role), data_types.get(role, "auto"), rules.get(role, GENES)
        )
        summaries[role] = DataSummary(kind, tuple(sorted(known)), scan.said)
    return cells, summaries


def _check_batches(column: pd.Series, key: str | list[str], argument: str) -> None:
    """Refuse what :func:`as_batch_array` refuses, and a column in which nearly every cell has a value of its own."""
    values = as_batch_array(column, str(key))
    n = len(set(values))
    least, few = CELLS_PER_BATCH
    if n >= MANY_BATCHES and len(values) < few * n:
        text = (
            f"{argument}={key!r}: adata.obs[{key!r}] has {n} values for {len(values)} cells, e.g."
            f" {listing(values, 3)}. Differences between so small groups cannot be told from those between cells; name"
            " the column of the sample, donor or study."
        )
        if len(values) < least * n:
            raise ValueError(text)
        warn(text)


def _labels(column: pd.Series, unlabeled_category: Any) -> np.ndarray:
    values = as_label_array(column, unlabeled_category)
    warn_of_unlabeled(values, str(column.name), unlabeled_category)
    return values


def _check_values(
    role: str, where: str, adata: AnnData, layer: Any, data_type: Any, rules: ValueRules
) -> tuple[ValueScan, DataType]:
    """:func:`check_matrix` of one modality; says what was found where several types are legal."""
    if rules.only is None:
        speak_of(where, _warn_of_other_features, adata)
    elif data_type not in ("auto", rules.only):
        check_option(f"data_types[{role!r}]", data_type, ("auto", "counts", "lognorm"))
        raise ValueError(
            f"data_types[{role!r}]={data_type!r} is not supported: {rules.needed}. Name their layer with"
            f" layers={{{role!r}: ...}}."
        )
    scan, kind = speak_of(where, check_matrix, adata, role=role, layer=layer, data_type=data_type, rules=rules)
    if rules.only is None:
        said = _words(scan.said, where, role)
        logger.info("%s%s: %s.", where, ".X" if layer is None else f".layers[{layer!r}]", said.removesuffix("."))
    return scan, kind


def _warn_of_other_features(adata: AnnData) -> None:
    if "feature_types" not in adata.var:  # Cell Ranger's column; antibodies may stand among the genes
        return
    kinds = adata.var["feature_types"].astype(str)
    other = kinds[kinds != "Gene Expression"]
    if 0 < len(other) < len(kinds):
        warn(
            f"adata.var['feature_types'] says that {len(other)} of {len(kinds)} features are"
            f" {listing(other.unique(), 3)}, e.g. {other.index[0]!r}; here all are read as genes. Keep the genes: adata"
            " = adata[:, adata.var['feature_types'] == 'Gene Expression'].copy(); give the rest as modalities of a"
            " MuData."
        )


def check_vocabulary(
    n_matched: int, names: Sequence[str], known: Sequence[str], backbone: str, minimum: int = 10
) -> None:
    """ValueError if fewer than `minimum` genes of the user are known to the backbone, with examples of both namings."""
    if n_matched < min(minimum, len(names)) or n_matched == 0:  # a panel may have fewer genes than the minimum
        raise ValueError(
            f"{n_matched} of {len(names)} genes are known to the backbone {backbone!r}: yours are"
            f" {listing(names, 3)}, it knows {listing(known, 3)}.{naming_hint(names, known)} Give gene symbols or"
            " Ensembl ids of a species it knows, in adata.var_names or in a column of adata.var named by gene_key="
            " (--gene-key), or do without a backbone: backbone=None (--backbone none)."
        )


def speak_of(where: str, function: Callable[..., T], *args: Any, role: str = "", **kwargs: Any) -> T:
    """Call a check written for one AnnData; its errors and warnings then speak of `where` instead of ``adata``."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")  # the user's filters apply below, where it is said again
        try:
            result = function(*args, **kwargs)
        except (KeyError, TypeError, ValueError) as error:
            raise type(error)(_words(error.args[0], where, role)) from None  # str(KeyError) puts quotes round its text
    for warning in caught:
        warn(_words(warning.message, where, role), warning.category)
    return result


def _words(text: Any, where: str, role: str) -> str:
    if where == "adata":
        return str(text)
    text = re.sub(r"\badata\b(?=[.,[]| lacks| = )", lambda _: where, str(text))  # as text, backslashes would be read
    return text.replace("with layer=.", f"with layers={{{role!r}: ...}}.")
