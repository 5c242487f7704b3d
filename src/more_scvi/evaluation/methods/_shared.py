"""What several methods do with the shared features."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from more_scvi.evaluation._data import LABELS_KEY, UNLABELED, Data, Stopwatch, batches_of, modalities

from ._method import Given


def rna(data: Data) -> AnnData:
    """The RNA, with its shared features."""
    return modalities(data)["rna"]


def shared_watch(data: Data, names: Iterable[str] = ("rna",), steps: Iterable[str] = ()) -> Stopwatch:
    """Stopwatch that has counted these steps (by default all) of the shared features of these modalities."""
    used = [modalities(data)[name].uns["prepare_seconds"] for name in names]
    return Stopwatch(features=sum((float(of[step]) for of in used for step in steps or of), 0.0))


def labels_of(data: Data) -> tuple[NDArray[np.str_], NDArray[np.bool_]]:
    """Labels ``(n_cells,)`` and the mask of cells that have one."""
    labels = data.obs[LABELS_KEY].to_numpy().astype(str)
    return labels, labels != UNLABELED


def centre(x: NDArray, batches: NDArray) -> NDArray:
    """Copy of ``x`` with the mean of each batch removed."""
    return x - pd.DataFrame(x).groupby(batches).transform("mean").to_numpy()


def centred_view(data: Data) -> NDArray[np.float32]:
    """PCs of the RNA with the mean of each batch removed, ``(n_cells, n_pcs)``."""
    return centre(rna(data).obsm["view"], batches_of(data))


def variable_genes(data: Data) -> Any:
    """Log-normalised highly variable genes ``(n_cells, n_genes)``, sparse."""
    adata = rna(data)
    return adata.layers["lognorm"][:, adata.var["highly_variable"].to_numpy()]


def with_query(given: Given, of: Callable[[Data], NDArray]) -> NDArray:
    """``of`` applied to the data and, where cells are to be mapped, to the query below it."""
    return np.concatenate([of(part) for part in (given.data, given.query) if part is not None])


def probabilities(values: NDArray, classes: NDArray) -> pd.DataFrame:
    """Frame of probabilities ``(n_cells, n_types)`` by type."""
    return pd.DataFrame(values, columns=np.asarray(classes).astype(str))
