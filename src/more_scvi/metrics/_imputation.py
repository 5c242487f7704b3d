"""Imputed values against observed ones."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from ._check import check_matrix


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
