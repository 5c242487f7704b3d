"""The model a user calls."""

from __future__ import annotations

from os import PathLike
from typing import Any

import numpy as np
import torch
from anndata import AnnData
from mudata import MuData
from scvi import REGISTRY_KEYS, settings

from more_scvi.backbones import Backbone, get_backbone, list_backbones
from more_scvi.data import (
    CovariateDesign,
    check_integer,
    check_mapping,
    check_number,
    check_option,
    check_vocabulary,
    features_key,
    match_genes,
    read_links,
)
from more_scvi.model._diagnose import DiagnoseMixin
from more_scvi.model._distill import DistillMixin
from more_scvi.model._features import FeaturesMixin, obsm_features
from more_scvi.model._impute import ImputeMixin
from more_scvi.model._inference import InferenceMixin
from more_scvi.model._inside import ADAPTERS, InsideMixin
from more_scvi.model._novelty import NoveltyMixin
from more_scvi.model._paths import PathsMixin
from more_scvi.model._save_load import SaveLoadMixin
from more_scvi.model._setup import SetupMixin
from more_scvi.model._training import TrainingMixin
from more_scvi.module import ModalitySizes, MoREModule

MIN_LINKED_GENES = 10
"""A modality that speaks of fewer genes known to the backbone has no frozen features; one of none: soft tokens. Source:
plain value."""


