"""Training plan: optimiser, schedule of the alignment term, one logged curve per loss term."""

import inspect
import math
from numbers import Real
from typing import Any

import torch
from scvi.module.base import LossOutput
from scvi.train import TrainingPlan

from more_scvi._compat import compute_and_log_metrics
from more_scvi.data._arguments import check_number, check_option, listing, nearest
from more_scvi.module._module import MoREModule
from more_scvi.module._objective import LOSS_WEIGHTS, PRESETS

TUNING = 0.1
"""Learning rate of pre-trained weights that are tuned (``freeze_backbone=False``), as a share of that of new ones.
Source: plain value, not tuned."""


class MoRETrainingPlan(TrainingPlan):
    """AdamW with cosine decay; the alignment term is ramped up.

    Parameters
    ----------
    module
        The module to train.
    lr, weight_decay
        Of AdamW.
    loss_weights
        λ per term; terms that are not named keep their default, 0 removes a term. Or the name of an objective:
        ``"full"`` (default), ``"fast"`` or ``"paper"``, see :data:`more_scvi.module.PRESETS`.
    warmup
        Share of the steps before alignment starts; it then rises linearly over the same share.
    **kwargs
        Further arguments of the module's loss: ``certainty``, ``temperature``, ``variance_floor``,
        ``refinement_penalty``, ``modality_dropout``; and of
        :class:`scvi.train.TrainingPlan` that apply (``on_step``, ``on_epoch``, ``compile``, ``compile_kwargs``,
        ``optimizer``, ``optimizer_creator``, ``eps``).
    """

    def __init__(
        self,
        module: MoREModule,
        *,
        lr: float = 2e-3,
        weight_decay: float = 1e-4,
        eps: float = 1e-8,
        loss_weights: dict[str, float] | str | None = None,
        warmup: float = 0.15,
        **kwargs: Any,
    ):
        own = [p for p in inspect.signature(MoRETrainingPlan).parameters if p not in ("module", "kwargs")]
        legal = [*own, *_LOSS_ARGUMENTS, *_UPSTREAM_ARGUMENTS]
        for name in kwargs:  # refused now, not in the first step
            if name not in legal:
                hint = nearest(name, legal)
                raise TypeError(f"plan_kwargs has no argument {name!r}.{hint} Legal: {listing(legal, 30)}.")
        weights = resolve_weights(loss_weights)
        for name, value in {"lr": lr, "weight_decay": weight_decay, "eps": eps, **kwargs}.items():
            if name not in _UPSTREAM_ARGUMENTS:
                check_number(name, value, 0.0)
        check_number("warmup", warmup, 0.0, 1.0)
        super().__init__(module, lr=lr, weight_decay=weight_decay, eps=eps, n_epochs_kl_warmup=None, **kwargs)  # no KL
        self.warmup = warmup
        self._sums: dict[str, dict[str, Any]] = {}
        self.loss_kwargs["weights"] = weights

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        """One step; raises ``ValueError`` when the loss is not finite."""
        self.loss_kwargs["align_ramp"] = self._align_ramp()
        loss = super().training_step(batch, batch_idx)
        if not torch.isfinite(loss):
            raise ValueError(
                f"The training loss is {loss.item()} in step {self.global_step}. Check that the input is finite, "
                "or lower `plan_kwargs={'lr': ...}`; terms are logged one by one in `model.history`."
            )
        return loss

    def _align_ramp(self) -> float:
        progress = self.global_step / max(self._n_steps(), 1)
        return min(1.0, max(0.0, progress / self.warmup - 1.0)) if self.warmup > 0 else 1.0

    def _n_steps(self) -> int:
        steps = self.trainer.estimated_stepping_batches
        return int(steps) if math.isfinite(steps) else 1000  # inf: a training without an end

    def compute_and_log_metrics(self, loss_output: LossOutput, metrics: Any, mode: str) -> None:
        """Add the terms up; they are logged once per epoch as ``<term>_train`` and ``<term>_validation``.

        Lightning takes milliseconds per logged value, as long as a step here. With ``on_step=True`` every step is
        logged as upstream does it.
        """
        if self.on_step:
            with torch.no_grad():
                compute_and_log_metrics(self, loss_output, metrics, mode)
            return
        n = loss_output.n_obs_minibatch
        sums = self._sums.setdefault(mode, {"n": 0})
        sums["n"] += n
        for name in loss_output.extra_metrics_keys:
            sums[name] = sums.get(name, 0.0) + n * loss_output.extra_metrics[name].detach()  # no .item(): that waits

    def on_train_epoch_end(self) -> None:
        """Log the mean of each term over the epoch."""
        super().on_train_epoch_end()
        self._log_sums("train")

    def on_validation_epoch_end(self) -> None:
        """Log the mean of each term over the validation cells."""
        super().on_validation_epoch_end()
        self._log_sums("validation")

    def _log_sums(self, mode: str) -> None:
        sums = self._sums.pop(mode, {"n": 0})
        n = sums.pop("n")
        for name, value in sums.items():
            self.log(f"{name}_{mode}", value / n, sync_dist=self.use_sync_dist, batch_size=n)

    def configure_optimizers(self) -> dict[str, Any]:
        """AdamW with cosine decay, or the user's own through ``optimizer_creator``."""
        params = [p for p in self.module.parameters() if p.requires_grad]
        if self.optimizer_creator is not None:
            return {"optimizer": self.optimizer_creator(params)}
        inside = self.module.inside
        groups: list[dict[str, Any]] = [{"params": params}]
        if inside is not None and inside.adapter is not None and inside.adapter.tunes_backbone:
            tuned = list(inside.adapter.parameters())
            known = set(tuned)  # in a list, tensors would be compared by their values
            groups = [{"params": [p for p in params if p not in known]}, {"params": tuned, "lr": TUNING * self.lr}]
        # one operation on all of many small tensors, which on a CPU is not torch's default
        optimizer = torch.optim.AdamW(groups, lr=self.lr, weight_decay=self.weight_decay, eps=self.eps, foreach=True)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self._n_steps(), eta_min=0.05 * self.lr)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


_LOSS_ARGUMENTS = ("certainty", "temperature", "variance_floor", "refinement_penalty", "modality_dropout")
_UPSTREAM_ARGUMENTS = ("on_step", "on_epoch", "compile", "compile_kwargs", "optimizer", "optimizer_creator")


def resolve_weights(loss_weights: dict[str, float] | str | None) -> dict[str, float]:
    """λ of every term; TypeError or ValueError for what names no objective or term."""
    if loss_weights is None:
        return dict(LOSS_WEIGHTS)
    if isinstance(loss_weights, str):
        return dict(PRESETS[check_option("loss_weights", loss_weights, list(PRESETS))])
    if not isinstance(loss_weights, dict):
        kind = type(loss_weights).__name__
        raise TypeError(f"loss_weights must be a dict of λ per term, got {kind}; terms: {listing(LOSS_WEIGHTS)}.")
    for name, value in loss_weights.items():
        check_option("a term of loss_weights", name, LOSS_WEIGHTS)
        if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value) or value < 0:
            raise ValueError(f"loss_weights[{name!r}] is {value!r}; give a finite number >= 0 (0 removes the term).")
    return LOSS_WEIGHTS | {name: float(value) for name, value in loss_weights.items()}
