"""Checks of modalities: one that the embedding does not hear, one that says nothing the others know of."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold, cross_val_predict

from more_scvi.diagnosis._evidence import Evidence
from more_scvi.diagnosis._result import Check, Rule

MIN_CELLS = 50
N_COORDINATES = 5

MIN_EFFECT = 0.002
"""Of the share of the embedding that hangs on a modality."""

MIN_EXPLAINED = 0.02
"""Of the share of a modality that the others predict; shuffled or noisy modalities reach 0 at most."""

ONE = "The model has one modality."


def modality_ignored(evidence: Evidence) -> Check:
    r"""Share of the embedding that hangs on the modality that is heard least.

    A modality's measurements are shuffled among the cells of a batch that have it and another one. Of all variance of
    the embedding within batches, half of the mean squared change is what hangs on the modality: 0 = ignored, 1 = all.
    Not read off the fusion's weights: a modality with the same values in all cells may weigh much and say nothing, and
    one of several that agree may weigh little and still be heard.
    """
    rule = Rule("modality_ignored", MIN_EFFECT, "above")
    if len(evidence.present) < 2:
        return rule.not_checked(ONE)
    if not evidence.effects:
        return rule.not_checked("No batch has cells with two modalities.")
    least = min(evidence.effects, key=evidence.effects.__getitem__)
    listed = ", ".join(f"{role} {value:.3f}" for role, value in evidence.effects.items())
    return rule.judge(
        evidence.effects[least],
        f"Share of the embedding that hangs on each modality: {listed}.",
        f"Check that {least!r} varies between cells and is registered with the right layer and data type; raise"
        " train(loss_weights={'align_modality': ...}) (default 5), or give every modality its own axes with"
        " MoRE(fusion='concatenation').",
    )


def modality_uninformative(evidence: Evidence) -> Check:
    """Share of a modality that the others of the same cell predict, of the least predicted.

    Ridge regressions predict the first coordinates of a modality's own view from those of the others, in cells that
    were not used for fitting (5 folds), batches centred. What is noise cannot be predicted, nor can a modality whose
    rows belong to other cells. It still moves the embedding, which is how it does harm.
    """
    rule = Rule("modality_uninformative", MIN_EXPLAINED, "above")
    if len(evidence.present) < 2:
        return rule.not_checked(ONE)
    explained = {}
    for role, here in evidence.present.items():
        others = [other for other in evidence.present if other != role]
        rows = np.flatnonzero(here & np.any([evidence.present[other] for other in others], axis=0))
        if len(rows) >= MIN_CELLS:
            x = np.concatenate([evidence.views[other][rows] for other in others], 1)
            explained[role] = _explained(x, evidence.views[role][rows], evidence.domains[rows])
    if not explained:
        return rule.not_checked(f"Fewer than {MIN_CELLS} cells have two modalities.")
    least = min(explained, key=explained.__getitem__)
    listed = ", ".join(f"{role} {value:.2f}" for role, value in explained.items())
    strangers = " and ".join(repr(role) for role, value in explained.items() if value < MIN_EXPLAINED)
    return rule.judge(
        explained[least],
        f"Share of each modality that the others predict: {listed}.",
        f"Check that rows of {strangers} are named after the cells they belong to, and their layers and depth; leave a"
        " modality of noise out of setup_mudata(modalities=...).",
    )


def _explained(x: NDArray, y: NDArray, groups: NDArray) -> float:
    """Share of variance of the main axes of ``y`` that ``x`` predicts in held-out cells; at least 0."""
    x, y = _centred(x, groups), _centred(y, groups)
    axes = np.linalg.svd(y, full_matrices=False)[2][:N_COORDINATES]
    target = y @ axes.T
    total = np.square(target).sum()
    if total <= 1e-9 or not x.any():
        return 0.0
    penalty = 0.1 * np.square(x).sum() / x.shape[1]
    predicted = cross_val_predict(Ridge(penalty), x, target, cv=KFold(5, shuffle=True, random_state=0))
    return max(0.0, float(1.0 - np.square(target - predicted).sum() / total))


def _centred(x: NDArray, groups: NDArray) -> NDArray:
    out = np.array(x, dtype=np.float64)
    for group in np.unique(groups):
        out[groups == group] -= out[groups == group].mean(0)
    return out
