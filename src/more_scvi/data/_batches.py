"""Batches of cells: the columns that name them, their codes, also of new ones, and where they are centred."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from more_scvi.data._arguments import listing, warn
from more_scvi.data._columns import as_batch_array, check_categories

JOINT = " / "
"""Stands between the values of several batch columns."""

BatchKey = str | Sequence[str] | None


def check_batch_key(key: Any) -> str | list[str] | None:
    """`key` as one column, a list of several different ones, or None; TypeError or ValueError otherwise."""
    if key is None or not isinstance(key, Sequence | np.ndarray | pd.Index) or isinstance(key, str):
        return key  # whether it is text is checked where the column is looked up
    keys = [str(k) if isinstance(k, str) else k for k in key]
    if not keys:
        raise ValueError("batch_key is an empty list; name the columns of the batches, or give None.")
    if twice := sorted({str(k) for k in keys if keys.count(k) > 1}):
        raise ValueError(f"batch_key={keys!r} names {listing(twice)} more than once; give each column once.")
    return keys[0] if len(keys) == 1 else keys


def batch_keys(key: BatchKey) -> list[str]:
    """The columns that name batches."""
    return [] if key is None else [key] if isinstance(key, str) else list(key)


def batch_values(obs: pd.DataFrame, key: BatchKey) -> np.ndarray | None:
    """Batch of each cell as text, object (cells,): of several columns their values, joined. None if one is missing."""
    keys = batch_keys(key)
    if not keys or any(k not in obs for k in keys):
        return None
    values = [as_batch_array(obs[k], k) for k in keys]
    if len(keys) > 1:
        for k, of_key in zip(keys, values, strict=True):
            if odd := next((v for v in of_key if JOINT in v), None):
                raise ValueError(
                    f"adata.obs[{k!r}] holds {odd!r}; {JOINT!r} joins the values of several batch columns and cannot"
                    f" stand in one. Rename it: adata.obs[{k!r}] = adata.obs[{k!r}].astype(str).str.replace({JOINT!r},"
                    " '_')."
                )
    return values[0] if len(keys) == 1 else np.array([JOINT.join(row) for row in zip(*values, strict=True)], object)


def batch_levels(batches: Sequence[str] | np.ndarray, n_keys: int) -> np.ndarray:
    """Code of the value of each batch in each batch column, int64 (batches, max(`n_keys`, 1))."""
    parts = [str(name).split(JOINT) if n_keys > 1 else [name] for name in batches]
    return np.stack([np.unique(column, return_inverse=True)[1] for column in zip(*parts, strict=True)], 1)


def batch_codes(obs: pd.DataFrame, key: BatchKey, known: Sequence[Any] | np.ndarray) -> np.ndarray:
    """Codes of the batches in the column `key`, int64 (cells,); every new batch gets a negative code of its own.

    Several columns name a batch by all of their values. Without a key all cells are of batch 0, without one of the
    columns all are of one new batch.
    """
    if key is None:
        return np.zeros(len(obs), dtype=np.int64)
    values = batch_values(obs, key)
    if values is None:
        missing = listing(k for k in batch_keys(key) if k not in obs)
        warn(f"obs has no batch column {missing}: all cells are taken as one new batch.")
        return np.full(len(obs), -1, dtype=np.int64)
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
