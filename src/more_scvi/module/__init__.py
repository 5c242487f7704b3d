"""The trained part of MoRE, one file per stage."""

from more_scvi.module._adapter import GatedAdapter
from more_scvi.module._base import PathBase, batch_means
from more_scvi.module._decoders import ExpressionDecoder
from more_scvi.module._direct import DirectPath, log_normalise
from more_scvi.module._heads import Classifier, Projection, WideClassifier
from more_scvi.module._module import LOSS_WEIGHTS, MoREModule
from more_scvi.module._refinement import Refinement
from more_scvi.module._spread import SpreadStep

__all__ = [
    "LOSS_WEIGHTS",
    "Classifier",
    "DirectPath",
    "ExpressionDecoder",
    "GatedAdapter",
    "MoREModule",
    "PathBase",
    "Projection",
    "Refinement",
    "SpreadStep",
    "WideClassifier",
    "batch_means",
    "log_normalise",
]
