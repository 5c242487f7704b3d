"""totalVI and MultiVI, fitted once per data set and modality mask; their embeddings are kept and shared by all splits.

Neither model sees a label, so one fit serves every label split. Both are given zeros where a modality is missing:
totalVI takes proteins that are zero in a whole batch for missing, MultiVI any cell without counts in a modality;
totalVI has no such notion for RNA, so cells with proteins only enter it with zeros for RNA (the only way it runs).

Settings are the defaults of scvi-tools but for the length of training: ``minibatches`` of 128 cells (at least so many,
in whole epochs, at most 25 minutes), or ``None`` for the default batch size, epochs and early stopping. The seconds of
default training (totalVI 400 epochs at this size, MultiVI up to 500) are extrapolated from a short fit by
:func:`default_training_seconds`. Mind that both defaults warm the KL term up over more steps than a short fit takes
(totalVI over 0.75 steps per cell, MultiVI over 50 epochs).
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import tempfile
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import mudata
import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse

from more_scvi.data import RNA
from more_scvi.evaluation._data import ATAC, Data, batches_of, dense, frequent, modalities, padded, prepare

from ._method import Given, Method, Result, Stopwatch, register_method

logger = logging.getLogger(__name__)

BATCH_SIZE, MINIBATCHES, MAX_MINUTES = 128, 2500, 25
_TRAINER: dict[str, Any] = {"accelerator": "cpu", "enable_progress_bar": False}
_LAYERS = {"rna": "rna_layer", "atac": "atac_layer", "prot": "protein_layer"}
_MULTIVI_NAMES = {"rna": "expression", "atac": "accessibility", "prot": "protein"}


@dataclass
class PeerFit:
    """What is kept of a fit.

    Parameters
    ----------
    arrays
        ``z`` (cells, latent); totalVI: ``imputed_prot`` (cells, proteins), log1p of the model's protein level, and
        ``imputed_prot_background``, the same with the background that observed counts also hold;
        MultiVI: ``z_<modality>`` of cells embedded from that modality alone.
    seconds
        CPU seconds per stage.
    parameters
        Number of trained weights.
    minibatches
        Steps taken; fewer than planned where early stopping or the time limit ended training.
    planned_minibatches
        Steps planned; ``None`` for default training.
    n_train
        Cells trained on.
    """

    arrays: dict[str, NDArray[np.float32]]
    seconds: dict[str, float]
    parameters: int
    minibatches: int
    planned_minibatches: int | None
    n_train: int
    settings: dict[str, Any] = field(default_factory=dict)


def fit_totalvi(
    rna: sparse.csr_matrix,
    prot: sparse.csr_matrix,
    batches: NDArray,
    minibatches: int | None = MINIBATCHES,
    seed: int = 0,
    cache_dir: str | os.PathLike | None = None,
) -> PeerFit:
    """TotalVI on padded counts ``(n_cells, genes)`` and ``(n_cells, proteins)``; from ``cache_dir`` if it is there."""
    settings = {"model": "totalvi", "minibatches": minibatches, "batch_size": BATCH_SIZE, "seed": seed}
    path = _path(cache_dir, {"rna": rna, "prot": prot}, batches, settings)
    return _cached(path, lambda: _fit_totalvi(rna, prot, batches, settings))


def fit_multivi(
    counts: Mapping[str, sparse.csr_matrix],
    batches: NDArray,
    counterparts: Mapping[str, sparse.csr_matrix] | None = None,
    minibatches: int | None = MINIBATCHES,
    seed: int = 0,
    cache_dir: str | os.PathLike | None = None,
) -> PeerFit:
    """MultiVI on padded counts per modality; from ``cache_dir`` if it is there.

    ``counterparts`` (same features) are embedded after training, from one modality at a time: all cells where they have
    counts, including those hidden while training.
    """
    settings = {"model": "multivi", "minibatches": minibatches, "batch_size": BATCH_SIZE, "seed": seed}
    path = _path(cache_dir, counts, batches, settings)
    return _cached(path, lambda: _fit_multivi(counts, batches, counterparts or counts, settings))


def totalvi_of(mdata: mudata.MuData, cache_dir: str | os.PathLike | None, **settings: Any) -> PeerFit:
    """TotalVI on 2,000 batch-aware genes and all proteins of a data set; cells that lack a modality are padded."""
    counts = {name: padded(mdata, name)[:, keep] for name, keep in _features(mdata).items()}
    return fit_totalvi(counts["rna"], counts["prot"], batches_of(mdata), cache_dir=cache_dir, **settings)


def multivi_of(
    mdata: mudata.MuData, cache_dir: str | os.PathLike | None, full: mudata.MuData | None = None, **settings: Any
) -> PeerFit:
    """MultiVI on 2,000 batch-aware genes, the peaks of > 1 % of the cells, and all proteins of a data set.

    ``full`` is the same data set with nothing hidden: looked at after training only, one modality at a time.
    """
    keep = _features(mdata)
    counts = {name: padded(mdata, name)[:, keep[name]] for name in keep}
    counterparts = None if full is None else {name: padded(full, name)[:, keep[name]] for name in keep}
    return fit_multivi(counts, batches_of(mdata), counterparts, cache_dir=cache_dir, **settings)


def default_training_seconds(fit: PeerFit) -> float:
    """CPU seconds of default training: measured if it was run, else from the CPU seconds per cell seen.

    An upper bound for totalVI, whose default batches are twice as large, and where training stops early.
    """
    if fit.planned_minibatches is None:
        return fit.seconds["training"]
    default_epochs = {"totalvi": min(round(20000 / (fit.n_train / 0.9) * 400), 400), "multivi": 500}
    per_cell = fit.seconds["training"] / (fit.minibatches * BATCH_SIZE)
    return per_cell * fit.n_train * default_epochs[fit.settings["model"]]


def _fit_totalvi(
    rna: sparse.csr_matrix, prot: sparse.csr_matrix, batches: NDArray, settings: dict[str, Any]
) -> PeerFit:
    import scvi

    names = [f"cell{i}" for i in range(rna.shape[0])]
    adata = AnnData(rna, obs=pd.DataFrame({"batch": batches.astype(str)}, index=names))
    adata.obsm["proteins"] = dense(prot)
    measured = [str(name) for name in np.unique(batches) if prot[batches == name].sum() > 0]
    watch = Stopwatch()
    scvi.settings.seed = settings["seed"]
    with watch("setup"):
        scvi.model.TOTALVI.setup_anndata(adata, "proteins", batch_key="batch")
        model = scvi.model.TOTALVI(adata)
    steps = _train(model, watch, settings, adata.n_obs)
    with watch("embedding"):
        z = model.get_latent_representation()
    arrays = {"z": z}
    # as the documentation advises for missing proteins: the mean over the batches that have them
    options = {"transform_batch": measured, "n_samples": 10, "return_mean": True, "return_numpy": True}
    for name, background in (("imputed_prot", False), ("imputed_prot_background", True)):
        with watch("imputation"):
            _, level = model.get_normalized_expression(include_protein_background=background, **options)
        arrays[name] = np.log1p(level)
    return _kept(model, arrays, watch, steps, settings, adata.n_obs)


def _fit_multivi(
    counts: Mapping[str, sparse.csr_matrix],
    batches: NDArray,
    counterparts: Mapping[str, sparse.csr_matrix],
    settings: dict[str, Any],
) -> PeerFit:
    import scvi

    watch = Stopwatch()
    scvi.settings.seed = settings["seed"]
    with watch("setup"):
        mdata = _multivi_data(counts, batches)
        layers = {_LAYERS[name]: name for name in counts}
        scvi.model.MULTIVI.setup_mudata(
            mdata, batch_key="batch", modalities={**layers, "batch_key": next(iter(counts))}
        )
        model = scvi.model.MULTIVI(mdata)
    steps = _train(model, watch, settings, mdata.n_obs)
    arrays = {}
    with watch("embedding"):
        arrays["z"] = model.get_latent_representation()
    for name in counts:
        alone = {
            other: x if other == name else sparse.csr_matrix(x.shape, dtype=x.dtype)
            for other, x in counterparts.items()
        }
        arrays[f"z_{name}"] = model.get_latent_representation(
            _multivi_data(alone, batches), modality=_MULTIVI_NAMES[name]
        )
    return _kept(model, arrays, watch, steps, settings, mdata.n_obs)


def _multivi_data(counts: Mapping[str, sparse.csr_matrix], batches: NDArray) -> mudata.MuData:
    names = [f"cell{i}" for i in range(len(batches))]
    mods = {
        name: AnnData(
            x,
            obs=pd.DataFrame({"batch": batches.astype(str)}, index=names),
            var=pd.DataFrame(index=[f"{name}{i}" for i in range(x.shape[1])]),
        )
        for name, x in counts.items()
    }
    mdata = mudata.MuData(mods)
    mdata.obs["_indices"] = np.arange(len(names))  # set-up writes it, but embedding other data expects it
    return mdata


def _train(model: Any, watch: Stopwatch, settings: dict[str, Any], n_cells: int) -> int:
    """Train for about ``settings["minibatches"]`` steps, or by default; the number of steps taken."""
    from lightning.pytorch.callbacks import Callback

    class Steps(Callback):
        taken, start = 0, time.process_time()

        def on_train_batch_end(self, *_: Any) -> None:
            self.taken += 1
            if self.taken % 100 == 0:
                logger.info(
                    "%d steps, %.3f CPU s per step", self.taken, (time.process_time() - self.start) / self.taken
                )

    steps = Steps()
    planned, length = _planned(settings, n_cells), {}
    if planned is not None:
        epochs = planned // math.ceil(0.9 * n_cells / BATCH_SIZE)
        length = {"max_epochs": epochs, "batch_size": BATCH_SIZE, "max_time": timedelta(minutes=MAX_MINUTES)}
    with watch("training"):
        model.train(callbacks=[steps], **length, **_TRAINER)
    return steps.taken


def _planned(settings: dict[str, Any], n_cells: int) -> int | None:
    """Steps of the whole epochs that hold at least the minibatches asked for."""
    if settings["minibatches"] is None:
        return None
    per_epoch = math.ceil(0.9 * n_cells / BATCH_SIZE)
    return math.ceil(settings["minibatches"] / per_epoch) * per_epoch


def _kept(
    model: Any, arrays: dict[str, NDArray], watch: Stopwatch, steps: int, settings: dict[str, Any], n_cells: int
) -> PeerFit:
    parameters = sum(p.numel() for p in model.module.parameters())
    arrays = {name: np.asarray(value, dtype=np.float32) for name, value in arrays.items()}
    return PeerFit(arrays, watch.cpu, parameters, steps, _planned(settings, n_cells), int(0.9 * n_cells), settings)


def _features(mdata: mudata.MuData) -> dict[str, NDArray[np.bool_]]:
    """Features per modality that the peers are given."""
    prepare(mdata)
    keep = {}
    for name, adata in mdata.mod.items():
        if name == RNA:
            keep[name] = adata.var["highly_variable"].to_numpy()
        else:
            keep[name] = frequent(adata.X) if name == ATAC else np.ones(adata.n_vars, dtype=bool)
    return keep


def _path(
    cache_dir: str | os.PathLike | None,
    counts: Mapping[str, sparse.csr_matrix],
    batches: NDArray,
    settings: dict[str, Any],
) -> Path | None:
    """File of a fit, named by what went in: counts of every modality, batches, settings, version of scvi-tools."""
    if cache_dir is None:
        return None

    digest = hashlib.sha256(json.dumps([settings, MAX_MINUTES, version("scvi-tools")], sort_keys=True).encode())
    digest.update("\0".join(np.asarray(batches).astype(str)).encode())
    for name in sorted(counts):
        digest.update(f"{name} {counts[name].shape}".encode())
        for axis in (0, 1):
            digest.update(np.asarray(counts[name].sum(axis=axis), dtype=np.float64).tobytes())
    return Path(cache_dir) / f"{settings['model']}_{digest.hexdigest()[:16]}.npz"


def _cached(path: Path | None, fit: Any) -> PeerFit:
    if path is not None and path.is_file():
        try:
            with np.load(path, allow_pickle=False) as stored:
                record = json.loads(str(stored["record"]))
                return PeerFit(arrays={name: stored[name] for name in stored.files if name != "record"}, **record)
        except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, BadZipFile) as error:
            raise ValueError(f"{path}: holds no fit of this model ({error}); delete it.") from error
    with warnings.catch_warnings(action="ignore"):
        result = fit()
    if path is not None:
        record = {name: value for name, value in vars(result).items() if name != "arrays"}
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            beside = Path(folder) / path.name
            np.savez(beside, record=json.dumps(record), **result.arrays)
            os.replace(beside, path)
    return result


@register_method
class TotalVI(Method):
    """totalVI (Gayoso et al. 2021)."""

    name = "totalvi"
    needs = ("rna", "prot")

    def run(self, given: Given, background: bool = False, minibatches: int | None = MINIBATCHES) -> Result:
        """Train or take from the cache; with ``background`` imputed proteins hold it, as observed counts do."""
        fit = totalvi_of(given.data, given.cache_dir, minibatches=minibatches)
        name = "imputed_prot_background" if background else "imputed_prot"
        return _result(given, fit, imputed={"prot": fit.arrays[name]})


@register_method
class MultiVI(Method):
    """MultiVI (Ashuach et al. 2023)."""

    name = "multivi"
    needs = ("rna",)

    def suits(self, data: Data, has_query: bool = False) -> bool:
        """Any MuData with RNA."""
        return isinstance(data, mudata.MuData) and super().suits(data, has_query)

    def run(self, given: Given, minibatches: int | None = MINIBATCHES) -> Result:
        """Train or take from the cache."""
        fit = multivi_of(given.data, given.cache_dir, given.counterparts, minibatches=minibatches)
        names = given.data.mod if given.counterparts is not None else ()
        return _result(given, fit, unimodal={name: fit.arrays[f"z_{name}"] for name in names})


def _result(given: Given, fit: PeerFit, **arrays: Any) -> Result:
    rna = modalities(given.data)["rna"].uns["prepare_seconds"]
    seconds = {"features": rna["normalise"] + rna["genes"], **fit.seconds}
    notes = {
        "minibatches": fit.minibatches,
        "planned_minibatches": fit.planned_minibatches,
        "default_training_seconds": round(default_training_seconds(fit), 1),
        "default_is": "measured" if fit.planned_minibatches is None else "extrapolated from the seconds per cell seen",
    }
    parameters = {"trained": fit.parameters, "frozen": 0}
    return Result(fit.arrays["z"], None, None, seconds, seconds, parameters, notes=notes, **arrays)


for _variant in (
    TotalVI("totalvi:background", background=True),
    TotalVI("totalvi:default", minibatches=None),
    MultiVI("multivi:default", minibatches=None),
    MultiVI("multivi:7500", minibatches=7500),
):
    register_method(_variant)
