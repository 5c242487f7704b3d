"""Which labelled cells teach the expert of a pattern of modalities, and what they would show there."""

from collections.abc import Callable

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


def fit_experts(
    experts: WideClassifier, layout: Layout, arrays: Arrays, labels: np.ndarray, seed: int, *, with_base: bool
) -> None:
    """Fit the expert of each pattern on all labelled cells.

    A labelled cell that lacks a modality of the pattern is completed: its input is what a ridge regression on cells
    with both says, plus the residual of one of the nearest of these, without which the expert would not learn how noisy
    the modality is; if enough labelled cells have the pattern, only where this explains most of the input. So labels of
    cells with RNA only also teach the expert that reads proteins. Where no cell has both, and few labelled cells have
    the pattern, the expert reads the coordinates that genes link.

    Parameters
    ----------
    experts
        What is fitted. They read the wide input, and behind it the base if they are wide enough.
    layout
        Columns of the modalities.
    arrays
        All cells.
    labels
        (cells,) codes, -1 = not visible.
    seed
        Of the choice of residuals.
    with_base
        Whether the base is as it will be; if not, nothing of it is learned from.
    """
    n_wide, n_in = arrays.wide.shape[1], experts.weight.shape[2]

    def read(cells: np.ndarray) -> np.ndarray:
        base = arrays.base[cells] if with_base else np.zeros((len(cells), n_in - n_wide), np.float32)
        return np.concatenate([arrays.wide[cells].astype(np.float32), base[:, : n_in - n_wide]], 1)

    def columns(name: str) -> np.ndarray:
        wide, base = layout.wide_columns(name), layout.columns(name)
        behind = np.arange(base.start, base.stop) + n_wide if n_in > n_wide else np.arange(0)
        return np.concatenate([np.arange(wide.start, wide.stop), behind])

    for at, pattern in enumerate(experts.patterns.cpu().numpy()):
        used = {name: columns(name) for name, here in zip(layout.modalities, pattern, strict=True) if here}
        others = np.setdiff1d(np.arange(n_in), np.concatenate(list(used.values())))
        if len(used) == len(layout.modalities):
            others = others[:0]  # coordinates that genes link are everyone's
        has = arrays.present[:, pattern].all(1)
        own, lacking = np.flatnonzero((labels >= 0) & has), np.flatnonzero((labels >= 0) & ~has)
        x, cells = read(own), own
        x[:, others] = 0.0
        if len(lacking):
            least = 0.0 if len(own) < MIN_PAIRS else LEAST_EXPLAINED
            completed = _complete(layout, arrays, read, lacking, used, least, seed)
            links = slice(sum(layout.wide_widths), n_wide)
            if completed is not None:
                completed[:, others] = 0.0
                x, cells = np.concatenate([x, completed]), np.concatenate([own, lacking])
            elif len(own) < MIN_PAIRS and links.stop > links.start:
                cells = np.concatenate([own, lacking])
                x = np.zeros((len(cells), n_in), np.float32)
                x[:, links] = arrays.wide[cells, links]
        if len(cells):
            experts.fit(at, x, labels[cells], len(own))


def _complete(
    layout: Layout,
    arrays: Arrays,
    read: Callable[[np.ndarray], np.ndarray],
    cells: np.ndarray,
    modalities: dict[str, np.ndarray],
    least: float,
    seed: int,
) -> np.ndarray | None:
    """Input of cells with the missing ones of ``modalities``, of which each has its columns, guessed.

    None where they cannot be, or where the guess explains a smaller share of variance than ``least``.
    """
    out = read(cells)
    rng = np.random.default_rng(seed)
    for name, columns in modalities.items():
        at = layout.at(name)
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
            y = read(pairs)[:, columns]
            centre, mean = x.mean(0), y.mean(0)
            weight = ridge(x - centre, y - mean, COMPLETION_PENALTY)
            residual = y - mean - (x - centre) @ weight
            if 1.0 - residual.var(0).sum() / max(y.var(0).sum(), 1e-12) < least:
                return None
            out[np.ix_(rows, columns)] = (x_missing - centre) @ weight + mean + residual[donors]
    return out
