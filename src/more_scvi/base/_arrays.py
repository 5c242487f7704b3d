"""What stages hand over: arrays with one row per cell, columns of all modalities side by side."""

from dataclasses import dataclass, fields

import numpy as np
import scipy.sparse as sp


@dataclass(frozen=True, eq=False)
class Doubt:
    """Draws of what is not known of cells because features are missing, the same for all of them."""

    base: np.ndarray  # what may have to be added to the base, (draws, width) float32
    wide: np.ndarray  # and to the wide input, (draws, n_wide) float32
    shallow: np.ndarray  # the same of shallow cells


@dataclass(frozen=True, eq=False)
class Arrays:
    """What module and annotator read of cells, of the registered ones or others."""

    base: np.ndarray  # linear bases, (cells, width) float32; zero where a modality was not measured
    present: np.ndarray  # bool (cells, modalities): which were measured
    wide: np.ndarray  # wide input that the closed-form experts read, (cells, n_wide) float16; another for shallow cells
    batch: np.ndarray  # codes of batches, (cells,); negative: a batch that the model does not know
    domain: np.ndarray  # codes of batch × measured modalities, (cells,), a batch to the module; -1: not known
    shallow: np.ndarray  # bool (cells,): of a shallow batch; of batches that the model does not know, a shallow cell
    doubt: Doubt | None = None  # None: no feature is missing
    placed: np.ndarray | None = None  # (cells, n_latent): where other modalities put cells before refinement, or NaN

    def __len__(self) -> int:
        return len(self.base)


@dataclass(frozen=True, eq=False)
class MaskedTargets:
    """What masked modelling of one modality predicts."""

    hidden: np.ndarray  # bool (views, targets): targets that a view does not show
    target: sp.csr_matrix  # (cells, targets) counts or log-normalised values; empty rows: cells without the modality
    totals: np.ndarray  # total counts, (cells,) float32


@dataclass(frozen=True, eq=False)
class MaskedViews:
    """Cells as they look while a panel of their features is hidden; made only for losses that read them."""

    base: np.ndarray  # bases of the views, (cells, views, width) float16
    targets: dict[str, MaskedTargets]  # per modality, what the views hide


@dataclass(frozen=True, eq=False)
class InsideArrays:
    """What adapters inside the backbone and the mix of its layers read (:class:`more_scvi.module.Inside`).

    ``tokens`` take 2 · tokens · d bytes per cell. Without an adapter inside, the first three are None.
    """

    tokens: np.ndarray | None = None  # what enters the last layers, (cells, tokens, d) float16, padded
    keep: np.ndarray | None = None  # bool (cells, tokens), False for padding
    frozen: np.ndarray | None = None  # what the frozen layers make of the tokens, (cells, width) float32
    blocks: np.ndarray | None = None  # each block's part in the base, (cells, blocks, axes) float16; None: one block

    def rows(self, cells: np.ndarray) -> dict[str, np.ndarray]:
        """Rows of what is there; tokens without the padding that none of these cells needs."""
        out = {f.name: getattr(self, f.name) for f in fields(self)}
        out = {name: array[cells] for name, array in out.items() if array is not None}
        if "keep" in out:
            used = np.flatnonzero(out["keep"].any(0))
            longest = used[-1] + 1 if len(used) else 1  # attention over no token is not defined
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
