"""Full fine-tuning: all weights of a copy of ``more-mini`` trained on the labels of one data set.

MoRE never does this; it is the comparison that says what is lost, and saved, by a frozen backbone. Training computes
what ``encode`` computes, with gradients for the components and the whitening of the linear front and for the
transformer. The rest of the front stays: statistics of the pre-training pool (means, scales, shares) and the members of
gene sets are no weights.
"""

from __future__ import annotations

import logging
import time
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_matrix, issparse
from torch import Tensor, nn

from more_scvi.backbones._cache import make_panels
from more_scvi.backbones._more_mini import MoreMini
from more_scvi.data._arguments import check_integer, check_number, check_type
from more_scvi.data._genes import GeneMatch

logger = logging.getLogger("more_scvi")

_BATCH_SIZE = 128
_MIN_STEPS = 10  # of an epoch, so that a handful of labels is more than a handful of steps
_PATIENCE = 5
_VALIDATION = 0.1
_N_PANELS = 6
_LEAST_DEPTH = 0.3


@dataclass(frozen=True, eq=False)
class Finetuned:
    """What :func:`finetune` returns.

    Attributes
    ----------
    backbone
        The new backbone, frozen.
    trained
        Number of weights of the backbone that were trained.
    seconds
        CPU seconds of the process.
    epoch
        The epoch, counted from 1, whose weights were kept.
    validation
        Cross-entropy of the validation slice after each epoch; empty where there were too few labels for a slice.
    """

    backbone: MoreMini
    trained: int
    seconds: float
    epoch: int
    validation: tuple[float, ...]


def finetune(
    backbone: MoreMini,
    x: csr_matrix | NDArray,
    match: GeneMatch,
    labels: ArrayLike,
    *,
    unlabeled_category: str = "Unknown",
    epochs: int = 20,
    learning_rate: float = 1e-3,
    seed: int = 0,
) -> Finetuned:
    """Train all weights of a copy of the backbone, under a linear head, to tell the visible labels apart.

    Only labelled cells are read. They are thinned to 30–100 % of their counts, and half of the batches show one of six
    panels of half the genes. AdamW lowers the cross-entropy; a tenth of the labelled cells, drawn within types, is
    kept back: training stops when their cross-entropy has not fallen for five epochs, and the best epoch is kept.
    The head is dropped.

    Parameters
    ----------
    backbone
        A ``more-mini``; not changed.
    x
        ``(cells, genes)`` raw counts.
    match
        Where the genes are in the vocabulary (:func:`more_scvi.data.match_genes`).
    labels
        ``(cells,)`` types; hidden ones read ``unlabeled_category``.
    unlabeled_category
        The word for a hidden label.
    epochs
        Largest number of passes over the labelled cells, of at least ten steps each; a step reads at most 128 cells.
    learning_rate
        Step size of AdamW; the tables of the linear front are trained in units of their root mean square. The default
        was chosen on two studies of the pre-training pool.
    seed
        Seed of the slice, the panels, the order of cells and the thinning.

    Returns
    -------
    Finetuned
        Its ``backbone`` holds values that a weights folder can hold: ``save`` and ``load`` give back the same.

    Raises
    ------
    TypeError
        If ``backbone`` is no :class:`~more_scvi.backbones.MoreMini`.
    ValueError
        If sizes disagree, ``x`` holds no counts, fewer than two types are visible, a setting is out of range, or the
        loss is not finite.

    Examples
    --------
    >>> match = match_genes(adata.var_names, backbone.vocabulary)  # doctest: +SKIP
    >>> tuned = finetune(backbone, adata.X, match, adata.obs["cell_type"])  # doctest: +SKIP
    >>> tuned.backbone.save("tuned")  # doctest: +SKIP
    >>> model = MoRE(adata, backbone="tuned")  # doctest: +SKIP
    """
    started = time.process_time()
    if not isinstance(backbone, MoreMini):
        raise TypeError(f"finetune: backbone is a {type(backbone).__name__}; only a MoreMini can be fine-tuned.")
    check_type("match", match, GeneMatch, "what match_genes(adata.var_names, backbone.vocabulary) returns")
    check_type("unlabeled_category", unlabeled_category, str, "the word for a hidden label, e.g. 'Unknown'")
    check_integer("epochs", epochs)
    check_integer("seed", seed, 0)
    if not 0 < check_number("learning_rate", learning_rate) < 1:
        raise ValueError(f"learning_rate={learning_rate} is out of range; expected a number above 0 and below 1.")
    if len(getattr(x, "shape", ())) != 2 or (x if issparse(x) else np.asarray(x[:1])).dtype.kind not in "biuf":
        raise TypeError(f"x is a {type(x).__name__} of shape {getattr(x, 'shape', None)}; give a matrix of counts.")
    known = match.vocab_index >= 0
    rows, types, code = _visible(labels, unlabeled_category, x.shape[0])
    counts = _counts(x, rows, known)

    rng = np.random.default_rng(seed)
    held = _slice(code, rng)
    shown = np.setdiff1d(np.arange(len(code)), held)
    network = _Network(backbone, match.vocab_index[known], seed)
    head = [nn.Parameter(torch.zeros(len(types), backbone.n_features)), nn.Parameter(torch.zeros(len(types)))]
    trained = list(network.parameters())
    groups: list[dict[str, Any]] = [
        {"params": [network.components, network.whitening], "weight_decay": 0.0},
        {"params": [*network.transformer.parameters(), *head]},
    ]
    optimiser = torch.optim.AdamW(groups, lr=learning_rate)
    target = torch.from_numpy(code)
    history: list[float] = []
    kept, epoch = network.state(), 0
    for number in range(1, epochs + 1):
        for cells in _batches(shown, rng):
            panel = int(rng.integers(1, _N_PANELS + 1)) if rng.random() < 0.5 else 0
            loss = F.cross_entropy(F.linear(network(_thin(counts[cells], rng), panel), *head), target[cells])
            if not torch.isfinite(loss):
                raise ValueError(f"finetune: the loss is not finite in epoch {number}; lower learning_rate.")
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_([*trained, *head], 1.0)
            optimiser.step()
        if len(held):
            history.append(_cross_entropy(network, head, counts[held], target[held]))
        if not history or history[-1] == min(history):  # without a slice the last epoch is kept
            kept, epoch = network.state(), number
        elif number - epoch >= _PATIENCE:
            break
    state = {k: v.half().float() if v.is_floating_point() else v for k, v in (backbone.state_dict() | kept).items()}
    with torch.random.fork_rng(devices=[]):  # an empty network draws weights
        tuned = MoreMini(backbone.sizes, backbone.vocabulary, state)
    n_trained, seconds = sum(p.numel() for p in trained), time.process_time() - started
    logger.info(
        "Fine-tuned %d weights on %d labelled cells of %d types: epoch %d kept, %.0f s.",
        *(n_trained, len(code), len(types), epoch, seconds),
    )
    return Finetuned(tuned, n_trained, seconds, epoch, tuple(history))


