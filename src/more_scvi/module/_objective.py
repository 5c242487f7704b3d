"""The objective: which terms are on, what each reads, and their weighted sum."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from scvi.module.base import LossOutput
from torch import Tensor

from more_scvi.base._clusters import MOST_CLUSTERS
from more_scvi.losses._align import align_batches
from more_scvi.losses._align_modality import distil, pair_modalities
from more_scvi.losses._classify import classify
from more_scvi.losses._contrast import contrast_labels, contrast_views
from more_scvi.losses._keep import keep_distances
from more_scvi.losses._variance import intra_class_variance
from more_scvi.modalities._modality import Decoder

if TYPE_CHECKING:
    from more_scvi.module._module import MoREModule

LOSS_WEIGHTS = {
    "masked": 0.1,
    "classify": 1.0,
    "contrast": 0.1,
    "align_batch": 10.0,
    "align_modality": 5.0,
    "variance": 0.1,
    "keep": 20.0,
}
"""λ per term: the full objective of the description, and ``keep``. Source: plain value, not tuned."""

PRESETS = {
    "full": LOSS_WEIGHTS,
    "fast": LOSS_WEIGHTS | {"masked": 0.0, "contrast": 0.0, "variance": 0.0},
    "paper": dict.fromkeys(LOSS_WEIGHTS, 1.0) | {"keep": 0.0},
}
"""Objectives by name: all terms; those that read no masked view and were seen to matter; the description's terms alone,
each with λ = 1."""


def needs_views(weights: Mapping[str, float], has_groups: bool) -> bool:
    """Whether a term reads masked views: masked modelling, and the contrast of one batch without labels."""
    return weights["masked"] > 0 or (weights["contrast"] > 0 and not has_groups)


@dataclass(frozen=True)
class Objective:
    """Weighted sum of the terms of a minibatch; arguments as in :meth:`more_scvi.module.MoREModule.loss`."""

    weights: Mapping[str, float]
    align_ramp: float
    certainty: float
    temperature: float
    variance_floor: float
    refinement_penalty: float
    modality_dropout: float

    def __call__(
        self, module: MoREModule, tensors: dict[str, Tensor], outputs: dict[str, Any], said: dict[str, Tensor | None]
    ) -> LossOutput:
        """Compute what is on; ``outputs`` and ``said`` are those of ``inference`` and ``generative``."""
        z, z_labels, logits = outputs["z"], outputs["z_labels"], said["logits"]
        domain, labels, present = tensors["domain"].reshape(-1), tensors["labels"].reshape(-1), tensors["present"]
        clusters = tensors["cluster"].reshape(-1) if "cluster" in tensors else None
        types = self._types(said["log_probs"], labels) if clusters is None else clusters
        view = None
        if "view" in tensors and needs_views(self.weights, module.has_groups):
            view = module.adapt(tensors["view"], present)
        fewer, partial = self._drop_modalities(module, outputs, present)
        terms: dict[str, Tensor] = {}
        reconstruction = z.new_zeros(len(z))
        if self._on("masked") and view is not None:
            reconstruction = _reconstruct(module, tensors, view)
            terms["masked"] = reconstruction.mean()
        if self._on("classify") and logits is not None:
            terms["classify"] = classify(logits, labels)
            if partial is not None and module.classifier is not None:
                fixed = {name: p.detach() for name, p in module.classifier.named_parameters()}
                again = torch.func.functional_call(module.classifier, fixed, (partial + outputs["offset"][fewer],))
                terms["classify"] = 0.5 * (terms["classify"] + classify(again, labels[fewer]))
        alike = labels if logits is not None else clusters
        if self._on("contrast") and alike is not None:
            terms["contrast"] = contrast_labels(module.projection(z_labels), alike, domain, self.temperature)
        elif self._on("contrast") and view is not None:
            first, second = module.projection(z_labels), module.projection(view)
            terms["contrast"] = contrast_views(first, second, domain, self.temperature)
        if self._on("align_batch") and module.n_domains > 1 and module.compared:
            terms["align_batch"] = _align(module, z, domain, types)
        if self._on("align_modality") and len(module.modalities) > 1:
            terms["align_modality"] = self._align_modalities(module, outputs, present, domain, fewer, partial)
        if self._on("variance") and logits is not None:
            terms["variance"] = intra_class_variance(z_labels, labels, module.n_labels, self.variance_floor)
        if self._on("keep"):
            groups = domain if logits is None else torch.where(types >= 0, types * module.n_domains + domain, -1)
            terms["keep"] = keep_distances(z, tensors["base"] * module.kept, groups)
        steps = outputs["refinement"]
        spread = z_labels.detach().pow(2).sum(1).mean().clamp_min(1e-8)  # growing must not make steps cheap
        # in clusters, cells of other batches are drawn together, too
        ramp = {"align_batch": self.align_ramp, "contrast": 1.0 if clusters is None else module.strength.least}
        total = (
            z.sum() * 0.0  # something to differentiate where no term is on
            + self.refinement_penalty * sum(steps) / spread
            + sum(self.weights[name] * ramp.get(name, 1.0) * term for name, term in terms.items())
        )
        extra = {f"loss_{name}": term.detach() for name, term in terms.items()}
        extra |= {f"refinement_step_{t + 1}": s.detach() for t, s in enumerate(steps)}
        return LossOutput(loss=total, reconstruction_loss=reconstruction, n_obs_minibatch=len(z), extra_metrics=extra)

    def _on(self, name: str) -> bool:
        return self.weights[name] > 0

    @torch.no_grad()
    def _types(self, log_probs: Tensor | None, labels: Tensor) -> Tensor:
        """Visible labels, filled up with nearly certain predictions; -1 where neither is known."""
        if log_probs is None:
            return torch.full_like(labels, -1)
        confidence, guess = log_probs.exp().max(1)
        return torch.where(labels >= 0, labels, torch.where(confidence >= self.certainty, guess, -1))

    def _drop_modalities(
        self, module: MoREModule, outputs: dict[str, Tensor], present: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Rows of cells with several modalities, and their fused embedding from a random part of them."""
        several = present.sum(1) > 1
        if not module.training or self.modality_dropout == 0 or not several.any():
            return several, None
        rows = several & (torch.rand(len(several), device=several.device) < self.modality_dropout)
        if not rows.any():
            return rows, None
        kept = present[rows]
        order = torch.rand(kept.shape, device=kept.device).masked_fill(~kept, 2.0)  # never the least
        first = torch.nn.functional.one_hot(order.argmin(1), kept.shape[1]).bool()  # one that surely stays
        last = torch.nn.functional.one_hot(order.masked_fill(~kept, -1.0).argmax(1), kept.shape[1]).bool()  # one goes
        kept = kept & (first | (torch.rand(kept.shape, device=kept.device) < 0.5)) & ~last
        return rows, module.fusion(outputs["embeddings"][rows], outputs["base"][rows], kept)

    def _align_modalities(
        self,
        module: MoREModule,
        outputs: dict[str, Tensor],
        present: Tensor,
        domain: Tensor,
        fewer: Tensor,
        partial: Tensor | None,
    ) -> Tensor:
        """InfoNCE of paired cells, distillation of all modalities into some, MMD of modalities without pairs.

        With labels, domains of different modalities are aligned type by type (``align_batch``), which is safer than
        aligning all of their cells; without, unpaired modalities are aligned as a whole.
        """
        embeddings, typed = outputs["embeddings"], module.classifier is not None
        terms = []
        if partial is not None:
            terms.append(distil(partial, outputs["adapted"][fewer]))
        n = present.shape[1]
        for i in range(n):
            for j in range(i + 1, n):
                both = present[:, i] & present[:, j]
                if both.sum() > 1:
                    a, b = (module.projection(embeddings[both, m]) for m in (i, j))
                    terms.append(0.1 * pair_modalities(a, b, domain[both], self.temperature))
                elif not typed and present[:, i].any() and present[:, j].any():
                    z = torch.cat([embeddings[present[:, i], i], embeddings[present[:, j], j]])
                    which = torch.cat([torch.full((int(present[:, m].sum()),), k) for k, m in enumerate((i, j))])
                    terms.append(align_batches(z, which.to(z.device), None, 2))
        return torch.stack(terms).sum() if terms else embeddings.sum() * 0.0  # zero, with a gradient


