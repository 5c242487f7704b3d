"""What is registered with scvi-tools: categories as text, robust to numbers, booleans and missing labels."""

import weakref
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from scvi import REGISTRY_KEYS
from scvi.data import AnnDataManager
from scvi.data.fields import BaseAnnDataField, CategoricalObsField, LayerField

from more_scvi.data._batches import JOINT, BatchKey, batch_keys, batch_values
from more_scvi.data._columns import as_label_array, check_categories, value_text

RNA = "rna"
"""Name of the modality that an AnnData holds."""


def _as_names(names: Iterable[Any]) -> np.ndarray:
    return np.array([str(name) for name in names], dtype=object)


class MatrixField(LayerField):
    """The count or log-normalised matrix. Unlike upstream's field it never changes the user's array."""

    def __init__(self, layer: str | None, gene_key: str | None = None):
        # upstream's checks draw from NumPy's global state, and replace arrays in the user's object
        super().__init__(REGISTRY_KEYS.X_KEY, layer, is_count_data=False, correct_data_format=False)
        self.gene_key = gene_key

    def register_field(self, adata: AnnData) -> dict[str, Any]:
        """Return sizes, ``var_names``, and under ``gene_names`` the symbols or ids that a backbone reads."""
        names = adata.var_names if self.gene_key is None else adata.var[self.gene_key]
        return {**super().register_field(adata), "gene_names": _as_names(names)}

    def transfer_field(self, state_registry: dict, adata_target: AnnData, **kwargs: Any) -> dict[str, Any]:
        """The registered names: genes of other data are found by name, in any order and among others."""
        self.validate_field(adata_target)
        return {**state_registry, self.N_OBS_KEY: adata_target.n_obs}


class FeaturesField(BaseAnnDataField):
    """Features of one modality of a MuData and the genes they speak of: names only, no values.

    `n_cells` is given to the field of one modality (scvi-tools allows a size to be told once), `count` is the key of
    the number of features in ``summary_stats`` (None: ``n_`` and the role). `links`: csr (features, genes) to
    `gene_names`, which a backbone reads; None: features are genes.
    """

    attr_name = "obs"
    attr_key = None
    is_empty = False

    def __init__(
        self,
        role: str,
        names: np.ndarray,
        n_cells: int | None,
        gene_names: list[str],
        links: sp.csr_matrix | None = None,
        count: str | None = None,
    ):
        super().__init__()
        self.role, self.names, self.n_cells, self.gene_names, self.links = role, names, n_cells, gene_names, links
        self.count = count or f"n_{role}"

    @property
    def registry_key(self) -> str:
        """Key in the registry."""
        return features_key(self.role)

    def get_data_registry(self) -> dict[str, Any]:
        """Values are not read through the registry."""
        return {}

    def validate_field(self, adata: AnnData) -> None:
        """Nothing beyond what ``setup_mudata`` has checked."""

    def register_field(self, adata: AnnData) -> dict[str, Any]:
        """Names of features and genes, and the links between them as three arrays."""
        links = sp.coo_matrix((0, 0)) if self.links is None else self.links.tocoo()
        return {
            "column_names": _as_names(self.names),
            "gene_names": _as_names(self.gene_names),
            "n_cells": self.n_cells,
            "link_feature": links.row.astype(object),
            "link_gene": links.col.astype(object),
            "link_weight": links.data.astype(float).astype(object),
            "linked": self.links is not None,
        }

    def transfer_field(self, state_registry: dict, adata_target: AnnData, **kwargs: Any) -> dict[str, Any]:
        """The registered state: features of other data are checked to be the same."""
        return dict(state_registry)

    def get_summary_stats(self, state_registry: dict) -> dict[str, int]:
        """Number of cells and of features."""
        cells = {} if state_registry["n_cells"] is None else {"n_cells": state_registry["n_cells"]}
        return {**cells, self.count: len(state_registry["column_names"])}

    def view_state_registry(self, state_registry: dict) -> None:
        """Nothing to show beyond the sizes."""


def features_key(role: str) -> str:
    """Key of a modality's features in the registry."""
    return REGISTRY_KEYS.X_KEY if role == RNA else f"X_{role}"


