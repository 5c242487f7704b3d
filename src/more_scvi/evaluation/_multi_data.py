"""Data sets with several modalities: reading, hiding modalities and labels, and the views that all methods share.

Everything keeps the cells in the order of ``obs``. A cell that is not in a modality is missing there; it becomes a row
of zeros only where a peer accepts nothing else (:func:`padded`).
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import anndata
import mudata
import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from sklearn.decomposition import TruncatedSVD

from ._datasets import prepare, with_labels
from ._multi_links import link_antibodies

BATCH_KEY, LABELS_KEY, UNLABELED = "batch", "cell_type", "Unknown"

Data: TypeAlias = MuData | AnnData


def load_multi(name: str, data_dir: str | os.PathLike) -> MuData:
    """Read ``bench/<name>.h5mu``: raw counts per modality, ``obs["batch"]`` and ``obs["cell_type"]``, nothing else.

    Other annotation columns would give hidden labels away, and the modalities' own ``obs`` are empty for the same
    reason. Proteins get the gene that codes for them in ``var["gene"]`` (empty where none is known or measured).

    Raises
    ------
    FileNotFoundError
        If the file is not there.
    """
    with _quiet():
        full = mudata.read_h5mu(_file(data_dir, f"{name}.h5mu"))
    if {"rna", "prot"} <= set(full.mod) and "antibody" in full.mod["prot"].var:
        prot = full.mod["prot"]
        prot.var["gene"] = link_antibodies(
            prot.var["antibody"], full.mod["rna"].var_names, Path(data_dir) / "annotation"
        )
    return _assemble(full.mod, full.obs[[BATCH_KEY, LABELS_KEY]].astype(str))


def load_spatial(name: str, data_dir: str | os.PathLike, labels_key: str) -> tuple[AnnData, NDArray[np.bool_]]:
    """Read ``bench/<name>.h5ad``: counts, ``obs["batch"]`` (section), ``obs["cell_type"]``, ``obsm["spatial"]``.

    ``labels_key`` is the column that becomes ``cell_type``. Also returned: which spots have a label of the authors.
    """
    full = anndata.read_h5ad(_file(data_dir, f"{name}.h5ad"))
    obs = pd.DataFrame({BATCH_KEY: full.obs[BATCH_KEY].astype(str), LABELS_KEY: full.obs[labels_key].astype(str)})
    known = (
        full.obs["label_known"].to_numpy(dtype=bool) if "label_known" in full.obs else np.ones(full.n_obs, dtype=bool)
    )
    spatial = np.asarray(full.obsm["spatial"], dtype=np.float32)
    return AnnData(sparse.csr_matrix(full.X), obs=obs, var=full.var[[]].copy(), obsm={"spatial": spatial}), known


def modalities(data: Data) -> Mapping[str, AnnData]:
    """Modalities by name; an AnnData is RNA."""
    return data.mod if isinstance(data, MuData) else {"rna": data}


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

    Raises
    ------
    ValueError
        If a cell would be left without any modality.
    """
    mods, covered = {}, np.zeros(mdata.n_obs, dtype=bool)
    for name, adata in mdata.mod.items():
        lost = mdata.obs_names[np.asarray(hidden.get(name, np.zeros(mdata.n_obs)), dtype=bool)]
        kept = ~adata.obs_names.isin(lost)
        mods[name] = AnnData(adata.X[kept], obs=adata.obs[[]][kept], var=adata.var.copy())
        covered |= mdata.obs_names.isin(mods[name].obs_names)
    if not covered.all():
        raise ValueError(f"{int((~covered).sum())} cells would be left without a modality; hide fewer.")
    return _assemble(mods, mdata.obs[[BATCH_KEY, LABELS_KEY]])


def give_labels(data: Data, labels: ArrayLike) -> Data:
    """What a method receives: the same matrices (not copied) with ``labels`` ``(n_cells,)`` as the only labels."""
    if isinstance(data, AnnData):
        return with_labels(data, np.asarray(labels), LABELS_KEY)
    obs = data.obs[[BATCH_KEY]].assign(**{LABELS_KEY: pd.Categorical(np.asarray(labels).astype(str))})
    return _assemble(data.mod, obs)


def padded(mdata: MuData, modality: str) -> sparse.csr_matrix:
    """Counts of a modality for all cells ``(n_cells, n_features)``; rows of zeros where it is missing."""
    adata = mdata.mod[modality]
    rows = mdata.obs_names.get_indexer(adata.obs_names)
    ones = np.ones(rows.size, dtype=np.float32)
    place = sparse.csr_matrix((ones, (rows, np.arange(rows.size))), (mdata.n_obs, rows.size))
    return sparse.csr_matrix(place @ sparse.csr_matrix(adata.X))


def prepare_views(data: Data) -> Data:
    """Give each modality what all methods share, once; changed in place and returned.

    ``obsm["view"]`` is a low-rank view of the modality, which linear baselines use and which is the yardstick of
    :func:`~more_scvi.evaluation.structure`: PCs of log-normalised HVGs (:func:`~more_scvi.evaluation.prepare`), LSI,
    or CLR. CPU seconds are in ``uns["prepare_seconds"]``.
    """
    for name, adata in modalities(data).items():
        if "view" in adata.obsm:
            continue
        if name == "rna":
            adata.obs[BATCH_KEY] = data.obs.loc[adata.obs_names, BATCH_KEY].to_numpy()
            prepare(adata, BATCH_KEY)
            adata.obsm["view"] = adata.obsm.pop("X_pca")
        else:
            start = time.process_time()
            adata.obsm["view"] = lsi(adata.X) if name == "atac" else clr(adata.X)
            adata.uns["prepare_seconds"] = {"view": time.process_time() - start}
    return data


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


def _file(data_dir: str | os.PathLike, name: str) -> Path:
    path = Path(data_dir) / "bench" / name
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file. Is data_dir the folder that holds bench/?")
    return path


def _assemble(mods: Mapping[str, AnnData], obs: pd.DataFrame) -> MuData:
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
            layers=dict(adata.layers),
            obsm={"view": adata.obsm["view"]} if "view" in adata.obsm else None,
            uns={key: adata.uns[key] for key in ("prepare_seconds",) if key in adata.uns},
        )
    with _quiet():
        mdata = MuData(bare)
    mdata.obs = obs.copy()
    for name, adata in mdata.mod.items():  # slicing a MuData would lose the order of cells: the rows are set by name
        rows = adata.obs_names.get_indexer(obs.index) + 1
        mdata.obsmap[name], mdata.obsm[name] = rows.astype(np.uint32), rows > 0
    return mdata


def _quiet() -> warnings.catch_warnings:
    """Silence what mudata says on every object about its next version."""
    return warnings.catch_warnings(action="ignore", category=FutureWarning)
