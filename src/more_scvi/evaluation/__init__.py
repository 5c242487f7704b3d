"""Leakage-free evaluation: splits that hide labels, metrics, methods, a resumable runner and its report."""

from ._metrics import (
    cilisi,
    effective_dimension,
    knn_probe,
    linear_probe,
    macro_f1,
    scorable,
    score,
    structure,
)
from ._splits import Split, inner_split, make_splits

__all__ = [
    "Split",
    "cilisi",
    "effective_dimension",
    "inner_split",
    "knn_probe",
    "linear_probe",
    "macro_f1",
    "make_splits",
    "scorable",
    "score",
    "structure",
]
