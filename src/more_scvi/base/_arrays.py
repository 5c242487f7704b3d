"""What stages hand over: arrays with one row per cell, columns of all modalities side by side."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import scipy.sparse as sp


@dataclass(frozen=True, eq=False)
class Arrays:
    """What module and annotator read of cells, of the registered ones or others.

    Attributes
    ----------
    base
        Linear bases, (cells, width) float32; zero where a modality was not measured.
    present
        Boolean (cells, modalities): which were measured.
    wide
        Wide view that the closed-form experts read, (cells, n_wide) float16.
    batch
        Codes of batches, (cells,); negative: a batch that the model does not know.
    domain
        Codes of batch × measured modalities, (cells,): what the module calls a batch; -1: not known.
    """

    base: np.ndarray
    present: np.ndarray
    wide: np.ndarray
    batch: np.ndarray
    domain: np.ndarray

    def __len__(self) -> int:
        return len(self.base)


@dataclass(frozen=True, eq=False)
class MaskedTargets:
    """What masked modelling of one modality predicts.

    Attributes
    ----------
    hidden
        Boolean (views, targets): targets that a view does not show.
    target
        csr (cells, targets): counts or log-normalised values; rows of cells without the modality are empty.
    totals
        Total counts, (cells,) float32.
    """

    hidden: np.ndarray
    target: sp.csr_matrix
    totals: np.ndarray


@dataclass(frozen=True, eq=False)
class MaskedViews:
    """Cells as they look while a panel of their features is hidden; made only for losses that read them.

    Attributes
    ----------
    base
        Bases of the views, (cells, views, width) float16.
    targets
        Per modality, what the views hide.
    """

    base: np.ndarray
    targets: dict[str, MaskedTargets]


@dataclass(frozen=True, eq=False)
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


def scatter(part: np.ndarray, cells: np.ndarray, n_cells: int) -> np.ndarray:
    """Rows of a modality at their cells, zero elsewhere: (rows, ...) -> (n_cells, ...)."""
    if len(part) == n_cells and np.array_equal(cells, np.arange(n_cells)):
        return part
    out = np.zeros((n_cells, *part.shape[1:]), part.dtype)
    out[cells] = part
    return out


def scatter_rows(part: sp.csr_matrix, cells: np.ndarray, n_cells: int) -> sp.csr_matrix:
    """As :func:`scatter`, sparse."""
    if part.shape[0] == n_cells and np.array_equal(cells, np.arange(n_cells)):
        return part
    place = sp.csr_matrix((np.ones(len(cells), part.dtype), (cells, np.arange(len(cells)))), (n_cells, len(cells)))
    return sp.csr_matrix(place @ part)
