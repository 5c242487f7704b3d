"""scVI and scANVI at settings their users would run.

Both see 2,000 batch-aware genes (raw counts), 2 layers and 30 latent dimensions. scVI trains for at least 2,500
minibatches of 128 (``scvi``) or for the default epoch heuristic of scvi-tools (``scvi_long``); scANVI starts from it
and trains 20 epochs with 100 cells per label, as in the scvi-tools tutorials. scVI never sees a label, so it is trained
once per data set and kept in ``cache_dir``; its seconds are counted for every result that uses it. A batch that is
mapped afterwards (``S2b``) gets weights of its own as scArches does: 100 epochs without weight decay.
"""

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scvi
import torch
from anndata import AnnData
from numpy.typing import NDArray

from more_scvi.evaluation._data import BATCH_KEY, LABELS_KEY, UNLABELED, Data, Stopwatch, batches_of
from more_scvi.evaluation._fits import Fit, cached, fit_path

from ._method import Given, Method, Result, register_method
from ._shared import rna, shared_watch

ARCHITECTURE = {"n_layers": 2, "n_latent": 30}
BATCH_SIZE = 128
TRAINER: dict[str, Any] = {"accelerator": "cpu", "enable_progress_bar": False, "logger": False}
SURGERY: dict[str, Any] = {"max_epochs": 100, "plan_kwargs": {"weight_decay": 0.0}, **TRAINER}


@register_method
class SCVI(Method):
    """scVI (Lopez et al. 2018); 2,500 minibatches, ``None``: the default epochs of scvi-tools."""

    name = "scvi"
    needs = ("rna",)
    whole = True
    maps_queries = True

    def run(self, given: Given, minibatches: int | None = 2500) -> Result:
        with warnings.catch_warnings(action="ignore"):
            model, watch = _trained(given.data, minibatches, given.cache_dir)
            with watch("embedding"):
                z = np.concatenate([each.get_latent_representation() for each in _with_query(model, given)])
        return Result(z, None, None, watch.cpu, watch.wall, _parameters(model))


@register_method
class SCANVI(Method):
    """scANVI (Xu et al. 2021) on top of scVI."""

    name = "scanvi"
    needs = ("rna",)
    whole = True
    maps_queries = True
    seeded = True

    def run(
        self, given: Given, minibatches: int | None = 2500, epochs: int = 20, n_samples_per_label: int = 100
    ) -> Result:
        with warnings.catch_warnings(action="ignore"):
            base, watch = _trained(given.data, minibatches, given.cache_dir)
            scvi.settings.seed = given.seed
            with watch("setup"):
                model = scvi.model.SCANVI.from_scvi_model(base, unlabeled_category=UNLABELED, labels_key=LABELS_KEY)
            with watch("training"):
                length = {"max_epochs": epochs, "n_samples_per_label": n_samples_per_label}
                model.train(batch_size=BATCH_SIZE, **length, **TRAINER)
            with watch("embedding"):
                models = _with_query(model, given)
                z = np.concatenate([each.get_latent_representation() for each in models])
                probability = pd.concat([each.predict(soft=True) for each in models], ignore_index=True)
        prediction = probability.idxmax(axis=1).to_numpy()
        return Result(z, prediction, probability, watch.cpu, watch.wall, _parameters(model))


def _genes(data: Data) -> AnnData:
    """Counts of the variable genes; hidden labels read ``"Unknown"`` here already."""
    adata = rna(data)
    keep = adata.var["highly_variable"].to_numpy()
    genes = AnnData(adata.X[:, keep].copy(), obs=data.obs.copy(), var=adata.var.loc[keep, []].copy())
    genes.layers["counts"] = genes.X
    return genes


def _trained(data: Data, minibatches: int | None, cache_dir: Path | None) -> tuple[scvi.model.SCVI, Stopwatch]:
    genes, watch = _genes(data), shared_watch(data, steps=("normalise", "genes"))
    settings = {"model": "scvi", "minibatches": minibatches, "batch_size": BATCH_SIZE, **ARCHITECTURE}
    path = fit_path(cache_dir, {"rna": genes.X}, batches_of(data), settings)
    scvi.settings.seed = 0
    with watch("setup"):
        scvi.model.SCVI.setup_anndata(genes, layer="counts", batch_key=BATCH_KEY)
        model = scvi.model.SCVI(genes, **ARCHITECTURE)

    def fit() -> Fit:
        per_epoch = math.ceil(0.9 * genes.n_obs / BATCH_SIZE)
        epochs = None if minibatches is None else math.ceil(minibatches / per_epoch)
        with watch("training"):
            model.train(max_epochs=epochs, batch_size=BATCH_SIZE, **TRAINER)
        weights = {name: value.numpy() for name, value in model.module.state_dict().items()}
        return weights, {"cpu": watch.cpu, "wall": watch.wall}

    def use(weights: dict[str, NDArray], seconds: dict[str, Any]) -> tuple[scvi.model.SCVI, Stopwatch]:
        model.module.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
        model.is_trained_, watch.cpu, watch.wall = True, seconds["cpu"], seconds["wall"]
        model.module.eval()
        return model, watch

    return cached(path, fit, use)


def _with_query(model: Any, given: Given) -> list[Any]:
    """The model, and one of the query alone, its other weights frozen (scArches, Lotfollahi et al. 2022)."""
    if given.query is None:
        return [model]
    mapped = type(model).load_query_data(_genes(given.query), model, accelerator="cpu")
    mapped.train(**SURGERY)
    return [model, mapped]


def _parameters(model: Any) -> dict[str, int]:
    return {"trained": sum(p.numel() for p in model.module.parameters()), "frozen": 0}


register_method(SCVI("scvi_long", minibatches=None))
register_method(SCANVI("scanvi_long", minibatches=None))
