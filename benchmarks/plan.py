"""What the benchmark runs by default: stages of data sets × protocols × seeds × methods."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

RNA = ("pbmc_kang", "bm_vangalen", "pbmc_4batch", "snareseq", "pbmc_cite")
MULTI = ("pbmc_cite_multi", "snareseq_multi", "pbmc_mosaic_hao")
SPATIAL = ("her2_breast_st", "starmap_mpfc", "starmap_mpfc_layer")
FEW = ("S4-1", "S4-3", "S4-10", "S4-30")
USUAL = ("S1", "S2a", "S3", *FEW)
RARE = tuple(f"{kind}-{percent}" for kind in ("S5", "S5b") for percent in ("0.1", "0.5", "2"))

LINEAR = ("pca_raw", "pca", "lr_hvg", "lda", "harmony", "random", "shuffled", "onehot-LR", "LEAK")
SHARED = ("lr_shared", "lr_shared_raw", "knn_shared", "lr_bridge", "ceiling", "random")
VIEWS = ("blocks", "blocks_centred", "lr_features", "random")
BACKBONES = ("more:no-backbone", "more:random-backbone", "more:untrained-backbone", "more:backbone-only")
IMPUTE = ("ridge_impute", "knn_impute", "totalvi", "totalvi:background", "more")
DIAGONAL = ("linked", "cca", "ceiling", "random", "more")


@dataclass(frozen=True)
class Stage:
    """Methods that run on the same data sets, protocols and seeds; a method that does not suit a set is left out."""

    name: str
    datasets: tuple[str, ...]
    protocols: tuple[str, ...]
    methods: tuple[str, ...]
    seeds: tuple[int, ...] = (0, 1, 2)
    max_rotations: int = 4
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Options of methods that are not known by name."""
    scib: bool = False


# fmt: off
STAGES = (
    Stage("rna", RNA, USUAL, ("more", *LINEAR)),
    Stage("rna-peers", RNA, USUAL, ("scvi", "scanvi", "scanorama"), (0,)),
    Stage("multi", MULTI, USUAL, ("more", *VIEWS)),
    Stage("multi-peers", MULTI, USUAL, ("totalvi", "multivi", "more:rna"), (0,)),
    Stage("impute", ("pbmc_cite_multi",), ("S6",), IMPUTE),
    Stage("libraries", ("snareseq_multi",), ("S6-half", "S6-third"), ("cca", *SHARED, "multivi", "more"), (0, 1)),
    Stage("mosaic", ("pbmc_mosaic", "pbmc_mosaic_hao"), ("hide-rna", "hide-prot", "rna-to-prot"),
          (*SHARED, *VIEWS, "totalvi", "multivi", "more"), (0, 1)),
    Stage("diagonal", ("sln_diagonal",), ("rna-to-prot", "prot-to-rna"), DIAGONAL, (0, 1)),
    Stage("spatial", SPATIAL, ("S2a",), ("rna_view", "niche", "niche_raw", *VIEWS, "more", "more:noniche"), (0,)),
    Stage("backbones", RNA, ("S1", *FEW, "S1-100", "S1-300", "S1-1000", "S2b"), ("more", *BACKBONES, "pca", "lr_hvg")),
    Stage("rare", RNA, RARE, ("more", "pca", "harmony", "lr_hvg", "random", "onehot-LR"), max_rotations=2),
    Stage("rare-peers", RNA, RARE, ("scanvi",), (0,), 2),
)
QUICK = (
    Stage("quick", ("pbmc_kang", "bm_vangalen"), ("S1", "S2a", "S3", "S4-3"), ("more", *LINEAR), (0,), 1),
    Stage("quick-multi", ("pbmc_cite_multi",), ("S1",), ("more", "lr_features", "blocks_centred", "random"), (0,), 1),
)
"""Sets of at most :data:`QUICK_CELLS` cells, seed 0, one rotation: minutes."""
QUICK_CELLS = 2000
# fmt: on
