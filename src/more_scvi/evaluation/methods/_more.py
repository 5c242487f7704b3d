"""MoRE as a method of the benchmark, through its public interface only; and its backbone with nothing on top.

Weights of the backbone: ``pretrained`` is the bundled ``more-mini``; ``untrained`` its linear programs without the
transformer; ``random`` the same with a transformer of random weights; ``shuffled`` the pre-trained one with the names
of its genes exchanged among them; ``finetuned`` a copy whose weights were all trained on the visible labels.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import fields, replace
from functools import partial
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from numpy.typing import NDArray

from more_scvi.backbones._cache import compute_features
from more_scvi.backbones._more_mini import MoreMini
from more_scvi.data._fields import RNA
from more_scvi.data._genes import match_genes
from more_scvi.evaluation._data import (
    ATAC,
    BATCH_KEY,
    LABELS_KEY,
    PROTEIN,
    UNLABELED,
    Data,
    Stopwatch,
    batches_of,
    give_labels,
    modalities,
    present,
)
from more_scvi.model._more import MoRE as Model
from more_scvi.pretraining._finetune import finetune

from ._method import Given, Method, Result, register_method
from ._rounds import in_order, rounds_of
from ._shared import centre as centre_batches
from ._shared import labels_of, rna, with_query

Kind = Literal["pretrained", "untrained", "random", "shuffled", "finetuned"]
ROLES = {"rna": "rna", "atac": "atac", "prot": "protein"}
"""Modality → what MoRE calls it."""


@register_method
class MoRE(Method):
    """MoRE at its defaults; variants give arguments of ``setup_*``, the constructor and ``train``."""

    name = "more"
    seeded = True
    maps_queries = any_genes = grows = True

    def run(
        self,
        given: Given,
        names: tuple[str, ...] | None = None,
        labelled: bool = True,
        spatial: bool = True,
        weights: Kind = "pretrained",
        setup_kwargs: Mapping[str, Any] | None = None,
        model_kwargs: Mapping[str, Any] | None = None,
        train_kwargs: Mapping[str, Any] | None = None,
    ) -> Result:
        """Set up, train, embed and annotate. Features are computed anew every time, so the seconds hold everything.

        ``names`` are the modalities to use (RNA alone goes by way of ``setup_anndata``); ``labelled`` and ``spatial``
        whether it is given labels and coordinates; ``weights`` those of the frozen backbone.
        """
        used = tuple(names or modalities(given.data))
        keys: dict[str, Any] = {"batch_key": BATCH_KEY, **(setup_kwargs or {})}
        labelled = labelled and bool((given.data.obs[LABELS_KEY] != UNLABELED).any())
        if labelled:
            keys |= {"labels_key": LABELS_KEY, "unlabeled_category": UNLABELED}
        watch = Stopwatch()
        with watch("setup"):
            data = self._set_up(Model, given.data, used, spatial, keys)
        with watch("setup" if weights != "finetuned" else "training"), tempfile.TemporaryDirectory() as folder:
            name, tuned, notes = "more-mini", 0, dict[str, Any]()
            if weights != "pretrained":
                backbone, tuned, notes = make_backbone(weights, given)
                backbone.save(name := folder)  # weights of one's own are given to MoRE as a folder
            model = Model(data, **{"seed": given.seed, "backbone": name, **(model_kwargs or {})})
        with watch("training"):
            model.train(**{"enable_progress_bar": False, **(train_kwargs or {})})
        parts = [] if given.query is None else [self._of_rna(part, spatial, keys) for part in rounds_of(given)]
        for part in parts:
            self._complete(model, part)
        prediction = probability = before = None
        if given.rounds:
            before = model.get_latent_representation(obsm_key=None), np.asarray(model.predict())
            with watch("growing"):
                for part in parts:
                    model = Model.load_query_data(part, model)
        with watch("embedding"):
            every = [data if given.rounds else None, *parts]  # None: what the model was trained on
            z = in_order(given, [model.get_latent_representation(part, obsm_key=None) for part in every])
            if labelled:
                frames = [pd.DataFrame(model.predict(part, soft=True)) for part in every]
                probability = pd.DataFrame(in_order(given, frames), columns=frames[0].columns)
                prediction = probability.idxmax(axis=1).to_numpy()
        novelty = model.get_novelty().to_numpy() if labelled and given.query is None else None
        result = Result(z, prediction, probability, novelty=novelty, before=before, model=model, notes=notes)
        self._hidden_modalities(given, data, used, result, watch)
        result.seconds, result.wall_seconds = watch.cpu, watch.wall
        total = model.parameter_counts().loc["total"]
        result.parameters = {"trained": int(total["trained"]) + tuned, "frozen": int(total["frozen"]) - tuned}
        return result

    def _set_up(self, model: Any, data: Data, used: tuple[str, ...], spatial: bool, keys: dict[str, Any]) -> Data:
        if isinstance(data, AnnData) or used == (RNA,):
            registered = self._of_rna(data, spatial, keys)
            model.setup_anndata(registered, **keys)
            return registered
        mdata = give_labels(data, data.obs[LABELS_KEY])
        if ATAC in used and "gene" in mdata.mod[ATAC].var:
            keys.setdefault("peak_genes", "gene")
        model.setup_mudata(mdata, modalities={ROLES[name]: name for name in used}, **keys)
        return mdata

    def _of_rna(self, data: Data, spatial: bool, keys: dict[str, Any]) -> AnnData:
        """The RNA and what MoRE is told of it; with coordinates also their key."""
        adata = AnnData(rna(data).X, obs=data.obs.copy(), var=rna(data).var[[]].copy())
        if spatial and "spatial" in data.obsm:
            adata.obsm["spatial"] = data.obsm["spatial"]
            keys["spatial_key"] = "spatial"
        return adata

    def _complete(self, model: Any, part: AnnData) -> None:
        """Change in place what a query lacks and the trained model knows; nothing here."""

    @staticmethod
    def _hidden_modalities(given: Given, data: Data, used: tuple[str, ...], result: Result, watch: Stopwatch) -> None:
        """Impute proteins where they are missing, and embed the counterparts one modality at a time."""
        model = result.model
        if isinstance(data, MuData) and PROTEIN in used and not present(data, PROTEIN).all():
            with watch("imputation"):
                values = model.impute(ROLES[PROTEIN]).reindex(index=data.obs_names, columns=data.mod[PROTEIN].var_names)
            result.imputed[PROTEIN] = np.log1p(values.to_numpy(dtype=np.float32))
        if given.counterparts is not None and len(used) == 2:
            for name in used:
                options = {"obsm_key": None, "modality": ROLES[name]}
                result.unimodal[name] = model.get_latent_representation(given.counterparts, **options)


def make_backbone(kind: Kind, given: Given, **options: Any) -> tuple[MoreMini, int, dict[str, Any]]:
    """A backbone of some weights, how many of them were trained on the data, and notes on that training.

    ``options`` are those of :func:`~more_scvi.pretraining.finetune`, done anew at every call on the visible labels, so
    that a clock around the call counts it.
    """
    if kind not in get_args(Kind):
        raise ValueError(f"Backbone weights {kind!r} are unknown; choose one of {', '.join(get_args(Kind))}.")
    if kind == "shuffled":
        backbone = MoreMini.load()
        known = backbone.vocabulary
        order = np.random.default_rng(given.seed).permutation(len(known))
        columns = {f.name: getattr(known, f.name) for f in fields(known)}
        mixed: dict[str, Any] = {k: tuple(v[i] for i in order) for k, v in columns.items() if isinstance(v, tuple)}
        backbone.vocabulary = replace(known, **mixed)
        return backbone, 0, {}
    if kind != "finetuned":
        return MoreMini.load(weights=kind, seed=given.seed), 0, {}
    backbone, adata = MoreMini.load(), rna(given.data)
    match = match_genes(adata.var_names, backbone.vocabulary)
    labels = labels_of(given.data)[0][given.data.obs_names.get_indexer(adata.obs_names)]
    tuned = finetune(backbone, adata.X, match, labels, unlabeled_category=UNLABELED, seed=given.seed, **options)
    return tuned.backbone, tuned.trained, {"finetuned_epoch": tuned.epoch, "finetuning_seconds": tuned.seconds}


@register_method
class BackboneFeatures(Method):
    """The features of a frozen backbone as they are: only their mean is removed, of all cells or of each batch.

    ``backbone`` (all cells), ``backbone_centred`` (each batch) and ``backbone_untrained`` are variants of it.
    """

    name = "backbone"
    maps_queries = True
    needs = whole = ("rna",)

    def run(
        self, given: Given, weights: Kind = "pretrained", centre: bool = False, options: dict[str, Any] | None = None
    ) -> Result:
        """Encode the RNA counts; ``centre`` removes the mean of each batch, else that of all trained cells."""
        watch = Stopwatch()
        with watch("training" if weights == "finetuned" else "setup"):
            backbone, trained, notes = make_backbone(weights, given, **(options or {}))
        with watch("features"):
            z = with_query(given, partial(_encode, backbone, centred=centre))
            if not centre:
                z -= z[: given.data.n_obs].mean(axis=0)
        parameters = {"trained": trained, "frozen": backbone.n_parameters() - trained}
        return Result(z, None, None, watch.cpu, watch.wall, parameters, notes=notes)


class SeededBackboneFeatures(BackboneFeatures):
    """The same with weights that depend on the seed: ``backbone_random`` and ``backbone_finetuned``."""

    seeded = True


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
    MoRE("more:label-free", labelled=False),
    MoRE("more:no-backbone", model_kwargs={"backbone": None}),
    MoRE("more:backbone-only", model_kwargs={"n_components": 0, "n_wide": 0}),
    MoRE("more:random-backbone", weights="random"),
    MoRE("more:untrained-backbone", weights="untrained"),
    MoRE("more:shuffled-backbone", weights="shuffled"),
    MoRE("more:finetuned-backbone", weights="finetuned"),
    MoRE("more:rna", names=("rna",)),
    MoRE("more:atac", names=("atac",)),
    MoRE("more:meanfusion", model_kwargs={"fusion": "mean"}),
    MoRE("more:noniche", spatial=False),
):
    register_method(_variant)
