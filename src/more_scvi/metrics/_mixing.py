"""Mixing of batches within types."""

import numpy as np
from numpy.typing import ArrayLike
from sklearn.neighbors import NearestNeighbors

from ._check import check_embedding, check_integer


def cilisi(z: ArrayLike, labels: ArrayLike, batches: ArrayLike, n_neighbors: int = 30, min_cells: int = 10) -> float:
    r"""Batch mixing within types (CiLISI): 1 = as mixed as the batch proportions of the type allow, 0 = separated.

    For a cell of type :math:`t` with batch shares :math:`q_b` among its ``n_neighbors`` nearest cells *of the same
    type*, LISI is :math:`L = 1/\sum_b q_b^2`. With :math:`p_b` the batch proportions of the type, the cell scores
    :math:`(L - 1) / (1/\sum_b p_b^2 - 1)`. Cells are averaged within types, then types are averaged, so that a large
    type cannot hide the others. Neighbours are unweighted; equal distances are broken at random (seeded).

    Parameters
    ----------
    z
        Embedding ``(n_cells, n_latent)``.
    labels, batches
        Types and batches ``(n_cells,)``.
    n_neighbors
        Neighbours per cell, the cell itself not counted.
    min_cells
        A batch counts for a type if it holds at least so many of its cells; types in fewer than two such batches are
        left out.

    Returns
    -------
    The mean score; NaN if no type occurs in two batches. Sampling noise keeps perfect mixing slightly below 1.

    References
    ----------
    LISI: Korsunsky et al. 2019; within types: Andreatta et al. 2024 (there weighted by perplexity and over cells).
    """
    points, y, b = check_embedding(z, labels, batches, flags=False)
    check_integer("n_neighbors", n_neighbors)
    check_integer("min_cells", min_cells)
    # cells at one place (a collapsed embedding) must not have their own batch, next in the table, as neighbours
    points = points + 1e-9 * (points.std() + 1e-12) * np.random.default_rng(0).standard_normal(points.shape)
    per_type = []
    for name in np.unique(y):
        of_type = y == name
        names, counts = np.unique(b[of_type], return_counts=True)
        rows = np.flatnonzero(of_type & np.isin(b, names[counts >= min_cells]))
        kept, code = np.unique(b[rows], return_inverse=True)
        if kept.size < 2:
            continue
        k = min(n_neighbors, rows.size - 1)
        neighbours = NearestNeighbors(n_neighbors=k).fit(points[rows]).kneighbors(return_distance=False)
        shares = np.stack([(code[neighbours] == i).mean(axis=1) for i in range(kept.size)], axis=1)
        expected = 1.0 / np.square(np.bincount(code) / rows.size).sum()
        per_type.append(np.mean((1.0 / np.square(shares).sum(axis=1) - 1.0) / (expected - 1.0)))
    return float(np.mean(per_type)) if per_type else float("nan")
