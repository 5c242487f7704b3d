"""scVI and scANVI at settings their users would run.

Both see 2,000 batch-aware genes (raw counts), 2 layers and 30 latent dimensions. scVI trains for at least 2,500
minibatches of 128 (``scvi``) or for the default epoch heuristic of scvi-tools (``scvi_long``); scANVI starts from it
and trains 20 epochs with 100 cells per label, as in the scvi-tools tutorials. scVI never sees a label, so it is trained
once per data set and kept in ``cache_dir``; its seconds are counted for every result that uses it.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import scvi
from anndata import AnnData

from ._methods import Method, MethodResult, Stopwatch, prepared_seconds, register_method

_ARCHITECTURE = {"n_layers": 2, "n_latent": 30}
_BATCH_SIZE = 128
_TRAINER: dict[str, Any] = {"accelerator": "cpu", "enable_progress_bar": False, "logger": False}


def _trained_scvi(
    adata: AnnData, batch_key: str, minibatches: int | None, cache_dir: Path | None
) -> tuple[scvi.model.SCVI, Stopwatch]:
    genes = adata[:, adata.var["highly_variable"].to_numpy()].copy()
    folder = None if cache_dir is None else Path(cache_dir) / "scvi" / _key(genes, batch_key, minibatches)
    if folder is not None and folder.is_dir():
        seconds = json.loads((folder / "seconds.json").read_text())
        watch = Stopwatch()
        watch.cpu, watch.wall = seconds["cpu"], seconds["wall"]
        return scvi.model.SCVI.load(str(folder), adata=genes, accelerator="cpu"), watch
    watch = Stopwatch(features=prepared_seconds(adata, "normalise", "genes"))
    scvi.settings.seed = 0
    with watch("setup"):
        scvi.model.SCVI.setup_anndata(genes, layer="counts", batch_key=batch_key)
        model = scvi.model.SCVI(genes, **_ARCHITECTURE)
    per_epoch = math.ceil(0.9 * genes.n_obs / _BATCH_SIZE)
    epochs = None if minibatches is None else math.ceil(minibatches / per_epoch)
    with watch("training"):
        model.train(max_epochs=epochs, batch_size=_BATCH_SIZE, **_TRAINER)
    if folder is not None:
        beside = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
        model.save(str(beside), overwrite=True)
        (beside / "seconds.json").write_text(json.dumps({"cpu": watch.cpu, "wall": watch.wall}))
        try:
            os.replace(beside, folder)
        except OSError:  # another process was first
            shutil.rmtree(beside)
    return model, watch


def _scvi(
    adata: AnnData,
    batch_key: str,
    labels_key: str,
    unlabeled: str,
    seed: int,
    cache_dir: Path | None,
    minibatches: int | None = 2500,
) -> MethodResult:
    with _quiet():
        model, watch = _trained_scvi(adata, batch_key, minibatches, cache_dir)
        with watch("embedding"):
            z = model.get_latent_representation()
    return MethodResult(z, None, watch.cpu, watch.wall, _parameters(model))


def _scanvi(
    adata: AnnData,
    batch_key: str,
    labels_key: str,
    unlabeled: str,
    seed: int,
    cache_dir: Path | None,
    minibatches: int | None = 2500,
    epochs: int = 20,
    n_samples_per_label: int = 100,
) -> MethodResult:
    with _quiet():
        base, watch = _trained_scvi(adata, batch_key, minibatches, cache_dir)
        scvi.settings.seed = seed
        with watch("setup"):
            model = scvi.model.SCANVI.from_scvi_model(base, unlabeled_category=unlabeled, labels_key=labels_key)
        with watch("training"):
            model.train(max_epochs=epochs, n_samples_per_label=n_samples_per_label, batch_size=_BATCH_SIZE, **_TRAINER)
        with watch("embedding"):
            z, prediction = model.get_latent_representation(), np.asarray(model.predict()).astype(str)
    return MethodResult(z, prediction, watch.cpu, watch.wall, _parameters(model))


def _parameters(model: Any) -> dict[str, int]:
    return {"trained": sum(p.numel() for p in model.module.parameters()), "frozen": 0}


def _key(genes: AnnData, batch_key: str, minibatches: int | None) -> str:
    digest = hashlib.sha256()
    digest.update("\0".join([*genes.var_names, *genes.obs_names, *genes.obs[batch_key].astype(str)]).encode())
    digest.update(np.asarray(genes.layers["counts"].sum(axis=1), dtype=np.float64).tobytes())
    digest.update(json.dumps([scvi.__version__, _ARCHITECTURE, _BATCH_SIZE, minibatches]).encode())
    return digest.hexdigest()[:16]


def _quiet() -> warnings.catch_warnings:
    """Silence what scvi-tools and Lightning warn about on every run (workers, logging interval)."""
    return warnings.catch_warnings(action="ignore")


for _name, _minibatches in (("", 2500), ("_long", None)):
    register_method(Method(f"scvi{_name}", partial(_scvi, minibatches=_minibatches), seeded=False))
    register_method(Method(f"scanvi{_name}", partial(_scanvi, minibatches=_minibatches)))
