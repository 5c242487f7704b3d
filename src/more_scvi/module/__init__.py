"""The trained part of MoRE, one file per stage."""

from more_scvi._spread import SpreadStep
from more_scvi.base._linear import ModalitySizes
from more_scvi.base._path import PathBase
from more_scvi.modalities.atac import AccessibilityDecoder
from more_scvi.modalities.protein import ProteinDecoder
from more_scvi.modalities.rna import DirectPath, ExpressionDecoder, log_normalise
from more_scvi.module._adapter import GatedAdapter
from more_scvi.module._fusion import Fusion
from more_scvi.module._heads import Classifier, Projection
from more_scvi.module._imputer import Imputer
from more_scvi.module._inside import Inside, InsideAdapter
from more_scvi.module._module import MoREModule
from more_scvi.module._objective import LOSS_WEIGHTS, PRESETS, Objective
from more_scvi.module._refinement import Refinement
from more_scvi.module._soft_tokens import SoftTokens

__all__ = [
    "LOSS_WEIGHTS",
    "PRESETS",
    "AccessibilityDecoder",
    "Classifier",
    "DirectPath",
    "ExpressionDecoder",
    "Fusion",
    "GatedAdapter",
    "Imputer",
    "Inside",
    "InsideAdapter",
    "MoREModule",
    "ModalitySizes",
    "Objective",
    "PathBase",
    "Projection",
    "ProteinDecoder",
    "Refinement",
    "SoftTokens",
    "SpreadStep",
    "log_normalise",
]
