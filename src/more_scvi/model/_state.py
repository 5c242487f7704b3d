"""What the mixins of a model share: the attributes that its constructor sets."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
from anndata import AnnData
from mudata import MuData
from scvi.model.base import BaseModelClass

from more_scvi.backbones import Backbone
from more_scvi.data import CovariateDesign
from more_scvi.module import MoREModule
from more_scvi.train import MoRETrainingPlan, TrainingArrays


class ModelState(BaseModelClass):
    """Attributes of :class:`more_scvi.MoRE`, declared once for its mixins."""

    _module_cls = MoREModule
    _training_plan_cls = MoRETrainingPlan

    module: MoREModule
    backbone: Backbone | None
    covariates: CovariateDesign
    is_mudata: bool
    roles: list[str]
    features: dict[str, np.ndarray]
    gene_names: dict[str, list[str]]
    links: dict[str, sp.csr_matrix | None]
    overlaps: dict[str, float]
    batches: np.ndarray
    labels: np.ndarray
    domains: list[tuple[str, tuple[str, ...]]]
    patterns: np.ndarray
    n_views: int
    cache_dir: str | None
    seed: int
    init_arguments: dict[str, Any]
    is_trained_: bool
    history_: Any
    _adata: AnnData | MuData | None
    _frozen_roles: list[str]
    _soft_roles: list[str]
    _obsm_key: str | None
    _setup_args: dict[str, Any]
    _arrays: TrainingArrays | None
    _added_before: tuple[TrainingArrays, bytes, np.ndarray] | None

    def _check_has_cells(self, method: str) -> None:
        """Refuse a method that reads the registered cells if the model was loaded without them."""
        if self.adata is None:
            raise ValueError(
                f"{method} needs the registered cells, but the model was loaded without data; load it with "
                "MoRE.load(dir, adata=adata)."
            )
