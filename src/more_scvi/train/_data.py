"""Cached features as minibatches: what training reads instead of the count matrix."""

from __future__ import annotations

from dataclasses import dataclass, fields

import lightning
import numpy as np
import scipy.sparse as sp
import torch
from torch.utils.data import DataLoader, Dataset

from more_scvi.train._sampler import BalancedBatchSampler, seed_from_torch


@dataclass
class MaskedTargets:
    """What masked modelling of one modality predicts.

    Attributes
    ----------
    hidden
        Boolean (views, targets): targets that a view does not show.
    target
        csr (cells, targets): counts or log-normalised values; rows of cells without the modality are empty.
    totals
        Total counts, (cells,).
    """

    hidden: np.ndarray
    target: sp.csr_matrix
    totals: np.ndarray


@dataclass
class InsideArrays:
    """What adapters inside the backbone and the mix of its layers read (:class:`more_scvi.module.Inside`).

    Attributes
    ----------
    tokens
        What enters the last layers, (cells, tokens, d) float16, padded: 2 · tokens · d bytes per cell. None: no adapter
        is inside.
    keep
        bool (cells, tokens), False for padding.
    frozen
        What the frozen layers make of the tokens, (cells, width) float32.
    blocks
        Part of each block of the frozen features in the base, (cells, blocks, axes) float16; None: there is one block.
    """

    tokens: np.ndarray | None = None
    keep: np.ndarray | None = None
    frozen: np.ndarray | None = None
    blocks: np.ndarray | None = None

    def rows(self, cells: np.ndarray) -> dict[str, np.ndarray]:
        """Rows of what is there; tokens without the padding that none of these cells needs."""
        out = {f.name: getattr(self, f.name) for f in fields(self)}
        out = {name: array[cells] for name, array in out.items() if array is not None}
        if "keep" in out:
            used = np.flatnonzero(out["keep"].any(0))
            longest = used[-1] + 1 if len(used) else 1
            out["tokens"], out["keep"] = out["tokens"][:, :longest], out["keep"][:, :longest]
        return out


@dataclass
class TrainingArrays:
    """Everything training needs, one row per cell; columns of all modalities side by side.

    Attributes
    ----------
    base
        Linear bases, (cells, width) float32; zero where a modality was not measured.
    present
        Boolean (cells, modalities): which were measured.
    wide
        Wide views that the wide classifier reads, (cells, n_wide) float32.
    views
        Bases of the masked views, (cells, views, width); no views: ``None``.
    targets
        Per modality, what the views hide.
    batch
        Codes of batches, (cells,).
    domain
        Codes of batch × measured modalities, (cells,): what the module calls a batch.
    labels
        Visible labels, codes (cells,); -1 = not labelled.
    taught
        The same with labels that self-training added; ``None``: it added none.
    inside
        What adapters inside the backbone read; ``None``: there are none.
    """

    base: np.ndarray
    present: np.ndarray
    wide: np.ndarray
    views: np.ndarray | None
    targets: dict[str, MaskedTargets]
    batch: np.ndarray
    domain: np.ndarray
    labels: np.ndarray
    taught: np.ndarray | None = None
    inside: InsideArrays | None = None

    @property
    def training_labels(self) -> np.ndarray:
        """What training learns from: visible labels and those that self-training added."""
        return self.labels if self.taught is None else self.taught


class CachedCells(Dataset):
    """Whole minibatches by a list of cell indices.

    Parameters
    ----------
    arrays
        The cached arrays.
    seed
        Seed of the choice of the masked view, one per minibatch.
    """

    def __init__(self, arrays: TrainingArrays, seed: int = 0):
        self.arrays = arrays
        self.rng = np.random.default_rng(seed)

    def __len__(self) -> int:
        return len(self.arrays.base)

    def __getitem__(self, cells: list[int]) -> dict[str, torch.Tensor]:
        a, i = self.arrays, np.asarray(cells)
        out = {
            "base": a.base[i],
            "present": a.present[i],
            "wide": a.wide[i],
            "batch": a.domain[i, None],
            "labels": a.training_labels[i, None],
        }
        if a.views is not None:
            k = int(self.rng.integers(a.views.shape[1]))
            out["view"] = a.views[i, k].astype(np.float32, copy=False)
            for name, masked in a.targets.items():
                out[f"target_{name}"] = masked.target[i].toarray().astype(np.float32, copy=False)
                out[f"totals_{name}"] = masked.totals[i, None].astype(np.float32, copy=False)
                out[f"hidden_{name}"] = masked.hidden[k]
        if a.inside is not None:
            out |= a.inside.rows(i)
        return {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in out.items()}


class CellDataModule(lightning.LightningDataModule):
    """Training and validation minibatches over cached cells.

    Parameters
    ----------
    arrays
        The cached arrays.
    train_idx, val_idx, test_idx
        Disjoint cell indices.
    batch_size
        Cells per minibatch.
    """

    def __init__(
        self,
        arrays: TrainingArrays,
        train_idx: np.ndarray,
        val_idx: np.ndarray,
        test_idx: np.ndarray,
        batch_size: int,
    ):
        super().__init__()
        self.arrays, self.batch_size = arrays, batch_size
        self.train_idx, self.val_idx, self.test_idx = train_idx, val_idx, test_idx
        self.n_train, self.n_val = len(train_idx), len(val_idx)
        self.seed = seed_from_torch()

    def train_dataloader(self) -> DataLoader:
        """Balanced minibatches of the training cells."""
        trainer = self.trainer
        sampler = BalancedBatchSampler(
            self.arrays.domain[self.train_idx],
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

    def _loader(self, cells: np.ndarray, sampler) -> DataLoader:
        return DataLoader(_Subset(CachedCells(self.arrays, self.seed), cells), sampler=sampler, batch_size=None)


class _Subset(Dataset):
    """Positions among chosen cells -> minibatch of those cells."""

    def __init__(self, cells: CachedCells, chosen: np.ndarray):
        self.cells, self.chosen = cells, chosen

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, positions: list[int]) -> dict[str, torch.Tensor]:
        return self.cells[self.chosen[np.asarray(positions)]]
