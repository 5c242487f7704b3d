"""Leakage-free evaluation: splits that hide labels, methods behind one interface, a resumable runner, its tables."""

from . import methods  # noqa: F401 - registers them
from ._backbone_result import BackboneComparison
from ._backbones import compare_backbones
from ._compare import Comparison, compare, summarise
from ._data import prepare
from ._datasets import DATASETS, load_dataset
from ._evaluate import evaluate, run_task
from ._inner import inner_split
from ._prefilter import prefilter
from ._runner import run, run_benchmark
from ._splits import PROTOCOLS, Split, make_splits
from ._store import load_results, load_splits, tidy
from ._tasks import Task, make_tasks
from ._tuning import tune
from .methods._method import Given, Method, Result, get_method, leak, list_methods, register_method

__all__ = [
    "DATASETS", "PROTOCOLS", "BackboneComparison", "Comparison", "Given", "Method", "Result", "Split", "Task",
    "compare", "compare_backbones", "evaluate", "get_method", "inner_split", "leak", "list_methods",
    "load_dataset", "load_results", "load_splits", "make_splits", "make_tasks", "prefilter", "prepare",
    "register_method", "run", "run_benchmark", "run_task", "summarise", "tidy", "tune",
]  # fmt: skip
