"""Shares of the paths in the base before training, from the evidence there is for each."""

import numpy as np

from more_scvi.base._bridge import ridge
from more_scvi.base._path import batch_means

EVIDENCE_CELLS = 1000.0
"""Number of cells at which the direct path gets as much weight as the frozen features. Source: record
tuning/before_development_sets.md."""

EVIDENCE_POWER = 2
"""How fast the weight of the direct path grows with cells. Source: record tuning/before_development_sets.md."""

COVERAGE = (0.4, 0.6)
"""Coverage below which frozen features count next to nothing, and above which they count in full. Source: plain value,
not tuned."""

LEAST_SEEN = 0.05
"""What is left of the frozen features' evidence at no coverage: from nothing the gate could not open. Source: plain
value, not tuned."""

COVERAGE_CELLS, COVERAGE_PENALTY, FEW_CELLS = 4000, 0.01, 100
"""Cells, ridge penalty and prior cells of the estimate of how much of the frozen features is seen. Source: plain
value, not tuned."""

NICHE_SHARE = 0.25
"""Share of the neighbours' mean in the base of spatial data. Source: plain value, not tuned."""


def path_shares(names: list[str], n_cells: int, overlap: float, coverage: float) -> np.ndarray:
    """Shares of the paths in the base before training, from the evidence there is for each.

    Principal components of the data need cells: with few, most of what they hold is noise. Frozen features need genes
    that the backbone knows, and to be seen in the data (``coverage``, see :func:`covered`).
    """
    least, enough = COVERAGE
    seen = float(np.clip((coverage - least) / (enough - least), LEAST_SEEN, 1.0))
    evidence = {"frozen": min(1.0, 2.0 * overlap) * seen, "direct": (n_cells / EVIDENCE_CELLS) ** EVIDENCE_POWER}
    share = np.array([evidence.get(name, 0.0) for name in names])
    niche = np.array([NICHE_SHARE if name == "niche" else 0.0 for name in names])
    return share / share.sum() * (1.0 - niche.sum()) + niche


def covered(frozen: np.ndarray, direct: np.ndarray, batch: np.ndarray, seed: int) -> float:
    """How much of the frozen features is seen in the data, 0 to 1.

    The share of their variance within batches that a ridge regression on the direct path explains in cells that it was
    not fitted on. What principal components of the same cells cannot explain is mostly noise: a backbone of another
    tissue, or a panel that is too small for it. With few cells the components are noisy themselves, so the value is
    drawn towards 1.

    ``frozen`` and ``direct``: (cells, features) each; ``batch``: (cells,) codes; ``seed``: of the choice of cells where
    there are more than can be looked at.
    """
    rows = np.random.default_rng(seed).permutation(len(batch))[:COVERAGE_CELLS]
    batch = np.unique(batch[rows], return_inverse=True)[1]  # batches without a chosen cell drop out
    y, x = (
        values - batch_means(values, batch, batch.max() + 1)[batch]
        for values in (np.asarray(features[rows], np.float64) for features in (frozen, direct))
    )
    fitted, held = slice(0, None, 2), slice(1, None, 2)
    residual = y[held] - x[held] @ ridge(x[fitted], y[fitted], COVERAGE_PENALTY)
    explained = max(0.0, 1.0 - np.square(residual).sum() / max(np.square(y[held]).sum(), 1e-12))
    return float((len(rows) * explained + FEW_CELLS) / (len(rows) + FEW_CELLS))
