"""Training by Lightning: losses, AdamW, averaged weights, checkpoints that survive a kill.

The losses take features (groups, cells, features) and pairs (groups, cells, cells); a group is a set of cells of one
block, which share study and corruption.
"""

import math
import warnings
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from torch import Tensor
from torch.utils.data import DataLoader

from more_scvi._files import atomic_path
from more_scvi.backbones._checkpoints import read_torch
from more_scvi.backbones._more_mini import MoreMini
from more_scvi.data._arguments import check_integer, check_number, check_option, check_type

from ._pool import Pool
from ._views import Minibatch, Sampler, Views, check_sources, fit_decoder

OnStep = Callable[[int, dict[str, float]], None]

_LEGAL: dict[str, tuple[float, float]] = {
    "n_groups": (1, math.inf), "n_cells": (2, math.inf), "n_hidden": (1, math.inf), "learning_rate": (1e-12, 1),
    "weight_decay": (0, math.inf), "smoothing": (0, 1), "contrast": (0, math.inf), "masked": (0, math.inf),
    "drift": (0, math.inf), "temperature": (1e-6, math.inf), "average": (0, 1), "kept": (0, 1),
    "checkpoint_every": (1, math.inf), "seed": (0, math.inf),
}  # fmt: skip
"""Least and largest legal value of every setting."""


@dataclass(frozen=True)
class PretrainSettings:
    """Settings of :func:`pretrain`.

    Attributes
    ----------
    n_groups, n_cells
        Groups per step, and cells per group (half of them drawn, half neighbours of those).
    n_hidden
        Hidden genes per group whose expression is predicted.
    learning_rate, weight_decay
        AdamW; the rate warms up over a twentieth of the steps and falls along a cosine.
    smoothing
        Share of a cell's neighbours in its denoising target.
    contrast, masked, drift
        Weights of the losses beside ``denoise``.
    temperature
        Of the contrast.
    average
        Decay of the averaged weights, which are the ones that are kept.
    kept
        Share of the trained residual that is kept. In cells of few genes and counts the whole residual is sure of more
        than there is to see.
    checkpoint_every
        Steps between checkpoints.
    seed
        Seed of weights and sampling.
    """

    n_groups: int = 3
    n_cells: int = 64
    n_hidden: int = 256
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    smoothing: float = 0.5
    contrast: float = 0.3
    masked: float = 0.1
    drift: float = 0.02
    temperature: float = 0.2
    average: float = 0.995
    kept: float = 0.6
    checkpoint_every: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        for name, (least, most) in _LEGAL.items():
            check: Callable[..., float] = (
                check_number if isinstance(getattr(type(self), name), float) else check_integer
            )
            check(name, getattr(self, name), least, most)


