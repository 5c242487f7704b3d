"""MoRE as a method of the benchmark, through its public interface only."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData

from more_scvi.data._fields import RNA
from more_scvi.evaluation._data import (
    ATAC,
    BATCH_KEY,
    LABELS_KEY,
    PROTEIN,
    UNLABELED,
    Data,
    give_labels,
    modalities,
    present,
)

from ._backbones import Kind, backbone_variant
from ._method import Given, Method, Result, Stopwatch, register_method

ROLES = {"rna": "rna", "atac": "atac", "prot": "protein"}
"""Modality → what MoRE calls it."""


@register_method
class MoRE(Method):
    """MoRE at its defaults; variants give arguments of ``setup_*``, the constructor and ``train``."""

    name = "more"
    seeded = True
    maps_queries = True

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
        from more_scvi.model._more import MoRE as Model

        used = tuple(names or modalities(given.data))
        keys: dict[str, Any] = {"batch_key": BATCH_KEY, **(setup_kwargs or {})}
        if labelled:
            keys |= {"labels_key": LABELS_KEY, "unlabeled_category": UNLABELED}
        watch = Stopwatch()
        with watch("setup"):
            data = self._set_up(Model, given.data, used, spatial, keys)
        with watch("setup" if weights != "finetuned" else "training"), tempfile.TemporaryDirectory() as folder:
            variant = backbone_variant(weights, folder, given, given.seed)
            model = Model(data, **{"seed": given.seed, "backbone": variant.name, **(model_kwargs or {})})
        with watch("training"):
            model.train(**{"enable_progress_bar": False, **(train_kwargs or {})})
        parts = [None] if given.query is None else [None, _of_rna(given.query, spatial, keys)]  # None: the data
        prediction = probability = None
        with watch("embedding"):
            z = np.concatenate([model.get_latent_representation(part, obsm_key=None) for part in parts])
            if labelled:
                probability = pd.concat([pd.DataFrame(model.predict(part, soft=True)) for part in parts])
                prediction = probability.columns.to_numpy().astype(str)[probability.to_numpy().argmax(axis=1)]
        novelty = model.get_novelty().to_numpy() if labelled and given.query is None else None
        result = Result(z, prediction, probability, novelty=novelty, model=model)
        self._hidden_modalities(given, data, used, result, watch)
        result.seconds, result.wall_seconds = watch.cpu, watch.wall
        total = model.parameter_counts().loc["total"]
        trained, frozen = int(total["trained"]) + variant.trained, int(total["frozen"]) - variant.trained
        result.parameters = {"trained": trained, "frozen": frozen}
        result.notes = variant.notes or {}
        return result

    @staticmethod
    def _set_up(model: Any, data: Data, used: tuple[str, ...], spatial: bool, keys: dict[str, Any]) -> Data:
        if isinstance(data, AnnData) or used == (RNA,):
            registered = _of_rna(data, spatial, keys)
            model.setup_anndata(registered, **keys)
            return registered
        mdata = give_labels(data, data.obs[LABELS_KEY])
        if ATAC in used and "gene" in mdata.mod[ATAC].var:
            keys.setdefault("peak_genes", "gene")
        model.setup_mudata(mdata, modalities={ROLES[name]: name for name in used}, **keys)
        return mdata

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
                result.unimodal[name] = model.get_latent_representation(
                    given.counterparts, obsm_key=None, modality=ROLES[name]
                )


def _of_rna(data: Data, spatial: bool, keys: dict[str, Any]) -> AnnData:
    """The RNA and what MoRE is told of it; with coordinates also their key."""
    rna = modalities(data)["rna"]
    adata = AnnData(rna.X, obs=data.obs.copy(), var=rna.var[[]].copy())
    if spatial and "spatial" in data.obsm:
        adata.obsm["spatial"] = data.obsm["spatial"]
        keys["spatial_key"] = "spatial"
    return adata


for _variant in (
    MoRE("more:label-free", labelled=False),
    MoRE("more:no-backbone", model_kwargs={"backbone": None}),
    MoRE("more:backbone-only", model_kwargs={"n_components": 0, "n_wide": 0}),
    MoRE("more:random-backbone", weights="random"),
    MoRE("more:untrained-backbone", weights="untrained"),
    MoRE("more:finetuned-backbone", weights="finetuned"),
    MoRE("more:rna", names=("rna",)),
    MoRE("more:atac", names=("atac",)),
    MoRE("more:meanfusion", model_kwargs={"fusion": "mean"}),
    MoRE("more:noniche", spatial=False),
):
    register_method(_variant)