def _align(module: MoREModule, z: Tensor, domain: Tensor, types: Tensor) -> Tensor:
    """Alignment of batches within types: among all of them, and among those that weaker keys do not tell apart."""
    total = z.new_zeros(())
    for weight, group in module.compared:
        n_types, within = module.n_labels or MOST_CLUSTERS, types
        if group.any():  # types of each group, numbered by what occurs here
            pairs = torch.where(types >= 0, group.to(domain.device)[domain] * n_types + types, -1)
            names, codes = torch.unique(torch.cat([pairs.new_full((1,), -1), pairs]), return_inverse=True)
            n_types, within = len(names), codes[1:] - 1
        total = total + weight * align_batches(z, domain, within, module.n_domains, n_types)
    return total


def _reconstruct(module: MoREModule, tensors: dict[str, Tensor], source: Tensor) -> Tensor:
    """Negative log-likelihood of what the view hides, mean over the measured modalities, (cells,)."""
    total, n = torch.zeros(2, len(source), device=source.device)
    for at, name in enumerate(module.modalities):
        decoder = cast(Decoder, module.decoders[name])
        rows = tensors["present"][:, at]
        loss = decoder.loss(
            source[rows], tensors[f"target_{name}"][rows], tensors[f"totals_{name}"][rows], tensors[f"hidden_{name}"]
        )
        total = total.index_add(0, rows.nonzero()[:, 0], loss.float())  # under autocast a loss may be half precision
        n = n + rows.float()
    return total / n.clamp_min(1.0)
