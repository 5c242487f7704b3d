"""What a report is made of."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import scanpy as sc
from anndata import AnnData
from mudata import MuData
from numpy.typing import NDArray

from more_scvi.metrics._annotation import scorable

BASES = {"PCA": "X_umap_pca", "MoRE": "X_umap_more"}
"""Title → key in ``obsm`` of the maps that the report draws."""


@dataclass(eq=False)
class ReportInputs:
    """What :func:`write_report` shows.

    Parameters
    ----------
    table
        Tidy table of ``more_scvi.evaluation.run``: columns ``dataset``, ``protocol``, ``seed``, ``rotation``,
        ``held_out``, ``method``, ``metric``, ``value``. Its method ``"more"`` is the subject of the report.
    records
        The records behind the table: per split and method a dict with ``scores``, ``per_type``, ``seconds``,
        ``parameters``, ``versions``.
    adata
        The cells of the shown split with their true labels; ``obsm["X_umap_pca"]`` and ``obsm["X_umap_more"]`` hold the
        maps, see :func:`add_umaps`.
    split
        What was hidden in the run that is shown cell by cell; covers the cells of ``adata``.
    result
        What MoRE returned on that split: ``prediction`` ``(n_cells,)`` and, for the loss curves, the modality weights
        and the diagnosis, the trained ``model``.
    batch_key, labels_key
        Columns of ``adata.obs``.
    unlabeled
        The label of cells whose type is not known; they are not scored.
    name
        Name of the data.
    command
        How to make the report again.
    notes
        Sentences for the reader, e.g. that cells were drawn.

    Raises
    ------
    ValueError
        If ``adata``, ``split`` and ``result`` differ in their cells, or the table has no method ``"more"``.
    KeyError
        If a column of ``adata.obs`` or a map is not there.
    """

    table: pd.DataFrame
    records: Sequence[dict[str, Any]]
    adata: AnnData | MuData
    split: Any
    result: Any
    batch_key: str = "batch"
    labels_key: str = "cell_type"
    unlabeled: str = "Unknown"
    name: str = "data"
    command: str = ""
    notes: Sequence[str] = field(default_factory=tuple)

    def __post_init__(self) -> None:
        for key in (self.batch_key, self.labels_key):
            if key not in self.adata.obs:
                raise KeyError(f"adata.obs has no column {key!r}; it has {sorted(self.adata.obs.columns)}.")
        if missing := [key for key in BASES.values() if key not in self.adata.obsm]:
            raise KeyError(f"adata.obsm has no {missing[0]!r}; compute it with more_scvi.report.add_umaps.")
        if self.result.prediction is None:
            raise ValueError("result.prediction is None; the report shows a method with a classifier of its own.")
        sizes = {"adata": self.adata.n_obs, "split": len(self.split.hidden), "result": len(self.result.prediction)}
        if len(set(sizes.values())) > 1:
            raise ValueError(f"adata, split and result must hold the same cells; they hold {sizes}.")
        if "more" not in set(self.table["method"]):
            raise ValueError(f"table has no method 'more'; it has {sorted(set(self.table['method']))}.")

    @cached_property
    def labels(self) -> NDArray[np.str_]:
        """True labels ``(n_cells,)``."""
        return self.adata.obs[self.labels_key].astype(str).to_numpy(str)

    @cached_property
    def prediction(self) -> NDArray[np.str_]:
        """Predicted labels ``(n_cells,)``."""
        return np.asarray(self.result.prediction).astype(str)

    @cached_property
    def scored(self) -> NDArray[np.bool_]:
        """Cells ``(n_cells,)`` whose hidden label is compared with the prediction."""
        known = self.labels != self.unlabeled
        return scorable(self.labels, np.asarray(self.split.hidden, dtype=bool) | ~known, known)

    @cached_property
    def diagnosis(self) -> Any:
        """What the trained model says about its training; ``None`` without a model."""
        return None if self.result.model is None else self.result.model.diagnose()


def add_umaps(data: AnnData | MuData, z: NDArray, view: NDArray, seed: int = 0) -> None:
    """Compute the maps of a report: ``obsm["X_more"]``, ``obsm["X_umap_more"]`` and ``obsm["X_umap_pca"]``.

    Parameters
    ----------
    data
        The cells; changed in place.
    z
        Embedding of MoRE ``(n_cells, n_latent)``.
    view
        Principal components ``(n_cells, n_components)`` to set beside it.
    seed
        Seed of both maps.

    Examples
    --------
    >>> import more_scvi as more
    >>> adata = more.data.simulate_batches(100)
    >>> add_umaps(adata, adata.X[:, :10].toarray(), adata.X[:, 10:20].toarray())
    >>> adata.obsm["X_umap_more"].shape
    (100, 2)
    """
    data.obsm["X_more"] = np.asarray(z, dtype=np.float32)
    for values, key in ((data.obsm["X_more"], "X_umap_more"), (np.asarray(view, dtype=np.float32), "X_umap_pca")):
        cells = AnnData(obs=pd.DataFrame(index=data.obs_names), obsm={"z": values})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # umap warns that a seed means one thread
            sc.pp.neighbors(cells, n_neighbors=min(15, data.n_obs - 1), use_rep="z", random_state=seed)
            sc.tl.umap(cells, random_state=seed)
        data.obsm[key] = cells.obsm["X_umap"]