def pretrain(
    pool: Pool,
    views: Views,
    backbone: MoreMini,
    *,
    checkpoint: str | Path,
    n_steps: int = 3000,
    resume: bool = False,
    settings: PretrainSettings = PretrainSettings(),
    on_step: OnStep | None = None,
    accelerator: str = "auto",
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] | None = None,
) -> MoreMini:
    """Train the transformer of a ``more-mini`` and return a frozen copy of the backbone with it.

    Every step draws groups of cells, each from one block of one study, in two views that show different genes. Sampling
    depends on seed and step only: a run that was killed and resumed does what an uninterrupted one does.

    Parameters
    ----------
    pool, views
        The cells and what :func:`make_views` made of them.
    backbone
        Gives the linear front and the size of the transformer; it is not changed.
    checkpoint
        File that is replaced atomically every ``settings.checkpoint_every`` steps.
    n_steps
        Number of steps.
    resume
        Go on from ``checkpoint`` if it exists.
    settings
        Everything else.
    on_step
        Called after each step with its number and losses.
    accelerator, precision
        As in Lightning; ``precision=None`` is ``"bf16-mixed"`` on a GPU and ``"32-true"`` elsewhere.

    Raises
    ------
    ValueError
        If the checkpoint is of a run with other settings, or a loss is not finite.
    """
    check_sources(pool, backbone)
    check_type("views", views, Views, "what make_views returns")
    if views.features.shape[1:] != (len(pool.study), backbone.n_features):
        raise ValueError(
            f"views hold features of shape {views.features.shape[1:]}, but pool and backbone have"
            f" {(len(pool.study), backbone.n_features)}; make them of these: make_views(pool, backbone)."
        )
    check_type("settings", settings, PretrainSettings, "a PretrainSettings")
    check_type("checkpoint", checkpoint, str | PathLike, "the path of a file")
    check_integer("n_steps", n_steps, 0)
    if precision is not None:
        check_option("precision", precision, ("32-true", "bf16-mixed", "16-mixed"))
    if on_step is not None and not callable(on_step):
        raise TypeError(f"on_step={on_step!r} cannot be called; give a function of a number and a dict, or None.")
    path = Path(checkpoint)
    front = backbone.front
    mean, scale = front.gene_mean.numpy(), front.gene_scale.numpy()
    decoder = fit_decoder(pool, views.features[0], mean, scale, front.target_sum)
    module = _Pretraining(deepcopy(backbone.transformer).train(), n_steps, settings, path, on_step)
    if resume and path.exists():
        module.restore(read_torch(path), path)
    sampler = Sampler(
        pool, views, decoder, module.step, n_steps, n_groups=settings.n_groups, n_cells=settings.n_cells,
        n_hidden=settings.n_hidden, smoothing=settings.smoothing, seed=settings.seed,
    )  # fmt: skip
    if precision is None:
        gpu = accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
        precision = "bf16-mixed" if gpu else "32-true"
    trainer = Trainer(
        accelerator=accelerator, devices=1, precision=precision, max_epochs=1, logger=False, gradient_clip_val=1.0,
        callbacks=[TQDMProgressBar(refresh_rate=20)], enable_checkpointing=False, enable_model_summary=False,
    )  # fmt: skip
    if len(sampler):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*does not have many workers.*|.*IterableDataset.*")
            trainer.fit(module, DataLoader(sampler, batch_size=None))  # the sampler gives whole minibatches
    averaged = {f"transformer.{k}": v.cpu() for k, v in module.averaged.items()}
    averaged["transformer.readout"] *= settings.kept  # the residual is linear in it
    return MoreMini(backbone.sizes, backbone.vocabulary, backbone.state_dict() | averaged)


class _Pretraining(LightningModule):
    """Losses, optimiser and averaged weights; reports and saves after every step."""

    def __init__(
        self, network: torch.nn.Module, n_steps: int, settings: PretrainSettings, path: Path, on_step: OnStep | None
    ) -> None:
        super().__init__()
        self.network, self.n_steps, self.settings, self.step = network, n_steps, settings, 0
        self.path, self.on_step = path, on_step
        network.requires_grad_(True)  # it is a copy from a frozen backbone
        self.averaged = {k: v.detach().clone() for k, v in network.state_dict().items()}
        self.terms: dict[str, float] = {}
        self._optimiser_state: dict[str, Any] | None = None

    def configure_optimizers(self) -> torch.optim.Optimizer:
        s = self.settings
        optimiser = torch.optim.AdamW(
            self.network.parameters(), lr=s.learning_rate, betas=(0.9, 0.98), weight_decay=s.weight_decay
        )
        if self._optimiser_state is not None:
            optimiser.load_state_dict(self._optimiser_state)
        return optimiser

    def training_step(self, batch: Minibatch, _: int) -> Tensor:
        s = self.settings
        residual = self.network(batch.features.flatten(0, 2), batch.context.flatten(0, 2)).view_as(batch.features)
        z_a, z_b = batch.features + residual.float()  # losses in float32 under mixed precision, too
        terms = {
            "denoise": (denoise(z_a, batch.target) + denoise(z_b, batch.target)) / 2,
            "contrast": contrast(z_a, z_b, same_cluster(batch.cluster), s.temperature),
            "masked": masked(z_a, batch.decoder, batch.hidden),
            "drift": (drift(residual[0].float()) + drift(residual[1].float())) / 2,
        }
        self.terms = {k: float(v.detach()) for k, v in terms.items()}
        loss = terms["denoise"] + sum(getattr(s, k) * terms[k] for k in ("contrast", "masked", "drift"))
        if not torch.isfinite(loss):
            raise ValueError(
                f"Pre-training diverged at step {self.step}: {self.terms}. Lower learning_rate and start anew."
            )
        self.log_dict(self.terms, prog_bar=True)
        return loss

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        for group in optimizer.param_groups:  # a function of the step alone, so that a resumed run goes on with it
            group["lr"] = _schedule(self.step, self.n_steps) * self.settings.learning_rate

    @torch.no_grad()
    def on_train_batch_end(self, *_: Any) -> None:
        """Count the step, follow the weights by their running average, report and save."""
        self.step += 1
        decay = min(self.settings.average, self.step / (self.step + 10))  # early weights are soon forgotten
        for key, value in self.network.state_dict().items():
            self.averaged[key] = self.averaged[key].to(value.device).lerp_(value, 1 - decay)
        if self.on_step is not None:
            self.on_step(self.step, self.terms)
        if self.step % self.settings.checkpoint_every == 0 or self.step == self.n_steps:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(self.path) as beside:
                torch.save(self.snapshot(), beside)

    def snapshot(self) -> dict[str, Any]:
        """What a later run needs to go on."""
        return {
            "network": self.network.state_dict(),
            "optimiser": self.trainer.optimizers[0].state_dict(),
            "averaged": self.averaged,
            "step": self.step,
            "n_steps": self.n_steps,
            "settings": asdict(self.settings),
        }

    def restore(self, state: dict[str, Any], path: Path) -> None:
        """Take up a snapshot; a ValueError if it is of a run with other settings or another network, or none."""
        wanted = asdict(self.settings) | {"n_steps": self.n_steps}
        try:
            found = state["settings"] | {"n_steps": state["n_steps"]}
            if found != wanted:
                raise ValueError(f"{path} was written with settings {found}: resume with those, or start anew.")
            self.network.load_state_dict(state["network"])
            self.averaged, self.step, self._optimiser_state = state["averaged"], int(state["step"]), state["optimiser"]
        except (LookupError, TypeError, AttributeError, RuntimeError) as error:
            raise ValueError(f"{path} is no checkpoint of this network ({error!r}): start anew.") from None


