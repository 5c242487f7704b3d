"""MoRE: one embedding for single-cell data from several batches, by a frozen transformer and light adapters."""

import logging
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from rich.logging import RichHandler

if TYPE_CHECKING:
    from . import (
        backbones,
        data,
        diagnosis,
        evaluation,
        losses,
        metrics,
        modalities,
        model,
        module,
        pl,
        pretraining,
        report,
        student,
        train,
    )
    from .model import MoRE
    from .student import Student

__version__ = version("more-scvi")

__all__ = [
    "MoRE", "Student", "backbones", "data", "diagnosis", "evaluation", "losses", "metrics", "modalities", "model",
    "module", "pl", "pretraining", "report", "student", "train",
]  # fmt: skip

_logger = logging.getLogger(__name__)
if not _logger.hasHandlers():  # a program that configured logging keeps its own
    _logger.addHandler(RichHandler(show_path=False, show_time=False))
    _logger.setLevel(logging.INFO)
    _logger.propagate = False  # else a root handler that is added later says everything twice


def __getattr__(name: str) -> Any:
    """Import what is asked for on first use: scvi-tools and torch take seconds, ``more-scvi --help`` should not."""
    if name == "MoRE":
        return import_module(f"{__name__}.model").MoRE
    if name == "Student":
        return import_module(f"{__name__}.student").Student
    if name in __all__:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