def _visible(
    labels: ArrayLike, unlabeled: str, n_cells: int
) -> tuple[NDArray[np.int64], NDArray[np.str_], NDArray[np.int64]]:
    """The rows that have a label, the types, and the number of the type in each of these rows."""
    values = np.asarray(labels)
    names = np.where(pd.isna(values), unlabeled, values.astype(str))
    if names.shape != (n_cells,):
        raise ValueError(f"finetune: labels have shape {names.shape}, x has {n_cells} cells; give one label per cell.")
    rows = np.flatnonzero(names != unlabeled)
    types, code = np.unique(names[rows], return_inverse=True)
    if len(types) < 2:
        raise ValueError(
            f"finetune: {len(types)} types are visible ({', '.join(types)}), two are needed; label more cells, or give "
            f"the word for a hidden label as unlabeled_category (now {unlabeled!r})."
        )
    return rows, types, code


def _counts(x: csr_matrix | NDArray, rows: NDArray[np.int64], known: NDArray[np.bool_]) -> csr_matrix:
    """Counts of the labelled cells and known genes."""
    if x.shape[1] != len(known):
        raise ValueError(f"finetune: x has {x.shape[1]} genes, match was made for {len(known)}: match the genes of x.")
    if not known.any():
        raise ValueError("finetune: no gene of x is in the vocabulary of more-mini; use symbols or Ensembl ids.")
    counts = csr_matrix(x[rows] if issparse(x) else np.asarray(x)[rows]).astype(np.float64)[:, np.flatnonzero(known)]
    if not np.isfinite(counts.data).all() or (counts.data < 0).any() or (counts.data % 1).any():
        raise ValueError("finetune: x holds negative, fractional or non-finite values; pass raw counts.")
    counts.sum_duplicates()
    counts.eliminate_zeros()
    return counts


