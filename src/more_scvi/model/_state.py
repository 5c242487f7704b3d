"""What the mixins of a model share: the attributes that its constructor sets."""

from __future__ import annotations

from typing import Any

import numpy as np
from anndata import AnnData
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
    genes: np.ndarray
    gene_names: list[str]
    batches: np.ndarray
    labels: np.ndarray
    overlap: float
    n_views: int
    cache_dir: str | None
    seed: int
    init_arguments: dict[str, Any]
    is_trained_: bool
    history_: Any
    _adata: AnnData | None
    _obsm_key: str | None
    _setup_args: dict[str, Any]
    _arrays: TrainingArrays | None
