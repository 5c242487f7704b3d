"""The training loop: sampled groups of cells, AdamW, averaged weights, checkpoints that survive a kill."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from more_scvi.backbones import MoreMini

from ._objective import contrast, denoise, drift, same_label
from ._pool import Pool
from ._views import Views

_TIMED_STEPS = 20


@dataclass(frozen=True)
class PretrainSettings:
    """Settings of :func:`pretrain`.

    Attributes
    ----------
    n_groups, n_cells
        Groups per step, and cells per group (half of them drawn, half neighbours of those).
    learning_rate, weight_decay
        AdamW; the rate warms up over a twentieth of the steps and falls along a cosine.
    smoothing
        Share of a cell's neighbours in its denoising target.
    contrast, drift
        Weights of the losses beside ``denoise``.
    temperature
        Of the contrast.
    average
        Decay of the averaged weights, which are the ones that are kept.
    checkpoint_every
        Steps between checkpoints.
    seed
        Seed of weights and sampling.
    """

    n_groups: int = 3
    n_cells: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    smoothing: float = 0.5
    contrast: float = 0.3
    drift: float = 0.02
    temperature: float = 0.2
    average: float = 0.995
    checkpoint_every: int = 100
    seed: int = 0


def pretrain(
    pool: Pool,
    views: Views,
    backbone: MoreMini,
    *,
    checkpoint: str | Path,
    minutes: float = 30.0,
    n_steps: int | None = None,
    resume: bool = False,
    settings: PretrainSettings = PretrainSettings(),
    on_step: Callable[[int, dict[str, float]], None] | None = None,
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
    minutes
        Time to train for; the first 20 steps are timed to set the number of steps.
    n_steps
        Number of steps, instead of ``minutes``.
    resume
        Go on from ``checkpoint`` if it exists.
    settings
        Everything else.
    on_step
        Called after each step with its number and losses.

    Raises
    ------
    ValueError
        If the checkpoint is of a run with other settings, or a loss is not finite.
    """
    path = Path(checkpoint)
    network = deepcopy(backbone.transformer).train()
    for parameter in network.parameters():
        parameter.requires_grad_(True)
    averaged = {k: v.detach().clone() for k, v in network.state_dict().items()}
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=settings.learning_rate, betas=(0.9, 0.98), weight_decay=settings.weight_decay
    )
    step = 0
    if resume and path.exists():
        state = torch.load(path, weights_only=True)
        if state["settings"] != asdict(settings):
            raise ValueError(f"{path} was written with settings {state['settings']}: resume with those, or start anew.")
        network.load_state_dict(state["network"])
        optimiser.load_state_dict(state["optimiser"])
        averaged, step, n_steps = state["averaged"], state["step"], state["n_steps"]

    sample = _Sampler(pool, views, settings)
    started, first = time.monotonic(), step
    bar = tqdm(total=n_steps, initial=step, desc="pre-training", unit="step")
    while n_steps is None or step < n_steps:
        rate = _schedule(step, n_steps) * settings.learning_rate
        for group in optimiser.param_groups:
            group["lr"] = rate
        terms = _losses(network, *sample(step), settings)
        loss = terms["denoise"] + settings.contrast * terms["contrast"] + settings.drift * terms["drift"]
        if not torch.isfinite(loss):
            values = {k: float(v) for k, v in terms.items()}
            raise ValueError(f"Pre-training diverged at step {step}: {values}. Lower learning_rate and start anew.")
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        step += 1
        decay = min(settings.average, step / (step + 10))
        for key, value in network.state_dict().items():
            averaged[key].lerp_(value, 1 - decay)
        if n_steps is None and step - first >= _TIMED_STEPS:
            n_steps = max(step, int(minutes * 60 * (step - first) / (time.monotonic() - started)))
            bar.total = n_steps
        values = {k: float(v.detach()) for k, v in terms.items()}
        bar.update()
        bar.set_postfix({k: f"{v:.3f}" for k, v in values.items()}, refresh=False)
        if on_step is not None:
            on_step(step, values)
        if n_steps is not None and (step % settings.checkpoint_every == 0 or step == n_steps):
            state = {"network": network.state_dict(), "optimiser": optimiser.state_dict(), "averaged": averaged}
            _save(path, state | {"step": step, "n_steps": n_steps, "settings": asdict(settings)})
    bar.close()
    state = backbone.state_dict() | {f"transformer.{k}": v for k, v in averaged.items()}
    return MoreMini(backbone.sizes, backbone.vocabulary, state)


