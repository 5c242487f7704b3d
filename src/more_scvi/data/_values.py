"""One pass over all measured values of a matrix: what a count or log-normalised matrix may not hold.

The pass reads stored values in blocks of a fixed size, so a sparse matrix is never made dense, a backed matrix is
never read whole, and the answer never depends on a random draw.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import h5py
import numpy as np
import scipy.sparse as sp
from anndata.abc import CSCDataset, CSRDataset

BLOCK_VALUES = 1 << 21
"""Values held in memory at a time (16 MB as float64)."""

MATRIX_TYPES = "numpy arrays, scipy csr/csc matrices and arrays, and their backed (h5ad) counterparts"


@dataclass
class ValueScan:
    """What :func:`scan_values` found in a (cells, genes) matrix.

    Attributes
    ----------
    n_nonfinite, n_negative, n_fractional
        How many values are NaN or infinite, below zero, not whole.
    maximum
        Largest value; 0.0 where nothing is stored.
    first
        ``{"nonfinite" | "negative" | "fractional": (cell, gene, value)}``: the first of each kind met.
    has_counts
        bool (cells,): the cell holds at least one value other than zero.
    """

    has_counts: np.ndarray
    n_nonfinite: int = 0
    n_negative: int = 0
    n_fractional: int = 0
    n_nonzero: int = 0
    maximum: float = 0.0
    first: dict[str, tuple[int, int, float]] = field(default_factory=dict)

    @property
    def is_integer(self) -> bool:
        """All values are whole numbers."""
        return self.n_fractional == 0

    @property
    def empty_cells(self) -> np.ndarray:
        """Positions of the cells without a single non-zero value, int64."""
        return np.flatnonzero(~self.has_counts)


def scan_values(x) -> ValueScan:
    """Look at every stored value of `x` once.

    Parameters
    ----------
    x
        (cells, genes): dense array (any order), scipy sparse matrix or array, or a backed dataset of :mod:`anndata` or
        :mod:`h5py`.

    Returns
    -------
    :class:`ValueScan`.

    Raises
    ------
    TypeError
        A container or a dtype that is not a matrix of real numbers.
    """
    kind = np.dtype(getattr(x, "dtype", object)).kind
    if kind not in "buif":
        raise TypeError(
            f"the matrix holds {getattr(x, 'dtype', 'no')} values; expected bool, integer or float. Convert it, e.g."
            " adata.X.astype('float32')."
        )
    scan = ValueScan(np.zeros(x.shape[0], dtype=bool))
    for values, rows_of, locate in _blocks(x):
        if not values.size:
            continue
        nonzero = values != 0
        scan.has_counts[rows_of(nonzero)] = True
        scan.n_nonzero += int(np.count_nonzero(nonzero))
        bad: dict[str, np.ndarray] = {}
        if kind == "f":
            finite = np.isfinite(values)
            if not finite.all():
                bad["nonfinite"] = ~finite
                values = np.where(finite, values, 0)
            bad["fractional"] = np.rint(values) != values
        if kind in "if":
            bad["negative"] = values < 0
        for name, mask in bad.items():
            n = int(np.count_nonzero(mask))
            if n and name not in scan.first:
                scan.first[name] = locate(int(np.argmax(mask)))
            setattr(scan, f"n_{name}", getattr(scan, f"n_{name}") + n)
        scan.maximum = max(scan.maximum, float(values.max()))
    return scan


_Block = tuple[np.ndarray, Callable[[np.ndarray], np.ndarray], Callable[[int], tuple[int, int, float]]]


def _blocks(x) -> Iterator[_Block]:
    """Yield (values 1-d, mask -> cells, position -> (cell, gene, value)) for consecutive pieces of `x`."""
    if sp.issparse(x):
        x = x if x.format in ("csr", "csc") else x.tocsr()
        yield from _compressed(x, transposed=x.format == "csc")
    elif isinstance(x, CSRDataset | CSCDataset):
        by_row = isinstance(x, CSRDataset)
        n, width = x.shape if by_row else x.shape[::-1]
        for start, stop in _ranges(n, width):
            part = x[start:stop] if by_row else x[:, start:stop]
            yield from _compressed(part, transposed=not by_row, offset=start)
    elif isinstance(x, np.ndarray | h5py.Dataset):
        for start, stop in _ranges(*x.shape):
            yield _dense(np.asarray(x[start:stop]), start)
    else:
        raise TypeError(f"the matrix is a {type(x).__name__}; supported are {MATRIX_TYPES}.")


def _ranges(n: int, width: int) -> Iterator[tuple[int, int]]:
    step = max(1, BLOCK_VALUES // max(width, 1))
    return ((start, min(start + step, n)) for start in range(0, n, step))


def _dense(part: np.ndarray, offset: int) -> _Block:
    width = part.shape[1]

    def rows_of(mask: np.ndarray) -> np.ndarray:
        return offset + np.flatnonzero(mask.reshape(part.shape).any(axis=1))

    def locate(k: int) -> tuple[int, int, float]:
        return offset + k // width, k % width, float(part[k // width, k % width])

    return part.reshape(-1), rows_of, locate


def _compressed(x, transposed: bool, offset: int = 0) -> Iterator[_Block]:
    """Blocks of the stored values of a csr (or, `transposed`, csc) matrix whose first line is line `offset`."""
    for start in range(0, x.nnz, BLOCK_VALUES):
        stop = min(start + BLOCK_VALUES, x.nnz)
        major = np.searchsorted(x.indptr, np.arange(start, stop), side="right") - 1 + offset
        minor = x.indices[start:stop]
        cells, genes = (minor, major) if transposed else (major, minor)
        values = x.data[start:stop]

        def rows_of(mask: np.ndarray, cells=cells) -> np.ndarray:
            return cells[mask]

        def locate(k: int, cells=cells, genes=genes, values=values) -> tuple[int, int, float]:
            return int(cells[k]), int(genes[k]), float(values[k])

        yield values, rows_of, locate
