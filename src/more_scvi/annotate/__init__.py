"""Labels of cells: closed-form experts, self-training, classifiers on the finished embedding."""

from more_scvi.annotate._annotator import Annotator, Lessons, mix
from more_scvi.annotate._closed_form import GaussianClassifier, ProbeClassifier
from more_scvi.annotate._experts import WideClassifier
from more_scvi.annotate._self_training import needs_self_training, self_train

__all__ = [
    "Annotator",
    "GaussianClassifier",
    "Lessons",
    "ProbeClassifier",
    "WideClassifier",
    "mix",
    "needs_self_training",
    "self_train",
]
