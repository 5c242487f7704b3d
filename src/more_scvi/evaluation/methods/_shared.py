"""What several methods do with the shared features."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from more_scvi.evaluation._data import LABELS_KEY, UNLABELED, Data, batches_of, modalities

from ._method import Given, Stopwatch


def rna(data: Data) -> AnnData:
    """The RNA, with its shared features."""
    return modalities(data)["rna"]


def prepared_seconds(data: Data, *steps: str) -> float:
    """CPU seconds that the shared RNA features took, for methods that use them."""
    return float(sum(rna(data).uns["prepare_seconds"][step] for step in steps))


def rna_watch(data: Data, *steps: str) -> Stopwatch:
    """Stopwatch that has counted the shared features of the RNA (by default all)."""
    return Stopwatch(features=prepared_seconds(data, *(steps or ("normalise", "genes", "pca"))))


def labels_of(data: Data) -> tuple[NDArray[np.str_], NDArray[np.bool_]]:
    """Labels ``(n_cells,)`` and the mask of cells that have one."""
    labels = data.obs[LABELS_KEY].to_numpy().astype(str)
    return labels, labels != UNLABELED


def centre(x: NDArray, batches: NDArray) -> NDArray:
    """Copy of ``x`` with the mean of each batch removed."""
    x = x.copy()
    for name in np.unique(batches):
        x[batches == name] -= x[batches == name].mean(axis=0)
    return x


def centred_view(data: Data) -> NDArray[np.float32]:
    """PCs of the RNA with the mean of each batch removed, ``(n_cells, n_pcs)``."""
    return centre(rna(data).obsm["view"], batches_of(data))


def variable_genes(data: Data) -> Any:
    """Log-normalised highly variable genes ``(n_cells, n_genes)``, sparse."""
    adata = rna(data)
    return adata.layers["lognorm"][:, adata.var["highly_variable"].to_numpy()]


def with_query(given: Given, of: Any) -> NDArray:
    """``of`` applied to the data and, where cells are to be mapped, to the query below it."""
    parts = [of(given.data)] if given.query is None else [of(given.data), of(given.query)]
    return np.concatenate(parts)


def probabilities(values: NDArray, classes: NDArray) -> pd.DataFrame:
    """Frame of probabilities ``(n_cells, n_types)`` by type."""
    return pd.DataFrame(values, columns=np.asarray(classes).astype(str))
