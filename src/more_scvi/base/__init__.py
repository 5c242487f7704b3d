"""The linear base: what a cell is before the first gradient step, fitted in closed form and without labels."""

from more_scvi.base._arrays import Arrays, InsideArrays, MaskedTargets, MaskedViews
from more_scvi.base._features import Features, read_features
from more_scvi.base._layout import Layout
from more_scvi.base._linear import LinearBase, ModalityBase, ModalitySizes
from more_scvi.base._path import PathBase
from more_scvi.base._prepare import FrozenReader, fit_base, fit_space, prepare, prepare_masked
from more_scvi.base._shared_space import SharedSpace

__all__ = [
    "Arrays",
    "Features",
    "FrozenReader",
    "InsideArrays",
    "Layout",
    "LinearBase",
    "MaskedTargets",
    "MaskedViews",
    "ModalityBase",
    "ModalitySizes",
    "PathBase",
    "SharedSpace",
    "fit_base",
    "fit_space",
    "prepare",
    "prepare_masked",
    "read_features",
]
