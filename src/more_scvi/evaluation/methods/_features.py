"""MoRE on features that were computed before, once for all cells: every fit of every backbone reads them alike."""

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from more_scvi.base._features import read_features
from more_scvi.data._fields import RNA
from more_scvi.evaluation._data import Data

from ._more import MoRE


@dataclass(frozen=True, eq=False)
class Features:
    """Features of all cells, from all genes and from those that a query has.

    Parameters
    ----------
    names
        Names of the cells.
    tables
        Their features ``(n_cells, n_features)``, by :func:`panel_key` of the genes that were there.
    fingerprint
        What the features follow from; results on others are not mistaken for results on these.
    n_pooled
        Layers whose features lie side by side.
    any_panel
        Whether nothing is known of the genes that the features were computed from: they are handed out whatever genes
        the cells have, and a query that lacks genes cannot be asked about.
    """

    names: pd.Index
    tables: Mapping[str, NDArray]
    fingerprint: str
    n_pooled: int = 1
    any_panel: bool = False

    def rows(self, genes: Iterable[str], cells: pd.Index) -> NDArray[np.float32]:
        """Features of cells from these genes, ``(n_cells, n_features)``."""
        values = self.tables["" if self.any_panel else panel_key(genes)]
        rows = self.names.get_indexer(cells)
        if (rows < 0).any():
            raise KeyError(f"There are no features of {int((rows < 0).sum())} of {rows.size} cells.")
        return np.asarray(values[rows], dtype=np.float32)


def panel_key(genes: Iterable[str]) -> str:
    """Short name of a list of genes."""
    return hashlib.sha256("\n".join(map(str, genes)).encode()).hexdigest()[:16]


class OnFeatures(MoRE):
    """MoRE whose frozen features are looked up; ``refused`` protocols are not answered, the options are MoRE's."""

    def __init__(self, variant: str, features: Features, refused: Collection[str] = (), **options: Any):
        self.refused = frozenset(refused)
        self.features, self.key = features, f"X_{features.fingerprint[:16]}"  # the key is part of the fingerprint
        backbone = {"obsm_key": self.key, "n_pooled": features.n_pooled}
        model = {**options.pop("model_kwargs", {}), "backbone": "precomputed", "backbone_kwargs": backbone}
        super().__init__(variant, model_kwargs=model, **options)

    def answers(self, protocol: str) -> bool:
        """Whether the method can answer a protocol."""
        return super().answers(protocol) and protocol not in self.refused

    def _complete(self, model: Any, part: AnnData) -> None:
        """Features of a query that lacks genes as whole cells would have them, as MoRE does where it has the backbone.

        How far features lie elsewhere without these genes is seen on the cells that were trained on.
        """
        if part.n_vars == model.adata.n_vars:
            return
        measured = replace(model.reader.measured(part).measured[RNA], given=None)
        trained = model.adata.obs_names
        shift = (self.features.rows(model.adata.var_names, trained) - self.features.rows(part.var_names, trained)).mean(
            0
        )
        read = read_features(measured, model.module.base(RNA), part.obsm[self.key], shift)
        part.obsm[self.key] = np.ascontiguousarray(read.paths["frozen"])

    def _of_rna(self, data: Data, spatial: bool, keys: dict[str, Any]) -> AnnData:
        adata = super()._of_rna(data, spatial, keys)
        adata.obsm[self.key] = self.features.rows(adata.var_names, adata.obs_names)
        return adata