def read_links(state: dict[str, Any]) -> sp.csr_matrix | None:
    """Links of a registered modality, csr (features, genes); None where features are genes."""
    if not state.get("linked", False):  # an AnnData is registered by another field, without links
        return None
    shape = (len(state["column_names"]), len(state["gene_names"]))
    rows, columns = (np.asarray(state[key], dtype=np.int64) for key in ("link_feature", "link_gene"))
    return sp.csr_matrix((np.asarray(state["link_weight"], dtype=np.float32), (rows, columns)), shape=shape)


class BatchField(CategoricalObsField):
    """Batches as text; codes are written to ``obs["_scvi_batch"]`` (-1: a batch the model does not know)."""

    def __init__(self, key: BatchKey):
        super().__init__(REGISTRY_KEYS.BATCH_KEY, JOINT.join(batch_keys(key)) or None)
        self.key = key

    def categories(self, adata: AnnData) -> np.ndarray:
        """Sorted category names, object (categories,)."""
        return np.array(sorted(set(self.values(adata))), dtype=object)

    def values(self, adata: AnnData) -> np.ndarray:
        """Value of each cell as text, object (cells,)."""
        values = batch_values(adata.obs, self.key)
        return np.full(adata.n_obs, "0", dtype=object) if values is None else values

    def register_field(self, adata: AnnData, mapping: np.ndarray | None = None) -> dict[str, Any]:
        """Write codes to ``obs`` and return the mapping."""
        mapping = self.categories(adata) if mapping is None else mapping
        adata.obs[self.attr_key] = self.codes(adata, mapping)
        return {self.CATEGORICAL_MAPPING_KEY: mapping, self.ORIGINAL_ATTR_KEY: self._original_attr_key}

    def transfer_field(self, state_registry: dict, adata_target: AnnData, **kwargs: Any) -> dict[str, Any]:
        """Write codes of the registered mapping; new values get -1 and a warning."""
        mapping = np.asarray(state_registry[self.CATEGORICAL_MAPPING_KEY], dtype=object)
        return self.register_field(adata_target, mapping)

    def validate_field(self, adata: AnnData) -> None:
        """Nothing beyond what ``setup_anndata`` has checked."""

    def codes(self, adata: AnnData, mapping: np.ndarray) -> np.ndarray:
        """Position of each cell's value in ``mapping``, int64 (cells,)."""
        return check_categories(self.values(adata), mapping, self.key or self._original_attr_key)


class LabelsField(BatchField):
    """Labels as text with the unlabelled category last; unknown and missing labels count as unlabelled."""

    def __init__(self, obs_key: str, unlabeled_category: str):
        CategoricalObsField.__init__(self, REGISTRY_KEYS.LABELS_KEY, obs_key)  # that of BatchField sets its own key
        self.unlabeled_category = value_text(unlabeled_category)

    def values(self, adata: AnnData) -> np.ndarray:
        """Label of each cell as text; missing ones are the unlabelled category."""
        if self._original_attr_key not in adata.obs:  # a query need not have the column
            return np.full(adata.n_obs, self.unlabeled_category, dtype=object)
        return as_label_array(adata.obs[self._original_attr_key], self.unlabeled_category)

    def categories(self, adata: AnnData) -> np.ndarray:
        """Known labels sorted, then the unlabelled category."""
        known = set(self.values(adata)) - {self.unlabeled_category}
        return np.array([*sorted(known), self.unlabeled_category], dtype=object)  # last: it is no class of a model

    def codes(self, adata: AnnData, mapping: np.ndarray) -> np.ndarray:
        """Position in ``mapping``; labels it does not hold count as unlabelled."""
        codes = pd.Index(mapping).get_indexer(self.values(adata)).astype(np.int64)
        return np.where(codes < 0, len(mapping) - 1, codes)


class DataManager(AnnDataManager):
    """As upstream, but the AnnData is freed once neither the user nor a model holds it.

    scvi-tools keeps every manager in a store of the model class, and each manager its AnnData: data would stay in
    memory until the process ends.
    """

    _adata: weakref.ref[AnnData] | None = None

    @property
    def adata(self) -> AnnData | None:
        """The registered AnnData; None before registration and after it is gone."""
        return None if self._adata is None else self._adata()

    @adata.setter
    def adata(self, value: AnnData | None) -> None:
        self._adata = None if value is None else weakref.ref(value)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_adata": self.adata}  # a weak reference cannot be pickled

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.adata = state["_adata"]
