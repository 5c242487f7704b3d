"""Plots: functions that take data, a model or a table and return Axes. Colours are safe for colour-blind readers."""

from ._embedding import compare, embedding
from ._model import diagnosis, history, modality_weights
from ._query import query, strength
from ._scores import regimes, scores, sensitivity, tradeoff
from ._types import confusion, per_type_f1

__all__ = [
    "compare", "confusion", "diagnosis", "embedding", "history", "modality_weights", "per_type_f1", "query",
    "regimes", "scores", "sensitivity", "strength", "tradeoff",
]  # fmt: skip
