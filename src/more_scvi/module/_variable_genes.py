"""Highly variable genes from per-batch moments: scanpy's batch-aware ``seurat`` flavour, without the matrix in memory.

Follows :func:`scanpy.pp.highly_variable_genes` with ``flavor="seurat"`` and ``batch_key`` (Satija et al. 2015; a test
holds both to the same genes), which needs all cells at once; here moments are added up over blocks of rows.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import scipy.sparse as sp

N_BINS = 20
"""Bins of mean expression in which genes' dispersions are compared. Source: paper Satija 2015 (Seurat)."""


class BatchMoments:
    """Cells, sums and sums of squares per batch and gene, of log-normalised and of normalised expression.

    Parameters
    ----------
    n_batch, n_genes
        Number of batches and genes.
    """

    def __init__(self, n_batch: int, n_genes: int):
        self.n = np.zeros(n_batch)
        self.log_sum, self.log_squares, self.sum, self.squares = np.zeros((4, n_batch, n_genes))
        self.detected = np.zeros((n_batch, n_genes), dtype=bool)

    def add(self, x: sp.csr_matrix, batch: np.ndarray) -> None:
        """Add a block of log-normalised cells (csr) with their batch codes."""
        cells = len(batch)
        member = sp.csr_matrix((np.ones(cells), (batch, np.arange(cells))), shape=(len(self.n), cells))
        linear = sp.csr_matrix((np.expm1(x.data, dtype=np.float64), x.indices, x.indptr), shape=x.shape)
        self.n += np.bincount(batch, minlength=len(self.n))
        for total, squares, values in ((self.log_sum, self.log_squares, x), (self.sum, self.squares, linear)):
            total += (member @ values).toarray()
            squares += (member @ values.multiply(values)).toarray()
        self.detected |= (member @ (x > 0)).toarray() > 0

    def mean_std(self, genes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of log-normalised expression over all cells; 1 for constant genes."""
        n = max(self.n.sum(), 1.0)
        mean = self.log_sum[:, genes].sum(0) / n
        std = np.sqrt(np.maximum(self.log_squares[:, genes].sum(0) / n - mean**2, 0.0))
        return mean, np.where(std < 1e-5, 1.0, std)

    def variable_genes(self, n_top: int) -> np.ndarray:
        """Positions of the ``n_top`` genes: chosen in most batches first, then by mean normalised dispersion."""
        chosen = np.zeros(self.detected.shape[1])
        dispersions = np.full(self.detected.shape, np.nan)
        for b in np.flatnonzero(self.n > 1).tolist():
            genes = np.flatnonzero(self.detected[b])
            norm = self._normalised_dispersion(b, genes)
            dispersions[b, genes] = norm
            finite = np.sort(norm[np.isfinite(norm)])[::-1]
            if finite.size:
                chosen[genes] += norm >= finite[min(n_top, finite.size) - 1]
        seen = np.isfinite(dispersions)
        mean = np.where(seen, dispersions, 0.0).sum(0) / np.maximum(seen.sum(0), 1)
        mean[~seen.any(0)] = -np.inf
        return np.lexsort((-mean, -chosen))[:n_top]

    def _normalised_dispersion(self, b: int, genes: np.ndarray) -> np.ndarray:
        mean = self.sum[b, genes] / self.n[b]
        variance = (self.squares[b, genes] - self.n[b] * mean**2) / (self.n[b] - 1)
        dispersion = np.where(variance > 0, variance / np.maximum(mean, 1e-12), np.nan)
        table = pd.DataFrame({"dispersion": np.log(dispersion), "bin": pd.cut(np.log1p(mean), bins=N_BINS)})
        stats = table.groupby("bin", observed=True)["dispersion"].agg(centre="mean", spread="std")
        alone = stats["spread"].isna()
        stats.loc[alone, "spread"] = stats.loc[alone, "centre"]
        stats.loc[alone, "centre"] = 0.0
        stats = stats.loc[table["bin"]]
        return (table["dispersion"].to_numpy() - stats["centre"].to_numpy()) / stats["spread"].to_numpy()
