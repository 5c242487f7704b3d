"""Frozen transformers: the interface, the registry, ``more-mini``, published foundation models, the feature cache."""

from ._base import Backbone, Precomputed, TopLayers
from ._cache import FeatureCache, compute_features, make_panels, token_chunks
from ._geneformer import Geneformer, is_geneformer
from ._more_mini import MoreMini, MoreMiniSizes, is_more_mini
from ._registry import get_backbone, list_backbones, register_backbone
from ._scgpt import ScGPT, is_scgpt
from ._synthetic import synthetic_counts, write_synthetic

__all__ = [
    "Backbone", "FeatureCache", "Geneformer", "MoreMini", "MoreMiniSizes", "Precomputed", "ScGPT", "TopLayers",
    "compute_features", "get_backbone", "list_backbones", "make_panels", "register_backbone",
    "synthetic_counts", "token_chunks", "write_synthetic",
]  # fmt: skip

register_backbone("more-mini", MoreMini.load, detect=is_more_mini)
register_backbone("precomputed", Precomputed)
register_backbone("geneformer", Geneformer.load, detect=is_geneformer)
register_backbone("scgpt", ScGPT.load, detect=is_scgpt)
