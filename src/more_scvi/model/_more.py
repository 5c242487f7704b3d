"""The model a user calls."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from anndata import AnnData
from mudata import MuData
from scvi import settings

import more_scvi.model._inference as ask
from more_scvi.backbones._registry import get_backbone
from more_scvi.base._linear import ModalitySizes
from more_scvi.base._prepare import FrozenReader
from more_scvi.base._schema import Schema, obsm_features
from more_scvi.data._arguments import check_integer, check_mapping, check_number, check_option
from more_scvi.data._checks import check_vocabulary
from more_scvi.data._fields import RNA
from more_scvi.data._genes import match_genes
from more_scvi.modalities._modality import get_modality
from more_scvi.model._coverage import get_gene_coverage
from more_scvi.model._diagnose import diagnose
from more_scvi.model._distill import distill, student_fidelity
from more_scvi.model._imputers import impute
from more_scvi.model._inside import ADAPTERS, make_inside
from more_scvi.model._not_offered import guide_users_of_scvi
from more_scvi.model._query import QueryMixin
from more_scvi.model._reader import Reader
from more_scvi.model._reference_map import ReferenceMap, fit_map, get_map, get_map_coordinates
from more_scvi.model._save_load import SaveLoadMixin
from more_scvi.model._setup import SetupMixin
from more_scvi.model._strength import strength_curve
from more_scvi.model._train import History, train
from more_scvi.module._further import FurtherModality
from more_scvi.module._module import MoREModule
from more_scvi.train._plan import MoRETrainingPlan

MODULE_ARGUMENTS = ("n_latent", "n_variable", "n_wide", "n_bottleneck", "dropout", "n_refinement_steps",
                    "refinement_rank", "fusion")  # fmt: skip
LARGEST = 100_000
"""Largest size that is believed to be meant. Source: plain value."""

MIN_LINKED_GENES = 10
"""A modality that speaks of fewer genes known to the backbone has no frozen features; one of none: soft tokens.
Source: plain value, not tuned."""


@guide_users_of_scvi
class MoRE(QueryMixin, SaveLoadMixin, SetupMixin):
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
        Arguments of the backbone; for ``"precomputed"`` ``{"obsm_key": "X_mymodel"}``, and ``"n_pooled"`` where
        features of so many layers lie side by side.
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
    strength
        How much batches are made alike, >= 0: 0 leaves them where they were measured, 1 is the usual, more aligns
        more. It scales the offsets between batches and their spreads (up to 1), how much clusters must mix, and the
        weight of the alignment. Of several batch keys a dict with that of each, e.g. ``{"project": 0, "sample": 1}``
        keeps projects apart and takes samples of each together; 1 where not named. See :meth:`strength_curve`.
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
    get_latent_representation = ask.get_latent_representation
    predict = ask.predict
    get_novelty = ask.get_novelty
    get_gene_coverage = get_gene_coverage
    get_modality_weights = ask.get_modality_weights
    get_path_weights = ask.get_path_weights
    get_layer_weights = ask.get_layer_weights
    parameter_counts = ask.parameter_counts
    impute = impute
    diagnose = diagnose
    strength_curve = strength_curve
    distill = distill
    student_fidelity = student_fidelity
    fit_map = fit_map
    get_map = get_map
    get_map_coordinates = get_map_coordinates

    _map: ReferenceMap | None = None

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
        strength: float | Mapping[str, float] = 1.0,
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
        frozen, soft, given = attach_backbone(arguments, schema, adata)
        self.backbone = frozen.backbone
        if self.backbone is not None:
            self.schema = schema = replace(schema, vocabulary=self.backbone.vocabulary)
        trained = schema.n_trained
        n_components = min(n_components, self.summary_stats.n_cells - 1)  # centred cells span no more axes
        of_batches, of_domains = schema.strength(strength)
        with torch.random.fork_rng():  # another model that is built in between must not change a user's draws
            torch.manual_seed(self.seed)
            self.module = MoREModule(
                [_sizes(schema, frozen, name, n_components) for name in schema.modalities],
                n_batch=trained["batches"],
                n_labels=trained["labels"],
                n_new_labels=len(schema.labels) - trained["labels"],
                n_domains=len(schema.domains),
                patterns=schema.patterns,
                n_covariates=schema.covariates.n_columns,
                n_components=n_components,
                strength=of_batches,
                domain_strength=of_domains,
                **{name: arguments[name] for name in MODULE_ARGUMENTS},
            )
            for name in soft:
                if self.backbone is not None and self.backbone.token_width:
                    self.module.add_soft_tokens(name, self.backbone.read_tokens, self.backbone.token_width)
            self.module.inside = make_inside(frozen, arguments)
        for name, entry in schema.further.items():
            own = ModalitySizes(name, len(entry["features"]), data_type=entry["data_type"])
            widths = self.module.n_latent, arguments["n_variable"], max(arguments["n_components"], 1)
            self.module.further[name] = FurtherModality(own, *widths)
        if schema.is_query and not schema.setup["reference"]["unfrozen"]:
            for name, parameter in self.module.named_parameters():
                parameter.requires_grad_(name.startswith("refinement."))
        self.reader = Reader(schema, frozen, self.module, given)
        sizes = ", ".join(
            f"{len(schema.features[name])} {get_modality(name).features} ({overlap:.0%} known to the backbone)"
            for name, overlap in frozen.overlaps.items()
        )
        self._model_summary_string = (
            f"MoRE with backbone {backbone!r}, {self.summary_stats.n_cells} cells, {sizes}, "
            f"{len(schema.batches)} batches, {len(schema.labels)} labels, n_latent {self.module.n_latent}"
        )
        self.init_params_ = self._get_init_params(locals())  # scvi-tools wants them; saving goes by init_arguments

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
    def has_map(self) -> bool:
        """Whether queries can be placed on a map of the reference, see :meth:`fit_map`."""
        return self._map is not None

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
    if arguments["backbone"] is None and arguments["n_components"] == 0:
        raise ValueError(
            "backbone=None with n_components=0 leaves no features; name a backbone, or give n_components >= 1."
        )


def attach_backbone(
    arguments: Mapping[str, Any], schema: Schema, data: AnnData | MuData | None
) -> tuple[FrozenReader, tuple[str, ...], dict[str, str]]:
    """Make the backbone and see which modalities it can read.

    ``arguments`` are those of :class:`more_scvi.model.MoRE`; ``data`` the registered ones, whose ``obsm`` holds
    precomputed features, or None: the model is loaded. Returned are the backbone and what it reads; modalities that
    speak of no gene it knows, which reach it by learned tokens; modality → key of ``obsm`` with precomputed features.
    """
    name, cache_dir = arguments["backbone"], arguments["cache_dir"]
    kwargs = check_mapping("backbone_kwargs", arguments["backbone_kwargs"])
    modalities = schema.modalities
    overlaps = dict.fromkeys(modalities, 1.0)
    if name is None:
        return FrozenReader(None, tuple(modalities), overlaps, cache_dir), (), {}
    reads, soft, given = list(modalities), [], {}
    if name == "precomputed":
        reads = modalities[:1]  # an array of obsm belongs to one modality
        given[reads[0]] = _check_obsm_key(kwargs, schema, data)
    backbone = get_backbone(name, **kwargs)
    vocabulary = backbone.vocabulary
    for modality in modalities if vocabulary is not None else ():
        assert vocabulary is not None
        genes = schema.gene_names[modality]
        match = match_genes(genes, vocabulary)
        overlaps[modality] = match.overlap
        if schema.links[modality] is None:  # features are genes
            check_vocabulary(match.n_matched, genes, vocabulary.human_symbol, str(name))
            backbone.check_match(match)
        elif match.n_matched < MIN_LINKED_GENES:
            reads.remove(modality)
        if match.n_matched == 0:
            soft.append(modality)
    return FrozenReader(backbone, tuple(reads), overlaps, cache_dir), tuple(soft), given


def _check_obsm_key(kwargs: dict[str, Any], schema: Schema, data: AnnData | MuData | None) -> str:
    key = kwargs.pop("obsm_key", None)
    if not isinstance(key, str):
        raise TypeError(
            "backbone='precomputed' needs backbone_kwargs={'obsm_key': 'X_...'}, the key of adata.obsm that"
            f" holds the features; got {key!r}."
        )
    if data is not None:
        adata = data.mod[schema.names[schema.modalities[0]]] if isinstance(data, MuData) else data
        kwargs["n_features"] = obsm_features(adata, key).shape[1]
    return key
