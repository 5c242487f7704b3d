"""The data that all methods share: bare copies of the user's data, their features, and what is hidden in them.

Everything keeps the cells in the order of ``obs``. A cell that is not in a modality is missing there; it becomes a row
of zeros only where a peer accepts nothing else (:func:`padded`).
"""

import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import scanpy as sc
from anndata import AnnData
from mudata import MuData
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from sklearn.decomposition import PCA, TruncatedSVD

from more_scvi.data._columns import warn_of_unlabeled
from more_scvi.data._fields import RNA
from more_scvi.data._matrix import raw_counts
from more_scvi.data._rows import RowReader

BATCH_KEY, LABELS_KEY, UNLABELED = "batch", "cell_type", "Unknown"
N_GENES, N_PCS = 2000, 50

Data: TypeAlias = MuData | AnnData

ALIASES = {
    "rna": ("rna", "gex", "gene expression", "expression"),
    "atac": ("atac", "peaks", "accessibility"),
    "prot": ("prot", "protein", "proteins", "adt", "antibody capture"),
}
"""Names under which a modality is looked for in a MuData, without regard to case."""

ATAC, PROTEIN = "atac", "prot"
"""What tasks and peers call the modalities beside the RNA."""


class Stopwatch:
    """CPU and wall seconds per stage: ``with watch("training"): ...``."""

    def __init__(self, **seconds: float) -> None:
        self.cpu: dict[str, float] = dict(seconds)
        self.wall: dict[str, float] = dict(seconds)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Add the seconds of the block to ``stage``."""
        cpu, wall = time.process_time(), time.perf_counter()
        yield
        self.cpu[stage] = self.cpu.get(stage, 0.0) + time.process_time() - cpu
        self.wall[stage] = self.wall.get(stage, 0.0) + time.perf_counter() - wall


def standardise(
    data: Data,
    batch_key: str,
    labels_key: str,
    unlabeled_category: str = UNLABELED,
    layer: str | None = None,
    modalities: Mapping[str, str] | None = None,
    spatial_key: str | None = None,
    obsm_keys: Sequence[str] = (),
) -> tuple[Data, NDArray[np.bool_]]:
    """Bare copy of a user's data under the names that methods expect, and which cells have a label.

    Holds counts, ``obs["batch"]``, ``obs["cell_type"]``, modalities ``rna``, ``atac``, ``prot``, coordinates as
    ``obsm["spatial"]`` and the arrays in ``obsm_keys``; nothing else, as any other column may give labels away.
    """
    if not isinstance(data, AnnData | MuData):
        raise TypeError(f"data is a {type(data).__name__}; give an AnnData with RNA counts or a MuData.")
    batch = column_of(data, batch_key, "batch_key")
    if missing := int(batch.isna().sum()):
        raise ValueError(f"obs[{batch_key!r}] is missing for {missing} cells; every cell needs a batch.")
    labels = column_of(data, labels_key, "labels_key")
    known = (labels.notna() & (labels.astype(str) != unlabeled_category)).to_numpy()
    warn_of_unlabeled(labels[known].astype(str).to_numpy(), labels_key, unlabeled_category)
    types = np.unique(labels[known].astype(str))
    if types.size < 2:
        raise ValueError(
            f"obs[{labels_key!r}] has {types.size} label(s) beside {unlabeled_category!r}: {', '.join(types)}. Labels"
            " are hidden and predicted, so at least two types are needed."
        )
    if UNLABELED in types:
        raise ValueError(f"obs[{labels_key!r}] holds the label {UNLABELED!r}; give unlabeled_category={UNLABELED!r}.")
    text = np.where(known, labels.astype(str), UNLABELED)
    obs = pd.DataFrame({BATCH_KEY: batch.astype(str).to_numpy(), LABELS_KEY: text}, index=data.obs_names)
    obsm = {key: _array(data, key) for key in obsm_keys}
    if spatial_key is not None:
        obsm["spatial"] = _array(data, spatial_key)
    if isinstance(data, AnnData):
        obs.index = pd.Index([f"cell{i}" for i in range(data.n_obs)]) if not obs.index.is_unique else obs.index
        return AnnData(counts_of(data, layer, "data"), obs=obs, var=_features(data), obsm=obsm), known
    mods = {}
    for role, name in _roles(data, modalities).items():
        part = data.mod[name]
        matrix = counts_of(part, layer, f"modality {name!r}")
        mods[role] = AnnData(matrix, obs=pd.DataFrame(index=part.obs_names), var=_features(part))
    return assemble(mods, obs, obsm), known


def column_of(data: Data, key: str, argument: str) -> pd.Series:
    """Column of ``obs``, of a MuData else of its modalities together."""
    if key in data.obs:
        return data.obs[key]
    parts = [part.obs[key].astype(object) for part in modalities(data).values() if key in part.obs]
    if isinstance(data, MuData) and parts:
        column = pd.Series(np.nan, index=data.obs_names, dtype=object)
        for part in parts:
            column = column.fillna(part.reindex(column.index))
        return column
    raise KeyError(f"{argument}: obs has no column {key!r}; it has {', '.join(map(str, data.obs)) or 'none'}.")


def _array(data: Data, key: str) -> NDArray:
    if key not in data.obsm:
        raise KeyError(f"obsm has no array {key!r}; it has {', '.join(map(str, data.obsm)) or 'none'}.")
    return np.asarray(data.obsm[key])


def _roles(mdata: MuData, given: Mapping[str, str] | None) -> dict[str, str]:
    if given is None:
        lower = {name.lower(): name for name in mdata.mod}
        given = {role: lower[a] for role, names in ALIASES.items() if (a := next((n for n in names if n in lower), ""))}
    wrong = [role for role in given if role not in ALIASES] + [name for name in given.values() if name not in mdata.mod]
    if wrong or RNA not in given:
        what = f"{wrong[0]!r} is unknown" if wrong else "no RNA is found"
        raise KeyError(
            f"modalities: {what}. Map 'rna', 'atac', 'prot' to names of mdata.mod ({', '.join(mdata.mod)}), the RNA at"
            " least, e.g. {'rna': 'gex'}."
        )
    return dict(given)


def counts_of(adata: AnnData, layer: str | None, what: str) -> sparse.csr_matrix:
    if layer is not None and layer not in (layers := named_layers(adata)):
        raise KeyError(
            f"layer: {what} has no layer {layer!r}; it has {', '.join(layers) or 'none'}.{raw_counts(adata)}"
        )
    x = RowReader(adata, layer)[:]
    wrong = x.data[(x.data < 0) | (x.data != np.round(x.data)) | ~np.isfinite(x.data)]
    if wrong.size:
        raise ValueError(
            f"{'X' if layer is None else f'layers[{layer!r}]'} of {what} holds values that are not counts, e.g."
            f" {wrong[0]:.3g}; name the layer that holds raw counts.{raw_counts(adata)}"
        )
    return x


def named_layers(adata: AnnData) -> dict[str, Any]:
    """The layers; anndata >= 0.13 lists ``X`` among them, as ``None``."""
    return {name: value for name, value in adata.layers.items() if name is not None}


def _features(adata: AnnData) -> pd.DataFrame:
    if not adata.var_names.is_unique:
        twice = adata.var_names[adata.var_names.duplicated()][0]
        raise ValueError(f"var_names are not unique, e.g. {twice!r} occurs twice; call .var_names_make_unique() first.")
    return adata.var[[column for column in ("gene",) if column in adata.var]].copy()


def modalities(data: Data) -> Mapping[str, AnnData]:
    """Modalities by name; an AnnData is RNA."""
    return data.mod if isinstance(data, MuData) else {RNA: data}


def present(data: Data, modality: str) -> NDArray[np.bool_]:
    """Which cells ``(n_cells,)`` have the modality."""
    return np.asarray(data.obs_names.isin(modalities(data)[modality].obs_names))


def pattern(data: Data) -> NDArray[np.str_]:
    """The modalities of each cell ``(n_cells,)``, joined by ``+``, e.g. ``"rna+prot"``."""
    masks = {name: present(data, name) for name in modalities(data)}
    return np.array(["+".join(name for name in masks if masks[name][i]) for i in range(data.n_obs)])


def batches_of(data: Data) -> NDArray[np.str_]:
    """Batch of each cell ``(n_cells,)``."""
    return data.obs[BATCH_KEY].to_numpy().astype(str)


def hide_modalities(mdata: MuData, hidden: Mapping[str, ArrayLike]) -> MuData:
    """Copy in which the cells marked in ``hidden[modality]`` ``(n_cells,)`` are no longer in that modality.

    Nothing derived (views, layers) is taken along, as it may have been computed from the hidden values.
    """
    lost = {name: mdata.obs_names[np.asarray(mask, dtype=bool)] for name, mask in hidden.items()}
    mods = {name: _bare(adata, ~adata.obs_names.isin(lost.get(name, ()))) for name, adata in mdata.mod.items()}
    gone = ~np.any([mdata.obs_names.isin(adata.obs_names) for adata in mods.values()], axis=0)
    if gone.any():
        raise ValueError(f"{int(gone.sum())} cells would be left without a modality; hide fewer.")
    return assemble(mods, mdata.obs[[BATCH_KEY, LABELS_KEY]], own_obsm(mdata))


def give_labels(data: Data, labels: ArrayLike) -> Data:
    """What a method receives: the same matrices (not copied) with ``labels`` ``(n_cells,)`` as the only labels."""
    obs = data.obs[[BATCH_KEY]].assign(**{LABELS_KEY: pd.Categorical(np.asarray(labels).astype(str))})
    if isinstance(data, MuData):
        return assemble(data.mod, obs, data.obsm)
    shared = {"layers": named_layers(data), "obsm": dict(data.obsm), "uns": dict(data.uns)}
    return AnnData(data.X, obs=obs, var=data.var.copy(), **shared)


def subset(data: Data, cells: ArrayLike) -> Data:
    """Copy of the cells marked in ``cells`` ``(n_cells,)``, without anything that was computed from the others."""
    kept = np.asarray(cells, dtype=bool)
    given = {key: value[kept] for key, value in own_obsm(data).items()}
    if isinstance(data, AnnData):
        part = _bare(data, kept)
        part.obsm = given
        return part
    names = data.obs_names[kept]
    mods = {name: _bare(adata, adata.obs_names.isin(names)) for name, adata in data.mod.items()}
    return assemble({name: adata for name, adata in mods.items() if adata.n_obs}, data.obs[kept], given)


def own_obsm(data: Data) -> dict[str, NDArray]:
    """Arrays of ``obsm`` that came with the data: coordinates, and embeddings that are to be scored."""
    computed = {"view", *modalities(data)} if isinstance(data, MuData) else {"view"}
    return {key: np.asarray(value) for key, value in data.obsm.items() if key not in computed}


def _bare(adata: AnnData, rows: NDArray[np.bool_]) -> AnnData:
    var = adata.var.drop(columns="highly_variable", errors="ignore")  # was chosen on cells that are to be hidden
    return AnnData(adata.X[rows], obs=adata.obs[rows].copy(), var=var)


def padded(mdata: MuData, modality: str) -> sparse.csr_matrix:
    """Counts of a modality for all cells ``(n_cells, n_features)``; rows of zeros where it is missing."""
    adata = mdata.mod[modality]
    rows = mdata.obs_names.get_indexer(adata.obs_names)
    ones = np.ones(rows.size, dtype=np.float32)
    place = sparse.csr_matrix((ones, (rows, np.arange(rows.size))), (mdata.n_obs, rows.size))
    return sparse.csr_matrix(place @ sparse.csr_matrix(adata.X))


def prepare(data: Data, n_genes: int = N_GENES, n_pcs: int = N_PCS) -> Data:
    """Give each modality what all methods share, once; changed in place and returned. No label is looked at.

    RNA gets ``layers["lognorm"]`` (log1p of counts per 10,000) and ``var["highly_variable"]`` (batch-aware, flavour
    ``seurat``; all genes if there are no more than ``n_genes``). Every modality gets a low-rank ``obsm["view"]``, which
    linear methods use and which is the yardstick of :func:`~more_scvi.metrics.structure`: PCs of the genes scaled to
    unit variance and clipped at 10, LSI of peaks, CLR of proteins. CPU seconds are in ``uns["prepare_seconds"]``.

    Parameters
    ----------
    data
        Raw counts in ``X`` and ``obs["batch"]``. Modalities that have a view already are left as they are.
    n_genes, n_pcs
        Genes and components to keep; fewer where the data hold fewer.
    """
    for name, adata in modalities(data).items():
        if "view" in adata.obsm:
            continue
        if name == RNA:
            _prepare_rna(adata, data.obs.loc[adata.obs_names, BATCH_KEY].to_numpy(), n_genes, n_pcs)
        else:
            watch = Stopwatch()
            with watch("view"):
                adata.obsm["view"] = lsi(adata.X) if name == ATAC else clr(adata.X)
            adata.uns["prepare_seconds"] = watch.cpu
    return data


def project(query: Data, data: Data) -> Data:
    """Give RNA that was not trained on the features of :func:`prepare`, by the genes and PCs of ``data``; in place."""
    fitted, adata = modalities(data)[RNA], modalities(query)[RNA]
    axes = fitted.uns["pca"]
    adata.layers["lognorm"] = _lognorm(adata, None).X
    adata.var["highly_variable"] = fitted.var["highly_variable"].to_numpy()
    x = dense(adata.layers["lognorm"][:, adata.var["highly_variable"].to_numpy()])
    x = np.clip((x - axes["mean"]) / axes["scale"], -10, 10)
    adata.obsm["view"] = ((x - axes["centre"]) @ axes["components"].T).astype(np.float32)
    adata.uns["prepare_seconds"] = dict.fromkeys(("normalise", "genes", "pca"), 0.0)
    return query


def share_genes(data: AnnData, query: AnnData) -> tuple[AnnData, AnnData]:
    """Data and query as they are, or where the query lacks genes, bare and prepared on the genes that both have."""
    if data.n_vars == query.n_vars:
        return data, query
    genes = data.var_names.isin(query.var_names)
    cut = prepare(AnnData(data.X[:, genes], obs=data.obs, var=data.var.loc[genes, []]))
    order = query.var_names.get_indexer(cut.var_names)
    return cut, project(AnnData(query.X[:, order], obs=query.obs, var=cut.var[[]].copy()), cut)


def _prepare_rna(adata: AnnData, batches: NDArray, n_genes: int, n_pcs: int) -> None:
    watch = Stopwatch()
    with watch("normalise"):
        lognorm = _lognorm(adata, batches)
        adata.layers["lognorm"] = lognorm.X
    with watch("genes"):
        adata.var["highly_variable"] = True
        if adata.n_vars > n_genes:
            options = {"flavor": "seurat", "n_top_genes": n_genes, "batch_key": BATCH_KEY, "inplace": False}
            table = sc.pp.highly_variable_genes(lognorm, **options)
            adata.var["highly_variable"] = table["highly_variable"].to_numpy()
    with watch("pca"):
        x = dense(lognorm.X[:, adata.var["highly_variable"].to_numpy()])
        mean = x.mean(axis=0)
        x -= mean
        scale = x.std(axis=0) + 1e-8  # some genes do not vary
        x /= scale
        np.clip(x, -10, 10, out=x)
        pca = PCA(min(n_pcs, *(d - 1 for d in x.shape)), svd_solver="covariance_eigh")  # exact: it is a reference
        adata.obsm["view"] = pca.fit_transform(x).astype(np.float32)
        adata.uns["pca"] = {"mean": mean, "scale": scale, "centre": pca.mean_, "components": pca.components_}
    adata.uns["prepare_seconds"] = watch.cpu


def _lognorm(adata: AnnData, batches: NDArray | None) -> AnnData:
    obs = adata.obs[[]] if batches is None else adata.obs[[]].assign(**{BATCH_KEY: batches})
    lognorm = AnnData(adata.X.astype(np.float32), obs=obs, var=adata.var[[]])
    sc.pp.normalize_total(lognorm, target_sum=1e4)
    sc.pp.log1p(lognorm)
    return lognorm


def clr(counts: sparse.csr_matrix | NDArray) -> NDArray[np.float32]:
    """Centred log-ratio of protein counts within each cell: ``log1p(x)`` minus its mean over the proteins."""
    x = np.log1p(dense(counts))
    return x - x.mean(axis=1, keepdims=True)


def dense(x: Any) -> NDArray[np.float32]:
    """Dense array of a matrix that may be sparse."""
    return np.asarray(x.toarray() if hasattr(x, "toarray") else x, dtype=np.float32)


def frequent(counts: sparse.csr_matrix, share: float = 0.01) -> NDArray[np.bool_]:
    """Features that are not zero in more than ``share`` of the cells."""
    return np.asarray((counts > 0).sum(axis=0)).ravel() > share * counts.shape[0]


def lsi(counts: sparse.csr_matrix, n_components: int = 50) -> NDArray[np.float32]:
    """Latent semantic indexing of the peaks of > 1 % of the cells: log TF-IDF, SVD without its first (depth) vector."""
    counts = sparse.csr_matrix(counts)
    x = sparse.csr_matrix(counts[:, frequent(counts)] > 0, dtype=np.float32)
    depth = np.maximum(np.asarray(x.sum(axis=1)).ravel(), 1.0)
    idf = x.shape[0] / np.maximum(np.asarray(x.sum(axis=0)).ravel(), 1.0)
    x = sparse.csr_matrix(sparse.diags(1e4 / depth) @ x @ sparse.diags(idf / x.shape[0]), dtype=np.float32)
    np.log1p(x.data, out=x.data)
    svd = TruncatedSVD(min(n_components, min(x.shape) - 2) + 1, random_state=0)
    return svd.fit_transform(x)[:, 1:].astype(np.float32)


def assemble(mods: Mapping[str, AnnData], obs: pd.DataFrame, obsm: Mapping[str, Any] | None = None) -> MuData:
    """MuData of modalities without ``obs`` (views and layers are shared), its cells in the order of ``obs``."""
    bare = {}
    for name, adata in mods.items():
        ordered = obs.index[obs.index.isin(adata.obs_names)]
        if not ordered.equals(adata.obs_names):
            adata = adata[ordered].copy()
        bare[name] = AnnData(
            adata.X,
            obs=pd.DataFrame(index=adata.obs_names),
            var=adata.var.copy(),
            layers=named_layers(adata),
            obsm={"view": adata.obsm["view"]} if "view" in adata.obsm else None,
            uns={key: adata.uns[key] for key in ("prepare_seconds", "pca") if key in adata.uns},
        )
    with quiet():
        mdata = MuData(bare)
    mdata.obs = obs.copy()
    for name, adata in mdata.mod.items():  # slicing a MuData would lose the order of cells: the rows are set by name
        rows = adata.obs_names.get_indexer(obs.index) + 1  # in obsmap 0 means that a cell is not there
        mdata.obsmap[name], mdata.obsm[name] = rows.astype(np.uint32), rows > 0
    for key, value in (obsm or {}).items():
        if key not in mods:
            mdata.obsm[key] = value
    return mdata


def quiet() -> warnings.catch_warnings:
    """Silence what mudata says on every object about its next version."""
    return warnings.catch_warnings(action="ignore", category=FutureWarning)
