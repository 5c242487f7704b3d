"""The model a user calls."""

from __future__ import annotations

from os import PathLike
from typing import Any

import numpy as np
import torch
from anndata import AnnData
from scvi import REGISTRY_KEYS, settings

from more_scvi.backbones import Backbone, get_backbone, list_backbones
from more_scvi.data import (
    BatchField,
    CovariateDesign,
    DataManager,
    LabelsField,
    MatrixField,
    check_integer,
    check_mapping,
    check_number,
    check_setup,
    check_vocabulary,
    match_genes,
)
from more_scvi.model._inference import InferenceMixin
from more_scvi.model._registry import RegistryMixin
from more_scvi.model._save_load import SaveLoadMixin
from more_scvi.model._training import TrainingMixin
from more_scvi.module import MoREModule


class MoRE(InferenceMixin, TrainingMixin, SaveLoadMixin, RegistryMixin):
    """One embedding for cells of several batches: a frozen pre-trained transformer and light adapters.

    The frozen backbone reads every cell once; its features are cached. In-data principal components are set
    beside them. What is trained on top (gate, adapter, refinement, heads) starts as zero residuals around that
    linear base and takes seconds to minutes on a CPU.

    Parameters
    ----------
    adata
        AnnData registered with :meth:`setup_anndata`.
    backbone
        Name of a registered backbone (:func:`more_scvi.backbones.list_backbones`), or a folder with weights;
        ``"precomputed"`` reads features from ``adata.obsm``; ``None`` uses the direct path alone.
    backbone_kwargs
        Arguments of the backbone; for ``"precomputed"`` ``{"obsm_key": "X_mymodel"}``.
    n_latent
        Width of the embedding (at most the width of both paths together).
    n_components
        Components of the direct path; 0 switches it off.
    n_variable
        Highly variable genes the direct path is fitted on.
    n_wide
        Components of these genes that the wide classifier reads, an expert beside the trained one; 0: none.
    n_bottleneck, dropout
        Width of and dropout in the adapter's bottleneck.
    n_refinement_steps, refinement_rank
        Steps of batch refinement and their rank.
    n_views
        Masked panel views per cell for masked modelling and contrast; 0 switches masking off.
    cache_dir
        Folder for the feature cache; ``None`` keeps it in memory.
    seed
        Seed of initial weights and training; ``None`` takes ``scvi.settings.seed``, and 0 if that is not set.

    Raises
    ------
    ValueError
        If adata is not registered, too few genes are known to the backbone, or an argument is out of range.
    KeyError
        If the backbone or the ``obsm_key`` does not exist.

    Examples
    --------
    >>> import more_scvi as more
    >>> more.MoRE.setup_anndata(adata, batch_key="batch", labels_key="cell_type")
    >>> model = more.MoRE(adata)
    >>> model.train()
    >>> z = model.get_latent_representation()  # also in adata.obsm["X_more"]
    >>> model.predict(soft=True)

    Notes
    -----
    After arXiv 2511.20382.
    """

    def __init__(
        self,
        adata: AnnData | None = None,
        registry: dict | None = None,
        backbone: str | None = "more-mini",
        backbone_kwargs: dict[str, Any] | None = None,
        n_latent: int = 50,
        n_components: int = 50,
        n_variable: int = 2000,
        n_wide: int = 400,
        n_bottleneck: int = 64,
        dropout: float = 0.1,
        n_refinement_steps: int = 2,
        refinement_rank: int = 8,
        n_views: int = 2,
        cache_dir: str | None = None,
        seed: int | None = None,
    ):
        arguments = {k: v for k, v in locals().items() if k not in ("self", "adata", "registry", "__class__")}
        _check_arguments(arguments)
        super().__init__(adata, registry)
        if seed is None:
            arguments["seed"] = settings.seed if settings.seed is not None else 0
        self.init_arguments = arguments
        self.n_views, self.cache_dir, self.seed = n_views, cache_dir, int(arguments["seed"])
        self._setup_args = self.registry_["setup_args"]
        state = self.registry_["field_registries"]
        self.genes = np.asarray(state[REGISTRY_KEYS.X_KEY]["state_registry"]["column_names"], dtype=object)
        self.gene_names = state[REGISTRY_KEYS.X_KEY]["state_registry"]["gene_names"].tolist()
        self.batches = np.asarray(state[REGISTRY_KEYS.BATCH_KEY]["state_registry"]["categorical_mapping"], dtype=object)
        labels = state.get(REGISTRY_KEYS.LABELS_KEY)
        self.labels = (
            np.array([]) if labels is None else np.asarray(labels["state_registry"]["categorical_mapping"])[:-1]
        )
        self.covariates = CovariateDesign(**self._setup_args["covariate_design"])
        self.backbone, self._obsm_key = self._attach_backbone(
            backbone, check_mapping("backbone_kwargs", backbone_kwargs)
        )
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            self.module = MoREModule(
                n_features=self.backbone.n_features if self.backbone is not None else 0,
                n_genes=len(self.genes),
                n_batch=len(self.batches),
                n_labels=len(self.labels),
                n_covariates=self.covariates.n_columns,
                n_latent=n_latent,
                n_variable=n_variable,
                n_wide=n_wide,
                n_components=min(n_components, self.summary_stats.n_cells - 1),
                n_bottleneck=n_bottleneck,
                dropout=dropout,
                n_refinement_steps=n_refinement_steps,
                refinement_rank=refinement_rank,
                likelihood="nb" if self._setup_args["data_type"] == "counts" else "gaussian",
            )
        self._arrays = None
        self._model_summary_string = (
            f"MoRE with backbone {backbone!r}, {self.summary_stats.n_cells} cells, {len(self.genes)} genes "
            f"({self.overlap:.0%} known to the backbone), {len(self.batches)} batches, {len(self.labels)} labels, "
            f"n_latent {self.module.n_latent}"
        )
        self.init_params_ = self._get_init_params(locals())

    @classmethod
    def setup_anndata(
        cls,
        adata: AnnData,
        layer: str | None = None,
        batch_key: str | None = None,
        labels_key: str | None = None,
        unlabeled_category: str = "Unknown",
        categorical_covariate_keys: list[str] | None = None,
        continuous_covariate_keys: list[str] | None = None,
        gene_key: str | None = None,
        data_type: str = "auto",
        **kwargs: Any,
    ) -> None:
        """Register an AnnData: say where counts, batches and labels are.

        Parameters
        ----------
        adata
            Cells × genes, sparse or dense, in memory or backed.
        layer
            Layer with counts or log-normalised values; ``None`` reads ``adata.X``.
        batch_key
            Column of ``adata.obs`` to integrate over (donor, platform, study, ...).
        labels_key
            Column of ``adata.obs`` with cell types; cells with ``unlabeled_category`` or a missing value are
            not labelled.
        unlabeled_category
            Value that means "not labelled".
        categorical_covariate_keys, continuous_covariate_keys
            Further nuisance columns whose linear effect is removed from the base.
        gene_key
            Column of ``adata.var`` with gene symbols or Ensembl ids (human or mouse) for the backbone;
            ``None`` uses ``adata.var_names``.
        data_type
            ``"counts"``, ``"lognorm"`` (log1p of counts per 10,000) or ``"auto"``.

        Raises
        ------
        TypeError, KeyError, ValueError
            See :func:`more_scvi.data.check_setup`; the AnnData is unchanged then.

        Notes
        -----
        Writes ``obs["_scvi_batch"]``, ``obs["_scvi_labels"]`` and two identifiers in ``uns``, as scvi-tools does.
        """
        setup_method_args = cls._get_setup_method_args(**locals())
        summary = check_setup(
            adata,
            layer=layer,
            batch_key=batch_key,
            labels_key=labels_key,
            unlabeled_category=unlabeled_category,
            categorical_covariate_keys=categorical_covariate_keys,
            continuous_covariate_keys=continuous_covariate_keys,
            gene_key=gene_key,
            data_type=data_type,
        )
        arguments = setup_method_args["setup_args"]
        arguments["data_type"] = summary.data_type
        source = (kwargs.get("source_registry") or {}).get("setup_args", {})
        design = CovariateDesign.fit(
            adata, list(categorical_covariate_keys or []), list(continuous_covariate_keys or [])
        )
        arguments["covariate_design"] = source.get(
            "covariate_design", {"levels": design.levels, "moments": design.moments}
        )
        fields = [MatrixField(layer, gene_key), BatchField(batch_key)]
        if labels_key is not None and (summary.labels or source):
            fields.append(LabelsField(labels_key, unlabeled_category))
        manager = DataManager(fields=fields, setup_method_args=setup_method_args)
        manager.register_fields(adata, **kwargs)
        cls.register_manager(manager)

    def _attach_backbone(self, name: str | None, kwargs: dict[str, Any]) -> tuple[Backbone | None, str | None]:
        """The frozen backbone and, for precomputed features, their key in ``obsm``."""
        self.overlap = 1.0
        if name is None:
            return None, None
        key = None
        if name == "precomputed":
            key = self._check_obsm_key(kwargs)
        backbone = get_backbone(name, **kwargs)
        if backbone.vocabulary is not None:
            match = match_genes(self.gene_names, backbone.vocabulary)
            check_vocabulary(match.n_matched, self.gene_names, backbone.vocabulary.human_symbol, str(name))
            self.overlap = match.overlap
        return backbone, key

    def _check_obsm_key(self, kwargs: dict[str, Any]) -> str:
        key = kwargs.pop("obsm_key", None)
        if not isinstance(key, str):
            raise TypeError(
                "backbone='precomputed' needs backbone_kwargs={'obsm_key': 'X_...'}, the key of adata.obsm that"
                f" holds the features; got {key!r}."
            )
        if self.adata is not None:
            kwargs["n_features"] = self._obsm_features(self.adata, key).shape[1]
        return key

    @staticmethod
    def _obsm_features(adata: AnnData, key: str) -> np.ndarray:
        if key not in adata.obsm:
            raise KeyError(f"obsm_key {key!r} is not in adata.obsm; it holds {list(adata.obsm)}.")
        features = np.asarray(adata.obsm[key], dtype=np.float32)
        if features.ndim != 2 or not np.isfinite(features).all():
            raise ValueError(
                f"adata.obsm[{key!r}] must be a finite (cells, features) array; got shape {features.shape} with"
                f" {int((~np.isfinite(features)).sum())} values that are not finite. Recompute it, or drop these"
                " cells."
            )
        return features


def _check_arguments(arguments: dict[str, Any]) -> None:
    for name in ("n_latent", "n_variable", "n_bottleneck", "refinement_rank"):
        check_integer(name, arguments[name], 1)
    for name in ("n_components", "n_wide", "n_refinement_steps", "n_views"):
        check_integer(name, arguments[name], 0)
    check_number("dropout", arguments["dropout"], 0.0, 0.95)
    if arguments["seed"] is not None:
        check_integer("seed", arguments["seed"], 0)
    if arguments["backbone"] is not None and not isinstance(arguments["backbone"], str | PathLike):
        raise TypeError(
            f"backbone={arguments['backbone']!r} is a {type(arguments['backbone']).__name__}; give a name "
            f"({', '.join(list_backbones())}), a folder, or None."
        )
    if arguments["backbone"] is None and arguments["n_components"] == 0:
        raise ValueError(
            "backbone=None with n_components=0 leaves no features; name a backbone, or give n_components >= 1."
        )
