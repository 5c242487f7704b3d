r"""Linear start of a student: expression of the genes that are there to a first guess of the teacher's embedding.

With :math:`x` the log-normalised, standardised and clipped expression of the variable genes and :math:`m_b` its mean
in batch :math:`b`,

.. math:: h = W^\top (x - m_b),

:math:`W` by ridge regression of the teacher's embedding (centred in the same way). Genes that were not measured are
missing, not zero: they are taken at their expectation given the genes :math:`S` that were, under a factor model
(probabilistic PCA, Tipping and Bishop 1999) with loadings :math:`U`, variances :math:`\Lambda` and noise :math:`\rho`.
That is linear, too:

.. math:: W_S^{\mathrm{eff}} = W_S + U_S (U_S^\top U_S + \rho \Lambda^{-1})^{-1} U_M^\top W_M .

Counts are scaled to 10,000 times the share of a cell's counts that the genes there are expected to hold. Standardising
moves zeros to one value per gene and clipping touches only stored values, so that all of it is one product of a sparse
matrix; nothing is made dense.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn

CLIP = 10.0
"""Scaled values are cut off here. Source: paper Wolf 2018 (scanpy)."""
SIZE = 1e4


@dataclass(frozen=True)
class VisibleMap:
    """What a :class:`LinearFront` does where some genes are there."""

    columns: np.ndarray  # (visible variable genes,) in the data
    genes: np.ndarray  # (known genes,) columns of all genes that count for the totals
    share: float  # of a cell's counts that these are expected to hold
    ceiling: np.ndarray  # (visible variable genes,) where expression is clipped
    weight: np.ndarray  # (visible variable genes, n_latent)
    offset: np.ndarray  # (n_latent,) what is subtracted from every cell
    centres: np.ndarray  # (batches, n_latent) what is subtracted from cells of a batch


class LinearFront(nn.Module):
    """Tables of the linear start, buffers only; the components are those of the model for missing genes."""

    gene_share: Tensor
    detected: Tensor
    variable: Tensor
    mean: Tensor
    std: Tensor
    weight: Tensor
    loadings: Tensor
    variances: Tensor
    noise: Tensor
    batch_mean: Tensor

    def __init__(
        self, n_genes: int, n_variable: int, n_components: int, n_latent: int, n_batch: int, normalised: bool = False
    ) -> None:
        super().__init__()
        self.normalised = normalised
        shapes: dict[str, tuple[int, ...]] = {
            "gene_share": (n_genes,),
            "detected": (n_genes,),
            "mean": (n_variable,),
            "std": (n_variable,),
            "weight": (n_variable, n_latent),
            "loadings": (n_variable, n_components),
            "variances": (n_components,),
            "noise": (),
            "batch_mean": (n_batch, n_variable),
        }
        for name, shape in shapes.items():
            self.register_buffer(name, torch.ones(shape))
        self.register_buffer("variable", torch.zeros(n_variable, dtype=torch.long))

    def _table(self, name: str) -> np.ndarray:
        return getattr(self, name).detach().cpu().numpy()

    def effective(self, weight: np.ndarray, seen: np.ndarray) -> np.ndarray:
        """Weights on the genes that are seen, (seen, n_latent), given those on all, (variable genes, n_latent)."""
        if seen.all() or not len(self.variances):
            return weight[seen]
        u, precision = self._table("loadings"), float(self.noise) / self._table("variances")
        guess = np.linalg.solve(u[seen].T @ u[seen] + np.diag(precision), u[~seen].T @ weight[~seen])
        return (weight[seen] + u[seen] @ guess).astype(np.float32)

    def visible_map(self, index: np.ndarray, weight: np.ndarray | None = None) -> VisibleMap:
        """The map for data whose columns are genes ``index`` (-1: not known to the student).

        ``weight``, (variable genes, n_latent), stands in for the fitted one.
        """
        place = np.full(len(self.gene_share), -1)
        genes = np.flatnonzero(index >= 0)
        place[index[genes]] = genes
        columns = place[self._table("variable")]
        seen = columns >= 0
        used = self.effective(self._table("weight") if weight is None else weight, seen)
        mean, std = self._table("mean")[seen], self._table("std")[seen]
        scaled = used / std[:, None]
        return VisibleMap(
            columns=columns[seen],
            genes=genes,
            share=float(self._table("gene_share")[index[genes]].sum()),
            ceiling=mean + CLIP * std,
            weight=scaled.astype(np.float32),
            offset=(mean @ scaled).astype(np.float32),
            centres=(self._table("batch_mean")[:, seen] @ used).astype(np.float32),
        )

    def project(self, x: sp.csr_matrix, there: VisibleMap) -> np.ndarray:
        """Linear guess before centring: csr (cells, columns of the data) -> (cells, n_latent) float32."""
        y = normalise(x, there, self.normalised)
        np.minimum(y.data, np.take(there.ceiling, y.indices), out=y.data)
        return np.asarray(y @ there.weight) - there.offset


def normalise(x: sp.csr_matrix, there: VisibleMap, normalised: bool) -> sp.csr_matrix:
    """Log-normalised expression of the visible variable genes, csr float32."""
    y = sp.csr_matrix(x[:, there.columns], dtype=np.float32, copy=True)
    if normalised:
        return y
    counted = np.zeros(x.shape[1], np.float32)
    counted[there.genes] = 1.0
    totals = np.maximum(np.asarray(x @ counted, dtype=np.float32).ravel(), 1e-12)
    y.data *= np.repeat((SIZE * there.share / totals).astype(np.float32), np.diff(y.indptr))
    np.log1p(y.data, out=y.data)
    return y
