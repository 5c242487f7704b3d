"""scVI and scANVI at settings their users would run.

Both see 2,000 batch-aware genes (raw counts), 2 layers and 30 latent dimensions. scVI trains for at least 2,500
minibatches of 128 (``scvi``) or for the default epoch heuristic of scvi-tools (``scvi_long``); scANVI starts from it
and trains 20 epochs with 100 cells per label, as in the scvi-tools tutorials. scVI never sees a label, so it is trained
once per data set and kept in ``cache_dir``; its seconds are counted for every result that uses it. A batch that is
mapped afterwards (``S2b``) gets weights of its own as scArches does: 100 epochs without weight decay.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import scvi
from anndata import AnnData
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from more_scvi.evaluation._data import BATCH_KEY, LABELS_KEY, UNLABELED, Data

from ._method import Given, Method, Result, Stopwatch, register_method
from ._shared import prepared_seconds, probabilities, rna

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
        """Train or take from the cache."""
        with warnings.catch_warnings(action="ignore"):
            model, watch = _trained(given.data, minibatches, given.cache_dir)
            with watch("embedding"):
                z = [model.get_latent_representation()]
            if given.query is not None:
                with watch("embedding"):
                    query = _mapped(scvi.model.SCVI, model, given)
                    z.append(query.get_latent_representation())
        return Result(np.concatenate(z), None, None, watch.cpu, watch.wall, _parameters(model))


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
        """Go on from scVI with the visible labels."""
        with warnings.catch_warnings(action="ignore"):
            base, watch = _trained(given.data, minibatches, given.cache_dir)
            scvi.settings.seed = given.seed
            with watch("setup"):
                model = scvi.model.SCANVI.from_scvi_model(base, unlabeled_category=UNLABELED, labels_key=LABELS_KEY)
            with watch("training"):
                model.train(
                    max_epochs=epochs, n_samples_per_label=n_samples_per_label, batch_size=BATCH_SIZE, **TRAINER
                )
            with watch("embedding"):
                z, soft = [model.get_latent_representation()], [model.predict(soft=True)]
            if given.query is not None:
                with watch("embedding"):
                    query = _mapped(scvi.model.SCANVI, model, given)
                    z.append(query.get_latent_representation())
                    soft.append(query.predict(soft=True)[soft[0].columns])
        probability = probabilities(np.concatenate([frame.to_numpy() for frame in soft]), soft[0].columns)
        prediction = probability.columns.to_numpy()[probability.to_numpy().argmax(axis=1)]
        return Result(np.concatenate(z), prediction, probability, watch.cpu, watch.wall, _parameters(model))


def _genes(data: Data) -> AnnData:
    """Counts of the variable genes; hidden labels read ``"Unknown"`` here already."""
    adata = rna(data)
    keep = adata.var["highly_variable"].to_numpy()
    return AnnData(adata.X[:, keep].copy(), obs=data.obs.copy(), var=adata.var.loc[keep, []].copy())


def _trained(data: Data, minibatches: int | None, cache_dir: Path | None) -> tuple[scvi.model.SCVI, Stopwatch]:
    genes = _genes(data)
    file = None if cache_dir is None else Path(cache_dir) / "scvi" / f"{_key(genes, minibatches)}.safetensors"
    genes.layers["counts"] = genes.X
    watch = Stopwatch(features=prepared_seconds(data, "normalise", "genes"))
    scvi.settings.seed = 0
    with watch("setup"):
        scvi.model.SCVI.setup_anndata(genes, layer="counts", batch_key=BATCH_KEY)
        model = scvi.model.SCVI(genes, **ARCHITECTURE)
    if file is not None and file.is_file():
        try:  # weights alone: scvi-tools' own files run code when they are loaded
            model.module.load_state_dict(load_file(file))
            with safe_open(file, "pt") as stored:
                seconds = json.loads(stored.metadata()["seconds"])
        except (SafetensorError, RuntimeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{file}: holds no weights of this model ({error}); delete it.") from error
        model.is_trained_, watch.cpu, watch.wall = True, seconds["cpu"], seconds["wall"]
        model.module.eval()
        return model, watch
    per_epoch = math.ceil(0.9 * genes.n_obs / BATCH_SIZE)
    epochs = None if minibatches is None else math.ceil(minibatches / per_epoch)
    with watch("training"):
        model.train(max_epochs=epochs, batch_size=BATCH_SIZE, **TRAINER)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=file.parent) as folder:
            beside = Path(folder) / file.name
            seconds = json.dumps({"cpu": watch.cpu, "wall": watch.wall})
            save_file({k: v.contiguous() for k, v in model.module.state_dict().items()}, beside, {"seconds": seconds})
            os.replace(beside, file)
    return model, watch


def _mapped(cls: Any, model: Any, given: Given) -> Any:
    """Model of the query alone, its other weights frozen (scArches, Lotfollahi et al. 2022)."""
    assert given.query is not None
    query = _genes(given.query)
    query.layers["counts"] = query.X
    mapped = cls.load_query_data(query, model, accelerator="cpu")
    mapped.train(**SURGERY)
    return mapped


def _parameters(model: Any) -> dict[str, int]:
    return {"trained": sum(p.numel() for p in model.module.parameters()), "frozen": 0}


def _key(genes: AnnData, minibatches: int | None) -> str:
    digest = hashlib.sha256()
    digest.update("\0".join([*genes.var_names, *genes.obs_names, *genes.obs[BATCH_KEY].astype(str)]).encode())
    digest.update(np.asarray(genes.X.sum(axis=1), dtype=np.float64).tobytes())
    digest.update(json.dumps([scvi.__version__, ARCHITECTURE, BATCH_SIZE, minibatches]).encode())
    return digest.hexdigest()[:16]


register_method(SCVI("scvi_long", minibatches=None))
register_method(SCANVI("scanvi_long", minibatches=None))
