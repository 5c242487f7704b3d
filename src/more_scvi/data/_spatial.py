"""Spatial neighbours within sections, and what surrounds each cell."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from scipy.spatial import cKDTree

from ._arguments import check_integer, check_number
from ._batches import batch_keys, batch_values

N_NEIGHBOURS = 6
"""One ring of spots: on the hexagonal grid of Visium each spot touches six. Near that in a planar tissue of cells, too
(the mean degree of a Delaunay triangulation is just below six). Source: plain value, not tuned."""

MAX_MEAN_DEGREE = 1000
"""More neighbours per cell than this are no neighbourhood but a unit mistaken, or a place holder for coordinates."""

LARGEST = 1e100
"""The square of a distance still is a number."""

TIE = 1e-9
"""Distances that differ by less than this part are equal: coordinates are rounded decimal numbers."""


def neighbours(
    coordinates: np.ndarray, sections: Sequence | np.ndarray, k: int | None = None, radius: float | None = None
) -> sp.csr_matrix:
    """Weights of the spatial neighbours of each cell within its own section.

    Parameters
    ----------
    coordinates
        (cells, 2) or (cells, 3), in any unit that is the same along the axes.
    sections
        (cells,): the section (slide, sample) of each cell. Coordinates of different sections are not compared.
    k
        Neighbours per cell, 6 if neither ``k`` nor ``radius`` is given. All cells as near as the k-th count as
        neighbours, so that the result does not depend on the order of the rows (a square grid with ``k=6``
        gives eight). A section of ``k`` cells or fewer: all others of the section.
    radius
        All cells within this distance (inclusive), in the unit of the coordinates.

    Returns
    -------
    csr (cells, cells), float32: each row has equal weights that add up to 1. The cell itself is not among its
    neighbours; other cells at the very same place are. The row of a cell without neighbours is empty.

    Raises
    ------
    TypeError, ValueError
        If ``coordinates`` are absent, not finite or of the wrong shape, ``sections`` do not fit or are missing, both
        ``k`` and ``radius`` are given, one of them is not positive, or nearly all cells become neighbours of all.

    Examples
    --------
    >>> neighbours(np.array([[0.0, 0], [0, 1], [0, 3]]), ["a", "a", "a"], k=1).toarray().tolist()
    [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    """
    points, codes = _check(coordinates, sections, k, radius)
    rows, columns = [np.empty(0, np.int64)], [np.empty(0, np.int64)]  # to join, even if no section has two cells
    for section in range(codes.max(initial=-1) + 1):
        cells = np.flatnonzero(codes == section)
        if len(cells) > 1:
            tree = cKDTree(points[cells])
            if radius is not None:
                reach = np.full(len(cells), float(radius))
            else:
                nearest = min(N_NEIGHBOURS if k is None else k, len(cells) - 1)
                reach = tree.query(points[cells], k=[nearest + 1])[0][:, 0]  # the nearest is the cell itself
            reach *= 1 + TIE
            degree = tree.query_ball_point(points[cells], reach, return_length=True).mean()  # lists may fill memory
            if degree > MAX_MEAN_DEGREE:
                raise ValueError(
                    f"neighbours: the cells of section {np.asarray(sections)[cells[0]]!r} have {degree:.0f} neighbours "
                    f"on average, of {len(cells)} cells. Give a smaller radius, or correct coordinates that coincide."
                )
            found = tree.query_ball_point(points[cells], reach, return_sorted=True)
            rows.append(np.repeat(cells, [len(f) for f in found]))
            columns.append(cells[np.concatenate(found).astype(np.int64)])
    row, column = np.concatenate(rows), np.concatenate(columns)
    row, column = row[row != column], column[row != column]
    degree = np.bincount(row, minlength=len(points))
    weights = (1.0 / degree[row]).astype(np.float32)
    out = sp.csr_matrix((weights, (row, column)), shape=(len(points), len(points)))
    out.sort_indices()
    return out


def niche_means(features: np.ndarray, weights: sp.csr_matrix) -> np.ndarray:
    """Mean of the neighbours' features; a cell without neighbours keeps its own.

    Parameters
    ----------
    features
        (cells, columns).
    weights
        csr (cells, cells), rows add up to 1 or are empty: the result of :func:`neighbours`.

    Returns
    -------
    (cells, columns), floating-point.
    """
    features = np.asarray(features)
    if features.ndim != 2 or weights.shape != (len(features), len(features)):
        raise ValueError(
            f"niche_means: features of shape {features.shape} do not fit weights of shape {weights.shape}. "
            "Give (cells, columns) and the (cells, cells) result of neighbours() for the same cells."
        )
    weights = sp.csr_matrix(weights)
    out = weights @ features
    alone = np.diff(weights.indptr) == 0
    out[alone] = features[alone]
    return out.astype(features.dtype, copy=False) if features.dtype.kind == "f" else out  # means are no integers


def _check(
    coordinates: np.ndarray, sections: Sequence | np.ndarray, k: int | None, radius: float | None
) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates as float64 and codes of the sections."""
    if coordinates is None:
        raise TypeError("neighbours: coordinates are None. Give an array (cells, 2), such as adata.obsm['spatial'].")
    try:
        points = np.asarray(coordinates, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(f"neighbours: coordinates are not numbers ({error}). Give an array (cells, 2).") from error
    if points.ndim != 2 or points.shape[1] not in (2, 3):
        raise ValueError(f"neighbours: coordinates have shape {points.shape}; it must be (cells, 2) or (cells, 3).")
    bad = np.flatnonzero(~np.isfinite(points).all(1))
    if bad.size:
        raise ValueError(
            f"neighbours: coordinates of {bad.size} cells are missing or infinite (first: row {bad[0]}). "
            "Remove these cells or give their coordinates."
        )
    if np.abs(points).max(initial=0) > LARGEST:
        raise ValueError(
            f"neighbours: coordinates reach {np.abs(points).max():g}; distances cannot be computed above {LARGEST:g}. "
            "Give the coordinates in another unit, or correct what stands for a missing place."
        )
    names = np.asarray(sections)
    if names.shape != (len(points),):
        raise ValueError(
            f"neighbours: sections have shape {names.shape}; it must be ({len(points)},), one per row of coordinates."
        )
    codes = pd.factorize(names)[0]
    if (codes < 0).any():
        raise ValueError(
            f"neighbours: the section of {(codes < 0).sum()} cells is missing (first: row {codes.argmin()}). "
            "Give every cell a section."
        )
    if k is not None and radius is not None:
        raise ValueError(f"neighbours: both k={k!r} and radius={radius!r} are given. Give one of them.")
    if k is not None:
        check_integer("k", k)
    if radius is not None and check_number("radius", radius) <= 0:
        raise ValueError(f"radius={radius} must be positive, in the unit of the coordinates.")
    return points, codes


def niche_weights(adata: AnnData, obs: pd.DataFrame, arguments: Mapping[str, Any]) -> sp.csr_matrix:
    """Weights of spatial neighbours, csr (rows of adata, rows of adata); ``obs`` in the order of these rows."""
    spatial_key, key = arguments["spatial_key"], arguments.get("section_key") or arguments["batch_key"]
    keys = batch_keys(key)
    if spatial_key not in adata.obsm:
        raise KeyError(
            f"The model was set up with spatial_key={spatial_key!r}, but obsm holds {list(adata.obsm)}; add the"
            " coordinates of these cells."
        )
    places, wanted = np.asarray(adata.obsm[spatial_key]), arguments.get("n_coordinates")
    if wanted is not None and places.ndim == 2 and places.shape[1] != wanted:
        raise ValueError(
            f"adata.obsm[{spatial_key!r}] holds {places.shape[1]} coordinates per cell, but the model was set up with"
            f" {wanted}; give {wanted} per cell, or set these data up for a new model."
        )
    frame = obs if all(k in obs for k in keys) else adata.obs
    if any(k not in frame for k in keys):
        raise KeyError(f"obs has no column {key!r} that says which section a cell is from; it has {list(obs.columns)}.")
    sections = np.zeros(adata.n_obs, dtype=int) if not keys else frame[keys[0]].to_numpy()
    if len(keys) > 1:
        sections = batch_values(frame, keys)
    return neighbours(places, sections, arguments["n_neighbors"], arguments["radius"])
