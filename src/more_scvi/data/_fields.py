"""Columns registered with scvi-tools: categories as text, robust to numbers, booleans and missing labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scvi import REGISTRY_KEYS
from scvi.data.fields import CategoricalObsField, LayerField

from more_scvi.data._columns import as_batch_array, as_label_array, check_categories, value_text


class MatrixField(LayerField):
    """The count or log-normalised matrix. Unlike upstream's field it never changes the user's array."""

    def __init__(self, layer: str | None, gene_key: str | None = None):
        super().__init__(REGISTRY_KEYS.X_KEY, layer, is_count_data=False, correct_data_format=False)
        self.gene_key = gene_key

    def register_field(self, adata: AnnData) -> dict[str, Any]:
        """Return sizes, ``var_names``, and under ``gene_names`` the symbols or ids that a backbone reads."""
        names = adata.var_names if self.gene_key is None else adata.var[self.gene_key]
        return {**super().register_field(adata), "gene_names": np.array([str(name) for name in names], dtype=object)}


class BatchField(CategoricalObsField):
    """Batches as text; codes are written to ``obs["_scvi_batch"]`` (-1: a batch the model does not know)."""

    def __init__(self, obs_key: str | None):
        super().__init__(REGISTRY_KEYS.BATCH_KEY, obs_key)

    def categories(self, adata: AnnData) -> np.ndarray:
        """Sorted category names, object (categories,)."""
        return np.array(sorted(set(self.values(adata))), dtype=object)

    def values(self, adata: AnnData) -> np.ndarray:
        """Value of each cell as text, object (cells,)."""
        if self.is_default:
            return np.full(adata.n_obs, "0", dtype=object)
        return as_batch_array(adata.obs[self._original_attr_key], self._original_attr_key)

    def register_field(self, adata: AnnData) -> dict[str, Any]:
        """Write codes to ``obs`` and return the mapping."""
        return self._write(adata, self.categories(adata))

    def transfer_field(self, state_registry: dict, adata_target: AnnData, **kwargs: Any) -> dict[str, Any]:
        """Write codes of the registered mapping; new values get -1 and a warning."""
        return self._write(adata_target, np.asarray(state_registry[self.CATEGORICAL_MAPPING_KEY], dtype=object))

    def validate_field(self, adata: AnnData) -> None:
        """Nothing beyond what ``setup_anndata`` has checked."""

    def codes(self, adata: AnnData, mapping: np.ndarray) -> np.ndarray:
        """Position of each cell's value in ``mapping``, int64 (cells,)."""
        return check_categories(self.values(adata), mapping, self._original_attr_key)

    def _write(self, adata: AnnData, mapping: np.ndarray) -> dict[str, Any]:
        adata.obs[self.attr_key] = self.codes(adata, mapping)
        return {self.CATEGORICAL_MAPPING_KEY: mapping, self.ORIGINAL_ATTR_KEY: self._original_attr_key}


class LabelsField(BatchField):
    """Labels as text with the unlabelled category last; unknown and missing labels count as unlabelled."""

    def __init__(self, obs_key: str, unlabeled_category: str):
        CategoricalObsField.__init__(self, REGISTRY_KEYS.LABELS_KEY, obs_key)
        self.unlabeled_category = value_text(unlabeled_category)

    def values(self, adata: AnnData) -> np.ndarray:
        """Label of each cell as text; missing ones are the unlabelled category."""
        if self._original_attr_key not in adata.obs:
            return np.full(adata.n_obs, self.unlabeled_category, dtype=object)
        return as_label_array(adata.obs[self._original_attr_key], self.unlabeled_category)

    def categories(self, adata: AnnData) -> np.ndarray:
        """Known labels sorted, then the unlabelled category."""
        known = set(self.values(adata)) - {self.unlabeled_category}
        return np.array([*sorted(known), self.unlabeled_category], dtype=object)

    def codes(self, adata: AnnData, mapping: np.ndarray) -> np.ndarray:
        """Position in ``mapping``; labels it does not hold count as unlabelled."""
        codes = pd.Index(mapping).get_indexer(self.values(adata)).astype(np.int64)
        return np.where(codes < 0, len(mapping) - 1, codes)
