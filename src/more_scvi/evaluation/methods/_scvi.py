"""scVI, scANVI, totalVI and MultiVI at settings their users would run.

The first two see 2,000 batch-aware genes (raw counts), 2 layers, 30 latent dimensions. scVI trains for at least 2,500
minibatches of 128 (``scvi``) or for the default epoch heuristic of scvi-tools (``scvi_long``); scANVI starts from it
and trains 20 epochs with 100 cells per label, as in the scvi-tools tutorials. scVI never sees a label, so it is trained
once per data set and kept in ``cache_dir``; its seconds are counted for every result that uses it. A batch that is
mapped afterwards (``S2b``) gets weights of its own as scArches does: 100 epochs without weight decay.

totalVI and MultiVI are fitted once per data set and modality mask; embeddings are kept and shared by all splits.
Neither of these sees a label, so one fit serves every label split. Both are given zeros where a modality is missing:
totalVI takes proteins that are zero in a whole batch for missing, MultiVI any cell without counts in a modality;
totalVI has no such notion for RNA, so cells with proteins only enter it with zeros for RNA (the only way it runs).

They see 2,000 batch-aware genes, the peaks of > 1 % of the cells and all proteins. Settings are the defaults of
scvi-tools but for the length of training: ``minibatches`` of 128 cells (at least so many, in whole epochs, at most 25
minutes), or ``None`` for the default batch size, epochs and early stopping. The seconds of default training (totalVI
400 epochs at this size, MultiVI up to 500) are extrapolated from a short fit. Mind that both defaults warm the KL term
up over more steps than a short fit takes (totalVI over 0.75 steps per cell, MultiVI over 50 epochs).
"""

import math
import warnings
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

import mudata
import numpy as np
import pandas as pd
import scvi
import torch
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse

from more_scvi.evaluation._data import (
    ATAC,
    BATCH_KEY,
    LABELS_KEY,
    RNA,
    UNLABELED,
    Data,
    Stopwatch,
    batches_of,
    dense,
    frequent,
    padded,
    prepare,
)
from more_scvi.evaluation._fits import Fit, cached, fit_path

from ._method import Given, Method, Result, register_method
from ._shared import rna, shared_watch

ARCHITECTURE = {"n_layers": 2, "n_latent": 30}
BATCH_SIZE, MINIBATCHES, MAX_MINUTES = 128, 2500, 25
TRAINER: dict[str, Any] = {"accelerator": "cpu", "enable_progress_bar": False}
SURGERY: dict[str, Any] = {"max_epochs": 100, "plan_kwargs": {"weight_decay": 0.0}, "logger": False, **TRAINER}
_LAYERS = {"rna": "rna_layer", "atac": "atac_layer", "prot": "protein_layer"}
_MULTIVI_NAMES = {"rna": "expression", "atac": "accessibility", "prot": "protein"}

Counts = Mapping[str, sparse.csr_matrix]
"""Modality → padded counts ``(n_cells, n_features)`` of the features that peers are given."""


@register_method
class SCVI(Method):
    """scVI (Lopez et al. 2018); 2,500 minibatches, ``None``: the default epochs of scvi-tools."""

    name = "scvi"
    needs = ("rna",)
    whole = True
    maps_queries = True

    def run(self, given: Given, minibatches: int | None = MINIBATCHES) -> Result:
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
        self, given: Given, minibatches: int | None = MINIBATCHES, epochs: int = 20, n_samples_per_label: int = 100
    ) -> Result:
        with warnings.catch_warnings(action="ignore"):
            base, watch = _trained(given.data, minibatches, given.cache_dir)
            scvi.settings.seed = given.seed
            with watch("setup"):
                model = scvi.model.SCANVI.from_scvi_model(base, unlabeled_category=UNLABELED, labels_key=LABELS_KEY)
            with watch("training"):
                length = {"max_epochs": epochs, "n_samples_per_label": n_samples_per_label}
                model.train(batch_size=BATCH_SIZE, logger=False, **length, **TRAINER)
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
    scvi.settings.seed = 0  # one fit serves the splits of every seed
    with watch("setup"):
        scvi.model.SCVI.setup_anndata(genes, layer="counts", batch_key=BATCH_KEY)
        model = scvi.model.SCVI(genes, **ARCHITECTURE)

    def fit() -> Fit:
        per_epoch = math.ceil(0.9 * genes.n_obs / BATCH_SIZE)  # scvi-tools holds a tenth of the cells out
        epochs = None if minibatches is None else math.ceil(minibatches / per_epoch)
        with watch("training"):
            model.train(max_epochs=epochs, batch_size=BATCH_SIZE, logger=False, **TRAINER)
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


