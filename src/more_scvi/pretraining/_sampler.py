"""Minibatches of pre-training: groups of cells of one block each, in two views that show different genes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from ._pool import Pool
from ._programs import count_factor, expected_share
from ._views import Views

_CLIP = 5.0


@dataclass(frozen=True, eq=False)
class Decoder:
    """Standardised expression of the pool, cell by cell, and the linear map to it from clean features."""

    weight: np.ndarray  # (features, genes) float32: ridge regression on clean features, within studies
    factor: np.ndarray  # (cells,) what a count is multiplied by before log1p
    mean: np.ndarray  # (genes,) of the front
    scale: np.ndarray  # (genes,) of the front

    def expression(self, pool: Pool, cells: np.ndarray, genes: np.ndarray) -> np.ndarray:
        """(cells, genes) standardised expression."""
        x = pool.counts[cells][:, genes].toarray() * self.factor[cells, None]
        return np.clip((np.log1p(x) - self.mean[genes]) / self.scale[genes], -_CLIP, _CLIP)


def fit_decoder(pool: Pool, clean: np.ndarray, mean: np.ndarray, scale: np.ndarray, target_sum: float) -> Decoder:
    """Regress standardised expression on clean features (cells, features), both centred within studies.

    The weights of a gene that few studies measured are shrunk by their share. Counts stay sparse.
    """
    factor = count_factor(pool, expected_share(pool), target_sum).astype(np.float32)
    weight = np.zeros((clean.shape[1], pool.counts.shape[1]), np.float64)
    gram = np.zeros((clean.shape[1], clean.shape[1]))
    for s in range(len(pool.studies)):
        cells = np.flatnonzero(pool.study == s)
        y = pool.counts[cells]
        y.data = np.log1p(y.data * np.repeat(factor[cells], np.diff(y.indptr)))
        f = clean[cells].astype(np.float64)
        f -= f.mean(0)
        share = 1.0 / np.sqrt(len(cells))  # a study counts as the square root of its cells
        weight += share * (y.T @ f).T / scale * pool.measured[s]
        gram += share * f.T @ f
    gram += 1e-2 * np.trace(gram) / len(gram) * np.eye(len(gram))
    return Decoder(np.linalg.solve(gram, weight).astype(np.float32), factor, mean, scale)


class Minibatch(NamedTuple):
    """One step; the first axis of features and context are the two views."""

    features: Tensor  # (2, groups, cells, features)
    context: Tensor  # (2, groups, cells, context)
    target: Tensor  # (groups, cells, features) clean features, smoothed over neighbours
    cluster: Tensor  # (groups, cells) number of the cluster
    hidden: Tensor  # (groups, cells, genes) standardised expression of genes that the first view hides
    decoder: Tensor  # (groups, features, genes) decoder of these genes


class Sampler(IterableDataset):
    """Minibatches from ``start`` to ``stop``; what a step holds depends on the seed and its number only.

    A step has ``n_groups`` groups of ``n_cells`` cells and ``n_hidden`` hidden genes each; ``smoothing`` is the share
    of a cell's neighbours in its target.
    """

    def __init__(
        self, pool: Pool, views: Views, decoder: Decoder, start: int, stop: int, *, n_groups: int, n_cells: int,
        n_hidden: int, smoothing: float, seed: int,
    ) -> None:  # fmt: skip
        self.pool, self.views, self.decoder = pool, views, decoder
        self.start, self.stop, self.seed = start, stop, seed
        self.n_groups, self.n_cells, self.n_hidden, self.smoothing = n_groups, n_cells, n_hidden, smoothing
        self.members = [np.flatnonzero(views.block == b) for b in range(views.block.max() + 1)]
        blocks = np.array([pool.study[m[0]] for m in self.members])
        weight = np.sqrt(np.bincount(pool.study))[blocks] / np.bincount(blocks)[blocks]
        self.weight = weight / weight.sum()
        self.rarity = 1.0 / np.sqrt(np.bincount(views.cluster))[views.cluster]

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[Minibatch]:
        for step in range(self.start, self.stop):
            yield self.draw(step)

    def draw(self, step: int) -> Minibatch:
        """The minibatch of a step."""
        views = self.views
        rng = np.random.default_rng([self.seed, step])
        blocks = rng.choice(len(self.members), self.n_groups, p=self.weight)
        cells = np.stack([self._group(rng, self.members[b]) for b in blocks])
        pair = int(rng.integers((len(views.features) - 1) // 2))
        shown = [1 + 2 * pair, 2 + 2 * pair]
        genes = np.stack([self._hidden(rng, b, shown[0]) for b in blocks])
        if rng.random() < 0.5:
            shown[1] = 0  # the clean view, beside the smaller panel
        clean = views.features[0]
        around = clean[views.neighbours[cells]].astype(np.float32).mean(2)
        target = (1 - self.smoothing) * clean[cells].astype(np.float32) + self.smoothing * around
        hidden = np.stack([self.decoder.expression(self.pool, c, g) for c, g in zip(cells, genes, strict=True)])
        return Minibatch(
            features=torch.from_numpy(np.stack([views.features[v, cells] for v in shown])).float(),
            context=torch.from_numpy(np.stack([views.context[v, cells] for v in shown])).float(),
            target=torch.from_numpy(target),
            cluster=torch.from_numpy(views.cluster[cells]),
            hidden=torch.from_numpy(hidden.astype(np.float32)),
            decoder=torch.from_numpy(self.decoder.weight[:, genes].transpose(1, 0, 2).copy()),
        )

    def _group(self, rng: np.random.Generator, members: np.ndarray) -> np.ndarray:
        """Cells of one block: drawn ones, small clusters more often, then a neighbour of each."""
        half = self.n_cells // 2
        p = self.rarity[members] / self.rarity[members].sum()
        drawn = rng.choice(members, half, replace=len(members) < half, p=p)
        column = rng.integers(self.views.neighbours.shape[1], size=half)
        return np.concatenate([drawn, self.views.neighbours[drawn, column]])

    def _hidden(self, rng: np.random.Generator, block: int, view: int) -> np.ndarray:
        """Genes that the block measured and the view does not show."""
        genes = np.flatnonzero(self.views.panels[block, 0] & ~self.views.panels[block, view])
        return rng.choice(genes, self.n_hidden, replace=len(genes) < self.n_hidden)
