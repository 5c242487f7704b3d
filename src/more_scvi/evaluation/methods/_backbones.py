"""What the backbone gives with nothing of MoRE on top, and backbones of other weights for methods that take one.

``pretrained`` is the bundled ``more-mini``; ``untrained`` its linear programs without the transformer; ``random`` the
same with a transformer of random weights; ``finetuned`` a copy whose weights were all trained on the visible labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from more_scvi.backbones._cache import compute_features
from more_scvi.backbones._more_mini import MoreMini
from more_scvi.data._genes import match_genes
from more_scvi.evaluation._data import UNLABELED, Data, batches_of, present
from more_scvi.pretraining._finetune import Finetuned, finetune

from ._method import Given, Method, Result, Stopwatch, register_method
from ._shared import centre as centre_batches
from ._shared import labels_of, rna, with_query

Kind = Literal["pretrained", "untrained", "random", "finetuned"]


@dataclass(frozen=True)
class BackboneVariant:
    """A backbone as ``MoRE(adata, backbone=name)`` takes it, and how many of its weights were trained on the data."""

    name: str
    trained: int = 0
    notes: dict[str, Any] | None = None


def backbone_variant(
    kind: Kind, folder: str | Path, given: Given | None = None, seed: int = 0, **options: Any
) -> BackboneVariant:
    """A backbone of some weights, as MoRE takes it; written to a folder of its own below ``folder``.

    ``options`` are those of :func:`~more_scvi.pretraining.finetune`, done anew at every call on the visible labels of
    ``given``, so that a clock around the call counts it.
    """
    if kind == "pretrained":
        return BackboneVariant("more-mini")
    backbone, tuned = _make(kind, given, seed, options)
    path = Path(folder) / f"more-mini-{kind}-{backbone.fingerprint()[:16]}"
    backbone.save(path)
    return BackboneVariant(str(path)) if tuned is None else BackboneVariant(str(path), tuned.trained, _notes(tuned))


@register_method
class BackboneFeatures(Method):
    """The features of a frozen backbone as they are: only their mean is removed, of all cells or of each batch.

    ``backbone`` (all cells), ``backbone_centred`` (each batch) and ``backbone_untrained`` are variants of it.
    """

    name = "backbone"
    maps_queries = True
    needs = ("rna",)

    def suits(self, data: Data, has_query: bool = False) -> bool:
        """Every cell needs RNA."""
        return super().suits(data, has_query) and bool(present(data, "rna").all())

    def run(
        self, given: Given, weights: Kind = "pretrained", centre: bool = False, options: dict[str, Any] | None = None
    ) -> Result:
        """Encode the RNA counts; ``centre`` removes the mean of each batch, else that of all trained cells."""
        watch = Stopwatch()
        with watch("training" if weights == "finetuned" else "setup"):
            backbone, tuned = _make(weights, given, given.seed, options or {})
        with watch("features"):
            z = with_query(given, partial(_encode, backbone, centred=centre))
            if not centre:
                z -= z[: given.data.n_obs].mean(axis=0)
        trained = 0 if tuned is None else tuned.trained
        parameters = {"trained": trained, "frozen": backbone.n_parameters() - trained}
        notes = {} if tuned is None else _notes(tuned)
        return Result(z, None, None, watch.cpu, watch.wall, parameters, notes=notes)


class SeededBackboneFeatures(BackboneFeatures):
    """The same with weights that depend on the seed: ``backbone_random`` and ``backbone_finetuned``."""

    seeded = True


def _make(kind: str, given: Given | None, seed: int, options: dict[str, Any]) -> tuple[MoreMini, Finetuned | None]:
    if kind not in get_args(Kind):
        raise ValueError(f"Backbone weights {kind!r} are unknown; choose one of {', '.join(get_args(Kind))}.")
    if kind != "finetuned":
        return MoreMini.load(weights=kind, seed=seed), None  # type: ignore[arg-type]
    if given is None:
        raise ValueError("backbone_variant('finetuned', ...) needs the data to train on: pass given.")
    backbone, adata = MoreMini.load(), rna(given.data)
    match = match_genes(adata.var_names, backbone.vocabulary)
    labels = labels_of(given.data)[0][given.data.obs_names.get_indexer(adata.obs_names)]
    tuned = finetune(backbone, adata.X, match, labels, unlabeled_category=UNLABELED, seed=seed, **options)
    return tuned.backbone, tuned


def _notes(tuned: Finetuned) -> dict[str, Any]:
    return {"finetuned_epoch": tuned.epoch, "finetuning_seconds": tuned.seconds}


def _encode(backbone: MoreMini, data: Data, centred: bool) -> NDArray[np.float32]:
    """Features ``(n_cells, n_features)`` in the order of the cells."""
    adata = rna(data)
    cache = compute_features(backbone, adata.X, list(adata.var_names), dtype="float32", progress=False)
    z = cache.full[adata.obs_names.get_indexer(data.obs_names)]
    return centre_batches(z, batches_of(data)) if centred else z


for _variant in (
    BackboneFeatures("backbone_centred", centre=True),
    BackboneFeatures("backbone_untrained", weights="untrained", centre=True),
    SeededBackboneFeatures("backbone_random", weights="random", centre=True),
    SeededBackboneFeatures("backbone_finetuned", weights="finetuned", centre=True),
):
    register_method(_variant)
