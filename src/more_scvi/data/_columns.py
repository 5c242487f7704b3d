"""Columns of ``obs`` and names of genes: found, complete, and read as text.

Values are compared as text throughout: ``1``, ``1.0`` and ``"1"`` are one batch, and ``0``, ``""`` or ``False`` are
values like any other.
"""

import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ._arguments import check_unique, listing, nearest, warn
from ._genes import naming_hint

logger = logging.getLogger("more_scvi")

LEAST_SHARE = 0.02
"""Share of the genes of a model that other data must hold."""

NO_LABEL = {"", "-", "?", "na", "n/a", "nan", "none", "null", "unknown", "unassigned", "not assigned", "unannotated",
            "unlabeled", "unlabelled", "undefined", "<na>"}  # fmt: skip
"""What people write for cells without a label, in lower case."""


def check_key(key: Any, argument: str, where: str = "adata.obs") -> None:
    """TypeError if `key` is not text."""
    if not isinstance(key, str):
        raise TypeError(
            f"{argument} is {key!r} ({type(key).__name__}); expected the name of a column of {where} as a string."
        )


def check_column(frame: pd.DataFrame, key: Any, argument: str, where: str = "adata.obs") -> pd.Series:
    """Return the column `key` of `frame`; TypeError if `key` is not text, KeyError if there is no such column."""
    check_key(key, argument, where)
    if key not in frame.columns:
        columns = [c for c in frame.columns if not str(c).startswith("_scvi")]  # codes of scvi-tools are no choice
        raise KeyError(
            f"{argument}={key!r} is not a column of {where}.{nearest(key, columns)} Available: {listing(columns, 30)}."
        )
    column = frame[key]
    if isinstance(column, pd.DataFrame):  # what pandas gives for a name that repeats
        raise ValueError(f"{argument}={key!r} names {column.shape[1]} columns of {where}; rename or drop all but one.")
    return column


def check_key_list(argument: str, keys: Any) -> list[str]:
    """`keys` as a list of column names; TypeError for a bare string or anything that is not a sequence."""
    if keys is None:
        return []
    if isinstance(keys, str) or not isinstance(keys, Sequence | np.ndarray | pd.Index):
        hint = f" Did you mean [{keys!r}]?" if isinstance(keys, str) else ""
        raise TypeError(
            f"{argument}={keys!r} is a {type(keys).__name__}; expected a list of columns of adata.obs.{hint}"
        )
    return [str(key) if isinstance(key, str) else key for key in keys]


def check_continuous(column: pd.Series, key: str) -> None:
    """TypeError if `column` is not numeric, ValueError if a value is missing or infinite."""
    if not pd.api.types.is_numeric_dtype(column):
        raise TypeError(
            f"adata.obs[{key!r}] has dtype {column.dtype}; a continuous covariate must be numeric. "
            "Convert it with pandas.to_numeric, or list it in categorical_covariate_keys."
        )
    bad = ~np.isfinite(column.to_numpy(dtype=float, na_value=np.nan))  # nullable columns hold pd.NA, which is no float
    if bad.any():
        raise ValueError(
            f"adata.obs[{key!r}] is missing or infinite in {bad.sum()} of {len(column)} cells, first in"
            f" {column.index[bad][0]!r}; fill it in or drop these cells."
        )


def as_text(values: Any) -> np.ndarray:
    """Values of a column as text, object (cells,), None where missing; whole floats lose their ``.0``."""
    try:
        column = pd.Categorical(values)  # words are made once per distinct value, not per cell
    except TypeError:
        odd = next((v for v in values if not isinstance(v, Hashable)), None)
        key = getattr(values, "name", None)
        raise TypeError(
            f"adata.obs[{key!r}] holds values of type {type(odd).__name__}, e.g. {odd!r}; a category is text, a number"
            f" or a bool. Give one value per cell: adata.obs[{key!r}] = adata.obs[{key!r}].map(str)."
        ) from None
    return np.array([*map(value_text, column.categories), None], dtype=object)[column.codes]  # -1: the None


def value_text(value: Any) -> str:
    """One value as text, as :func:`as_text` writes it."""
    whole = isinstance(value, float | np.floating) and float(value).is_integer()  # integers with gaps become floats
    return str(int(value)) if whole else str(value)


def as_batch_array(column: pd.Series, key: str) -> np.ndarray:
    """Read a categorical column without gaps as text, object (cells,); ValueError for missing or continuous values."""
    _refuse_continuous(column, key)
    values = as_text(column)
    missing = pd.isna(values)
    if missing.any():
        raise ValueError(
            f"adata.obs[{key!r}] has no value in {missing.sum()} of {len(values)} cells, first in"
            f" {column.index[missing][0]!r}. Drop these cells, or fill in a name of their own: adata.obs[{key!r}] ="
            f" adata.obs[{key!r}].astype(object).fillna('other')."
        )
    return values


