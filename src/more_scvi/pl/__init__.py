"""Plots: functions that take data, a model or a table and return Axes. Colours are safe for colour-blind readers."""

from ._diagnosis import diagnosis
from ._embedding import compare, embedding
from ._history import history
from ._modalities import modality_weights
from ._regimes import regimes, sensitivity
from ._scores import scores, tradeoff
from ._types import confusion, per_type_f1

__all__ = [
    "compare", "confusion", "diagnosis", "embedding", "history", "modality_weights", "per_type_f1", "regimes",
    "scores", "sensitivity", "tradeoff",
]  # fmt: skip
