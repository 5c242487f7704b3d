"""Data sets of the benchmark, and the label-free features that all methods share."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import scanpy as sc
from anndata import AnnData
from anndata.io import read_elem
from numpy.typing import NDArray
from sklearn.decomposition import PCA

DATASETS: dict[str, str] = {
    "bm_vangalen": "bench/bm_vangalen.h5ad",
    "pbmc_kang": "bench/pbmc_kang.h5ad",
    "pbmc_4batch": "bench/pbmc_4batch.h5ad",
    "snareseq": "bench/snareseq.h5mu",
    "pbmc_cite": "bench/pbmc_cite.h5mu",
}
"""Name → file below the data folder. Of a MuData file (``.h5mu``) the RNA is taken."""

N_GENES, N_PCS = 2000, 50


def load_dataset(
    name: str, data_dir: str | os.PathLike, batch_key: str = "batch", labels_key: str = "cell_type"
) -> AnnData:
    """Read one data set: raw counts in ``X``, batches and types (text) in ``obs``, nothing else.

    Parameters
    ----------
    name
        A key of :data:`DATASETS`, or the path of an ``.h5ad``/``.h5mu`` file below ``data_dir``.
    data_dir
        Folder that holds the files.
    batch_key, labels_key
        Columns of ``obs`` to keep.

    Raises
    ------
    FileNotFoundError
        If the file is not there.
    KeyError
        If a column is missing.

    Examples
    --------
    >>> adata = load_dataset("pbmc_kang", "data")  # doctest: +SKIP
    """
    path = Path(data_dir) / DATASETS.get(name, name)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file. Known data sets are {', '.join(DATASETS)}; is data_dir right?")
    with h5py.File(path, "r") as file:
        full = read_elem(file["mod/rna"] if path.suffix == ".h5mu" else file)
    missing = [key for key in (batch_key, labels_key) if key not in full.obs]
    if missing:
        raise KeyError(f"{path.name}: obs has no column {missing[0]!r}; it has {', '.join(map(str, full.obs))}.")
    obs = pd.DataFrame({key: full.obs[key].astype(str) for key in (batch_key, labels_key)}, index=full.obs_names)
    return AnnData(full.X, obs=obs, var=pd.DataFrame(index=full.var_names))


def prepare(adata: AnnData, batch_key: str = "batch", n_genes: int = N_GENES, n_pcs: int = N_PCS) -> AnnData:
    """Add what linear methods and scvi-tools models start from. No label is looked at.

    Writes ``layers["counts"]``, ``layers["lognorm"]`` (log1p of counts per 10,000), ``var["highly_variable"]``
    (batch-aware, flavour ``seurat``; all genes if there are no more than ``n_genes``), ``obsm["X_pca"]`` (PCs of the
    genes scaled to unit variance and clipped at 10) and ``uns["prepare_seconds"]`` with the CPU seconds of each step.

    Parameters
    ----------
    adata
        Raw counts in ``X``; changed in place and returned.
    batch_key
        Column of ``obs`` for the batch-aware selection.
    n_genes, n_pcs
        Genes and components to keep; fewer where the data hold fewer.
    """
    seconds: dict[str, float] = {}
    start = time.process_time()
    adata.layers["counts"] = adata.X
    lognorm = AnnData(adata.X.astype(np.float32), obs=adata.obs[[batch_key]], var=adata.var[[]])
    sc.pp.normalize_total(lognorm, target_sum=1e4)
    sc.pp.log1p(lognorm)
    adata.layers["lognorm"] = lognorm.X
    seconds["normalise"] = time.process_time() - start

    start = time.process_time()
    if adata.n_vars > n_genes:
        table = sc.pp.highly_variable_genes(
            lognorm, flavor="seurat", n_top_genes=n_genes, batch_key=batch_key, inplace=False
        )
        adata.var["highly_variable"] = table["highly_variable"].to_numpy()
    else:
        adata.var["highly_variable"] = True
    seconds["genes"] = time.process_time() - start

    start = time.process_time()
    x = _dense(lognorm.X[:, adata.var["highly_variable"].to_numpy()])
    x -= x.mean(axis=0)
    x /= x.std(axis=0) + 1e-8
    np.clip(x, -10, 10, out=x)
    components = PCA(min(n_pcs, *(d - 1 for d in x.shape)), svd_solver="covariance_eigh")  # exact: it is a reference
    adata.obsm["X_pca"] = components.fit_transform(x).astype(np.float32)
    seconds["pca"] = time.process_time() - start
    adata.uns["prepare_seconds"] = seconds
    return adata


def with_labels(adata: AnnData, labels: Sequence[str] | NDArray, labels_key: str = "cell_type") -> AnnData:
    """A light view of a prepared data set (matrices shared, not copied) with other labels in ``obs[labels_key]``.

    This is what a method receives: with the labels of a split hidden, no true label is left anywhere in the object.
    """
    obs = adata.obs.copy()
    obs[labels_key] = pd.Categorical(np.asarray(labels).astype(str))
    uns = {key: adata.uns[key] for key in ("prepare_seconds",) if key in adata.uns}
    return AnnData(adata.X, obs=obs, var=adata.var.copy(), layers=dict(adata.layers), obsm=dict(adata.obsm), uns=uns)


def _dense(x: object) -> NDArray[np.float32]:
    return np.asarray(x.toarray() if hasattr(x, "toarray") else x, dtype=np.float32)
