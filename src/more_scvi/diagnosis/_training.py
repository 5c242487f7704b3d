"""Checks of the training curves."""

from __future__ import annotations

import numpy as np

from more_scvi.diagnosis._evidence import Evidence
from more_scvi.diagnosis._result import Check, Rule

CURVE = "loss_classify"
MIN_EPOCHS = 5

MAX_LEFT = 0.5
"""Of the training loss that is left, in units of chance. Default training leaves less than 0.2."""

MAX_LOST = 0.2
"""Of the rise of the validation loss, in units of chance. Models that annotate well lose up to 0.14: they grow too sure
of themselves before they grow wrong. Labels half of which are wrong, learned by heart, lose 0.35 and more."""


def labels_not_learned(evidence: Evidence) -> Check:
    """Classification loss of the training cells at the end, in units of chance.

    Chance is the loss of a prediction that only knows how frequent the types are. The mean over the last tenth of the
    epochs is taken. Of several modalities, the curve holds cells seen by some of them, too.
    """
    rule = Rule("labels_not_learned", MAX_LEFT, "below")
    chance = evidence.chance
    curve = evidence.history.get(f"{CURVE}_train")
    if curve is None or not len(curve) or chance == 0:
        return rule.not_checked(*_no_curve(curve is None))
    losses = curve.iloc[:, 0].to_numpy(float)
    last = float(losses[-max(1, len(losses) // 10) :].mean())
    return rule.judge(
        last / chance,
        f"The classifier's loss on training cells ends at {last:.2f} after {len(losses)} epochs (chance:"
        f" {chance:.2f}).",
        "Train longer: raise max_epochs, or leave it out for the default; lower train(batch_size=...) if there are few"
        " cells. If that does not help, the labels contradict the data.",
    )


def overfitting(evidence: Evidence) -> Check:
    """Rise of the classification loss of validation cells while that of training cells falls.

    The rise from the best epoch to the last (means over a tenth of the epochs), in units of chance. Other terms are not
    read: their validation curves are too noisy, or do not overfit.
    """
    rule = Rule("overfitting", MAX_LOST, "below")
    chance = evidence.chance
    how = "Train with train(train_size=0.9): the other cells then validate."
    train, validation = (evidence.history.get(f"{CURVE}_{kind}") for kind in ("train", "validation"))
    if train is None or chance == 0:
        return rule.not_checked(*_no_curve(train is None))
    if validation is None:
        return rule.not_checked("No cells were held out for validation.", how)
    epochs = train.index.intersection(validation.index)
    if len(epochs) < MIN_EPOCHS:
        message = f"{len(epochs)} epochs were validated; {MIN_EPOCHS} are needed to see a trend."
        return rule.not_checked(message, how)
    window = max(1, len(epochs) // 10)
    mean = np.full(window, 1 / window)
    fitted, held = (np.convolve(x.loc[epochs].iloc[:, 0].to_numpy(float), mean, "valid") for x in (train, validation))
    best = int(held.argmin())
    value = float(held[-1] - held[best]) / chance if fitted[-1] < fitted[best] else 0.0
    return rule.judge(
        value,
        f"The classifier's loss on validation cells ends at {held[-1]:.2f}; its best was {held[best]:.2f} around epoch"
        f" {epochs[best] + 1} of {epochs[-1] + 1} (chance: {chance:.2f}).",
        "Stop earlier: train(early_stopping=True), or a lower max_epochs. Check the labels for errors; raise"
        " MoRE(dropout=...) or plan_kwargs={'weight_decay': ...}.",
    )


def _no_curve(missing: bool) -> tuple[str, str]:
    """Message and remedy where the loss of the classifier says nothing."""
    if missing:
        return (
            "There is no curve of the classification loss.",
            "Give labels_key at setup; keep the weight of 'classify'.",
        )
    return "Fewer than two types are visible.", ""
