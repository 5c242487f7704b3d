"""The trained part of MoRE: wires bases, adapters, fusion, refinement, heads and decoders, and sums the losses."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import torch
from scvi.module.base import BaseModuleClass, LossOutput, auto_move_data
from torch import Tensor

from more_scvi import losses
from more_scvi._spread import SpreadStep
from more_scvi.module._adapter import GatedAdapter
from more_scvi.module._bridge import N_CANONICAL, linked_coordinates
from more_scvi.module._decoders import ExpressionDecoder, make_decoder
from more_scvi.module._fusion import Fusion
from more_scvi.module._heads import Classifier, Projection, WideClassifier
from more_scvi.module._imputer import Imputer
from more_scvi.module._inside import Inside
from more_scvi.module._modality import ModalityBase, ModalitySizes
from more_scvi.module._probes import GAUSSIAN_SHARE, GaussianClassifier, ProbeClassifier
from more_scvi.module._refinement import Refinement
from more_scvi.module._shared_space import fit_shared_space
from more_scvi.module._soft_tokens import SoftTokens

LOSS_WEIGHTS = {
    "masked": 0.1,
    "classify": 1.0,
    "contrast": 0.1,
    "align_batch": 10.0,
    "align_modality": 5.0,
    "variance": 0.1,
    "keep": 20.0,
}
"""Weight of each term of the loss. Source: not recorded."""

INSIDE_TENSORS = ("tokens", "keep", "frozen", "blocks")
"""Tensors of a minibatch that :class:`more_scvi.module.Inside` reads."""

LOG_TWO = math.log(2.0)

CLOSED_GATE = -3.0
"""Logit at which the gate of a path that does not help starts: a tenth of its size, from where it can still open.
Source: not recorded."""


class MoREModule(BaseModuleClass):
    """Gates and adapters, fusion, refinement, heads and decoders on a linear base.

    Minibatches hold the linear bases of each cell side by side (``base``, zero where a modality was not measured),
    which were measured (``present``), the base of one masked view (``view``), and what the losses need (``batch``,
    ``labels``; per modality ``target_rna``, ``totals_rna``, ``hidden_rna``, ...).

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
        Width of the view that the wide classifier reads (0: no wide classifier).
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
    """

    labels_fitted: Tensor
    fitted: Tensor
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
    ):
        super().__init__()
        n_domains = n_batch if n_domains is None else n_domains
        patterns = np.ones((1, len(modalities)), bool) if patterns is None else patterns
        self.n_batch, self.n_domains, self.n_labels = n_batch, n_domains, n_labels
        self.modalities = [sizes.name for sizes in modalities]
        self.bases = torch.nn.ModuleDict(
            {
                sizes.name: ModalityBase(
                    sizes, n_batch, n_covariates, n_variable, n_components, n_wide, n_feature_axes, n_targets
                )
                for sizes in modalities
            }
        )
        bases = [self.base(name) for name in self.modalities]
        self.widths, self.wide_widths = [b.width for b in bases], [b.n_wide for b in bases]
        self.n_latent = min(n_latent, sum(self.widths))
        # pairs of modalities that no cell has both of: genes link them, see _bridge
        together = np.asarray(patterns, dtype=int).T @ np.asarray(patterns, dtype=int)
        self.unpaired = [(i, j) for i in range(len(bases)) for j in range(i + 1, len(bases)) if not together[i, j]]
        for k, (i, j) in enumerate(self.unpaired):
            self.register_buffer(f"link_{k}_first", torch.zeros(self.widths[i], N_CANONICAL))
            self.register_buffer(f"link_{k}_second", torch.zeros(self.widths[j], N_CANONICAL))
        self.register_buffer("fitted", torch.tensor(False))
        self.register_buffer("labels_fitted", torch.tensor(False))
        self.register_buffer("kept", torch.zeros(sum(self.widths)))
        self.register_buffer("scales", torch.ones(len(bases)))
        self.adapters = torch.nn.ModuleDict(
            {
                name: GatedAdapter(b.path_widths, self.n_latent, n_bottleneck, dropout)
                for name, b in zip(self.modalities, bases, strict=True)
            }
        )
        self.soft_tokens = torch.nn.ModuleDict()
        self.inside: Inside | None = None
        self.fusion = Fusion(self.widths, self.n_latent, kind=fusion)
        self.refinement = Refinement(self.n_latent, n_domains, n_refinement_steps, refinement_rank)
        self.classifier = Classifier(self.n_latent, n_labels) if n_labels else None
        self.probe = ProbeClassifier(self.n_latent, n_labels) if n_labels and len(bases) > 1 else None
        self.gaussian = GaussianClassifier(self.n_latent, n_labels, patterns) if n_labels else None
        self.wide = (
            WideClassifier(sum(self.wide_widths) + N_CANONICAL * len(self.unpaired), n_labels, patterns)
            if n_labels and n_wide
            else None
        )
        self.spread = (
            SpreadStep(self.n_latent, n_domains, n_labels)
            if n_labels and n_domains > 1 and n_refinement_steps
            else None
        )
        self.projection = Projection(self.n_latent)
        self.decoders = torch.nn.ModuleDict(
            {
                s.name: make_decoder(s.likelihood, self.n_latent, len(b.targets))
                for s, b in zip(modalities, bases, strict=True)
            }
        )

        self.imputers = torch.nn.ModuleDict()
        if len(modalities) > 1:
            n_inputs, n_sets = self.n_latent + sum(self.widths), 2 ** (len(modalities) - 1)
            for s, b in zip(modalities, bases, strict=True):
                n_coordinates = s.n_features if s.name == "protein" else b.path_widths[-1]
                self.imputers[s.name] = Imputer(n_inputs, n_coordinates, s.n_features, n_sets)

    def add_soft_tokens(self, modality: str, read: Callable[[Tensor], Tensor], width: int) -> None:
        """Let a modality reach frozen layers by learned tokens; ``width`` is that of a token and of what they give."""
        self.soft_tokens[modality] = SoftTokens(read, self.base(modality).width, self.n_latent, width, width)

    def add_inside(self, inside: Inside) -> None:
        """Let adapters inside the backbone, or a mix of its layers, move the frozen columns of a modality's base."""
        self.inside = inside

    def base(self, modality: str) -> ModalityBase:
        """Direct path and linear base of a modality."""
        return cast(ModalityBase, self.bases[modality])

    def columns(self, modality: str) -> slice:
        """Columns of a modality in the joined bases."""
        at = self.modalities.index(modality)
        return slice(sum(self.widths[:at]), sum(self.widths[: at + 1]))

    def wide_columns(self, modality: str) -> slice:
        """Columns of a modality in the joined wide views."""
        at = self.modalities.index(modality)
        return slice(sum(self.wide_widths[:at]), sum(self.wide_widths[: at + 1]))

    # ---- before the first step: numpy in, closed form

    def fit_space(self, base: np.ndarray, present: np.ndarray, genes: dict[str, tuple[np.ndarray, list[str]]]) -> None:
        """Fit the shared space: the adapters' rotations and where fusion starts.

        Parameters
        ----------
        base
            Joined bases, (cells, width).
        present
            bool (cells, modalities).
        genes
            Per modality, values of genes (cells that have it, genes) and their names: the bridge between modalities
            that no cell has both of.
        """
        space = fit_shared_space(
            [base[:, self.columns(name)] for name in self.modalities],
            present,
            self.n_latent,
            [genes.get(name) for name in self.modalities],
        )
        for name, rotation in zip(self.modalities, space.rotations, strict=True):
            cast(GatedAdapter, self.adapters[name]).rotation.copy_(torch.from_numpy(rotation))
        self.fusion.start.copy_(torch.from_numpy(space.trust))
        self.scales.copy_(torch.tensor(space.scales))
        for name, scale in zip(self.modalities, space.scales, strict=True):
            columns, last = self.columns(name), self.base(name).path_widths[-1]
            self.kept[columns.stop - last : columns.stop] = float(scale)
        for k, pair in enumerate(self.unpaired):
            link = space.links.get(pair)
            for side in ("first", "second") if link is not None else ():
                directions = torch.from_numpy(getattr(link, side))
                getattr(self, f"link_{k}_{side}")[:, : directions.shape[1]] = directions
        self.fitted.fill_(True)

    def drop_niche(self, wide: np.ndarray) -> None:
        """Nearly close the niche's gate and clear its columns of the wide view, in place."""
        role = self.modalities[0]
        base, adapter = self.base(role), cast(GatedAdapter, self.adapters[role])
        with torch.no_grad():
            adapter.path_logits[base.path_names.index("niche")] = CLOSED_GATE
        columns = self.wide_columns(role)
        wide[:, columns.start + base.direct.n_wide : columns.stop] = 0.0

    def link_coordinates(self, base: np.ndarray, present: np.ndarray) -> np.ndarray:
        """Coordinates that modalities without common cells share through genes, (cells, coordinates of all links).

        ``base`` is the joined base before :meth:`ModalityBase.shift`. Cells with neither modality of a link get zeros.
        """
        out = np.zeros((len(base), N_CANONICAL * len(self.unpaired)), np.float32)
        for k, pair in enumerate(self.unpaired):
            columns = slice(k * N_CANONICAL, (k + 1) * N_CANONICAL)
            for at, side in zip(pair, ("first", "second"), strict=True):
                rows = np.flatnonzero(present[:, at])
                directions = getattr(self, f"link_{k}_{side}").cpu().numpy()
                out[rows, columns] = linked_coordinates(base[rows, self.columns(self.modalities[at])], directions)
        return out

    # ---- forward

    def _get_inference_input(self, tensors: dict[str, Tensor], **kwargs) -> dict[str, Any]:
        return {
            "base": tensors["base"],
            "present": tensors["present"],
            "batch": tensors["batch"].reshape(-1),
            "cached": {name: tensors[name] for name in INSIDE_TENSORS if name in tensors},
        }

    def embeddings(self, base: Tensor) -> Tensor:
        """Embedding of each modality in the shared space: (cells, width) -> (cells, modalities, n_latent)."""
        parts = dict(zip(self.modalities, torch.split(base, self.widths, dim=1), strict=True))
        embeddings = {name: self.adapters[name](part) for name, part in parts.items()}
        for name, soft in self.soft_tokens.items():
            embeddings[name] = embeddings[name] + soft(parts[name])
        return torch.stack(list(embeddings.values()), 1)

    def adapt(self, base: Tensor, present: Tensor) -> Tensor:
        """Adapters and fusion: (cells, width), bool (cells, modalities) -> (cells, n_latent)."""
        return self.fusion(self.embeddings(base), base, present)

    @auto_move_data
    def inference(
        self, base: Tensor, present: Tensor, batch: Tensor, cached: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Embedding of a minibatch.

        Parameters
        ----------
        base, present, batch
            (cells, width), bool (cells, modalities), (cells,).
        cached
            What :class:`more_scvi.module.Inside` takes, to move the base first; None: the base is as it shall be.

        Returns
        -------
        ``base`` as it was moved, ``z`` (cells, n_latent), ``z_labels`` (same, offset held constant), ``adapted``
        (before refinement), ``embeddings`` (cells, modalities, n_latent), ``refinement`` (size of each step).
        """
        if self.inside is not None and cached:
            at, name = self.modalities.index(self.inside.modality), self.inside.modality
            base = self.inside.shift(self.base(name), base, present[:, at], self.columns(name).start, cached)
        embeddings = self.embeddings(base)
        adapted = self.fusion(embeddings, base, present)
        offset, sizes = self.refinement(adapted, batch)
        return {
            "base": base,
            "z": adapted + offset,
            "z_labels": adapted + offset.detach(),
            "adapted": adapted,
            "offset": offset.detach(),
            "embeddings": embeddings,
            "refinement": sizes,
        }

    def _get_generative_input(self, tensors, inference_outputs, **kwargs) -> dict[str, Tensor]:
        return {"z_labels": inference_outputs["z_labels"], "wide": tensors["wide"], "present": tensors["present"]}

    @auto_move_data
    def generative(self, z_labels: Tensor, wide: Tensor, present: Tensor) -> dict[str, Tensor | None]:
        """Logits of the trained head, log-probabilities of all classifiers, (cells, n_labels); None without labels."""
        if self.classifier is None:
            return {"logits": None, "log_probs": None}
        logits = self.classifier(z_labels)
        log_probs = logits.log_softmax(1)
        if self.probe is not None and self.probe.is_fitted:
            log_probs = torch.logaddexp(log_probs, self.probe(z_labels).log_softmax(1)) - LOG_TWO
        if self.wide is not None:
            expert = self.wide.choose(present)
            share = torch.where(expert >= 0, self.wide.share[expert.clamp_min(0)], 0.0)[:, None]
            second = self.wide(wide, expert).log_softmax(1)
            log_probs = torch.logaddexp(log_probs + torch.log1p(-share), second + share.log())
        if self.gaussian is not None and self.gaussian.is_fitted:
            third = self.gaussian(z_labels).log_softmax(1)
            mean = ((1 - GAUSSIAN_SHARE) * log_probs + GAUSSIAN_SHARE * third).log_softmax(1)
            log_probs = torch.where(self.gaussian.serves(present)[:, None], mean, log_probs)
        return {"logits": logits, "log_probs": log_probs}

    def embed(self, z: Tensor, log_probs: Tensor | None, batch: Tensor) -> Tensor:
        """The embedding that users get: ``z`` after the last refinement step, (cells, n_latent)."""
        return z if self.spread is None or log_probs is None else self.spread(z, log_probs.exp(), batch)

    # ---- loss

    def loss(
        self,
        tensors: dict[str, Tensor],
        inference_outputs: dict[str, Tensor],
        generative_outputs: dict[str, Tensor | None],
        weights: dict[str, float] | None = None,
        align_ramp: float = 1.0,
        certainty: float = 0.95,
        temperature: float = 0.2,
        variance_floor: float = 0.3,
        refinement_penalty: float = 1.0,
        modality_dropout: float = 0.5,
    ) -> LossOutput:
        """Sum of the weighted terms; a term with weight 0 is not computed.

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
        z, z_labels = inference_outputs["z"], inference_outputs["z_labels"]
        logits = generative_outputs["logits"]
        batch, labels, present = tensors["batch"].reshape(-1), tensors["labels"].reshape(-1), tensors["present"]
        types = self._types(generative_outputs["log_probs"], labels, certainty)
        n_types = max(self.n_labels, 1)
        terms: dict[str, Tensor] = {}

        def on(name: str) -> bool:
            return weights[name] > 0

        adapted_view = None
        if "view" in tensors and (on("masked") or on("contrast")):
            adapted_view = self.adapt(tensors["view"], present)
        fewer, partial = self._drop_modalities(
            inference_outputs["base"], inference_outputs["embeddings"], present, modality_dropout
        )
        reconstruction = z.new_zeros(len(z))
        if on("masked"):
            source = z_labels if adapted_view is None else adapted_view
            reconstruction = self._reconstruct(tensors, source)
            terms["masked"] = reconstruction.mean()
        if on("classify") and logits is not None:
            terms["classify"] = losses.classify(logits, labels)
            if partial is not None and self.classifier is not None:
                fixed = {name: p.detach() for name, p in self.classifier.named_parameters()}
                again = torch.func.functional_call(
                    self.classifier, fixed, (partial + inference_outputs["offset"][fewer],)
                )
                terms["classify"] = 0.5 * (terms["classify"] + losses.classify(again, labels[fewer]))
        if on("contrast"):
            projected = self.projection(z_labels)
            if logits is not None:
                terms["contrast"] = losses.contrast_labels(projected, labels, batch, temperature)
            elif adapted_view is not None:
                terms["contrast"] = losses.contrast_views(projected, self.projection(adapted_view), batch, temperature)
        if on("align_batch") and self.n_domains > 1 and logits is not None:
            terms["align_batch"] = losses.align_batches(z, batch, types, self.n_domains, n_types)
        if on("align_modality") and len(self.modalities) > 1:
            terms["align_modality"] = self._align_modalities(
                inference_outputs, present, batch, fewer, partial, logits is not None, temperature
            )
        if on("variance") and logits is not None:
            terms["variance"] = losses.intra_class_variance(z_labels, labels, self.n_labels, variance_floor)
        if on("keep"):
            terms["keep"] = losses.keep_distances(z, tensors["base"] * self.kept, self._groups(types, batch))
        ramp = {"align_batch": align_ramp}
        steps = inference_outputs["refinement"]
        spread = inference_outputs["z_labels"].detach().pow(2).sum(1).mean().clamp_min(1e-8)
        penalty = refinement_penalty * sum(steps) / spread if steps else 0.0
        total = (
            z.sum() * 0.0 + penalty + sum(weights[name] * ramp.get(name, 1.0) * term for name, term in terms.items())
        )
        extra = {f"loss_{name}": term.detach() for name, term in terms.items()}
        extra |= {f"refinement_step_{t + 1}": s.detach() for t, s in enumerate(steps)}
        return LossOutput(loss=total, reconstruction_loss=reconstruction, n_obs_minibatch=len(z), extra_metrics=extra)

    def _drop_modalities(
        self, base: Tensor, embeddings: Tensor, present: Tensor, rate: float
    ) -> tuple[Tensor, Tensor | None]:
        """Rows of cells with several modalities, and their fused embedding from a random part of them."""
        several = present.sum(1) > 1
        if not self.training or rate == 0 or not several.any():
            return several, None
        rows = several & (torch.rand(len(several), device=several.device) < rate)
        if not rows.any():
            return rows, None
        kept = present[rows]
        order = torch.rand(kept.shape, device=kept.device).masked_fill(~kept, 2.0)
        first = torch.nn.functional.one_hot(order.argmin(1), kept.shape[1]).bool()  # one that surely stays
        last = torch.nn.functional.one_hot(order.masked_fill(~kept, -1.0).argmax(1), kept.shape[1]).bool()  # one goes
        kept = kept & (first | (torch.rand(kept.shape, device=kept.device) < 0.5)) & ~last
        return rows, self.fusion(embeddings[rows], base[rows], kept)

    def _reconstruct(self, tensors: dict[str, Tensor], source: Tensor) -> Tensor:
        """Negative log-likelihood of what the view hides, mean over the measured modalities, (cells,)."""
        total, n = torch.zeros(2, len(source), device=source.device)
        for at, name in enumerate(self.modalities):
            if f"target_{name}" not in tensors:
                continue
            decoder = cast(ExpressionDecoder, self.decoders[name])
            rows = tensors["present"][:, at]
            loss = decoder.loss(
                source[rows],
                tensors[f"target_{name}"][rows],
                tensors[f"totals_{name}"][rows],
                tensors[f"hidden_{name}"],
            )
            total = total.index_add(0, rows.nonzero()[:, 0], loss.float())
            n = n + rows.float()
        return total / n.clamp_min(1.0)

    def _align_modalities(
        self,
        outputs: dict[str, Tensor],
        present: Tensor,
        batch: Tensor,
        fewer: Tensor,
        partial: Tensor | None,
        typed: bool,
        temperature: float,
    ) -> Tensor:
        """InfoNCE of paired cells, distillation of all modalities into some, MMD of modalities without pairs.

        With labels, domains of different modalities are aligned type by type (``align_batch``), which is safer than
        aligning all of their cells; without, unpaired modalities are aligned as a whole.
        """
        embeddings = outputs["embeddings"]
        terms = []
        if partial is not None:
            terms.append(losses.distil(partial, outputs["adapted"][fewer]))
        n = present.shape[1]
        for i in range(n):
            for j in range(i + 1, n):
                both = present[:, i] & present[:, j]
                if both.sum() > 1:
                    a, b = (self.projection(embeddings[both, m]) for m in (i, j))
                    terms.append(0.1 * losses.pair_modalities(a, b, batch[both], temperature))
                elif not typed and present[:, i].any() and present[:, j].any():
                    z = torch.cat([embeddings[present[:, i], i], embeddings[present[:, j], j]])
                    which = torch.cat([torch.full((int(present[:, m].sum()),), k) for k, m in enumerate((i, j))])
                    terms.append(losses.align_batches(z, which.to(z.device), None, 2))
        return torch.stack(terms).sum() if terms else embeddings.sum() * 0.0

    @torch.no_grad()
    def _types(self, log_probs: Tensor | None, labels: Tensor, certainty: float) -> Tensor:
        """Visible labels, filled up with nearly certain predictions; -1 where neither is known."""
        if log_probs is None:
            return torch.full_like(labels, -1)
        confidence, guess = log_probs.exp().max(1)
        return torch.where(labels >= 0, labels, torch.where(confidence >= certainty, guess, -1))

    def _groups(self, types: Tensor, batch: Tensor) -> Tensor:
        """Groups whose inner distances are kept: type within domain; the whole domain without labels."""
        if self.classifier is None:
            return batch
        return torch.where(types >= 0, types * self.n_domains + batch, -1)
