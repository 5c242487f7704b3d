"""The trained part of MoRE: wires base, adapter, refinement, heads and decoder, and sums the losses."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from scvi.module.base import BaseModuleClass, LossOutput, auto_move_data
from torch import Tensor

from more_scvi import losses
from more_scvi.module._adapter import GatedAdapter
from more_scvi.module._base import PathBase, typed_offsets
from more_scvi.module._decoders import ExpressionDecoder
from more_scvi.module._direct import DirectPath
from more_scvi.module._heads import Classifier, Projection, WideClassifier
from more_scvi.module._refinement import Refinement
from more_scvi.module._spread import SpreadStep

LOSS_WEIGHTS = {
    "masked": 0.1,
    "classify": 1.0,
    "contrast": 0.1,
    "align_batch": 10.0,
    "variance": 0.1,
    "keep": 20.0,
}


class MoREModule(BaseModuleClass):
    """Gate and adapter, refinement, heads and decoder on a linear base.

    Minibatches hold the linear base of each cell (``base``), the base of one masked view (``view``), and
    what the losses need (``target``, ``totals``, ``hidden``, ``batch``, ``labels``).

    Parameters
    ----------
    n_features
        Width of the frozen features (0: no backbone).
    n_genes
        Genes of the data set.
    n_batch, n_labels
        Number of batches and of known labels (0: no classifier).
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
        Genes that masked modelling predicts.
    likelihood
        ``"nb"`` or ``"gaussian"``.
    n_bottleneck, dropout
        Width of and dropout in the adapter's bottleneck.
    n_refinement_steps, refinement_rank
        Steps and rank of the refinement.
    """

    shares: Tensor
    target_genes: Tensor
    fitted: Tensor
    labels_fitted: Tensor
    composition: Tensor

    def __init__(
        self,
        n_features: int,
        n_genes: int,
        n_batch: int,
        n_labels: int,
        n_covariates: int = 0,
        n_latent: int = 50,
        n_variable: int = 2000,
        n_components: int = 50,
        n_wide: int = 400,
        n_feature_axes: int = 50,
        n_targets: int = 200,
        likelihood: str = "nb",
        n_bottleneck: int = 64,
        dropout: float = 0.1,
        n_refinement_steps: int = 2,
        refinement_rank: int = 8,
    ):
        super().__init__()
        self.n_batch, self.n_labels = n_batch, n_labels
        self.direct = DirectPath(n_genes, n_variable, n_components, n_wide)
        widths = {}
        if n_features:
            widths["frozen"] = (n_features, min(n_feature_axes, n_features))
        if self.direct.n_components:
            widths["direct"] = (self.direct.n_components, self.direct.n_components)
        self.paths = torch.nn.ModuleDict(
            {name: PathBase(n_in, n_out, n_batch, n_covariates) for name, (n_in, n_out) in widths.items()}
        )
        path_widths = [n_out for _, n_out in widths.values()]
        self.n_latent = min(n_latent, sum(path_widths))
        self.register_buffer("shares", torch.full((len(widths),), 1.0 / len(widths)))
        self.register_buffer("target_genes", torch.zeros(min(n_targets, n_genes), dtype=torch.long))
        self.register_buffer("fitted", torch.tensor(False))
        self.register_buffer("labels_fitted", torch.tensor(False))
        self.register_buffer("composition", torch.zeros(n_batch, sum(path_widths)))
        self.adapter = GatedAdapter(path_widths, self.n_latent, n_bottleneck, dropout)
        self.refinement = Refinement(self.n_latent, n_batch, n_refinement_steps, refinement_rank)
        self.classifier = Classifier(self.n_latent, n_labels) if n_labels else None
        self.wide = WideClassifier(self.direct.wide_loadings.shape[1], n_labels) if n_labels and n_wide else None
        self.spread = (
            SpreadStep(self.n_latent, n_batch, n_labels) if n_labels and n_batch > 1 and n_refinement_steps else None
        )
        self.projection = Projection(self.n_latent)
        self.decoder = ExpressionDecoder(self.n_latent, len(self.target_genes), likelihood)

    @property
    def path_names(self) -> list[str]:
        """Names of the paths in the order of the base's columns."""
        return list(self.paths)

    # ---- base: numpy in, numpy out; called once per data set

    def fit_base(
        self, features: dict[str, np.ndarray], batch: np.ndarray, covariates: np.ndarray, shares: np.ndarray
    ) -> np.ndarray:
        """Fit centring, rotation and shares; return the base, (cells, sum of path widths) float32."""
        self.shares.copy_(torch.as_tensor(shares, dtype=torch.float32))
        base = self._join([self._path(name).fit(features[name], batch, covariates) for name in self.paths])
        vectors = np.linalg.eigh(base.T @ base)[1][:, ::-1][:, : self.n_latent]
        vectors = vectors * np.sign(vectors[np.abs(vectors).argmax(0), np.arange(vectors.shape[1])])
        self.adapter.rotation.copy_(torch.from_numpy(np.ascontiguousarray(vectors)))
        self.fitted.fill_(True)
        return base

    def transform_base(self, features: dict[str, np.ndarray], batch: np.ndarray, covariates: np.ndarray) -> np.ndarray:
        """Base of cells given their path features, (cells, sum of path widths) float32."""
        base = self._join([self._path(name).transform(features[name], batch, covariates) for name in self.paths])
        known = batch >= 0
        base[known] -= self.composition.cpu().numpy()[batch[known]]
        return base

    def fit_labels(
        self, base: np.ndarray, wide: np.ndarray, batch: np.ndarray, labels: np.ndarray, certainty: float = 0.9
    ) -> np.ndarray:
        """Fit the wide classifier on visible labels; return the shift of the base, (batches, width).

        Batches that hold types in other proportions have other means without any batch effect. The shift moves each
        batch to where its mean would be at equal composition, by visible labels and certain predictions.
        """
        visible, types = labels >= 0, labels
        if self.wide is not None:
            self.wide.fit(wide[visible], base[visible], labels[visible])
            with torch.no_grad():
                p = self.wide(torch.from_numpy(wide).to(self.wide.weight.device)).softmax(1).cpu().numpy()
            types = np.where(visible, labels, np.where(p.max(1) >= certainty, p.argmax(1), -1))
        shift = typed_offsets(base, batch, types, self.n_batch)
        self.labels_fitted.fill_(True)
        self.composition.add_(torch.from_numpy(shift).to(self.composition.device))
        return shift

    def _path(self, name: str) -> PathBase:
        return cast(PathBase, self.paths[name])

    def _join(self, parts: list[np.ndarray]) -> np.ndarray:
        shares = np.sqrt(self.shares.cpu().numpy())
        return np.concatenate([s * part for s, part in zip(shares, parts, strict=True)], 1).astype(np.float32)

    # ---- forward

    def _get_inference_input(self, tensors: dict[str, Tensor], **kwargs) -> dict[str, Tensor]:
        return {"base": tensors["base"], "batch": tensors["batch"].reshape(-1)}

    @auto_move_data
    def inference(self, base: Tensor, batch: Tensor) -> dict[str, Tensor]:
        """(cells, path widths), (cells,) -> ``z`` (cells, n_latent), ``z_labels`` (same, offset held constant)."""
        adapted = self.adapter(base)
        offset, sizes = self.refinement(adapted, batch)
        return {"z": adapted + offset, "z_labels": adapted + offset.detach(), "refinement": sizes}

    def _get_generative_input(self, tensors, inference_outputs, **kwargs) -> dict[str, Tensor]:
        return {"z_labels": inference_outputs["z_labels"], "wide": tensors["wide"]}

    @auto_move_data
    def generative(self, z_labels: Tensor, wide: Tensor) -> dict[str, Tensor | None]:
        """Logits of the trained head and log-probabilities of both experts, (cells, n_labels); None without labels."""
        if self.classifier is None:
            return {"logits": None, "log_probs": None}
        logits = self.classifier(z_labels)
        log_probs = logits.log_softmax(1)
        if self.wide is not None and self.wide.is_fitted:
            share = self.wide.share
            log_probs = torch.logaddexp(log_probs + (1 - share).log(), self.wide(wide).log_softmax(1) + share.log())
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
            Of the contrastive loss.
        variance_floor
            Share of within-class variance that the variance term leaves alone.
        refinement_penalty
            Price of the squared size of the refinement steps, relative to the variance of the embedding.
        """
        weights = LOSS_WEIGHTS if weights is None else weights
        z, z_labels = inference_outputs["z"], inference_outputs["z_labels"]
        logits = generative_outputs["logits"]
        batch, labels = tensors["batch"].reshape(-1), tensors["labels"].reshape(-1)
        types = self._types(generative_outputs["log_probs"], labels, certainty)
        n_types = max(self.n_labels, 1)
        terms: dict[str, Tensor] = {}

        def on(name: str) -> bool:
            return weights[name] > 0

        adapted_view = self.adapter(tensors["view"]) if "view" in tensors and (on("masked") or on("contrast")) else None
        reconstruction = z.new_zeros(len(z))
        if on("masked") and "target" in tensors:
            source = z_labels if adapted_view is None else adapted_view
            expected = self.decoder(source, tensors["totals"])
            reconstruction = self.decoder.loss(tensors["target"], expected, tensors["hidden"])
            terms["masked"] = reconstruction.mean()
        if on("classify") and logits is not None:
            terms["classify"] = losses.classify(logits, labels)
        if on("contrast"):
            projected = self.projection(z_labels)
            if logits is not None:
                terms["contrast"] = losses.contrast_labels(projected, labels, batch, temperature)
            elif adapted_view is not None:
                terms["contrast"] = losses.contrast_views(projected, self.projection(adapted_view), batch, temperature)
        if on("align_batch") and self.n_batch > 1 and logits is not None:
            terms["align_batch"] = losses.align_batches(z, batch, types, self.n_batch, n_types)
        if on("variance") and logits is not None:
            terms["variance"] = losses.intra_class_variance(z_labels, labels, self.n_labels, variance_floor)
        if on("keep"):
            terms["keep"] = losses.keep_distances(z, self._kept(tensors["base"]), self._groups(types, batch))
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

    def _kept(self, base: Tensor) -> Tensor:
        """Part of the base whose distances are kept: the direct path, which is the data's own geometry."""
        return base[:, -self.adapter.path_widths[-1] :]

    @torch.no_grad()
    def _types(self, log_probs: Tensor | None, labels: Tensor, certainty: float) -> Tensor:
        """Visible labels, filled up with nearly certain predictions; -1 where neither is known."""
        if log_probs is None:
            return torch.full_like(labels, -1)
        confidence, guess = log_probs.exp().max(1)
        return torch.where(labels >= 0, labels, torch.where(confidence >= certainty, guess, -1))

    def _groups(self, types: Tensor, batch: Tensor) -> Tensor:
        """Groups whose inner distances are kept: type within batch; the whole batch without labels."""
        if self.classifier is None:
            return batch
        return torch.where(types >= 0, types * self.n_batch + batch, -1)
