"""Batches of cells that a model did not see: their codes, and where they are centred."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from more_scvi.data._arguments import warn
from more_scvi.data._columns import as_batch_array, check_categories


def batch_codes(obs: pd.DataFrame, key: str | None, known: Sequence[Any] | np.ndarray) -> np.ndarray:
    """Codes of the batches in the column `key`, int64 (cells,); every new batch gets a negative code of its own.

    Without a key all cells are of batch 0, without that column all are of one new batch.
    """
    if key is None:
        return np.zeros(len(obs), dtype=np.int64)
    if key not in obs:
        warn(f"obs has no batch column {key!r}: all cells are taken as one new batch.")
        return np.full(len(obs), -1, dtype=np.int64)
    values = as_batch_array(obs[key], key)
    codes = check_categories(values, known, key)
    new = codes < 0
    codes[new] = -1 - np.unique(values[new].astype(str), return_inverse=True)[1]
    return codes


def as_new(codes: np.ndarray, n_known: int) -> np.ndarray:
    """Codes, int64 (cells,), in which batches from `n_known` on are new, too: each has a negative code of its own."""
    new = (codes < 0) | (codes >= n_known)
    out = codes.copy()
    out[new] = -1 - np.unique(codes[new], return_inverse=True)[1]
    return out


def batch_offsets(batch: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Offset of each cell's batch, (cells, columns); of new ones (negative codes) the mean of ``reference``."""
    # not their own mean: what is said of a cell must not depend on which others came along
    return np.vstack([reference, reference.mean(0)])[np.where(batch < 0, len(reference), batch)]