def as_label_array(column: pd.Series, unlabeled_category: Any) -> np.ndarray:
    """Labels as text, object (cells,): missing ones become `unlabeled_category`; ValueError for continuous values."""
    if not isinstance(unlabeled_category, str | int | float | np.generic):
        raise TypeError(
            f"unlabeled_category={unlabeled_category!r} is a {type(unlabeled_category).__name__}; "
            "expected the value that marks unlabelled cells, e.g. 'Unknown'."
        )
    _refuse_continuous(column, str(column.name))
    values = as_text(column)
    values[pd.isna(values)] = value_text(unlabeled_category)
    return values


def warn_of_unlabeled(values: np.ndarray, key: str, unlabeled_category: Any) -> None:
    """Warn of labels that read like "no label" while another value marks unlabelled cells."""
    mark = value_text(unlabeled_category)
    for value, n in zip(*np.unique(values[values != mark].astype(str), return_counts=True), strict=True):
        if value.strip().casefold() in NO_LABEL:
            warn(
                f"adata.obs[{key!r}] is {str(value)!r} in {n} of {len(values)} cells, which is taken as a cell type."
                f" If it means that they are not labelled, give unlabeled_category={str(value)!r} (now"
                f" {unlabeled_category!r}), or set them to {unlabeled_category!r}."
            )


def _refuse_continuous(column: pd.Series, key: str) -> None:
    if pd.api.types.is_float_dtype(column):
        numbers = column.dropna().to_numpy(dtype=float)
        broken = numbers[np.rint(numbers) != numbers]
        if broken.size:
            raise ValueError(
                f"adata.obs[{key!r}] is continuous (e.g. {broken[0]:g}); a categorical column is needed. "
                f"If these are categories: adata.obs[{key!r}] = adata.obs[{key!r}].astype(str)."
            )


def check_genes(
    names: Sequence[str],
    registered: Sequence[str],
    kind: str = "genes",
    find: Callable[[pd.Index], tuple[np.ndarray, Mapping[str, int]]] | None = None,
) -> np.ndarray | None:
    """Where each of the `registered` genes (or other `kind`) is in `names`, those of other data; None if nothing moves.

    int64 (len(registered),), -1 where one is missing, which is said; further genes are left out. `find` knows genes
    under other names, see :func:`find_genes`; those are said, too. ValueError if fewer than :data:`LEAST_SHARE` of them
    are there, or `names` repeat.
    """
    given, wanted = pd.Index(names).astype(str), pd.Index(registered).astype(str)
    if given.equals(wanted):  # None spares the reader a choice of columns per block
        return None
    check_unique("adata.var_names", given, "Make them unique first: adata.var_names_make_unique().")
    at, said = (given.get_indexer(wanted), {}) if find is None else find(given)
    if said:
        how = ", ".join(f"{n} by {what}" for what, n in said.items())
        logger.info("adata: %d of %d %s go by other names and were found: %s.", sum(said.values()), len(at), kind, how)
    missing = wanted[at < 0]
    if len(missing) > (1 - LEAST_SHARE) * len(wanted):
        hint = naming_hint(given, wanted) or nearest(missing[0], given)
        raise ValueError(
            f"adata lacks {len(missing)} of the {len(wanted)} {kind} the model was set up with:"
            f" {listing(missing, 5)}.{hint} adata.var_names starts with {listing(given, 3)};"
            f" at least {LEAST_SHARE:.0%} are needed, under the same names (order is free)."
        )
    if len(missing):
        warn(
            f"adata lacks {len(missing)} of the {len(wanted)} {kind} the model was set up with ({listing(missing, 3)});"
            f" they are taken as missing, not as zero: {1 - len(missing) / len(wanted):.0%} are read."
            f"{'' if said else naming_hint(given, wanted) or nearest(missing[0], given)}"
        )
    return at.astype(np.int64)


def check_categories(
    values: Sequence[Any] | np.ndarray,
    known: Sequence[Any] | np.ndarray,
    key: str | Sequence[str],
    so: str = "Train a model on all batches for a closer alignment.",
) -> np.ndarray:
    """Codes of categories that a model knows, for data given at inference, int64 (cells,).

    Values are compared as text, so a new category ``0``, ``""`` or ``False`` is as new as any other. It gets -1 and a
    warning that ends with `so`, what follows. `key`: the column, for messages.
    """
    text = as_batch_array(pd.Series(values, name=str(key)), str(key))
    codes = pd.Index(as_text(list(known))).get_indexer(text).astype(np.int64)
    new = codes < 0
    if new.any():
        warn(
            f"adata.obs[{key!r}] holds values the model was not trained on: {listing(sorted(set(text[new])), 5)}"
            f" ({new.sum()} of {len(text)} cells; known: {listing(known, 8)}). {so}"
        )
    return codes
