"""Rows of any matrix an AnnData can hold, as csr blocks of bounded size."""

from collections.abc import Iterator
from typing import Any

import h5py
import numpy as np
import scipy.sparse as sp
from anndata import AnnData
from anndata.abc import CSCDataset, CSRDataset

CHUNK = 2048
MATRIX_TYPES = "numpy arrays, scipy csr/csc matrices and arrays, and their backed (h5ad) counterparts"


class Lines:
    """Rows of a dense or csr matrix, columns of a csc one, in memory or on disk; read piece by piece.

    A piece holds every value once (parts stored for one place are added up), sorted by place, in the byte order of
    this machine and as a float that holds the sum: float32, float64 for wider types. It shares no memory with `x`.
    TypeError for a container or a dtype that is not a matrix of real numbers.
    """

    def __init__(self, x: Any):
        dtype = np.dtype(getattr(x, "dtype", object))
        if dtype.kind not in "buif":
            raise TypeError(
                f"the matrix holds {getattr(x, 'dtype', 'no')} values; expected bool, integer or float. Convert it,"
                " e.g. adata.X.astype('float32')."
            )
        self.dtype = np.result_type(dtype.newbyteorder("="), np.float32)  # files keep the order of their writer
        self.shape: tuple[int, int] = x.shape
        self._x = x
        self._indptr: np.ndarray | None = None
        self.by_row = True
        if isinstance(x, CSRDataset | CSCDataset):
            self._x, self.by_row = x.group, x.format == "csr"
            self._parts = [self._x[name] for name in ("data", "indices")]
            self._indptr = np.asarray(self._x["indptr"][:]).astype(np.int64)  # int32 may overflow in sums
        elif sp.issparse(x):
            x = x if x.format in ("csr", "csc") else x.tocsr()
            self._parts, self._indptr, self.by_row = [x.data, x.indices], x.indptr.astype(np.int64), x.format == "csr"
        elif not isinstance(x, np.ndarray | h5py.Dataset):
            raise TypeError(f"the matrix is a {type(x).__name__}; supported are {MATRIX_TYPES}.")

    def __len__(self) -> int:
        return self.shape[0 if self.by_row else 1]

    def __getitem__(self, lines: slice) -> Any:
        """Array, csr or csc matrix of these lines."""
        start, stop, _ = lines.indices(len(self))
        if self._indptr is None:
            return np.asarray(self._x[start:stop]).astype(self.dtype)
        at = self._indptr[start : stop + 1]
        data, indices = (np.asarray(part[at[0] : at[-1]]) for part in self._parts)
        n = len(at) - 1
        shape, make = ((n, self.shape[1]), sp.csr_matrix) if self.by_row else ((self.shape[0], n), sp.csc_matrix)
        indices = indices.astype(indices.dtype.newbyteorder("="))  # copies, too: the next steps work in place
        out = make((data.astype(self.dtype), indices, at - at[0]), shape=shape)
        out.sum_duplicates()
        return out

    def pieces(self, size: int) -> Iterator[tuple[int, Any]]:
        """Yield (first line, piece) with at most `size` stored values a piece, one line at least."""
        n, start = len(self), 0
        step = max(1, size // max(self.shape[1], 1))
        while start < n:
            stop = min(start + step, n)
            if self._indptr is not None:
                stop = int(np.searchsorted(self._indptr, self._indptr[start] + size, side="right")) - 1
                stop = min(max(stop, start + 1), n)
            yield start, self[start:stop]
            start = stop


class RowReader:
    """Reads rows of a layer (None: ``adata.X``) as float32 csr, in memory or from disk; never the whole matrix at once.

    `genes`: positions of the genes to return, in order, -1 for one that is missing and stays empty; None: all. A csc
    matrix is converted once, since its rows cannot be sliced fast. Every block is canonical and a copy.
    """

    def __init__(self, adata: AnnData, layer: str | None = None, genes: np.ndarray | None = None):
        lines = Lines(adata.X if layer is None else adata.layers[layer])
        self._lines = lines if lines.by_row else Lines(lines[:].astype(np.float32).tocsr())
        self._genes, self._place = genes, None
        if genes is not None and (genes < 0).any():  # as an index, -1 would be the last gene
            known = np.flatnonzero(genes >= 0)
            one = np.ones(len(known), np.float32)
            self._place = sp.csr_matrix((one, (genes[known], known)), shape=(adata.n_vars, len(genes)))
        self.shape = (adata.n_obs, adata.n_vars if genes is None else len(genes))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> sp.csr_matrix:
        block = sp.csr_matrix(self._lines[rows])
        if self._place is not None:
            block = sp.csr_matrix(block @ self._place)
        elif self._genes is not None:
            block = block[:, self._genes]
        return block.astype(np.float32)

    def chunks(self, size: int = CHUNK) -> Iterator[tuple[slice, sp.csr_matrix]]:
        """Iterate over (rows, csr block of these rows)."""
        for start in range(0, len(self), size):
            rows = slice(start, min(start + size, len(self)))
            yield rows, self[rows]
