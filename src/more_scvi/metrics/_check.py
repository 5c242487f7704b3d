"""Checks of what users hand to a metric."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def check_embedding(
    z: ArrayLike, first: ArrayLike, second: ArrayLike, flags: bool = True
) -> tuple[NDArray, NDArray, NDArray]:
    z = np.asarray(z, dtype=np.float64)
    one = np.asarray(first).astype(str)
    two = np.asarray(second, dtype=bool) if flags else np.asarray(second).astype(str)
    if z.ndim != 2 or one.shape != (len(z),) or two.shape != (len(z),):
        raise ValueError(
            f"z {z.shape} must be (cells, latent), with one label {one.shape} and one {'flag' if flags else 'batch'} "
            f"{two.shape} per cell."
        )
    check_finite(z, "z")
    return z, one, two


def check_matrix(values: ArrayLike, name: str, n_cells: int | None = None) -> NDArray[np.float64]:
    """``values`` as a finite matrix with ``n_cells`` rows (as many as it has, by default)."""
    matrix = np.asarray(values, dtype=np.float64)
    if matrix.ndim != 2 or (n_cells is not None and len(matrix) != n_cells):
        rows = "cells" if n_cells is None else f"{n_cells} cells"
        raise ValueError(f"{name} {matrix.shape} must be ({rows}, columns), cells in the order of the other arrays.")
    check_finite(matrix, name)
    return matrix


def check_finite(values: NDArray, name: str) -> None:
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


def check_labels(first: ArrayLike, second: ArrayLike, names: tuple[str, str]) -> tuple[NDArray, NDArray]:
    """Two lists of names of the same cells, as strings."""
    one, two = np.asarray(first).astype(str), np.asarray(second).astype(str)
    if one.ndim != 1 or one.shape != two.shape:
        raise ValueError(f"{names[0]} {one.shape} and {names[1]} {two.shape} must hold one name per cell each.")
    return one, two


def break_ties(z: NDArray[np.float64], seed: int = 0) -> NDArray[np.float64]:
    """``z`` centred, with noise of a millionth of its range.

    Cells at the same place then have neighbours at random instead of those that stand first in the table.
    """
    z = z - z.mean(axis=0)
    return z + 1e-6 * (np.abs(z).max() or 1.0) * np.random.default_rng(seed).standard_normal(z.shape)
