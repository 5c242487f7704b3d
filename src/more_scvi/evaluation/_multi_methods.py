"""Methods for several modalities: linear baselines and controls, gene-linked transfer, totalVI, MultiVI and MoRE.

A method is a function ``(data, seed, cache_dir, counterparts) -> MultiResult``. ``data`` has ``obs["batch"]`` and
``obs["cell_type"]`` with hidden labels reading ``"Unknown"``; modalities may lack cells. ``counterparts`` is the same
data with no modality hidden and no label at all: it may be looked at after training only, to embed what was hidden.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from anndata import AnnData
from mudata import MuData
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor, NearestNeighbors

from ._methods import MethodResult, Stopwatch
from ._multi_data import (
    BATCH_KEY,
    LABELS_KEY,
    UNLABELED,
    Data,
    batches_of,
    dense,
    give_labels,
    modalities,
    pattern,
    prepare_views,
    present,
)
from ._multi_links import cca, linked_features, transfer_by_anchors
from ._multi_peers import PeerFit, default_training_seconds, multivi_of, totalvi_of


@dataclass
class MultiResult(MethodResult):
    """A :class:`~more_scvi.evaluation.MethodResult` and what only several modalities have.

    Parameters
    ----------
    imputed
        Modality → values for all cells ``(n_cells, n_features)``, on the scale of log1p counts.
    unimodal
        Modality → embedding of all cells from that modality alone ``(n_cells, n_latent)``, hidden ones included.
    notes
        What a reader of the table must know, e.g. the length of training.
    """

    imputed: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    unimodal: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class MultiMethod:
    """A named method; ``sees_hidden`` marks ceilings that are given all labels."""

    name: str
    function: Callable[..., MultiResult]
    seeded: bool = False
    sees_hidden: bool = False

    def __call__(
        self, data: Data, seed: int = 0, cache_dir: Path | None = None, counterparts: MuData | None = None
    ) -> MultiResult:
        """Run on data whose hidden labels read ``"Unknown"``."""
        return self.function(data, seed, cache_dir, counterparts)

    def variant(self, name: str, **options: Any) -> MultiMethod:
        """The same method with other options, e.g. ``model_kwargs={"fusion": "mean"}`` for ``more``."""
        return replace(self, name=name, function=partial(self.function, **options))


def _watch(data: Data, names: tuple[str, ...] | None = None) -> Stopwatch:
    """Stopwatch that has counted the shared views."""
    used = [adata for name, adata in modalities(data).items() if names is None or name in names]
    return Stopwatch(features=float(sum(sum(adata.uns["prepare_seconds"].values()) for adata in used)))


def _labels(data: Data) -> tuple[NDArray[np.str_], NDArray[np.bool_]]:
    labels = data.obs[LABELS_KEY].to_numpy().astype(str)
    return labels, labels != UNLABELED


def _centre(x: NDArray, batches: NDArray) -> NDArray:
    x = x.copy()
    for name in np.unique(batches):
        x[batches == name] -= x[batches == name].mean(axis=0)
    return x


def _view(data: Data, name: str, centred: bool) -> NDArray[np.float32]:
    """View of the cells that have a modality, with the mean of each batch or of all cells removed."""
    z = modalities(data)[name].obsm["view"]
    return _centre(z, batches_of(data)[present(data, name)]) if centred else z - z.mean(axis=0)


def _wide(data: Data, name: str, centred: bool = False) -> Any:
    """What a logistic regression reads of a modality: log-normalised HVGs, z-scored CLR, LSI scaled as a whole."""
    adata = modalities(data)[name]
    if name == "rna":
        return adata.layers["lognorm"][:, adata.var["highly_variable"].to_numpy()]
    view = _view(data, name, centred)
    return view / (view.std() if name == "atac" else view.std(axis=0) + 1e-8)


def _random(data: Data, seed: int, cache_dir: Path | None, counterparts: MuData | None) -> MultiResult:
    rng = np.random.default_rng(seed)
    z, *halves = rng.standard_normal((3, data.n_obs, 30)).astype(np.float32)
    names = list(modalities(data))
    return MultiResult(z, unimodal=dict(zip(names, halves, strict=True)) if len(names) == 2 else {})


def _blocks(
    data: Data,
    seed: int,
    cache_dir: Path | None,
    counterparts: MuData | None,
    centred: bool = False,
    names: tuple[str, ...] | None = None,
) -> MultiResult:
    """Views side by side, each scaled to unit total variance; a missing modality is filled with its mean."""
    watch, blocks = _watch(data, names), []
    with watch("embedding"):
        for name in names or modalities(data):
            view = _view(data, name, centred)
            block = np.zeros((data.n_obs, view.shape[1]), dtype=np.float32)
            block[present(data, name)] = view / np.sqrt(view.var(axis=0).sum())
            blocks.append(block)
    return MultiResult(np.hstack(blocks), None, watch.cpu, watch.wall)


def _niche(
    data: AnnData,
    seed: int,
    cache_dir: Path | None,
    counterparts: MuData | None,
    centred: bool = True,
    n_neighbors: int = 6,
) -> MultiResult:
    """PCs beside the mean PCs of the nearest spots of the same section."""
    watch, view, batches = _watch(data), _view(data, "rna", centred), batches_of(data)
    mean = np.zeros_like(view)
    with watch("embedding"):
        for name in np.unique(batches):
            rows = np.flatnonzero(batches == name)
            search = NearestNeighbors(n_neighbors=min(n_neighbors, rows.size - 1)).fit(data.obsm["spatial"][rows])
            mean[rows] = view[rows][search.kneighbors(return_distance=False)].mean(axis=1)
    return MultiResult(np.hstack([view, mean]), None, watch.cpu, watch.wall)


def _lr_all(data: Data, seed: int, cache_dir: Path | None, counterparts: MuData | None) -> MultiResult:
    """Logistic regression on all features side by side (cells must have every modality); no embedding."""
    from scipy import sparse

    watch, (labels, visible) = _watch(data), _labels(data)
    with watch("training"):
        x = sparse.csr_matrix(sparse.hstack([sparse.csr_matrix(_wide(data, name)) for name in modalities(data)]))
        model = LogisticRegression(C=1.0, max_iter=300).fit(x[visible], labels[visible])
    with watch("embedding"):
        prediction = model.predict(x)
    return MultiResult(None, prediction, watch.cpu, watch.wall, {"trained": int(model.coef_.size), "frozen": 0})


def _shared(
    data: Data,
    seed: int,
    cache_dir: Path | None,
    counterparts: MuData | None,
    kind: str = "lr",
    centred: bool = True,
    rounds: int = 1,
) -> MultiResult:
    """Classifier per modality, trained on the labelled cells that have it; a cell takes the mean over its modalities.

    A cell none of whose modalities has labelled cells gets no prediction. With a second round the predictions of the
    first count as labels, so that cells with both modalities carry labels from one to the other.
    """
    watch, (labels, visible) = _watch(data), _labels(data)
    prediction = labels.astype(object)
    with watch("training"):
        for _ in range(rounds):
            prediction = _vote(data, prediction.astype(str), kind, centred)
            prediction[visible] = labels[visible]
    return MultiResult(None, prediction, watch.cpu, watch.wall)


def _vote(data: Data, labels: NDArray[np.str_], kind: str, centred: bool) -> NDArray[np.object_]:
    """Labels of all cells from one classifier per modality; ``"Unknown"`` where none applies."""
    visible = labels != UNLABELED
    types = np.unique(labels[visible])
    probability = np.zeros((data.n_obs, types.size))
    for name in modalities(data):
        of = present(data, name)
        if np.unique(labels[of & visible]).size < 2:
            continue
        x: Any = _wide(data, name, centred) if kind == "lr" else _view(data, name, centred)
        model = LogisticRegression(max_iter=300) if kind == "lr" else KNeighborsClassifier(15)
        model.fit(x[visible[of]], labels[of & visible])
        probability[np.ix_(of, np.searchsorted(types, model.classes_))] += model.predict_proba(x)
    return np.where(probability.sum(axis=1) > 0, types[probability.argmax(axis=1)], UNLABELED).astype(object)


def _ceiling(data: Data, seed: int, cache_dir: Path | None, counterparts: MuData | None) -> MultiResult:
    """Cells with one modality: logistic regression trained on the labels of the other half of the same kind."""
    watch, (labels, _), kinds = _watch(data), _labels(data), pattern(data)
    prediction = np.full(data.n_obs, UNLABELED, dtype=object)
    with watch("training"):
        for name in modalities(data):
            rows = kinds == name
            if rows.any():
                x = _wide(data, name, centred=True)[rows[present(data, name)]]
                folds = StratifiedKFold(2, shuffle=True, random_state=seed)
                model = LogisticRegression(max_iter=300)
                with warnings.catch_warnings(action="ignore", category=UserWarning):  # types of a single cell
                    prediction[rows] = cross_val_predict(model, x, labels[rows], cv=folds)
    return MultiResult(None, prediction, watch.cpu, watch.wall)


def _linked(
    data: MuData, seed: int, cache_dir: Path | None, counterparts: MuData | None, canonical: bool = True
) -> MultiResult:
    """Gene-linked features of both modalities, as they are or as CCA scores; own classifier of CCA: Seurat's anchors.

    A cell with both modalities is represented by its RNA. Counterparts are linked anew, whole but not paired.
    """
    watch, (labels, visible) = _watch(data), _labels(data)
    names = ["rna", next(name for name in data.mod if name != "rna")]
    of = {name: present(data, name) for name in names}
    prediction = None
    with watch("training"):
        left, right = linked_features(data.mod)
        if canonical:
            left, right = cca(left, right)
        z = np.zeros((data.n_obs, left.shape[1]), dtype=np.float32)
        z[of[names[1]]], z[of["rna"]] = right, left
    if canonical:
        with watch("embedding"):
            source = visible & (of["rna"] if (visible & of["rna"]).any() else of[names[1]])
            target = ~visible
            prediction = labels.astype(object)
            prediction[target] = transfer_by_anchors(z[source], labels[source], z[target])
    unimodal = {}
    if counterparts is not None:
        prepare_views(counterparts)
        full = linked_features(counterparts.mod)
        unimodal = dict(zip(names, cca(*full) if canonical else full, strict=True))
    return MultiResult(z, prediction, watch.cpu, watch.wall, unimodal=unimodal)


def _impute(
    data: MuData, seed: int, cache_dir: Path | None, counterparts: MuData | None, kind: str = "ridge"
) -> MultiResult:
    """Proteins (log1p counts, batch means removed) regressed on batch-centred PCs of the cells that have both."""
    watch = _watch(data, ("rna",))
    has_rna, has_prot, batches = present(data, "rna"), present(data, "prot"), batches_of(data)
    with watch("training"):
        x = np.zeros((data.n_obs, data.mod["rna"].obsm["view"].shape[1]), dtype=np.float32)
        x[has_rna] = _view(data, "rna", centred=True)
        counts = np.log1p(dense(data.mod["prot"].X))
        y = _centre(counts, batches[has_prot])
        model = Ridge(alpha=1.0) if kind == "ridge" else KNeighborsRegressor(15)
        paired = has_rna & has_prot
        model.fit(x[paired], y[paired[has_prot]])
    with watch("imputation"):
        imputed = (model.predict(x) + counts.mean(axis=0)).astype(np.float32)
    return MultiResult(None, None, watch.cpu, watch.wall, imputed={"prot": imputed})


def _totalvi(
    data: MuData,
    seed: int,
    cache_dir: Path | None,
    counterparts: MuData | None,
    background: bool = False,
    **settings: Any,
) -> MultiResult:
    fit = totalvi_of(data, cache_dir, **settings)
    imputed = fit.arrays["imputed_prot_background" if background else "imputed_prot"]
    return _from_fit(data, fit, imputed={"prot": imputed})


def _multivi(
    data: MuData, seed: int, cache_dir: Path | None, counterparts: MuData | None, **settings: Any
) -> MultiResult:
    fit = multivi_of(data, cache_dir, counterparts, **settings)
    unimodal = {name: fit.arrays[f"z_{name}"] for name in data.mod} if counterparts is not None else {}
    return _from_fit(data, fit, unimodal=unimodal)


def _from_fit(data: Data, fit: PeerFit, **arrays: Any) -> MultiResult:
    rna = modalities(data)["rna"].uns["prepare_seconds"]
    seconds = {"features": rna["normalise"] + rna["genes"], **fit.seconds}
    notes = {
        "minibatches": fit.minibatches,
        "planned_minibatches": fit.planned_minibatches,
        "default_training_seconds": round(default_training_seconds(fit), 1),
        "default_is": "measured" if fit.planned_minibatches is None else "extrapolated from the seconds per cell seen",
    }
    parameters = {"trained": fit.parameters, "frozen": 0}
    return MultiResult(fit.arrays["z"], None, seconds, seconds, parameters, notes=notes, **arrays)


_ROLES = {"rna": "rna", "atac": "atac", "prot": "protein"}


def _more(
    data: Data,
    seed: int,
    cache_dir: Path | None,
    counterparts: MuData | None,
    names: tuple[str, ...] | None = None,
    spatial: bool = True,
    setup_kwargs: Mapping[str, Any] | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
    train_kwargs: Mapping[str, Any] | None = None,
) -> MultiResult:
    """MoRE at its defaults, on all modalities or those in ``names``; RNA alone goes by way of ``setup_anndata``."""
    from more_scvi.model import MoRE

    keys = {"batch_key": BATCH_KEY, "labels_key": LABELS_KEY, "unlabeled_category": UNLABELED, **(setup_kwargs or {})}
    used = tuple(names or modalities(data))
    watch = Stopwatch()
    with watch("setup"):
        given: Data
        if isinstance(data, AnnData) or used == ("rna",):
            given = AnnData(modalities(data)["rna"].X, obs=data.obs.copy(), var=modalities(data)["rna"].var[[]].copy())
            if spatial and isinstance(data, AnnData):
                given.obsm["spatial"] = data.obsm["spatial"]
                keys["spatial_key"] = "spatial"
            MoRE.setup_anndata(given, **keys)
        else:
            given = give_labels(data, data.obs[LABELS_KEY])
            if "atac" in used and "gene" in given.mod["atac"].var:
                keys.setdefault("peak_genes", "gene")
            MoRE.setup_mudata(given, modalities={_ROLES[name]: name for name in used}, **keys)
        model = MoRE(given, **{"seed": seed, **(model_kwargs or {})})
    with watch("training"):
        model.train(**{"enable_progress_bar": False, **(train_kwargs or {})})
    with watch("embedding"):
        z = model.get_latent_representation(obsm_key=None)
        prediction = np.asarray(model.predict()).astype(str)
    imputed, unimodal = {}, {}
    if isinstance(given, MuData) and "prot" in used and not present(data, "prot").all():
        with watch("imputation"):
            values = model.impute("protein").reindex(index=data.obs_names, columns=modalities(data)["prot"].var_names)
        imputed["prot"] = np.log1p(values.to_numpy(dtype=np.float32))
    if counterparts is not None and len(used) == 2:
        for name in used:
            unimodal[name] = model.get_latent_representation(counterparts, obsm_key=None, modality=_ROLES[name])
    total = model.parameter_counts().loc["total"]
    parameters = {key: int(total[key]) for key in ("trained", "frozen")}
    return MultiResult(z, prediction, watch.cpu, watch.wall, parameters, imputed=imputed, unimodal=unimodal)


_MORE = MultiMethod("more", _more, seeded=True)
_BLOCKS = MultiMethod("blocks", _blocks)

MULTI_METHODS: dict[str, MultiMethod] = {
    method.name: method
    for method in (
        MultiMethod("random", _random, seeded=True),
        _BLOCKS,
        _BLOCKS.variant("blocks_centred", centred=True),
        _BLOCKS.variant("rna_view", names=("rna",), centred=True),
        _BLOCKS.variant("prot_view", names=("prot",), centred=True),
        _BLOCKS.variant("atac_view", names=("atac",), centred=True),
        MultiMethod("niche", _niche),
        MultiMethod("niche_raw", partial(_niche, centred=False)),
        MultiMethod("lr_features", _lr_all),
        MultiMethod("lr_shared", _shared),
        MultiMethod("lr_shared_raw", partial(_shared, centred=False)),
        MultiMethod("knn_shared", partial(_shared, kind="knn")),
        MultiMethod("lr_bridge", partial(_shared, rounds=2)),
        MultiMethod("ceiling", _ceiling, sees_hidden=True),
        MultiMethod("linked", partial(_linked, canonical=False)),
        MultiMethod("cca", _linked),
        MultiMethod("ridge_impute", _impute),
        MultiMethod("knn_impute", partial(_impute, kind="knn")),
        MultiMethod("totalvi", _totalvi),
        MultiMethod("multivi", _multivi),
        MultiMethod("totalvi:background", partial(_totalvi, background=True)),
        MultiMethod("totalvi:default", partial(_totalvi, minibatches=None)),
        MultiMethod("multivi:default", partial(_multivi, minibatches=None)),
        _MORE,
        _MORE.variant("more:rna", names=("rna",)),
        _MORE.variant("more:atac", names=("atac",)),
        _MORE.variant("more:nobackbone", model_kwargs={"backbone": None}),
        _MORE.variant("more:meanfusion", model_kwargs={"fusion": "mean"}),
        _MORE.variant("more:noniche", spatial=False),
    )
}

_SHARED = ("lr_shared", "lr_shared_raw", "knn_shared", "lr_bridge", "ceiling", "random")
_SPATIAL = ("rna_view", "blocks", "niche", "niche_raw", "lr_features", "random", "more", "more:noniche")
_CITE = ("blocks", "blocks_centred", "rna_view", "prot_view", "lr_features", "random", "totalvi")
_SNARE = ("blocks", "blocks_centred", "rna_view", "atac_view", "lr_features", "random", "multivi")
_MOSAIC = (*_SHARED, "blocks", "blocks_centred", "totalvi", "multivi", "more")

METHODS_OF: dict[str, tuple[str, ...]] = {
    "pbmc_cite/S1": (*_CITE, "more", "more:rna"),
    "pbmc_cite/S2a": (*_CITE, "more", "more:rna"),
    "pbmc_cite/S6": ("ridge_impute", "knn_impute", "blocks_centred", "random", "totalvi", "totalvi:background", "more"),
    "snareseq/S1": (*_SNARE, "more", "more:rna", "more:atac"),
    "snareseq/S2a": (*_SNARE, "more", "more:rna", "more:atac"),
    "snareseq/S6": ("cca", "lr_bridge", "ceiling", "random", "multivi", "more"),
    "pbmc_mosaic/transfer": _MOSAIC,
    "pbmc_mosaic_hao/transfer": _MOSAIC,
    "sln_diagonal/transfer": ("linked", "cca", "ceiling", "random", "more"),
    "her2_breast_st/S2a": _SPATIAL,
    "starmap_mpfc/S2a": _SPATIAL,
    "starmap_mpfc_layer/S2a": _SPATIAL,
}
"""Methods that run on each task unless others are asked for."""
