"""Checks of what users hand to a metric: each refusal names the argument, what it holds and what is needed."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import issparse


def check_embedding(
    z: ArrayLike, labels: ArrayLike, second: ArrayLike, flags: bool = True
) -> tuple[NDArray, NDArray, NDArray]:
    """Embedding, labels, and ``second``: hidden cells, whose labels may be missing, or batches (no ``flags``)."""
    z = check_matrix(z, "z")
    if not flags:
        return z, check_names(labels, "labels", len(z)), check_names(second, "batches", len(z))
    hidden = check_mask(second, "hidden", len(z))
    return z, check_names(labels, "labels", len(z), hidden), hidden


def check_matrix(values: ArrayLike, name: str, n_cells: int | None = None) -> NDArray[np.float64]:
    """``values`` as a finite matrix with ``n_cells`` rows (as many as it has, by default), which is not empty."""
    matrix = _numbers(values, name)
    if matrix.ndim != 2 or (n_cells is not None and len(matrix) != n_cells):
        rows = "cells" if n_cells is None else f"{n_cells} cells"
        raise ValueError(f"{name} {matrix.shape} must be ({rows}, columns), cells in the order of the other arrays.")
    if not matrix.size:
        raise ValueError(f"{name} {matrix.shape} is empty; give at least one cell and one column.")
    check_finite(matrix, name)
    return matrix


def check_scores(values: ArrayLike, name: str) -> NDArray[np.float64]:
    """``values`` as one number per cell; they need not be finite."""
    scores = _numbers(values, name)
    if scores.ndim != 1:
        raise ValueError(f"{name} {scores.shape} must hold one number per cell.")
    return scores


def _numbers(values: Any, name: str) -> NDArray[np.float64]:
    dense = values.toarray() if issparse(values) else values
    try:
        if values is None or np.iscomplexobj(dense):
            raise TypeError
        return np.asarray(dense, dtype=np.float64)
    except (TypeError, ValueError):
        found = type(values).__name__
        raise TypeError(
            f"{name} is a {found} that is no array of real numbers; give one row of numbers per cell."
        ) from None


def check_finite(values: NDArray, name: str) -> None:
    """ValueError if a value is NaN or infinite."""
    if not np.isfinite(values).all():
        raise ValueError(
            f"{name} holds {int((~np.isfinite(values)).sum())} values that are not finite; it cannot be scored."
        )


def check_mask(mask: ArrayLike, name: str, n_cells: int) -> NDArray[np.bool_]:
    """``mask`` as booleans; positions or labels are refused, a cast would turn them into another mask."""
    flags = np.asarray(mask)
    if flags.dtype != bool and not (flags.dtype.kind in "iufO" and np.isin(flags, [0, 1]).all()):
        raise ValueError(f"{name} must be a mask of booleans, one per cell; it holds values of type {flags.dtype}.")
    if flags.shape != (n_cells,):
        raise ValueError(f"{name} {flags.shape} must be a mask with one boolean for each of the {n_cells} cells.")
    return flags.astype(bool)


def check_names(
    values: ArrayLike, name: str, n_cells: int | None = None, but: NDArray[np.bool_] | bool = False
) -> NDArray[np.str_]:
    """``values`` as text, one per cell; missing ones are refused ``but`` in these cells."""
    array = np.asarray(values)
    if array.ndim != 1 or n_cells not in (None, array.size):
        number = "each cell" if n_cells is None else f"each of the {n_cells} cells"
        raise ValueError(f"{name} {array.shape} must hold one name for {number}.")
    missing = np.flatnonzero(pd.isna(array) & ~np.asarray(but))
    if missing.size:
        raise ValueError(
            f"{name} is missing for {missing.size} cells (first: {missing[0]}); name them or leave them out."
        )
    return array.astype(str)


def check_integer(name: str, value: int, minimum: int = 1, maximum: float = np.inf) -> int:
    """``value`` if it is whole and in range; the check that refuses it loads scvi-tools, which metrics do without."""
    if type(value) is int and minimum <= value <= maximum:
        return value
    from more_scvi.data._arguments import check_integer as check

    return check(name, value, minimum, maximum)


def check_labels(first: ArrayLike, second: ArrayLike, names: tuple[str, str]) -> tuple[NDArray, NDArray]:
    """Two lists of names of the same cells, as strings."""
    one, two = (check_names(values, name) for values, name in zip((first, second), names, strict=True))
    if one.shape != two.shape:
        raise ValueError(f"{names[0]} {one.shape} and {names[1]} {two.shape} must hold one name per cell each.")
    return one, two


def break_ties(z: NDArray[np.float64], seed: int = 0) -> NDArray[np.float64]:
    """``z`` centred, with noise of a millionth of its range.

    Cells at the same place then have neighbours at random instead of those that stand first in the table.
    """
    z = z - z.mean(axis=0)  # a far origin would make the noise larger, measured by the largest value
    return z + 1e-6 * (np.abs(z).max() or 1.0) * np.random.default_rng(seed).standard_normal(z.shape)