class MoRE(
    DiagnoseMixin,
    DistillMixin,
    ImputeMixin,
    InferenceMixin,
    TrainingMixin,
    FeaturesMixin,
    InsideMixin,
    NoveltyMixin,
    PathsMixin,
    SaveLoadMixin,
    SetupMixin,
):
    """One embedding for cells of several batches and modalities: a frozen pre-trained transformer and light adapters.

    The frozen backbone reads every cell once; its features are cached. A linear view of the data themselves (PCA of
    genes, LSI of peaks, CLR of antibodies) is set beside them. What is trained on top (gates, adapters, fusion of
    modalities, refinement, heads) starts as zero residuals around that linear base and takes seconds to minutes on a
    CPU.

    Parameters
    ----------
    adata
        AnnData registered with :meth:`setup_anndata`, or MuData registered with :meth:`setup_mudata`.
    backbone
        Name of a registered backbone (:func:`more_scvi.backbones.list_backbones`), or a folder with weights;
        ``"precomputed"`` reads features from ``adata.obsm``; ``None`` uses the direct path alone.
    backbone_kwargs
        Arguments of the backbone; for ``"precomputed"`` ``{"obsm_key": "X_mymodel"}``.
    n_latent
        Width of the embedding (at most the width of all paths together).
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
    fusion
        How the modalities of a cell become one: ``"attention"`` (learned weights per axis and cell), or one of two
        controls without trained weights, ``"concatenation"`` and ``"mean"``.
    n_views
        Masked panel views per cell for masked modelling and contrast; 0 switches masking off.
    cache_dir
        Folder for the feature cache; ``None`` keeps it in memory.
    seed
        Seed of initial weights and training; ``None`` takes ``scvi.settings.seed``, and 0 if that is not set.
    adapter
        Where the adapters are. ``"output"``: after the backbone, on its cached features. ``"bottleneck"`` and
        ``"lora"``: also inside it, in its last layers: a bottleneck after each, or low-rank updates of the
        attention's projections (through peft in transformers models). Of several modalities, inside adapters serve
        the first that the backbone reads.
    adapter_layers
        Last layers of the backbone that adapters enter. What enters the lowest of them is computed once and kept in
        memory, 2 · tokens · d bytes per cell (2 kB for ``more-mini``, 0.5 MB for 1,000 tokens of width 256); a step
        passes these layers only. Masked views are not adapted inside.
    adapter_rank
        Width of the bottlenecks, or rank of LoRA.
    freeze_backbone
        ``False`` trains a copy of all layers of the backbone instead (full fine-tuning, tokens and embeddings stay);
        it goes with ``adapter="output"``. The copy is saved with the model then.

    Raises
    ------
    ValueError
        If adata is not registered, too few genes are known to the backbone, an argument is out of range, or the
        backbone has not the layers that adapters shall enter.
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
        adata: AnnData | MuData | None = None,
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
        fusion: str = "attention",
        n_views: int = 2,
        cache_dir: str | None = None,
        seed: int | None = None,
        adapter: str = "output",
        adapter_layers: int = 2,
        adapter_rank: int = 8,
        freeze_backbone: bool = True,
    ):
        arguments = {k: v for k, v in locals().items() if k not in ("self", "adata", "registry", "__class__")}
        _check_arguments(arguments)
        super().__init__(None if adata is None else self._frame_of(adata), registry)
        self._adata = adata
        if seed is None:
            arguments["seed"] = settings.seed if settings.seed is not None else 0
        self.init_arguments = arguments
        self.n_views, self.cache_dir, self.seed = n_views, cache_dir, int(arguments["seed"])
        self._read_registry()
        self.backbone, self._obsm_key = self._attach_backbone(
            backbone, check_mapping("backbone_kwargs", backbone_kwargs)
        )
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            self.module = MoREModule(
                [self._sizes(role, n_components) for role in self.roles],
                n_batch=len(self.batches),
                n_labels=len(self.labels),
                n_domains=len(self.domains),
                patterns=self.patterns,
                n_covariates=self.covariates.n_columns,
                n_latent=n_latent,
                n_variable=n_variable,
                n_wide=n_wide,
                n_components=min(n_components, self.summary_stats.n_cells - 1),
                n_bottleneck=n_bottleneck,
                dropout=dropout,
                n_refinement_steps=n_refinement_steps,
                refinement_rank=refinement_rank,
                fusion=fusion,
            )
            for role in self._soft_roles:
                if self.backbone is not None and self.backbone.token_width:
                    self.module.add_soft_tokens(role, self.backbone.read_tokens, self.backbone.token_width)
            self._attach_inside()
        self._arrays, self._added_before = None, None
        sizes = ", ".join(
            f"{len(self.features[role])} {FEATURE_WORDS[role]} ({self.overlaps[role]:.0%} known to the backbone)"
            for role in self.roles
        )
        self._model_summary_string = (
            f"MoRE with backbone {backbone!r}, {self.summary_stats.n_cells} cells, {sizes}, "
            f"{len(self.batches)} batches, {len(self.labels)} labels, n_latent {self.module.n_latent}"
        )
        self.init_params_ = self._get_init_params(locals())

    def _read_registry(self) -> None:
        """Set what the registered data say about modalities, features, batches and labels."""
        self._setup_args = self.registry_["setup_args"]
        state = {key: field["state_registry"] for key, field in self.registry_["field_registries"].items()}
        self.is_mudata = "modalities" in self._setup_args
        self.roles = list(self._setup_args["modalities"]) if self.is_mudata else ["rna"]
        of = {role: state[features_key(role)] for role in self.roles}
        self.features = {role: np.asarray(of[role]["column_names"], dtype=object) for role in self.roles}
        self.gene_names = {role: list(of[role]["gene_names"]) for role in self.roles}
        self.links = {role: read_links(of[role]) for role in self.roles}
        self.batches = np.asarray(state[REGISTRY_KEYS.BATCH_KEY]["categorical_mapping"], dtype=object)
        labels = state.get(REGISTRY_KEYS.LABELS_KEY)
        self.labels = np.array([]) if labels is None else np.asarray(labels["categorical_mapping"])[:-1]
        self.covariates = CovariateDesign(**self._setup_args["covariate_design"])
        domains = self._setup_args["domains"] if self.is_mudata else [[batch, ["rna"]] for batch in self.batches]
        patterns = self._setup_args["patterns"] if self.is_mudata else [["rna"]]
        self.domains = [(batch, tuple(roles)) for batch, roles in domains]
        self.patterns = np.array([[role in pattern for role in self.roles] for pattern in patterns])

    @property
    def genes(self) -> np.ndarray:
        """Names of the features of the first modality, in the order of the registered data."""
        return self.features[self.roles[0]]

    def _sizes(self, role: str, n_components: int) -> ModalitySizes:
        """Sizes of a modality for the module."""
        n_features = len(self.features[role])
        n_frozen = self.backbone.n_features if self.backbone is not None and self._is_frozen(role) else 0
        n_niche = 0
        if self._setup_args.get("spatial_key") is not None and role == self.roles[0]:
            n_niche = n_frozen + min(n_components, n_features, self.summary_stats.n_cells - 1)
        kind = self._data_type(role)
        likelihood = {"atac": "bernoulli", "protein": "nb_mixture"}.get(role, "nb" if kind == "counts" else "gaussian")
        n_blocks = self.backbone.n_pooled if self.backbone is not None and n_frozen else 1
        return ModalitySizes(role, n_features, n_frozen, n_niche, likelihood, n_blocks)

    def _attach_backbone(self, name: str | None, kwargs: dict[str, Any]) -> tuple[Backbone | None, str | None]:
        """The frozen backbone and, for precomputed features, their key in ``obsm``."""
        self.overlaps = dict.fromkeys(self.roles, 1.0)
        self._frozen_roles, self._soft_roles = list(self.roles), []
        if name is None:
            return None, None
        key = None
        if name == "precomputed":
            key = self._check_obsm_key(kwargs)
            self._frozen_roles = self.roles[:1]
        backbone = get_backbone(name, **kwargs)
        if backbone.vocabulary is not None:
            for role in self.roles:
                match = match_genes(self.gene_names[role], backbone.vocabulary)
                self.overlaps[role] = match.overlap
                if role == "rna":
                    check_vocabulary(
                        match.n_matched, self.gene_names[role], backbone.vocabulary.human_symbol, str(name)
                    )
                    backbone.check_match(match)
                elif match.n_matched < MIN_LINKED_GENES:
                    self._frozen_roles.remove(role)
                if match.n_matched == 0:
                    self._soft_roles.append(role)
        return backbone, key

    def _is_frozen(self, role: str) -> bool:
        """Whether the backbone reads this modality: enough of its features speak of genes it knows."""
        return role in self._frozen_roles

    def _check_obsm_key(self, kwargs: dict[str, Any]) -> str:
        key = kwargs.pop("obsm_key", None)
        if not isinstance(key, str):
            raise TypeError(
                "backbone='precomputed' needs backbone_kwargs={'obsm_key': 'X_...'}, the key of adata.obsm that"
                f" holds the features; got {key!r}."
            )
        if self.adata is not None:
            adata = self.adata.mod[self._setup_args["modalities"][self.roles[0]]] if self.is_mudata else self.adata
            kwargs["n_features"] = obsm_features(adata, key).shape[1]
        return key


FEATURE_WORDS = {"rna": "genes", "atac": "peaks", "protein": "antibodies"}


def _check_arguments(arguments: dict[str, Any]) -> None:
    for name in ("n_latent", "n_variable", "n_bottleneck", "refinement_rank", "adapter_layers", "adapter_rank"):
        check_integer(name, arguments[name], 1)
    for name in ("n_components", "n_wide", "n_refinement_steps", "n_views"):
        check_integer(name, arguments[name], 0)
    check_option("fusion", arguments["fusion"], ("attention", "concatenation", "mean"))
    check_option("adapter", arguments["adapter"], ADAPTERS)
    if not isinstance(arguments["freeze_backbone"], bool):
        raise TypeError(f"freeze_backbone={arguments['freeze_backbone']!r}; give True or False.")
    if not arguments["freeze_backbone"] and arguments["adapter"] != "output":
        raise ValueError(
            f"adapter={arguments['adapter']!r} with freeze_backbone=False: full fine-tuning trains the layers"
            " themselves. Give adapter='output', or freeze_backbone=True."
        )
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
