"""Closed-form classifiers before training: one expert per pattern of measured modalities, from visible labels."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors

from more_scvi.module import MIN_PAIRS, MoREModule, WideClassifier, ridge
from more_scvi.train import TrainingArrays

COMPLETION_PENALTY = 0.01
"""Ridge penalty where a modality that a cell lacks is predicted for the classifier. Source: plain value."""
N_DONORS = 10
"""Nearest cells whose values complete a modality that a cell lacks. Source: plain value."""
LEAST_EXPLAINED = 0.5
"""Share of the variance that a completed modality must explain to be used. Source: plain value."""
N_HELD_SECTIONS = 3
"""Sections held out to test whether the niche helps. Source: plain value."""
CERTAINTY = 0.9
"""Probability from which a prediction counts as a label of the composition of batches. Source: plain value."""


def fit_experts(module: MoREModule, arrays: TrainingArrays, labels: np.ndarray) -> None:
    """Fit the expert of each pattern on all labelled cells.

    A labelled cell that lacks a modality of the pattern is completed: its wide view is what a ridge regression on cells
    with both says, plus the residual of one of the nearest of these, without which the expert would not learn how noisy
    the modality is; if enough labelled cells have the pattern, only where this explains most of the wide view. So
    labels of cells with RNA only also teach the expert that reads proteins. Where no cell has both, and few labelled
    cells have the pattern, the expert reads the coordinates that genes link.

    Parameters
    ----------
    module
        Its wide classifier is fitted.
    arrays
        All cells.
    labels
        (cells,) codes, -1 = not visible.
    """
    experts = module.wide
    assert experts is not None
    in_space = np.repeat(module.scales.cpu().numpy(), module.widths)  # modalities weigh what they weigh for the head
    for at, pattern in enumerate(experts.patterns.cpu().numpy()):
        roles = [role for role, used in zip(module.modalities, pattern, strict=True) if used]
        has = arrays.present[:, pattern].all(1)
        own, lacking = np.flatnonzero((labels >= 0) & has), np.flatnonzero((labels >= 0) & ~has)
        wide, base = (_columns(module, x[own], roles, w) for x, w in ((arrays.wide, True), (arrays.base, False)))
        completed = None
        if len(lacking):
            completed = _complete(module, arrays, lacking, roles, 0.0 if len(own) < MIN_PAIRS else LEAST_EXPLAINED)
        if completed is not None:
            wide, base = np.concatenate([wide, completed[0]]), np.concatenate([base, completed[1]])
            cells = np.concatenate([own, lacking])
        elif len(lacking) and len(own) < MIN_PAIRS and module.unpaired:
            cells = np.concatenate([own, lacking])
            wide, base = np.zeros_like(arrays.wide[cells]), np.zeros_like(arrays.base[cells])
            links = slice(sum(module.wide_widths), None)
            wide[:, links] = arrays.wide[cells, links]
        else:
            cells = own
        if len(cells):
            experts.fit(at, wide, base * in_space, labels[cells], len(own))


def certain_types(experts: WideClassifier, arrays: TrainingArrays, labels: np.ndarray) -> np.ndarray:
    """Visible labels, filled up with predictions of the experts that are nearly certain; -1 elsewhere, (cells,)."""
    device = experts.weight.device
    with torch.no_grad():
        chosen = experts.choose(torch.from_numpy(arrays.present).to(device))
        p = experts(torch.from_numpy(arrays.wide).to(device), chosen).softmax(1).cpu().numpy()
    sure = (p.max(1) >= CERTAINTY) & (chosen.cpu().numpy() >= 0)
    return np.where(labels >= 0, labels, np.where(sure, p.argmax(1), -1))


def niche_helps(base: np.ndarray, niche: slice, sections: np.ndarray, labels: np.ndarray) -> bool:
    """Whether the neighbours' mean helps to tell labels apart in a section that was not used for fitting.

    Regions of a tissue are told by their surroundings, cell types often are not, and neighbours share their noise. A
    logistic regression with and one without the niche are fitted on all labelled sections but one and compared by their
    likelihood in that one, for up to ``N_HELD_SECTIONS`` sections. With one labelled section there is no telling: True.

    Parameters
    ----------
    base
        (cells, width).
    niche
        Its columns with the neighbours' mean.
    sections, labels
        (cells,) codes; label -1 = not visible.
    """
    visible = np.flatnonzero(labels >= 0)
    names, counts = np.unique(sections[visible], return_counts=True)
    names = names[np.argsort(-counts, kind="stable")][:N_HELD_SECTIONS]
    without = np.delete(np.arange(base.shape[1]), np.arange(base.shape[1])[niche])
    gain = 0.0
    for name in names if len(counts) > 1 else ():
        train, test = visible[sections[visible] != name], visible[sections[visible] == name]
        classes = np.unique(labels[train])
        test = test[np.isin(labels[test], classes)]
        if len(classes) < 2 or not len(test):
            continue
        likelihood = []
        for columns in (np.arange(base.shape[1]), without):
            x = base[:, columns] / base[train][:, columns].std()
            fitted = LogisticRegression(C=1.0, max_iter=200).fit(x[train], labels[train])
            p = fitted.predict_proba(x[test])[np.arange(len(test)), np.searchsorted(classes, labels[test])]
            likelihood.append(np.log(p + 1e-4).sum())
        gain += likelihood[0] - likelihood[1]
    return gain >= 0.0


def _columns(module: MoREModule, x: np.ndarray, roles: list[str], wide: bool) -> np.ndarray:
    """The columns of some modalities, zero elsewhere."""
    if len(roles) == len(module.modalities):
        return x
    out = np.zeros_like(x)
    for role in roles:
        columns = module.wide_columns(role) if wide else module.columns(role)
        out[:, columns] = x[:, columns]
    return out


def _complete(
    module: MoREModule, arrays: TrainingArrays, cells: np.ndarray, roles: list[str], least: float
) -> tuple[np.ndarray, np.ndarray] | None:
    """Wide views and bases of cells with the missing ones of ``roles`` guessed.

    None where they cannot be, or where the guess of a wide view explains a smaller share of variance than ``least``.
    """
    wide, base = (_columns(module, x[cells], roles, w) for x, w in ((arrays.wide, True), (arrays.base, False)))
    rng = np.random.default_rng(0)
    for role in roles:
        at = module.modalities.index(role)
        missing = ~arrays.present[cells, at]
        patterns = np.unique(arrays.present[cells][missing], axis=0)
        for pattern in patterns:
            pairs = np.flatnonzero(arrays.present[:, at] & arrays.present[:, pattern].all(1))
            if len(pairs) < MIN_PAIRS:
                return None
            rows = np.flatnonzero(missing & (arrays.present[cells] == pattern).all(1))
            sources = np.flatnonzero(np.repeat(pattern, module.widths))
            x, x_missing = arrays.base[np.ix_(pairs, sources)], arrays.base[np.ix_(cells[rows], sources)]
            near = NearestNeighbors(n_neighbors=N_DONORS).fit(x).kneighbors(x_missing, return_distance=False)
            donors = near[np.arange(len(rows)), rng.integers(N_DONORS, size=len(rows))]
            for out, full, columns in (
                (wide, arrays.wide, module.wide_columns(role)),
                (base, arrays.base, module.columns(role)),
            ):
                y = full[pairs, columns]
                weight = ridge(x - x.mean(0), y - y.mean(0), COMPLETION_PENALTY)
                out[rows, columns] = (x_missing - x.mean(0)) @ weight + y.mean(0)
                residual = y - y.mean(0) - (x - x.mean(0)) @ weight
                if out is wide and 1.0 - residual.var(0).sum() / max(y.var(0).sum(), 1e-12) < least:
                    return None
                out[rows, columns] += residual[donors]
    return wide, base
