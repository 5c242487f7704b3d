"""Which labelled cells teach the expert of a pattern of modalities, and what they would show there."""

import numpy as np
from sklearn.neighbors import NearestNeighbors

from more_scvi.annotate._experts import WideClassifier
from more_scvi.base._arrays import Arrays
from more_scvi.base._bridge import MIN_PAIRS, ridge
from more_scvi.base._layout import Layout

COMPLETION_PENALTY = 0.01
"""Ridge of the guess of a missing modality, in units of the mean variance. Source: plain value, not tuned."""

N_DONORS = 10
"""Nearest cells of which one gives its residual. Source: plain value, not tuned."""

LEAST_EXPLAINED = 0.5
"""Share of the variance that a guess must explain where labelled cells of the pattern are there as well. Source: plain
value, not tuned."""


def fit_experts(experts: WideClassifier, layout: Layout, arrays: Arrays, labels: np.ndarray, seed: int) -> None:
    """Fit the expert of each pattern on all labelled cells.

    A labelled cell that lacks a modality of the pattern is completed: its wide input is what a ridge regression on
    cells with both says, plus the residual of one of the nearest of these, without which the expert would not learn how
    noisy the modality is; if enough labelled cells have the pattern, only where this explains most of the wide input.
    So labels of cells with RNA only also teach the expert that reads proteins. Where no cell has both, and few labelled
    cells have the pattern, the expert reads the coordinates that genes link.

    Parameters
    ----------
    experts
        What is fitted.
    layout
        Columns of the modalities.
    arrays
        All cells.
    labels
        (cells,) codes, -1 = not visible.
    seed
        Of the choice of residuals.
    """
    for at, pattern in enumerate(experts.patterns.cpu().numpy()):
        used = [name for name, here in zip(layout.modalities, pattern, strict=True) if here]
        has = arrays.present[:, pattern].all(1)
        own, lacking = np.flatnonzero((labels >= 0) & has), np.flatnonzero((labels >= 0) & ~has)
        wide, cells = _columns(layout, arrays.wide[own], used), own
        if len(lacking):
            completed = _complete(layout, arrays, lacking, used, 0.0 if len(own) < MIN_PAIRS else LEAST_EXPLAINED, seed)
            links = slice(sum(layout.wide_widths), None)
            if completed is not None:
                wide, cells = np.concatenate([wide, completed]), np.concatenate([own, lacking])
            elif len(own) < MIN_PAIRS and arrays.wide[:, links].shape[1]:
                cells = np.concatenate([own, lacking])
                wide = np.zeros_like(arrays.wide[cells])
                wide[:, links] = arrays.wide[cells, links]
        if len(cells):
            experts.fit(at, wide, labels[cells], len(own))


def _columns(layout: Layout, wide: np.ndarray, modalities: list[str]) -> np.ndarray:
    """The columns of some modalities, zero elsewhere."""
    if len(modalities) == len(layout.modalities):
        return wide
    out = np.zeros_like(wide)
    for name in modalities:
        out[:, layout.wide_columns(name)] = wide[:, layout.wide_columns(name)]
    return out


def _complete(
    layout: Layout, arrays: Arrays, cells: np.ndarray, modalities: list[str], least: float, seed: int
) -> np.ndarray | None:
    """Wide input of cells with the missing ones of ``modalities`` guessed.

    None where they cannot be, or where the guess explains a smaller share of variance than ``least``.
    """
    wide = _columns(layout, arrays.wide[cells], modalities).astype(np.float32)
    rng = np.random.default_rng(seed)
    for name in modalities:
        at, columns = layout.at(name), layout.wide_columns(name)
        missing = ~arrays.present[cells, at]
        for pattern in np.unique(arrays.present[cells][missing], axis=0):
            pairs = np.flatnonzero(arrays.present[:, at] & arrays.present[:, pattern].all(1))
            if len(pairs) < MIN_PAIRS:
                return None
            rows = np.flatnonzero(missing & (arrays.present[cells] == pattern).all(1))
            sources = np.flatnonzero(np.repeat(pattern, layout.widths))
            x, x_missing = arrays.base[np.ix_(pairs, sources)], arrays.base[np.ix_(cells[rows], sources)]
            near = NearestNeighbors(n_neighbors=N_DONORS).fit(x).kneighbors(x_missing, return_distance=False)
            donors = near[np.arange(len(rows)), rng.integers(N_DONORS, size=len(rows))]
            y = arrays.wide[pairs, columns].astype(np.float32)
            centre, mean = x.mean(0), y.mean(0)
            weight = ridge(x - centre, y - mean, COMPLETION_PENALTY)
            residual = y - mean - (x - centre) @ weight
            if 1.0 - residual.var(0).sum() / max(y.var(0).sum(), 1e-12) < least:
                return None
            wide[rows, columns] = (x_missing - centre) @ weight + mean + residual[donors]
    return wide
