"""Closed-form classifiers before training: one expert per pattern of measured modalities, from visible labels."""

from __future__ import annotations

import numpy as np
import torch

from more_scvi.module import MIN_PAIRS, MoREModule, WideClassifier, ridge
from more_scvi.train import TrainingArrays

COMPLETION_PENALTY = 0.01
CERTAINTY = 0.9


def fit_experts(module: MoREModule, arrays: TrainingArrays, labels: np.ndarray) -> None:
    """Fit the expert of each pattern on all labelled cells.

    A labelled cell that lacks a modality of the pattern is completed: its wide view is what a ridge regression on cells
    with both says. So labels of cells with RNA only also teach the expert that reads proteins.

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
    for at, pattern in enumerate(experts.patterns.cpu().numpy()):
        roles = [role for role, used in zip(module.modalities, pattern, strict=True) if used]
        has = arrays.present[:, pattern]
        cells = np.flatnonzero((labels >= 0) & has.all(1))
        wide, base = np.zeros_like(arrays.wide[:0]), np.zeros_like(arrays.base[:0])
        blocks = [
            (
                cells,
                _columns(module, arrays.wide[cells], roles, True),
                _columns(module, arrays.base[cells], roles, False),
            )
        ]
        lacking = np.flatnonzero((labels >= 0) & ~has.all(1))
        if len(lacking):
            completed = _complete(module, arrays, lacking, roles)
            if completed is not None:
                blocks.append((lacking, *completed))
        cells, wide, base = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
        if len(cells):
            experts.fit(at, wide, base, labels[cells])


def certain_types(experts: WideClassifier, arrays: TrainingArrays, labels: np.ndarray) -> np.ndarray:
    """Visible labels, filled up with predictions of the experts that are nearly certain; -1 elsewhere, (cells,)."""
    device = experts.weight.device
    with torch.no_grad():
        chosen = experts.choose(torch.from_numpy(arrays.present).to(device))
        p = experts(torch.from_numpy(arrays.wide).to(device), chosen).softmax(1).cpu().numpy()
    sure = (p.max(1) >= CERTAINTY) & (chosen.cpu().numpy() >= 0)
    return np.where(labels >= 0, labels, np.where(sure, p.argmax(1), -1))


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
    module: MoREModule, arrays: TrainingArrays, cells: np.ndarray, roles: list[str]
) -> tuple[np.ndarray, np.ndarray] | None:
    """Wide views and bases of cells with the missing ones of ``roles`` guessed; None where they cannot be."""
    wide, base = (_columns(module, x[cells], roles, w) for x, w in ((arrays.wide, True), (arrays.base, False)))
    for role in roles:
        at = module.modalities.index(role)
        missing = ~arrays.present[cells, at]
        patterns = np.unique(arrays.present[cells][missing], axis=0)
        for pattern in patterns:
            pairs = np.flatnonzero(arrays.present[:, at] & arrays.present[:, pattern].all(1))
            if len(pairs) < MIN_PAIRS:
                return None
            rows = np.flatnonzero(missing & (arrays.present[cells] == pattern).all(1))
            sources = np.concatenate(
                [np.arange(arrays.base.shape[1])[module.columns(module.modalities[k])] for k in np.flatnonzero(pattern)]
            )
            x = arrays.base[np.ix_(pairs, sources)]
            for out, full, columns in (
                (wide, arrays.wide, module.wide_columns(role)),
                (base, arrays.base, module.columns(role)),
            ):
                y = full[pairs, columns]
                weight = ridge(x - x.mean(0), y - y.mean(0), COMPLETION_PENALTY)
                out[rows, columns] = (arrays.base[np.ix_(cells[rows], sources)] - x.mean(0)) @ weight + y.mean(0)
    return wide, base