class _Peer(Method):
    """A model of scvi-tools that never sees a label."""

    default_epochs: ClassVar[int]
    """Most epochs of default training."""
    fewer_beyond: ClassVar[float] = math.inf
    """Number of cells from which on default training takes fewer, so that the cells it sees stay as many."""

    @abstractmethod
    def set_up(self, counts: Counts, batches: NDArray) -> Any:
        """An untrained model."""

    @abstractmethod
    def outputs(self, model: Any, counts: Counts, batches: NDArray, watch: Stopwatch) -> dict[str, NDArray]:
        """What is kept beside the embedding; ``counts`` with nothing hidden."""

    def result(self, given: Given, names: Iterable[str], minibatches: int | None) -> tuple[dict[str, NDArray], Result]:
        """Train on these modalities or take from the cache: the arrays that are kept, and the embedding."""
        data, keep = given.data, _features(given.data)
        counts = {name: padded(data, name)[:, keep[name]] for name in names}
        full = counts
        if given.counterparts is not None:  # looked at after training only
            full = {name: padded(given.counterparts, name)[:, keep[name]] for name in counts}
        settings = {"model": type(self).name, "minibatches": minibatches, "length": [BATCH_SIZE, MAX_MINUTES]}
        path = fit_path(given.cache_dir, counts, batches_of(data), settings)

        def use(arrays: dict[str, NDArray], record: dict[str, Any]) -> tuple[dict[str, NDArray], Result]:
            seconds = shared_watch(data, steps=("normalise", "genes")).cpu | record["seconds"]
            parameters = {"trained": record["parameters"], "frozen": 0}
            return arrays, Result(arrays["z"], None, None, seconds, seconds, parameters, notes=record["notes"])

        return cached(path, lambda: self.fit(counts, batches_of(data), full, minibatches), use)

    def fit(self, counts: Counts, batches: NDArray, full: Counts, minibatches: int | None) -> Fit:
        """Train, embed, and note the length of training."""
        watch = Stopwatch()
        scvi.settings.seed = 0  # one fit serves the splits of every seed
        with watch("setup"):
            model = self.set_up(counts, batches)
        per_epoch = math.ceil(0.9 * len(batches) / BATCH_SIZE)  # scvi-tools holds a tenth of the cells out
        epochs = None if minibatches is None else math.ceil(minibatches / per_epoch)
        length: dict[str, Any] = {}
        if epochs is not None:
            length = {"max_epochs": epochs, "batch_size": BATCH_SIZE, "max_time": timedelta(minutes=MAX_MINUTES)}
        with watch("training"):
            model.train(**length, **TRAINER)
        steps = model.trainer.fit_loop.total_batch_idx + 1  # fewer than planned where the time limit ended training
        with watch("embedding"):
            arrays = {"z": model.get_latent_representation()}
        arrays |= self.outputs(model, full, batches, watch)
        by_default = watch.cpu["training"]
        if epochs is not None:  # an upper bound where default batches are larger or training stops early
            most = round(min(1, self.fewer_beyond / len(batches)) * self.default_epochs)
            by_default *= int(0.9 * len(batches)) * most / (steps * BATCH_SIZE)
        notes = {
            "minibatches": steps,
            "planned_minibatches": None if epochs is None else epochs * per_epoch,
            "default_training_seconds": round(by_default, 1),
            "default_is": "measured" if epochs is None else "extrapolated from the seconds per cell seen",
        }
        kept = {name: np.asarray(value, dtype=np.float32) for name, value in arrays.items()}
        return kept, {"seconds": watch.cpu, "parameters": _parameters(model)["trained"], "notes": notes}


