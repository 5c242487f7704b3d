"""The trained part of MoRE, one file per stage."""

from more_scvi._spread import SpreadStep
from more_scvi.modalities.rna import DirectPath, ExpressionDecoder
from more_scvi.module._adapter import GatedAdapter
from more_scvi.module._base import PathBase, batch_means
from more_scvi.module._bridge import MIN_PAIRS, ridge
from more_scvi.module._fusion import Fusion
from more_scvi.module._heads import Classifier, Projection, WideClassifier
from more_scvi.module._imputer import Imputer
from more_scvi.module._inside import Inside, InsideAdapter
from more_scvi.module._modality import ModalityBase, ModalitySizes
from more_scvi.module._module import LOSS_WEIGHTS, MoREModule
from more_scvi.module._refinement import Refinement
from more_scvi.module._soft_tokens import SoftTokens

__all__ = [
    "Imputer",
    "Inside",
    "InsideAdapter",
    "LOSS_WEIGHTS",
    "MIN_PAIRS",
    "Classifier",
    "DirectPath",
    "ExpressionDecoder",
    "Fusion",
    "GatedAdapter",
    "MoREModule",
    "ModalityBase",
    "ModalitySizes",
    "PathBase",
    "Projection",
    "Refinement",
    "SoftTokens",
    "SpreadStep",
    "WideClassifier",
    "batch_means",
    "ridge",
]
