"""Plots: functions that take an AnnData or a model and return Axes. Colours are told apart by colour-blind readers."""

from ._embedding import compare, embedding
from ._history import history
from ._modalities import modality_weights

__all__ = ["compare", "embedding", "history", "modality_weights"]