def _schedule(step: int, n_steps: int) -> float:
    """Linear warm-up, then a cosine to a hundredth."""
    warm = max(n_steps // 20, 1)
    if step < warm:
        return (step + 1) / warm
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(n_steps - warm, 1)))


def centred(z: Tensor) -> Tensor:
    """Features minus their group's mean: what is the same for a whole study and platform does not count."""
    return z - z.mean(1, keepdim=True)


def denoise(z: Tensor, target: Tensor) -> Tensor:
    """Squared error against the clean features, per group in units of the target's variance; group means are free."""
    target = centred(target)
    error = (centred(z) - target).pow(2).mean((1, 2))
    return (error / target.pow(2).mean((1, 2)).clamp_min(1e-3)).mean()  # a group of equal cells has no variance


def masked(z: Tensor, decoder: Tensor, target: Tensor) -> Tensor:
    """Squared error of a linear decoder at genes that the view did not show, zeros included, as of :func:`denoise`.

    Decoder (groups, features, genes) and target (groups, cells, genes), standardised expression, are of the genes that
    were drawn for each group.
    """
    return denoise(z @ decoder, target)


def contrast(z_a: Tensor, z_b: Tensor, positive: Tensor, temperature: float) -> Tensor:
    """Supervised contrast (Khosla et al. 2020) between two views of the cells of a group.

    All other cells of the group are the negatives. ``positive`` is bool, (groups, cells, cells), True on the diagonal
    (the cell itself) and for cells that should lie close; the temperature is that of the cosine.
    """
    a, b = (F.normalize(centred(z), dim=-1) for z in (z_a, z_b))
    logits = a @ b.transpose(1, 2) / temperature

    def one_way(logits: Tensor, positive: Tensor) -> Tensor:
        weight = positive.float() / positive.sum(-1, keepdim=True)
        return -(weight * logits.log_softmax(-1)).sum(-1)

    return (one_way(logits, positive) + one_way(logits.mT, positive.mT)).mean() / 2


def drift(residual: Tensor) -> Tensor:
    """Mean square of the residual beyond the group's mean: keeps the features near the linear ones."""
    return centred(residual).pow(2).mean()


def same_cluster(cluster: Tensor) -> Tensor:
    """(groups, cells, cells) pairs of cells of one cluster; a cell always pairs with itself."""
    return cluster[:, :, None] == cluster[:, None, :]
