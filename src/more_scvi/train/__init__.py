"""Training: plan, balanced minibatches, cached cells."""

from more_scvi.train._callbacks import RestoringCheckpoint
from more_scvi.train._data import CachedCells, CellDataModule, TrainingSet
from more_scvi.train._plan import MoRETrainingPlan
from more_scvi.train._sampler import BalancedBatchSampler, seed_from_torch

__all__ = [
    "BalancedBatchSampler",
    "CachedCells",
    "CellDataModule",
    "MoRETrainingPlan",
    "RestoringCheckpoint",
    "TrainingSet",
    "seed_from_torch",
]
