"""scGraph: distances between types against those within the batches."""

from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import cdist
from scipy.stats import rankdata, trim_mean

from ._check import check_embedding, check_integer, check_matrix

Correlation = Literal["weighted", "spearman"]
_MIN_DISTANCES = 3  # two points always correlate at 1 or -1


def sc_graph(
    z: ArrayLike,
    reference: ArrayLike,
    labels: ArrayLike,
    batches: ArrayLike,
    correlation: Correlation = "weighted",
    n_components: int = 10,
    trim: float = 0.05,
    min_batch: int = 100,
    min_cells: int = 10,
) -> float:
    r"""Correlation of the distances between types in ``z`` with those seen within single batches (scGraph).

    In every batch the types' centroids (trimmed means) are taken in the batch's own principal components, and the
    distances from one type to the others are divided by the largest of them. Their mean over the batches is the
    consensus :math:`D_{st}`, free of batch effects. With the centroids' distances :math:`d_{st}` in ``z`` (all batches
    together), type :math:`t` scores the correlation of :math:`d_{\cdot t}` with :math:`D_{\cdot t}`; types are
    averaged. A type whose distances in ``z`` are all equal, as in one-hot labels, scores 0.

    The reference is made of principal components, so spaces like PCA do well: an alarm for distortion, not a target.

    Parameters
    ----------
    z
        Embedding ``(n_cells, n_latent)``.
    reference
        Features of the same cells, not corrected for batches, ``(n_cells, d)``: log-normalised variable genes, or
        uncorrected principal components.
    labels, batches
        Types and batches ``(n_cells,)``.
    correlation
        ``"weighted"``: Pearson's with weights :math:`1 / D_{st}`, so that near types count most. ``"spearman"``: of
        ranks, all types alike.
    n_components
        Principal components of each batch.
    trim
        Share of the cells cut from either end of every coordinate before the mean.
    min_batch
        Batches with fewer cells are left out.
    min_cells
        A type counts in a batch that holds at least so many of its cells.

    Returns
    -------
    Mean over types, from -1 to 1; NaN if no type has consensus distances to three others.

    References
    ----------
    Wang, Leskovec, Regev 2024, *Metric Mirages in Cell Embeddings*, doi:10.1101/2024.04.02.587824. Deviations: the
    variable genes are those of ``reference`` (there chosen anew in every batch); ``min_cells`` is asked for in each
    batch; the zero distance of a type to itself is left out (it would correlate for free).
    """
    from more_scvi.data._arguments import check_number, check_option  # loads scvi-tools

    check_option("correlation", correlation, get_args(Correlation))
    check_number("trim", trim, 0, 0.49)
    for name, value in {"n_components": n_components, "min_batch": min_batch, "min_cells": min_cells}.items():
        check_integer(name, value)
    z, y, b = check_embedding(z, labels, batches, flags=False)
    reference = check_matrix(reference, "reference", len(z))
    types = np.unique(y)
    per_batch = []
    for name in np.unique(b):
        rows = np.flatnonzero(b == name)
        if rows.size >= min_batch:
            u, s, _ = np.linalg.svd(reference[rows] - reference[rows].mean(axis=0), full_matrices=False)
            distances = _distances(u[:, :n_components] * s[:n_components], y[rows], types, trim, min_cells)
            largest = np.fmax.reduce(distances)  # of every column, those that are not known left out
            per_batch.append(distances / np.where(largest > 0, largest, 1))
    if not per_batch:
        return float("nan")
    known = np.isfinite(per_batch)
    consensus = np.where(known, per_batch, 0).sum(axis=0) / np.where(known.any(axis=0), known.sum(axis=0), np.nan)
    found = _distances(z, y, types, trim, min_cells)
    # what differs by less is rounding: one-hot labels are equidistant and must not correlate by chance
    flat = 1e-9 * (np.abs(z - z.mean(axis=0)).max() or 1.0)
    scores = np.array([_correlate(found[:, t], consensus[:, t], correlation, flat) for t in range(types.size)])
    return float(np.nanmean(scores)) if np.isfinite(scores).any() else float("nan")


def _distances(x: NDArray[np.float64], y: NDArray, types: NDArray, trim: float, min_cells: int) -> NDArray[np.float64]:
    """Distances between the types' centroids; NaN for types with too few cells and on the diagonal."""
    centroids = np.full((types.size, x.shape[1]), np.nan)
    for i, name in enumerate(types):
        cells = x[y == name]
        if len(cells) >= min_cells:
            centroids[i] = trim_mean(cells, trim, axis=0)
    distances = cdist(centroids, centroids)
    np.fill_diagonal(distances, np.nan)
    return distances


def _correlate(found: NDArray[np.float64], expected: NDArray[np.float64], correlation: str, flat: float) -> float:
    both = np.isfinite(found) & np.isfinite(expected) & (expected > 0)
    if both.sum() < _MIN_DISTANCES:
        return float("nan")
    x, y, weights = found[both], expected[both], 1 / expected[both]
    if np.ptp(x) <= flat:
        return 0.0
    if correlation == "spearman":
        x, y, weights = rankdata(x), rankdata(y), np.ones(x.size)
    x, y = x - np.average(x, weights=weights), y - np.average(y, weights=weights)
    norm = np.sqrt((weights * x**2).sum() * (weights * y**2).sum())
    return float((weights * x * y).sum() / norm) if norm > 0 else 0.0
