"""Leakage-free evaluation: splits that hide labels, metrics, methods, a resumable runner and its report."""

from . import _more, _peers  # noqa: F401 - register MoRE, scVI and scANVI
from ._datasets import DATASETS, load_dataset, prepare, with_labels
from ._methods import Method, MethodResult, get_method, leak, list_methods, register_method
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
from ._report import Decision, decide, report, summarise
from ._runner import load_results, run_benchmark, run_split
from ._splits import Split, inner_split, make_splits
from ._tuning import tune

__all__ = [
    "DATASETS",
    "Decision",
    "Method",
    "MethodResult",
    "Split",
    "cilisi",
    "decide",
    "effective_dimension",
    "get_method",
    "inner_split",
    "knn_probe",
    "leak",
    "linear_probe",
    "list_methods",
    "load_dataset",
    "load_results",
    "macro_f1",
    "make_splits",
    "prepare",
    "register_method",
    "report",
    "run_benchmark",
    "run_split",
    "scorable",
    "score",
    "structure",
    "summarise",
    "tune",
    "with_labels",
]