@register_method
class TotalVI(_Peer):
    """totalVI (Gayoso et al. 2021)."""

    name = "totalvi"
    needs = ("rna", "prot")
    default_epochs, fewer_beyond = 400, 20_000

    def run(self, given: Given, background: bool = False, minibatches: int | None = MINIBATCHES) -> Result:
        """Train or take from the cache; with ``background`` imputed proteins hold it, as observed counts do."""
        arrays, result = self.result(given, self.needs, minibatches)
        result.imputed = {"prot": arrays["imputed_prot_background" if background else "imputed_prot"]}
        return result

    def set_up(self, counts: Counts, batches: NDArray) -> Any:
        adata = _adata(counts["rna"], batches)
        adata.obsm["proteins"] = dense(counts["prot"])
        scvi.model.TOTALVI.setup_anndata(adata, "proteins", batch_key="batch")
        return scvi.model.TOTALVI(adata)

    def outputs(self, model: Any, counts: Counts, batches: NDArray, watch: Stopwatch) -> dict[str, NDArray]:
        """Log1p of the protein level, without and with the background that observed counts also hold."""
        arrays, measured = {}, [str(b) for b in np.unique(batches) if model.adata.obsm["proteins"][batches == b].any()]
        # as the documentation advises for missing proteins: the mean over the batches that have them
        options = {"transform_batch": measured, "n_samples": 10, "return_mean": True, "return_numpy": True}
        for name, background in (("imputed_prot", False), ("imputed_prot_background", True)):
            with watch("imputation"):
                _, level = model.get_normalized_expression(include_protein_background=background, **options)
            arrays[name] = np.log1p(level)
        return arrays


@register_method
class MultiVI(_Peer):
    """MultiVI (Ashuach et al. 2023)."""

    name = "multivi"
    needs = ("rna",)
    default_epochs = 500

    def suits(self, data: Data, has_query: bool = False) -> bool:
        return isinstance(data, mudata.MuData) and super().suits(data, has_query)

    def run(self, given: Given, minibatches: int | None = MINIBATCHES) -> Result:
        arrays, result = self.result(given, given.data.mod, minibatches)
        names = given.data.mod if given.counterparts is not None else ()
        result.unimodal = {name: arrays[f"z_{name}"] for name in names}
        return result

    def set_up(self, counts: Counts, batches: NDArray) -> Any:
        layers = {_LAYERS[name]: name for name in counts} | {"batch_key": next(iter(counts))}
        mdata = _mdata(counts, batches)
        scvi.model.MULTIVI.setup_mudata(mdata, batch_key="batch", modalities=layers)
        return scvi.model.MULTIVI(mdata)

    def outputs(self, model: Any, counts: Counts, batches: NDArray, watch: Stopwatch) -> dict[str, NDArray]:
        """Embeddings from one modality at a time: all cells, also those whose counts were hidden in training."""
        arrays = {}
        for name in counts:
            alone = {other: x if other == name else sparse.csr_matrix(x.shape) for other, x in counts.items()}
            z = model.get_latent_representation(_mdata(alone, batches), modality=_MULTIVI_NAMES[name])
            arrays[f"z_{name}"] = z
        return arrays


def _adata(counts: sparse.csr_matrix, batches: NDArray, prefix: str = "") -> AnnData:
    obs = pd.DataFrame({"batch": batches.astype(str)}, index=[f"cell{i}" for i in range(len(batches))])
    return AnnData(counts, obs=obs, var=pd.DataFrame(index=[f"{prefix}{i}" for i in range(counts.shape[1])]))


def _mdata(counts: Counts, batches: NDArray) -> mudata.MuData:
    mdata = mudata.MuData({name: _adata(x, batches, name) for name, x in counts.items()})
    mdata.obs["_indices"] = np.arange(len(batches))  # set-up writes it, but embedding other data expects it
    return mdata


def _features(mdata: mudata.MuData) -> dict[str, NDArray[np.bool_]]:
    """Features per modality that the peers are given."""
    prepare(mdata)
    keep = {name: np.ones(adata.n_vars, dtype=bool) for name, adata in mdata.mod.items()}
    keep[RNA] = mdata.mod[RNA].var["highly_variable"].to_numpy()
    if ATAC in keep:
        keep[ATAC] = frequent(mdata.mod[ATAC].X)
    return keep


for _variant in (
    SCVI("scvi_long", minibatches=None),
    SCANVI("scanvi_long", minibatches=None),
    TotalVI("totalvi:background", background=True),
    TotalVI("totalvi:default", minibatches=None),
    MultiVI("multivi:default", minibatches=None),
    MultiVI("multivi:7500", minibatches=7500),
):
    register_method(_variant)
