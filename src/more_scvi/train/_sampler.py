"""Minibatches that draw every batch equally often."""

from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import Sampler


class BalancedBatchSampler(Sampler[list[int]]):
    """Minibatches with as equal numbers of cells from every batch as its size allows.

    Within a batch, cells come in random order and start again when used up; a batch with few cells
    is therefore seen more often per cell, but never more than ``max_repeat`` times as often as in a
    plain epoch.

    Parameters
    ----------
    batch
        Batch codes of the cells that can be drawn, (cells,).
    batch_size
        Cells per minibatch.
    seed
        Seed of the order; the epoch is added to it.
    max_repeat
        Upper bound on how much more often than average a cell is drawn.
    n_replicas, rank
        Number of processes and this process' number; each draws its own minibatches.
    """

    def __init__(
        self,
        batch: np.ndarray,
        batch_size: int,
        seed: int = 0,
        max_repeat: float = 10.0,
        n_replicas: int = 1,
        rank: int = 0,
    ):
        self.members = [np.flatnonzero(batch == b) for b in np.unique(batch)]
        self.batch_size = min(batch_size, len(batch))
        self.n_steps = max(1, round(len(batch) / (self.batch_size * n_replicas)))
        self.seed, self.rank, self.epoch = seed, rank, 0
        sizes = np.array([len(m) for m in self.members], dtype=float)
        even = np.full(len(sizes), 1.0 / len(sizes))
        share = np.minimum(even, max_repeat * sizes / sizes.sum())
        self.share = share / share.sum()

    def __len__(self) -> int:
        return self.n_steps

    def __iter__(self) -> Iterator[list[int]]:
        rng = np.random.default_rng([self.seed, self.epoch, self.rank])
        self.epoch += 1
        streams = [_endless(m, rng) for m in self.members]
        for _ in range(self.n_steps):
            quota = rng.multinomial(self.batch_size, self.share)
            yield [next(streams[b]) for b, n in enumerate(quota) for _ in range(n)]


def _endless(items: np.ndarray, rng: np.random.Generator) -> Iterator[int]:
    while True:
        yield from rng.permutation(items).tolist()


def seed_from_torch() -> int:
    """A seed that follows ``scvi.settings.seed`` (torch's generator) without advancing NumPy's global state."""
    return int(torch.randint(2**31 - 1, (1,)).item())
