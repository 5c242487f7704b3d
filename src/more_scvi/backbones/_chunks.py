"""How an extraction is cut into chunks of cells, and what it takes, said before it starts.

A chunk is what a kill loses and what the bar moves by. Cells of a sequence model differ in cost as they do in length:
chunks and the time left go by tokens.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix, issparse

from more_scvi._progress import progress_bar
from more_scvi.data._genes import GeneMatch

from ._base import Backbone
from ._store import FeatureStore

HASH_ROWS = 4096
"""Rows that are read at a time where all are read; fixed, as the fingerprint of the data follows from it."""

_BLOCKS = 16
"""Blocks of tokens per chunk: so many that a block that is not full costs little."""

_WORTH_SAYING = 10**8
"""Bytes that a user may have to plan for."""


@dataclass(frozen=True)
class Chunks:
    """Rows of the chunks that are left and what each costs.

    Attributes
    ----------
    starts
        First row of each chunk.
    stop
        End of the last one.
    amounts
        Cost of each chunk, in ``unit``.
    done
        Cost of the rows that were finished before.
    unit
        ``"token"`` or ``"cell"``.
    longest
        Most tokens of a cell, 0 where cells are the unit.
    """

    starts: list[int]
    stop: int
    amounts: list[int]
    done: int
    unit: str
    longest: int = 0

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        """First row, end and cost of each chunk."""
        return zip(self.starts, [*self.starts[1:], self.stop], self.amounts, strict=True) if self.starts else iter(())

    def bar(self, title: str, show: bool) -> Any:
        """A progress bar over all that there is, whose time left goes by what was done since it was made."""
        total, show = self.done + sum(self.amounts), show and bool(self.starts)
        return progress_bar(total=total, initial=self.done, desc=title, unit=self.unit, unit_scale=True, show=show)


def plan_chunks(backbone: Backbone, x: Any, match: GeneMatch | None, chunk_size: int, n_done: int = 0) -> Chunks:
    """Cut the rows of ``x`` from ``n_done`` on into chunks of at most ``chunk_size`` cells and so many tokens.

    ``match``: where the genes of ``x`` are in the vocabulary, as in :meth:`Backbone.encode`.
    """
    n_cells, at_once = x.shape[0], backbone.tokens_at_once
    if at_once is None:
        starts = list(range(n_done, n_cells, chunk_size))
        amounts = [min(chunk_size, n_cells - start) for start in starts]
        return Chunks(starts, n_cells, amounts, n_done, "cell")
    parts = [backbone.lengths(rows_of(x, start, start + HASH_ROWS), match) for start in range(0, n_cells, HASH_ROWS)]
    lengths = np.concatenate([np.zeros(0, np.int64), *parts]).astype(np.int64)
    starts, amounts = [], []
    for row, length in enumerate(lengths[n_done:].tolist(), n_done):
        if not starts or row - starts[-1] == chunk_size or amounts[-1] + length > _BLOCKS * at_once:
            starts.append(row)
            amounts.append(0)
        amounts[-1] += length
    return Chunks(starts, n_cells, amounts, int(lengths[:n_done].sum()), "token", int(lengths.max(initial=0)))


def memory_said(backbone: Backbone, store: FeatureStore, plan: Chunks) -> str:
    """What an extraction takes, computed from sizes; nothing to say where that is little."""
    n_cells, n_views, n_features = store.shape
    most = max(stop - start for start, stop, _ in plan)
    weights = sum(tensor.numel() * tensor.element_size() for tensor in backbone.state_dict().values())
    features = n_cells * n_views * n_features * store.dtype.itemsize
    rows = 8 * most * n_views * n_features  # as they are computed and once more as they are stored, float32
    working = backbone.working_bytes() + rows
    if weights + features + working < _WORTH_SAYING:
        return ""
    where = "in memory" if store.folder is None else f"in {store.folder}"
    left = f"{sum(plan.amounts):,} {plan.unit}s" + (" to go" if plan.done else "")
    return (
        f"{backbone.name}: {_gb(weights)} of weights, {_gb(features)} of features {where} ({n_cells:,} cells x"
        f" {n_views} views x {n_features:,}, {store.dtype}), at most {_gb(working)} at work;"
        f" {left} in {len(plan.starts):,} chunks."
    )


def tokens_said(backbone: Backbone, plan: Chunks, depth: int) -> str:
    """What all that enters the last ``depth`` layers takes where it is kept; nothing to say where that is little."""
    if not plan.longest:
        return ""
    width = backbone.top_layers(depth).d_model
    n_bytes = 2 * plan.stop * plan.longest * width
    if n_bytes < _WORTH_SAYING:
        return ""
    return (
        f"{backbone.name}: what enters the last {depth} layers of {plan.stop:,} cells takes up to {_gb(n_bytes)}"
        f" ({plan.longest:,} tokens of width {width:,}, float16). Fewer cells or a smaller max_length= take less."
    )


def rows_of(x: Any, start: int, stop: int) -> Any:
    """Rows as a CSR matrix with sorted indices (an order that sums rely on), or a dense array as it is."""
    rows = x[start : min(stop, x.shape[0])]
    return csr_matrix(rows).sorted_indices() if issparse(rows) else np.asarray(rows)


def _gb(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.2f} GB"
