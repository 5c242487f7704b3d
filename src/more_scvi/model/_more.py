"""The model a user calls."""

from __future__ import annotations

from os import PathLike
from typing import Any

import numpy as np
import torch
from anndata import AnnData
from mudata import MuData
from scvi import settings

from more_scvi.backbones._registry import list_backbones
from more_scvi.base._linear import ModalitySizes
from more_scvi.base._prepare import FrozenReader
from more_scvi.base._schema import Schema
from more_scvi.data._arguments import check_integer, check_mapping, check_number, check_option
from more_scvi.data._fields import RNA
from more_scvi.modalities._modality import get_modality
from more_scvi.model._backbone import attach_backbone
from more_scvi.model._diagnose import diagnose
from more_scvi.model._distill import distill, student_fidelity
from more_scvi.model._impute import impute
from more_scvi.model._inference import get_latent_representation, get_modality_weights, parameter_counts, predict
from more_scvi.model._inside import ADAPTERS, inside_depth, make_inside
from more_scvi.model._not_offered import guide_users_of_scvi
from more_scvi.model._novelty import get_novelty
from more_scvi.model._paths import get_layer_weights, get_path_weights
from more_scvi.model._reader import Reader
from more_scvi.model._save_load import SaveLoadMixin
from more_scvi.model._setup import SetupMixin
from more_scvi.model._train import History, train
from more_scvi.module._module import MoREModule
from more_scvi.train._plan import MoRETrainingPlan

LARGEST = 100_000
"""Largest size that is believed to be meant. Source: plain value."""


@guide_users_of_scvi
class MoRE(SaveLoadMixin, SetupMixin):
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
        Components of these genes that the closed-form experts read, beside the trained classifier; 0: none.
    n_bottleneck, dropout
        Width of and dropout in the adapter's bottleneck.
    n_refinement_steps, refinement_rank
        Steps of batch refinement and their rank.
    fusion
        How the modalities of a cell become one: ``"attention"`` (learned weights per axis and cell), or one of two
        controls without trained weights, ``"concatenation"`` and ``"mean"``.
    n_views
        Masked panel views per cell for masked modelling; 0 switches masking off. They are made only for objectives that
        read them, and each costs a pass of the backbone.
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

    _module_cls = MoREModule
    _training_plan_cls = MoRETrainingPlan

    train = train
    get_latent_representation = get_latent_representation
    predict = predict
    get_novelty = get_novelty
    get_modality_weights = get_modality_weights
    get_path_weights = get_path_weights
    get_layer_weights = get_layer_weights
    parameter_counts = parameter_counts
    impute = impute
    diagnose = diagnose
    distill = distill
    student_fidelity = student_fidelity

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
        n_views: int = 1,
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
        if adata is not None:
            self._hold_frame()
        if seed is None:
            arguments["seed"] = settings.seed if settings.seed is not None else 0
        self.init_arguments, self.seed = arguments, int(arguments["seed"])
        self.schema = schema = Schema.of(self.registry_)
        kwargs = check_mapping("backbone_kwargs", backbone_kwargs)
        attached = attach_backbone(backbone, kwargs, schema, adata)
        self.backbone = attached.backbone
        frozen = FrozenReader(attached.backbone, attached.modalities, attached.overlaps, cache_dir)
        n_components = min(n_components, self.summary_stats.n_cells - 1)
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            self.module = MoREModule(
                [_sizes(schema, frozen, name, n_components) for name in schema.modalities],
                n_batch=len(schema.batches),
                n_labels=len(schema.labels),
                n_domains=len(schema.domains),
                patterns=schema.patterns,
                n_covariates=schema.covariates.n_columns,
                n_latent=n_latent,
                n_variable=n_variable,
                n_wide=n_wide,
                n_components=n_components,
                n_bottleneck=n_bottleneck,
                dropout=dropout,
                n_refinement_steps=n_refinement_steps,
                refinement_rank=refinement_rank,
                fusion=fusion,
            )
            for name in attached.soft:
                if self.backbone is not None and self.backbone.token_width:
                    self.module.add_soft_tokens(name, self.backbone.read_tokens, self.backbone.token_width)
            self.module.inside = inside = make_inside(frozen, arguments)
        depth = 0 if inside is None or inside.adapter is None else inside_depth(frozen, arguments)
        self.reader = Reader(schema, frozen, self.module, attached.given, depth)
        sizes = ", ".join(
            f"{len(schema.features[name])} {get_modality(name).features}"
            f" ({attached.overlaps[name]:.0%} known to the backbone)"
            for name in schema.modalities
        )
        self._model_summary_string = (
            f"MoRE with backbone {backbone!r}, {self.summary_stats.n_cells} cells, {sizes}, "
            f"{len(schema.batches)} batches, {len(schema.labels)} labels, n_latent {self.module.n_latent}"
        )
        self.init_params_ = self._get_init_params(locals())

    @property
    def adata(self) -> AnnData | MuData | None:
        """The registered AnnData or MuData; setting another one checks and sets it up as the original was."""
        return self._adata

    @adata.setter
    def adata(self, adata: AnnData | MuData) -> None:
        self._attach(adata)

    @property
    def history(self) -> History | None:
        """Curves of training by name, a table each; ``None`` before."""
        return None if self.history_ is None else History(self.history_)

    @property
    def modalities(self) -> list[str]:
        """Names of the modalities, in order."""
        return self.schema.modalities

    @property
    def features(self) -> dict[str, np.ndarray]:
        """Names of the features of each modality, in the order of the registered data."""
        return self.schema.features

    @property
    def genes(self) -> np.ndarray:
        """Names of the features of the first modality, in the order of the registered data."""
        return self.features[self.modalities[0]]

    @property
    def batches(self) -> np.ndarray:
        """Batches that were registered, in the order of their codes."""
        return self.schema.batches

    @property
    def labels(self) -> np.ndarray:
        """Labels that were registered, in the order of their codes; empty without labels."""
        return self.schema.labels

    def get_var_names(self, legacy_mudata_format: bool = False) -> np.ndarray | dict[str, np.ndarray]:
        """Names of the registered features: of an AnnData an array, of a MuData one per modality, by its name there."""
        if not self.schema.is_mudata:
            return self.features[RNA]
        names = {self.schema.names[name]: self.features[name] for name in self.modalities}
        return np.concatenate(list(names.values())) if legacy_mudata_format else names


def _sizes(schema: Schema, frozen: FrozenReader, modality: str, n_components: int) -> ModalitySizes:
    """Sizes of a modality for the module."""
    n_features = len(schema.features[modality])
    reads = frozen.backbone is not None and modality in frozen.modalities
    n_frozen, n_blocks = (frozen.backbone.n_features, frozen.backbone.n_pooled) if frozen.backbone and reads else (0, 1)
    n_niche = n_frozen + min(n_components, n_features) if modality == schema.spatial else 0
    return ModalitySizes(modality, n_features, n_frozen, n_niche, schema.data_type(modality), n_blocks)


def _check_arguments(arguments: dict[str, Any]) -> None:
    for name in ("n_latent", "n_variable", "n_bottleneck", "refinement_rank", "adapter_layers", "adapter_rank"):
        check_integer(name, arguments[name], 1, LARGEST)
    for name in ("n_components", "n_wide", "n_refinement_steps", "n_views"):
        check_integer(name, arguments[name], 0, LARGEST)
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
