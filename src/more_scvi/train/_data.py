"""Cached features as minibatches: what training reads instead of the count matrix."""

from dataclasses import dataclass
from typing import Any

import lightning
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Subset

from more_scvi.annotate._annotator import Lessons
from more_scvi.base._arrays import Arrays, InsideArrays, MaskedViews
from more_scvi.train._sampler import BalancedBatchSampler, seed_from_torch


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """Everything training reads, one row per cell.

    Attributes
    ----------
    arrays
        Registered cells, batches moved to equal composition.
    lessons
        What labels taught before the first step; None: there are no labels.
    masked
        Masked views, for losses that read them; None: none does.
    inside
        What adapters inside the backbone read; None: there are none.
    clusters
        Codes of clusters that stand in for types, (cells,); None: there are labels.
    """

    arrays: Arrays
    lessons: Lessons | None = None
    masked: MaskedViews | None = None
    inside: InsideArrays | None = None
    clusters: np.ndarray | None = None


class CachedCells(Dataset):
    """Whole minibatches by a list of cell indices.

    Parameters
    ----------
    cells
        The cells.
    seed
        Seed of the choice of the masked view, one per minibatch.
    """

    def __init__(self, cells: TrainingSet, seed: int = 0):
        self.cells = cells
        self.rng = np.random.default_rng(seed)

    def __len__(self) -> int:
        return len(self.cells.arrays)

    def __getitem__(self, rows: list[int]) -> dict[str, torch.Tensor]:
        arrays, lessons, masked, i = self.cells.arrays, self.cells.lessons, self.cells.masked, np.asarray(rows)
        out = {"base": arrays.base[i], "present": arrays.present[i], "domain": arrays.domain[i, None]}
        if lessons is None:
            out["labels"] = np.full((len(i), 1), -1)
        else:
            out |= {"labels": lessons.labels[i, None], "guess": lessons.guess[i], "share": lessons.share[i]}
        if self.cells.clusters is not None:
            out["cluster"] = self.cells.clusters[i, None]
        if masked is not None:
            k = int(self.rng.integers(masked.base.shape[1]))
            out["view"] = masked.base[i, k].astype(np.float32)
            for name, hidden in masked.targets.items():
                out[f"target_{name}"] = hidden.target[i].toarray().astype(np.float32, copy=False)
                out[f"totals_{name}"] = hidden.totals[i, None]
                out[f"hidden_{name}"] = hidden.hidden[k]
        if self.cells.inside is not None:
            out |= self.cells.inside.rows(i)
        return {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in out.items()}


class CellDataModule(lightning.LightningDataModule):
    """Training and validation minibatches over cached cells.

    Parameters
    ----------
    cells
        The cells.
    train_idx, val_idx, test_idx
        Disjoint cell indices.
    batch_size
        Cells per minibatch.
    """

    def __init__(
        self, cells: TrainingSet, train_idx: np.ndarray, val_idx: np.ndarray, test_idx: np.ndarray, batch_size: int
    ):
        super().__init__()
        self.cells, self.batch_size = cells, batch_size
        self.train_idx, self.val_idx, self.test_idx = train_idx, val_idx, test_idx
        self.n_train, self.n_val = len(train_idx), len(val_idx)
        self.seed = seed_from_torch()

    def train_dataloader(self) -> DataLoader:
        """Balanced minibatches of the training cells."""
        trainer = self.trainer
        sampler = BalancedBatchSampler(
            self.cells.arrays.domain[self.train_idx],
            self.batch_size,
            self.seed,
            n_replicas=trainer.world_size if trainer else 1,
            rank=trainer.global_rank if trainer else 0,
        )
        return self._loader(self.train_idx, sampler)

    def val_dataloader(self) -> DataLoader | list:
        """Validation cells in order; an empty list when there are none."""
        if self.n_val == 0:
            return []
        steps = [list(range(i, min(i + self.batch_size, self.n_val))) for i in range(0, self.n_val, self.batch_size)]
        return self._loader(self.val_idx, steps)

    def transfer_batch_to_device(
        self, batch: dict[str, torch.Tensor], device: torch.device, dataloader_idx: int
    ) -> Any:
        """Move a minibatch; Lightning's general way through nested collections takes as long as a loss term."""
        return {name: tensor.to(device) for name, tensor in batch.items()}

    def _loader(self, cells: np.ndarray, sampler) -> DataLoader:
        return DataLoader(Subset(CachedCells(self.cells, self.seed), cells.tolist()), sampler=sampler, batch_size=None)
