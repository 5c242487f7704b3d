"""Frozen transformers: the interface, the registry, the bundled ``more-mini`` and the feature cache."""

from ._base import Backbone, Precomputed
from ._cache import FeatureCache, compute_features, make_panels
from ._more_mini import MoreMini, MoreMiniSizes
from ._registry import get_backbone, list_backbones, register_backbone
from ._weights import is_more_mini

__all__ = [
    "Backbone",
    "FeatureCache",
    "MoreMini",
    "MoreMiniSizes",
    "Precomputed",
    "compute_features",
    "get_backbone",
    "list_backbones",
    "make_panels",
    "register_backbone",
]

register_backbone("more-mini", MoreMini.load, detect=is_more_mini)
register_backbone("precomputed", Precomputed)
