"""Rows of any matrix an AnnData can hold, as csr blocks of bounded size."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp
from anndata import AnnData

CHUNK = 2048


class RowReader:
    """Reads rows of a layer as float32 csr, in memory or from disk; never the whole matrix at once.

    A csc matrix in memory is converted once, since its rows cannot be sliced fast.

    Parameters
    ----------
    adata
        The data.
    layer
        Key of ``adata.layers``; ``None`` reads ``adata.X``.
    genes
        Positions of the genes to return, in order; ``None`` returns all as they are.

    Examples
    --------
    >>> reader = RowReader(adata, layer="counts")
    >>> reader[0:100].shape
    (100, 2000)
    """

    def __init__(self, adata: AnnData, layer: str | None = None, genes: np.ndarray | None = None):
        x: Any = adata.X if layer is None else adata.layers[layer]
        if sp.issparse(x) and x.format != "csr":
            x = sp.csr_matrix(x)
        self._x, self._genes = x, genes
        self.shape = (adata.n_obs, adata.n_vars if genes is None else len(genes))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> sp.csr_matrix:
        block = self._x[rows]
        block = sp.csr_matrix(block if sp.issparse(block) else np.asarray(block))
        block = block if self._genes is None else block[:, self._genes]
        return block.astype(np.float32)

    def chunks(self, size: int = CHUNK) -> Iterator[tuple[slice, sp.csr_matrix]]:
        """Iterate over (rows, csr block of these rows)."""
        for start in range(0, len(self), size):
            rows = slice(start, min(start + size, len(self)))
            yield rows, self[rows]