def _schedule(step: int, n_steps: int | None) -> float:
    """Linear warm-up, then a cosine to a hundredth."""
    if n_steps is None:
        return (step + 1) / 100
    warm = max(n_steps // 20, 1)
    if step < warm:
        return (step + 1) / warm
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(n_steps - warm, 1)))


def _save(path: Path, state: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    torch.save(state, temporary)
    os.replace(temporary, path)


class _Sampler:
    """Groups of a step: two views, their context, the denoising target and which cells belong together."""

    def __init__(self, pool: Pool, views: Views, settings: PretrainSettings) -> None:
        self.views, self.settings = views, settings
        self.members = [np.flatnonzero(views.block == b) for b in range(views.block.max() + 1)]
        per_study = np.sqrt(np.bincount(pool.study))
        blocks = np.array([pool.study[m[0]] for m in self.members])
        weight = per_study[blocks] / np.bincount(blocks)[blocks]
        self.weight = weight / weight.sum()
        known = np.unique(pool.labels[pool.labels != ""], return_inverse=True)[1]
        self.label = np.full(len(pool.labels), -1)
        self.label[pool.labels != ""] = known

    def __call__(self, step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        s, views = self.settings, self.views
        rng = np.random.default_rng([s.seed, step])
        cells = np.stack([self._group(rng) for _ in range(s.n_groups)])
        pair = int(rng.integers((len(views.features) - 1) // 2))
        shown = [1 + 2 * pair, 2 + 2 * pair]
        if rng.random() < 0.5:
            shown[int(rng.integers(2))] = 0  # the clean view is what most users will encode
        features = torch.from_numpy(np.stack([views.features[v, cells] for v in shown])).float()
        context = torch.from_numpy(np.stack([views.context[v, cells] for v in shown])).float()
        clean = views.features[0]
        around = clean[views.neighbours[cells]].astype(np.float32).mean(2)
        target = torch.from_numpy((1 - s.smoothing) * clean[cells].astype(np.float32) + s.smoothing * around)
        label = torch.from_numpy(self.label[cells])
        near = (views.neighbours[cells][:, :, None, :] == cells[:, None, :, None]).any(-1)
        near = torch.from_numpy(near | (cells[:, :, None] == cells[:, None, :]))
        unlabelled = (label < 0)[:, :, None] | (label < 0)[:, None, :]
        return features, context, target, same_label(label) | (near & unlabelled)

    def _group(self, rng: np.random.Generator) -> np.ndarray:
        """Cells of one block: drawn ones, then a neighbour of each."""
        members = self.members[rng.choice(len(self.members), p=self.weight)]
        half = self.settings.n_cells // 2
        drawn = rng.choice(members, half, replace=len(members) < half)
        column = rng.integers(self.views.neighbours.shape[1], size=half)
        return np.concatenate([drawn, self.views.neighbours[drawn, column]])


def _losses(
    network: torch.nn.Module, features: Tensor, context: Tensor, target: Tensor, positive: Tensor,
    settings: PretrainSettings,
) -> dict[str, Tensor]:  # fmt: skip
    residual = network(features.flatten(0, 2), context.flatten(0, 2)).view_as(features)
    z_a, z_b = features + residual
    return {
        "denoise": (denoise(z_a, target) + denoise(z_b, target)) / 2,
        "contrast": contrast(z_a, z_b, positive, settings.temperature),
        "drift": (drift(residual[0]) + drift(residual[1])) / 2,
    }
