"""Which cells train, validate and test, and for how long."""

from numbers import Real
from typing import Any

import numpy as np

DEFAULT_STEPS, MAX_EPOCHS = 800, 100
"""Steps that training takes by default, and most passes over few cells. Source: plain value, not tuned."""
Sets = tuple[np.ndarray, np.ndarray, np.ndarray]


def default_epochs(n_cells: int, batch_size: int) -> int:
    """Passes over the data that give about 800 optimiser steps: at least 1, at most 100."""
    return min(MAX_EPOCHS, max(1, round(DEFAULT_STEPS * min(batch_size, n_cells) / n_cells)))


def split_cells(
    n: int,
    train_size: float | None,
    validation_size: float | None,
    shuffle: bool,
    datasplitter_kwargs: dict[str, Any],
    seed: int,
) -> Sets:
    """Disjoint train, validation and test indices of ``n`` cells, from the arguments of ``MoRE.train``."""
    unknown = set(datasplitter_kwargs) - {"external_indexing"}
    if unknown:
        raise TypeError(f"datasplitter_kwargs has no argument {sorted(unknown)}; legal: external_indexing.")
    if datasplitter_kwargs.get("external_indexing") is not None:
        return _given(n, datasplitter_kwargs["external_indexing"])
    train_size = 1.0 if train_size is None else train_size
    validation_size = 1.0 - train_size if validation_size is None and _is_share(train_size) else validation_size
    for name, value in (("train_size", train_size), ("validation_size", validation_size)):
        if not _is_share(value):
            raise ValueError(f"{name} is {value!r}; give a share between 0 and 1.")
    train, validation = float(train_size), float(validation_size)  # type: ignore[arg-type]
    if train == 0 or train + validation > 1 + 1e-6:
        raise ValueError(
            f"train_size {train_size} and validation_size {validation_size} must have a positive train_size and a sum"
            " of at most 1."
        )
    order = np.random.default_rng(seed).permutation(n) if shuffle else np.arange(n)
    n_train, n_val = max(1, int(np.ceil(train * n - 1e-6))), int(np.floor(validation * n + 1e-6))  # 0.55 · 100 > 55
    return order[:n_train], order[n_train : n_train + n_val], order[n_train + n_val :]


def _is_share(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool | np.bool_) and 0 <= float(value) <= 1


def _given(n: int, given: Any) -> Sets:
    if not isinstance(given, list | tuple):
        raise TypeError(f"external_indexing is a {type(given).__name__}; give a list of up to three index arrays.")
    sets = [np.asarray(part) for part in given]
    for part in sets:
        if part.size and not np.issubdtype(part.dtype, np.integer):
            raise TypeError(
                f"external_indexing holds {part.dtype} values; give positions of cells as integers, for a mask"
                " np.flatnonzero(mask)."
            )
    sets = [part.astype(np.int64).ravel() for part in sets] + [np.empty(0, np.int64)] * (3 - len(sets))
    joined = np.concatenate(sets)
    if len(sets) != 3 or not len(sets[0]) or len(np.unique(joined)) != len(joined):
        raise ValueError(
            "external_indexing must be up to three disjoint index arrays (train, validation, test) with at least"
            f" one training cell; got sizes {[len(s) for s in sets]} with {len(joined) - len(np.unique(joined))}"
            " repeats."
        )
    if joined.min() < 0 or joined.max() >= n:
        raise ValueError(f"external_indexing holds indices from {joined.min()} to {joined.max()}; legal: 0 to {n - 1}.")
    return sets[0], sets[1], sets[2]
