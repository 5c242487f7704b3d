"""Which backbone a model has, and which modalities it reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from anndata import AnnData
from mudata import MuData

from more_scvi.backbones._base import Backbone
from more_scvi.backbones._registry import get_backbone
from more_scvi.base._schema import Schema, obsm_features
from more_scvi.data._checks import check_vocabulary
from more_scvi.data._genes import match_genes

MIN_LINKED_GENES = 10
"""A modality that speaks of fewer genes known to the backbone has no frozen features; one of none: soft tokens.
Source: plain value, not tuned."""


@dataclass(frozen=True)
class Attached:
    """A backbone beside the modalities of a model.

    Attributes
    ----------
    backbone
        None: there is none.
    modalities
        Those that it reads.
    soft
        Those that speak of no gene it knows: they reach it by learned tokens.
    overlaps
        Per modality, share of its genes that the backbone knows.
    given
        Modality → key of ``obsm`` with features that were computed elsewhere.
    """

    backbone: Backbone | None
    modalities: tuple[str, ...]
    soft: tuple[str, ...]
    overlaps: dict[str, float]
    given: dict[str, str]


def attach_backbone(
    name: str | None, kwargs: dict[str, Any], schema: Schema, data: AnnData | MuData | None
) -> Attached:
    """Make the backbone and see which modalities it can read.

    Parameters
    ----------
    name, kwargs
        As ``backbone`` and ``backbone_kwargs`` of :class:`more_scvi.model.MoRE`.
    schema
        Modalities and genes.
    data
        The registered data, whose ``obsm`` holds precomputed features; None: the model is loaded.
    """
    modalities = schema.modalities
    overlaps = dict.fromkeys(modalities, 1.0)
    if name is None:
        return Attached(None, tuple(modalities), (), overlaps, {})
    reads, soft, given = list(modalities), [], {}
    if name == "precomputed":
        reads = modalities[:1]
        given[reads[0]] = _check_obsm_key(kwargs, schema, data)
    backbone = get_backbone(name, **kwargs)
    for modality in modalities if backbone.vocabulary is not None else ():
        assert backbone.vocabulary is not None
        match = match_genes(schema.gene_names[modality], backbone.vocabulary)
        overlaps[modality] = match.overlap
        if schema.links[modality] is None:  # features are genes
            genes = schema.gene_names[modality]
            check_vocabulary(match.n_matched, genes, backbone.vocabulary.human_symbol, str(name))
            backbone.check_match(match)
        elif match.n_matched < MIN_LINKED_GENES:
            reads.remove(modality)
        if match.n_matched == 0:
            soft.append(modality)
    return Attached(backbone, tuple(reads), tuple(soft), overlaps, given)


def _check_obsm_key(kwargs: dict[str, Any], schema: Schema, data: AnnData | MuData | None) -> str:
    key = kwargs.pop("obsm_key", None)
    if not isinstance(key, str):
        raise TypeError(
            "backbone='precomputed' needs backbone_kwargs={'obsm_key': 'X_...'}, the key of adata.obsm that"
            f" holds the features; got {key!r}."
        )
    if data is not None:
        adata = data.mod[schema.names[schema.modalities[0]]] if isinstance(data, MuData) else data
        kwargs["n_features"] = obsm_features(adata, key).shape[1]
    return key
