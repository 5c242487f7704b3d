r"""Direct path: a low-rank linear view of the user's own data, fitted without labels.

Let :math:`x` be log-normalised expression (cells × genes) of the most variable genes (chosen within batches, see
:mod:`more_scvi.module._variable_genes`), centred, scaled by their standard deviation and clipped. With :math:`V` the
leading eigenvectors of their covariance,

.. math:: u = V^\top \, \mathrm{clip}\!\left(\frac{x - \mu}{\sigma}, \pm c\right) .

Where a panel hides genes, :math:`u` is the posterior mean given the visible ones (probabilistic PCA,
Tipping and Bishop 1999): :math:`u_S = (V_S^\top V_S + \rho I)^{-1} V_S^\top x_S`.

Beside it stands a *wide view*, more components of the same genes that are centred but not scaled, so that genes keep
the weight of their expression; the wide classifier reads it.

Everything is accumulated over chunks of rows: memory is bounded by the chunk and a genes × genes matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import scipy.sparse as sp
import torch
from scipy.linalg import eigh
from scipy.sparse.linalg import eigsh
from torch import nn

from more_scvi.module._variable_genes import BatchMoments

Chunks = Callable[[], Iterable[tuple[sp.csr_matrix, np.ndarray]]]

CLIP = 10.0
"""Scaled values are cut off here. Source: paper Wolf 2018 (scanpy)."""
RIDGE = 0.1
"""Penalty of the projection where genes are missing. Source: plain value."""
SIZE = 1e4


def log_normalise(counts: sp.csr_matrix, totals: np.ndarray | None = None, size: float = SIZE) -> sp.csr_matrix:
    """log1p of counts scaled to ``size`` per cell: csr (cells, genes), float32."""
    out = sp.csr_matrix(counts, dtype=np.float32, copy=True)
    totals = np.asarray(out.sum(1)).ravel() if totals is None else totals
    out.data *= np.repeat(size / np.maximum(totals, 1e-12), np.diff(out.indptr)).astype(np.float32)
    np.log1p(out.data, out=out.data)
    return out


class DirectPath(nn.Module):
    """PCA of log-normalised, highly variable genes; fitted once, then a fixed linear map.

    Parameters
    ----------
    n_genes
        Genes of the data set.
    n_variable
        Highly variable genes used (fewer if the data hold fewer); ``features`` lists them, most variable first.
    n_components
        Width of the path; 0 leaves only the choice of genes.
    n_wide
        Width of the wide view that the wide classifier reads: components of the same genes, not scaled, so that
        genes keep the weight of their expression.
    """

    features: torch.Tensor
    mean: torch.Tensor
    std: torch.Tensor
    loadings: torch.Tensor
    wide_loadings: torch.Tensor

    def __init__(self, n_genes: int, n_variable: int = 2000, n_components: int = 50, n_wide: int = 400):
        super().__init__()
        self.n_genes = n_genes
        n_variable = min(n_variable, n_genes)
        self.n_components = min(n_components, n_variable)
        self.n_wide = min(n_wide, n_variable)
        self.register_buffer("features", torch.zeros(n_variable, dtype=torch.long))
        self.register_buffer("mean", torch.zeros(n_variable))
        self.register_buffer("std", torch.ones(n_variable))
        self.register_buffer("loadings", torch.zeros(n_variable, self.n_components))
        self.register_buffer("wide_loadings", torch.zeros(n_variable, self.n_wide))

    def normalise(self, x: sp.csr_matrix, visible: np.ndarray | None = None, share: float = 1.0) -> sp.csr_matrix:
        """Counts to log-normalised expression: csr (cells, genes); totals are of visible genes over their ``share``."""
        if visible is None:
            return log_normalise(x)
        return log_normalise(x, (x @ visible.astype(np.float32)) / share)

    def inverse(self, u: np.ndarray, columns: np.ndarray | None = None) -> np.ndarray:
        """Best linear guess of log-normalised expression: (cells, components) -> (cells, columns) float32.

        Genes that the path does not use are NaN.
        """
        columns = np.arange(self.n_genes) if columns is None else np.asarray(columns)
        place = np.full(self.n_genes, -1)
        place[_array(self.features)] = np.arange(len(self.features))
        used = place[columns] >= 0
        at = place[columns][used]
        out = np.full((len(u), len(columns)), np.nan, np.float32)
        out[:, used] = u @ _array(self.loadings)[at].T * _array(self.std)[at] + _array(self.mean)[at]
        return out

    def fit(self, chunks: Chunks, n_batch: int) -> None:
        """Choose genes and components from ``chunks()``, an iterator of (log-normalised csr, batch codes)."""
        moments = BatchMoments(n_batch, self.n_genes)
        for x, batch in chunks():
            moments.add(x, batch)
        genes = moments.variable_genes(len(self.features))
        mean, std = moments.mean_std(genes)
        scaled, plain = np.zeros((2, len(genes), len(genes)))
        for x, _ in chunks():
            chosen = x[:, genes]
            plain += (chosen.T @ chosen).toarray()
            dense = np.clip((chosen.toarray() - mean.astype(np.float32)) / std.astype(np.float32), -CLIP, CLIP)
            scaled += dense.T @ dense
        plain -= moments.n.sum() * np.outer(mean, mean)
        for gram, loadings in ((scaled, self.loadings), (plain, self.wide_loadings)):
            if loadings.shape[1]:
                loadings.copy_(torch.from_numpy(_leading_eigenvectors(gram, loadings.shape[1])))
        self.features.copy_(torch.from_numpy(genes))
        self.mean.copy_(torch.from_numpy(mean))
        self.std.copy_(torch.from_numpy(std))

    def transform_wide(self, x: sp.csr_matrix) -> np.ndarray:
        """Wide view of log-normalised expression: (cells, genes) -> (cells, n_wide) float32."""
        return ((x[:, _array(self.features)].toarray() - _array(self.mean)) @ _array(self.wide_loadings)).astype(
            np.float32
        )

    def transform(self, x: sp.csr_matrix, visible: np.ndarray | None = None) -> np.ndarray:
        """Project log-normalised expression: (cells, genes) -> (cells, components) float32.

        ``visible`` is a boolean (genes,) mask; hidden genes are missing, not zero.
        """
        genes, v = _array(self.features), _array(self.loadings)
        dense = np.clip((x[:, genes].toarray() - _array(self.mean)) / _array(self.std), -CLIP, CLIP)
        if visible is None:
            return (dense @ v).astype(np.float32)
        seen = np.asarray(visible)[genes]
        v_seen = v[seen]
        solve = np.linalg.solve(v_seen.T @ v_seen + RIDGE * np.eye(v.shape[1]), v_seen.T)
        return (dense[:, seen] @ solve.T).astype(np.float32)


def _leading_eigenvectors(gram: np.ndarray, k: int) -> np.ndarray:
    """Eigenvectors of the k largest eigenvalues, largest first, signs fixed for reproducibility."""
    n = len(gram)
    if 10 * k >= n:  # Lanczos pays for a few vectors only
        v = eigh(gram.astype(np.float32), subset_by_index=[n - k, n - 1])[1][:, ::-1]
    else:
        values, v = eigsh(gram, k=k, which="LA", v0=np.ones(gram.shape[0]))
        v = v[:, np.argsort(-values)]
    return v * np.sign(v[np.abs(v).argmax(0), np.arange(v.shape[1])])


def _array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()
