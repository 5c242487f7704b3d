"""Batches of cells that a model did not see: their codes, and where they are centred."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from ._columns import as_batch_array, check_categories

FEW_CELLS = 20
"""A new batch of this size is centred half on its own mean, half on the mean of the known batches. Source: plain
value."""


def batch_codes(obs: pd.DataFrame, key: str | None, known: Sequence[Any] | np.ndarray, stacklevel: int) -> np.ndarray:
    """Codes of known batches, int64 (cells,); every new batch gets a negative code of its own.

    Parameters
    ----------
    obs
        One row per cell.
    key
        Its column with the batch; ``None``: all cells are of batch 0. Without that column all are of one new batch.
    known
        Batches of the model, in the order of their codes.
    stacklevel
        Where the warning of a missing column points, counted from the caller.
    """
    if key is None:
        return np.zeros(len(obs), dtype=np.int64)
    if key not in obs:
        warnings.warn(
            f"obs has no batch column {key!r}: all cells are taken as one new batch and centred on their own mean.",
            UserWarning,
            stacklevel=stacklevel + 1,
        )
        return np.full(len(obs), -1, dtype=np.int64)
    values = as_batch_array(obs[key], key)
    codes = check_categories(values, known, key)
    new = codes < 0
    codes[new] = -1 - np.unique(values[new].astype(str), return_inverse=True)[1]
    return codes


def batch_offsets(x: np.ndarray, batch: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Offset of each cell's batch, (cells, columns): of known batches from ``reference``, of new ones from ``x``."""
    offset = reference[np.maximum(batch, 0)]
    for code in np.unique(batch[batch < 0]):
        cells = batch == code
        offset[cells] = (x[cells].sum(0) + FEW_CELLS * reference.mean(0)) / (cells.sum() + FEW_CELLS)
    return offset
