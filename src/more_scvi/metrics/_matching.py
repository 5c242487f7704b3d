"""Across modalities: whether the halves of a cell match, and imputed values follow the observed ones."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from ._check import check_integer, check_matrix

_CHUNK = 1000


def foscttm(a: ArrayLike, b: ArrayLike) -> float:
    """Fraction of cells closer than the true match, mean over cells and both directions; ``a[i]`` matches ``b[i]``.

    Cells at exactly the distance of the match count half, so that a collapsed embedding scores 0.5.
    """
    one, two = _pairs(a, b)
    return float(np.mean([_ranks(one, two).mean(), _ranks(two, one).mean()]) / max(len(one) - 1, 1))


def recall_at(a: ArrayLike, b: ArrayLike, k: int = 10) -> float:
    """Share of cells whose match is among the ``k`` nearest cells of the other modality, mean of both directions."""
    check_integer("k", k)
    one, two = _pairs(a, b)
    return float(np.mean([(_ranks(one, two) < k).mean(), (_ranks(two, one) < k).mean()]))


def _pairs(a: ArrayLike, b: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    one = check_matrix(a, "a")
    two = check_matrix(b, "b", len(one))
    if one.shape != two.shape:
        raise ValueError(f"a {one.shape} and b {two.shape} must have the same columns: embeddings in one shared space.")
    if len(one) < 2:
        raise ValueError("a and b hold 1 cell, which always matches; give at least 2.")
    return one, two


def _ranks(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """For every row of ``a``, how many rows of ``b`` are nearer than its match (ties count half)."""
    ranks = np.empty(len(a))
    square = np.square(b).sum(axis=1)
    for start in range(0, len(a), _CHUNK):
        rows = np.arange(start, min(start + _CHUNK, len(a)))
        distance = square - 2 * a[rows] @ b.T  # squared, less what all columns share
        match = distance[np.arange(rows.size), rows][:, None]
        ranks[rows] = (distance < match).sum(axis=1) + 0.5 * ((distance == match).sum(axis=1) - 1)  # less itself
    return ranks


def imputation(imputed: ArrayLike, observed: ArrayLike) -> dict[str, float]:
    """Mean over features of Pearson's and Spearman's correlation between columns ``(n_cells, n_features)``.

    A feature that is constant in ``observed`` is left out; one that is constant in ``imputed`` only scores 0. NaN if
    no feature varies.
    """
    y = check_matrix(observed, "observed")
    x = check_matrix(imputed, "imputed", len(y))
    if x.shape != y.shape:
        raise ValueError(f"imputed {x.shape} and observed {y.shape} must have the same features, in the same order.")
    varies = np.ptp(y, axis=0) > 0
    if not varies.any():
        return {"pearson": float("nan"), "spearman": float("nan")}
    x, y = x[:, varies], y[:, varies]
    ranks = _correlation(rankdata(x, axis=0), rankdata(y, axis=0))
    return {"pearson": float(_correlation(x, y).mean()), "spearman": float(ranks.mean())}


def _correlation(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    norm = np.sqrt(np.square(x).sum(axis=0) * np.square(y).sum(axis=0))
    return np.where(norm > 1e-12, (x * y).sum(axis=0) / np.maximum(norm, 1e-12), 0.0)