def _slice(code: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """A tenth of the cells of each type, rounded; none of types with few cells."""
    parts = [rng.permutation(np.flatnonzero(code == c)) for c in range(code.max() + 1)]
    return np.sort(np.concatenate([part[: round(_VALIDATION * len(part))] for part in parts]))


def _batches(cells: NDArray[np.int64], rng: np.random.Generator) -> list[NDArray[np.int64]]:
    """The cells of an epoch in random order, several times over where they are few."""
    size = min(_BATCH_SIZE, len(cells))
    n_steps = max(_MIN_STEPS, -(-len(cells) // size))
    order = np.concatenate([rng.permutation(cells) for _ in range(-(-n_steps * size // len(cells)))])
    return np.array_split(order[: max(n_steps * size, len(cells))], n_steps)  # no last batch of a few cells


def _thin(counts: csr_matrix, rng: np.random.Generator) -> csr_matrix:
    """Each cell at a random share of its depth."""
    thinned = counts.copy()
    depth = rng.uniform(_LEAST_DEPTH, 1, counts.shape[0])
    thinned.data = rng.binomial(counts.data.astype(np.int64), np.repeat(depth, np.diff(counts.indptr))).astype(float)
    thinned.eliminate_zeros()
    return thinned


@torch.no_grad()
def _cross_entropy(network: _Network, head: list[nn.Parameter], counts: csr_matrix, target: Tensor) -> float:
    """Mean over cells that are neither thinned nor trained on."""
    total = 0.0
    for start in range(0, counts.shape[0], _BATCH_SIZE):
        part = slice(start, start + _BATCH_SIZE)
        total += float(F.cross_entropy(F.linear(network(counts[part], 0), *head), target[part], reduction="sum"))
    return total / counts.shape[0]


@dataclass(frozen=True)
class _Panel:
    """Visible genes, and what of the front depends on them and is not trained."""

    columns: NDArray[np.int64]  # among the genes of the data
    genes: NDArray[np.int64]  # in the vocabulary
    sets: csr_matrix  # (sets, visible genes), weights of the genes in the means over gene sets
    mean: NDArray[np.float32]
    scale: NDArray[np.float32]
    share: float


class _Network(nn.Module):
    """A trainable copy of a ``more-mini`` for the genes of one data set; panel 0 shows all of them."""

    def __init__(self, backbone: MoreMini, genes: NDArray[np.int64], seed: int) -> None:
        super().__init__()
        self.front, self.sizes = backbone.front, backbone.sizes
        self.panels = [self._panel(np.arange(len(genes)), genes)]
        for visible in make_panels(len(genes), _N_PANELS, 0.5, seed):
            self.panels.append(self._panel(np.flatnonzero(visible), genes[visible]))
        # tables in units of their spread, so that one learning rate means the same for all weights
        self.unit = {name: float(getattr(self.front, name).square().mean().sqrt()) for name in _TABLES}
        self.components, self.whitening = (nn.Parameter(getattr(self.front, k) / self.unit[k]) for k in _TABLES)
        self.transformer = deepcopy(backbone.transformer).train().requires_grad_(True)
        self.scale = self.front.program_scale
        variances = self.scale[: self.sizes.n_components].double() ** 2
        self.prior = torch.diag(1.0 / (variances - 1.0).clamp_min(0.05))  # as in ProgramFront.program_weights

    def _panel(self, columns: NDArray[np.int64], genes: NDArray[np.int64]) -> _Panel:
        front = self.front
        sets = front.program_weights(genes)[:, self.sizes.n_components :]
        mean, scale = front.gene_mean.numpy()[genes], front.gene_scale.numpy()[genes]
        sets = csr_matrix(sets.T.astype(np.float32))
        return _Panel(columns, genes, sets, mean, scale, front.linear_map(genes).share)

    def state(self) -> dict[str, Tensor]:
        """Copies of the trained tensors under the names of the backbone's state."""
        tables = {f"front.{name}": getattr(self, name).detach() * self.unit[name] for name in _TABLES}
        return tables | {f"transformer.{k}": v.detach().clone() for k, v in self.transformer.state_dict().items()}

    def forward(self, counts: csr_matrix, panel: int) -> Tensor:
        """Features ``(cells, n_features)`` of counts ``(cells, genes of the data)``."""
        seen = self.panels[panel]
        x = counts[:, seen.columns]
        context = torch.from_numpy(self.front.encode(x, seen.genes)[1])
        total = np.asarray(x.sum(axis=1)).ravel()
        y = x.multiply(self.sizes.target_sum * seen.share / np.maximum(total, 1)[:, None]).toarray()
        z = ((np.log1p(y) - seen.mean) / seen.scale).astype(np.float32)
        z[total == 0] = 0.0  # as ProgramFront.encode: the mean of the pool
        components = self.components * self.unit["components"]
        u = components.index_select(0, torch.from_numpy(seen.genes))
        gain = torch.linalg.solve((u.T @ u).double() + self.prior, (components.T @ components).double() + self.prior)
        by_components = torch.from_numpy(z) @ u @ gain.float()
        by_sets = torch.from_numpy(np.ascontiguousarray((seen.sets @ z.T).T))
        features = torch.cat([by_components, by_sets], dim=1) / self.scale @ (self.whitening * self.unit["whitening"])
        return features + self.transformer(features, context)


_TABLES = ("components", "whitening")
