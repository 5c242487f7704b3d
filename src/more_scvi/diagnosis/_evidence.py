"""What the checks look at: arrays of at most ``MAX_CELLS`` cells."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from more_scvi.data._arguments import check_integer

MAX_CELLS = 5000
"""Cells that the checks look at; more change no verdict and cost time."""

MIN_PER_TYPE = 50
"""So many labelled cells of a type are in the sample of a large data set if there are so many."""


@dataclass(frozen=True)
class Evidence:
    """Arrays of a sample of cells, and what is known of setup and training."""

    z: NDArray  # embedding, (cells, n_latent)
    direct: NDArray  # the data's own low-rank view without anything trained, centred on batches, (cells, d)
    batches: NDArray  # text
    domains: NDArray  # text: batch × measured modalities
    labels: NDArray  # text: visible labels, "" where there is none
    types: NDArray | None = None  # text: visible labels, predictions elsewhere; None if there is neither
    # by modality: its own low-rank view, zero where it was not measured; where it was measured; how much of the
    # embedding changes when its measurements are shuffled; share of its genes that the backbone knows
    views: Mapping[str, NDArray] = field(default_factory=dict)
    present: Mapping[str, NDArray] = field(default_factory=dict)
    effects: Mapping[str, float] = field(default_factory=dict)
    overlaps: Mapping[str, float] = field(default_factory=dict)
    chance: float = 0.0  # entropy of the labels in nats: the loss of who only knows how frequent the types are
    history: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    clusters: NDArray | None = None  # text: the model's clusters, where it has no labels
    uncorrected: NDArray | None = None  # the linear base with batches where they were measured, (cells, d)

    @property
    def source(self) -> str:
        """Where the types are from, for messages."""
        share = np.mean(self.labels == "")
        return "by visible labels" if share == 0 else f"by visible labels; {share:.0%} of the cells by prediction"


def representative(labels: NDArray, max_cells: int = MAX_CELLS) -> NDArray[np.int64]:
    """Sorted positions of at most `max_cells` cells: up to ``MIN_PER_TYPE`` of each label, the rest at random (seeded).

    Of labels, ``""`` is none.
    """
    labels, max_cells = np.asarray(labels), check_integer("max_cells", max_cells)
    if labels.ndim != 1:
        raise ValueError(f"labels {labels.shape} must hold one label per cell, '' for none.")
    if len(labels) <= max_cells:
        return np.arange(len(labels))
    order = np.random.default_rng(0).permutation(len(labels))
    names, codes = np.unique(labels[order], return_inverse=True)
    quota = min(MIN_PER_TYPE, max_cells // (2 * len(names)))  # at least half of the sample is as the data are
    rank = pd.Series(codes).groupby(codes).cumcount().to_numpy()
    first = (rank < quota) & (names[codes] != "")
    chosen = np.concatenate([order[first], order[~first]])[:max_cells]
    return np.sort(chosen)
