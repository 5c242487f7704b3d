"""The trained part of MoRE: wires adapters, fusion, refinement, heads and decoders on a linear base."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import torch
from scvi.module.base import BaseModuleClass, LossOutput
from torch import Tensor

from more_scvi._spread import SpreadStep
from more_scvi.annotate._annotator import Annotator, mix
from more_scvi.annotate._closed_form import GaussianClassifier
from more_scvi.base._clusters import MOST_CLUSTERS
from more_scvi.base._linear import LinearBase, ModalityBase, ModalitySizes
from more_scvi.base._shared_space import SharedSpace
from more_scvi.base._strength import Strength
from more_scvi.modalities._modality import get_modality
from more_scvi.module._adapter import GatedAdapter
from more_scvi.module._fusion import Fusion
from more_scvi.module._heads import Classifier, Projection
from more_scvi.module._imputer import Imputer
from more_scvi.module._inside import Inside
from more_scvi.module._objective import LOSS_WEIGHTS, Objective
from more_scvi.module._refinement import Refinement
from more_scvi.module._soft_tokens import SoftTokens

INSIDE_TENSORS = ("tokens", "keep", "frozen", "blocks")
"""Tensors of a minibatch that :class:`more_scvi.module.Inside` reads."""

CLOSED_GATE = -3.0
"""Logit at which the gate of a path that does not help starts: a tenth of its size, from where it can still open.
Source: plain value, not tuned."""

FROZEN_KEPT = 0.5
"""Weight of frozen features beside the direct path in the distances that are kept where there are no labels. Source:
plain value, not tuned."""


class MoREModule(BaseModuleClass):
    """Gates and adapters, fusion, refinement, heads and decoders on a linear base.

    Minibatches hold the linear bases of each cell side by side (``base``, zero where a modality was not measured),
    which were measured (``present``), what the losses need (``domain``, ``labels``; ``guess`` and ``share`` of the
    closed-form experts), and, where masked modelling is on, the base of one masked view (``view``; per modality
    ``target_rna``, ``totals_rna``, ``hidden_rna``, ...).

    Parameters
    ----------
    modalities
        Sizes of each modality, in order.
    n_batch, n_labels
        Number of batches and of known labels (0: no classifier).
    n_domains
        Number of batches × measured modalities that occur; what refinement and alignment call a batch. ``None``: one
        per batch.
    patterns
        bool (patterns, modalities): combinations of measured modalities that occur. ``None``: all measured.
    n_covariates
        Columns of the covariate design.
    n_latent
        Width of the embedding.
    n_variable, n_components
        Genes and components of the direct path (``n_components=0``: no direct path).
    n_wide
        Width of the view that the closed-form experts read (0: no experts).
    n_feature_axes
        Principal axes kept of the frozen features.
    n_targets
        Features per modality that masked modelling predicts.
    n_bottleneck, dropout
        Width of and dropout in the adapters' bottleneck.
    n_refinement_steps, refinement_rank
        Steps and rank of the refinement.
    fusion
        ``"attention"``, ``"concatenation"`` or ``"mean"``, see :class:`more_scvi.module.Fusion`.
    n_new_labels
        Labels that came with queries, beside ``n_labels``.
    strength, domain_strength
        How much batches, and batches × measured modalities, are made alike. ``None``: as usual.
    """

    kept: Tensor
    scales: Tensor

    def __init__(
        self,
        modalities: Sequence[ModalitySizes],
        n_batch: int,
        n_labels: int,
        n_domains: int | None = None,
        patterns: np.ndarray | None = None,
        n_covariates: int = 0,
        n_latent: int = 50,
        n_variable: int = 2000,
        n_components: int = 50,
        n_wide: int = 400,
        n_feature_axes: int = 50,
        n_targets: int = 200,
        n_bottleneck: int = 64,
        dropout: float = 0.1,
        n_refinement_steps: int = 2,
        refinement_rank: int = 8,
        fusion: str = "attention",
        n_new_labels: int = 0,
        strength: Strength | None = None,
        domain_strength: Strength | None = None,
    ):
        super().__init__()
        n_domains = n_batch if n_domains is None else n_domains
        patterns = np.ones((1, len(modalities)), bool) if patterns is None else patterns
        self.n_batch, self.n_domains, self.n_labels = n_batch, n_domains, n_labels
        self.strength = Strength.usual(n_batch) if strength is None else strength
        self.domain_strength = Strength.usual(n_domains) if domain_strength is None else domain_strength
        self.compared = [(weight, torch.from_numpy(group)) for weight, group in self.domain_strength.terms()]
        self.linear = LinearBase(
            modalities, n_batch, n_covariates, patterns, n_variable, n_components, n_wide, n_feature_axes, n_targets
        )
        self.layout = layout = self.linear.layout
        self.n_latent = min(n_latent, layout.width)
        self.register_buffer("kept", torch.zeros(layout.width))
        self.register_buffer("scales", torch.ones(len(modalities)))
        self.adapters = torch.nn.ModuleDict(
            {
                name: GatedAdapter(self.base(name).path_widths, self.n_latent, n_bottleneck, dropout)
                for name in layout.modalities
            }
        )
        self.soft_tokens = torch.nn.ModuleDict()
        self.further = torch.nn.ModuleDict()  # modalities that came with queries
        self.inside: Inside | None = None  # moves the frozen columns of a modality's base
        self.fusion = Fusion(list(layout.widths), self.n_latent, kind=fusion)
        self.refinement = Refinement(self.n_latent, n_domains, n_refinement_steps, refinement_rank)
        self.classifier = Classifier(self.n_latent, n_labels) if n_labels else None
        self.annotator = self.spread = None
        if n_labels:
            niche, n_seen = self.base(layout.modalities[0]).niche_columns, self.linear.n_wide if n_wide else 0
            depth = any(hasattr(self.base(name).direct, "shallow") for name in layout.modalities)
            self.annotator = Annotator(
                layout, self.n_latent, n_labels, n_seen, patterns, niche, n_new_labels, n_domains, depth
            )
        self.clusters: GaussianClassifier | None = None  # of cells, where there are no labels
        if n_domains > 1 and n_refinement_steps:
            self.spread = SpreadStep(self.n_latent, n_domains, n_labels or MOST_CLUSTERS)
            if not n_labels:
                self.clusters = GaussianClassifier(self.n_latent, MOST_CLUSTERS, patterns)
        self.projection = Projection(self.n_latent)
        self.decoders, self.imputers = torch.nn.ModuleDict(), torch.nn.ModuleDict()
        n_inputs, n_sets = self.n_latent + layout.width, 2 ** (len(modalities) - 1)
        for s in modalities:
            kind, base = get_modality(s.name), self.base(s.name)
            self.decoders[s.name] = cast(torch.nn.Module, kind.decoder(s.data_type, self.n_latent, len(base.targets)))
            if len(modalities) > 1:
                n_coordinates = s.n_features if kind.imputes_directly else base.path_widths[-1]  # the direct path
                self.imputers[s.name] = Imputer(n_inputs, n_coordinates, s.n_features, n_sets)

    def add_soft_tokens(self, modality: str, read: Callable[[Tensor], Tensor], width: int) -> None:
        """Let a modality reach frozen layers by learned tokens; ``width`` is that of a token and of what they give."""
        self.soft_tokens[modality] = SoftTokens(read, self.base(modality).width, self.n_latent, width, width)

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names, in order."""
        return self.layout.modalities

    @property
    def has_groups(self) -> bool:
        """Whether cells are compared within types, or within clusters that several batches share."""
        return self.n_labels > 0 or self.n_domains > 1

    @property
    def passes_backbone(self) -> bool:
        """Whether a step passes layers of the backbone, so that it is not small."""
        return bool(len(self.soft_tokens)) or (self.inside is not None and self.inside.adapter is not None)

    def base(self, modality: str) -> ModalityBase:
        """Direct path and linear base of a modality."""
        return self.linear.base(modality)

    # ---- before the first step
    def start_at(self, space: SharedSpace) -> None:
        """Start in a shared space: the adapters' rotations, the trust of the fusion, the axes that ``keep`` reads."""
        for name, rotation in zip(self.modalities, space.rotations, strict=True):
            cast(GatedAdapter, self.adapters[name]).rotation.copy_(torch.from_numpy(rotation))
        self.fusion.start.copy_(torch.from_numpy(space.trust))
        self.scales.copy_(torch.tensor(space.scales))
        for name, scale in zip(self.modalities, space.scales, strict=True):
            columns, last = self.layout.columns(name), self.base(name).path_widths[-1]  # the direct path stands last
            if not self.n_labels:  # which say what frozen features hold that is worth keeping
                self.kept[columns] = FROZEN_KEPT * float(scale)
            self.kept[columns.stop - last : columns.stop] = float(scale)

    @torch.no_grad()
    def close_niche(self) -> None:
        """Nearly close the gate of the niche."""
        name = self.modalities[0]
        cast(GatedAdapter, self.adapters[name]).path_logits[self.base(name).path_names.index("niche")] = CLOSED_GATE

    # ---- forward
    def _get_inference_input(self, tensors: dict[str, Tensor], **kwargs) -> dict[str, Any]:
        return {
            "base": tensors["base"],
            "present": tensors["present"],
            "domain": tensors["domain"].reshape(-1),
            "cached": {name: tensors[name] for name in INSIDE_TENSORS if name in tensors},
        }

    def embeddings(self, base: Tensor) -> Tensor:
        """Embedding of each modality in the shared space: (cells, width) -> (cells, modalities, n_latent)."""
        parts = dict(zip(self.modalities, torch.split(base, list(self.layout.widths), dim=1), strict=True))
        embeddings = {name: self.adapters[name](part) for name, part in parts.items()}
        for name, soft in self.soft_tokens.items():
            embeddings[name] = embeddings[name] + soft(parts[name])
        return torch.stack(list(embeddings.values()), 1)

    def adapt(self, base: Tensor, present: Tensor) -> Tensor:
        """Adapters and fusion: (cells, width), bool (cells, modalities) -> (cells, n_latent)."""
        return self.fusion(self.embeddings(base), base, present)

    def inference(
        self,
        base: Tensor,
        present: Tensor,
        domain: Tensor,
        cached: dict[str, Tensor] | None = None,
        placed: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Embedding of a minibatch.

        Parameters
        ----------
        base, present, domain
            (cells, width), bool (cells, modalities), (cells,).
        cached
            What :class:`more_scvi.module.Inside` takes, to move the base first; None: the base is as it shall be.
        placed
            Embedding before refinement, (cells, n_latent), that takes the place of the adapters'; NaN: it does not.

        Returns
        -------
        ``base`` as it was moved, ``z`` (cells, n_latent), ``z_labels`` (same, offset held constant), ``adapted``
        (before refinement), ``embeddings`` (cells, modalities, n_latent), ``refinement`` (size of each step).
        """
        if self.inside is not None and cached:
            name = self.inside.modality
            columns, at = self.layout.columns(name), self.layout.at(name)
            base = self.inside.shift(self.base(name), base, present[:, at], columns.start, cached)
        embeddings = self.embeddings(base)
        adapted = self.fusion(embeddings, base, present)
        if placed is not None:
            adapted = torch.where(placed.isnan(), adapted, placed)
        offset, sizes = self.refinement(adapted, domain)
        return {
            "base": base,
            "z": adapted + offset,
            "z_labels": adapted + offset.detach(),  # else batches without labels are left behind, see Refinement
            "adapted": adapted,
            "offset": offset.detach(),
            "embeddings": embeddings,
            "refinement": sizes,
        }

    def _get_generative_input(self, tensors, inference_outputs, **kwargs) -> dict[str, Tensor | None]:
        return {"z_labels": inference_outputs["z_labels"], "guess": tensors.get("guess"), "share": tensors.get("share")}

    def generative(self, z_labels: Tensor, guess: Tensor | None, share: Tensor | None) -> dict[str, Tensor | None]:
        """Logits of the trained head and its mixture with the experts' fixed ``guess``, (cells, n_labels).

        Both are None without labels. The mixture fills up labels for the losses; it is not the answer
        (:meth:`annotate`).
        """
        if self.classifier is None:
            return {"logits": None, "log_probs": None}
        logits = self.classifier(z_labels)
        log_probs = logits.log_softmax(1)
        return {
            "logits": logits,
            "log_probs": log_probs if guess is None or share is None else mix(log_probs, guess, share),
        }

    def annotate(
        self, z_labels: Tensor, base: Tensor, guess: Tensor, share: Tensor, present: Tensor, vouched: Tensor
    ) -> Tensor | None:
        """Log-probabilities of the answer, (cells, n_labels); None without labels. See :class:`Annotator`."""
        if self.classifier is None or self.annotator is None:
            return None
        head = self.classifier(z_labels).log_softmax(1)
        return self.annotator(head, z_labels, base, guess, share, present, vouched)

    def group(self, z_labels: Tensor, log_probs: Tensor | None) -> Tensor | None:
        """Log-probabilities of what cells are compared within: types, or clusters where there are no labels."""
        if log_probs is not None or self.clusters is None or not self.clusters.is_fitted:
            return log_probs
        return self.clusters(z_labels).log_softmax(1)

    def embed(self, z: Tensor, log_groups: Tensor | None, domain: Tensor) -> Tensor:
        """The embedding that users get: ``z`` after the last refinement step, (cells, n_latent)."""
        return z if self.spread is None or log_groups is None else self.spread(z, log_groups.exp(), domain)

    def loss(
        self,
        tensors: dict[str, Tensor],
        inference_outputs: dict[str, Any],
        generative_outputs: dict[str, Tensor | None],
        weights: dict[str, float] | None = None,
        align_ramp: float = 1.0,
        certainty: float = 0.95,
        temperature: float = 0.2,
        variance_floor: float = 0.3,
        refinement_penalty: float = 1.0,
        modality_dropout: float = 0.5,
    ) -> LossOutput:
        """Sum of the weighted terms, see :class:`more_scvi.module.Objective`; a term of weight 0 is not computed.

        Parameters
        ----------
        weights
            λ per term, see :data:`LOSS_WEIGHTS`.
        align_ramp
            Factor in [0, 1] on the alignment term, raised during training.
        certainty
            Pseudo-labels below this probability are not used.
        temperature
            Of the contrastive losses.
        variance_floor
            Share of within-class variance that the variance term leaves alone.
        refinement_penalty
            Price of the squared size of the refinement steps, relative to the variance of the embedding.
        modality_dropout
            Share of the cells with several modalities that are also seen with fewer of them, chosen at random.
        """
        weights = LOSS_WEIGHTS if weights is None else weights
        rest = certainty, temperature, variance_floor, refinement_penalty, modality_dropout
        return Objective(weights, align_ramp, *rest)(self, tensors, inference_outputs, generative_outputs)
