r"""The linear front of ``more-mini``: counts to gene programs to whitened features, with genes missing but not zero.

For a cell with counts :math:`x_g` over the visible genes :math:`V`

.. math::
    y_g = \log\bigl(1 + x_g\, T \rho_V / \textstyle\sum_{g\in V} x_g\bigr), \qquad
    z_g = (y_g - \mu_g) / \sigma_g, \qquad
    r = W_V^\top z, \qquad f = Q^\top (r / s)

:math:`T` = 10,000, and :math:`\rho_V` is the share of a cell's counts that the pool expects in the visible genes, so
that a small panel gets values comparable with the whole transcriptome. :math:`\mu, \sigma` are pool statistics, the
columns of :math:`W_V` are programs, :math:`s` their standard deviations within studies and :math:`Q` a whitening.

Programs are renormalised over the visible genes, each by the best linear guess of its full value:

* components :math:`U` (SVD of the pool) as the posterior mean of a factor model,
  :math:`(I+\Lambda)(U_V^\top U_V + \Lambda)^{-1} U_V^\top z`, which is :math:`U^\top z` when nothing is missing;
* gene sets as the mean over the :math:`n` visible of :math:`N` genes, shrunk by
  :math:`(c + (1-c)/N) / (c + (1-c)/n)`, where :math:`c` is the mean correlation of its genes; 0 for a set without any.

All of it is one matrix per set of visible genes: ``sparse(y) @ B - c``. Nothing is densified.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor, nn

N_CONTEXT = 3
_N_MAPS = 16


@dataclass(frozen=True)
class _LinearMap:
    """``features = y @ weight - offset`` for one set of visible genes, and the share of counts they should hold."""

    weight: np.ndarray  # (visible genes, features)
    offset: np.ndarray  # (features,)
    share: float


class ProgramFront(nn.Module):
    """Tables of the linear front and the map they imply for any set of visible genes.

    ``n_members`` are pairs of gene and set, ``target_sum`` the counts that every cell is scaled to. ``gene_share`` is
    in units of ``1 / n_genes``, which float16 on disk can hold.
    """

    gene_mean: Tensor
    gene_scale: Tensor
    gene_share: Tensor
    components: Tensor
    program_scale: Tensor
    whitening: Tensor
    member_gene: Tensor
    member_set: Tensor

    def __init__(
        self, n_genes: int, n_components: int, n_sets: int, n_members: int, n_features: int, target_sum: float = 1e4
    ) -> None:
        super().__init__()
        self.target_sum = target_sum
        n_programs = n_components + n_sets
        shapes: dict[str, tuple[int, ...]] = {
            "gene_mean": (n_genes,),
            "gene_scale": (n_genes,),
            "gene_share": (n_genes,),
            "components": (n_genes, n_components),
            "program_scale": (n_programs,),
            "whitening": (n_programs, n_features),
        }
        for name, shape in shapes.items():
            self.register_buffer(name, torch.zeros(shape))
        for name in ("member_gene", "member_set"):
            self.register_buffer(name, torch.zeros(n_members, dtype=torch.int32))
        self._maps: OrderedDict[bytes, _LinearMap] = OrderedDict()

    def _table(self, name: str) -> np.ndarray:
        return getattr(self, name).detach().cpu().numpy().astype(np.float64)

    def program_weights(self, genes: np.ndarray) -> np.ndarray:
        """Weights of the programs on z of the visible genes (positions in the vocabulary): (genes, programs)."""
        u_full, scale = self._table("components"), self._table("program_scale")
        n_genes, n_components = u_full.shape
        u = u_full[genes]
        # prior precision of a component, in units of the noise of a standardised gene (1)
        precision = np.diag(1.0 / np.maximum(scale[:n_components] ** 2 - 1.0, 0.05))
        gain = np.linalg.solve(u.T @ u + precision, u_full.T @ u_full + precision)
        member_gene, member_set = self.member_gene.cpu().numpy(), self.member_set.cpu().numpy()
        n_sets = len(scale) - n_components
        position = np.full(n_genes, -1)
        position[genes] = np.arange(len(genes))
        seen = position[member_gene] >= 0
        total = np.bincount(member_set, minlength=n_sets)
        count = np.bincount(member_set[seen], minlength=n_sets)
        variance = scale[n_components:] ** 2
        correlation = np.clip((variance * total - 1) / np.maximum(total - 1, 1), 0, 1)
        expected = correlation + (1 - correlation) / np.maximum(count, 1)
        full = correlation + (1 - correlation) / np.maximum(total, 1)
        sets = np.zeros((len(genes), n_sets))
        per_set = np.where(count > 0, full / expected / np.maximum(count, 1), 0.0)
        sets[position[member_gene[seen]], member_set[seen]] = per_set[member_set[seen]]
        return np.hstack([u @ gain, sets])

    def linear_map(self, genes: np.ndarray) -> _LinearMap:
        """The map for these visible genes; the latest ones are kept, as chunks share them."""
        key = np.ascontiguousarray(genes, dtype=np.int64).tobytes()
        if key not in self._maps:
            weight = self.program_weights(genes) / self._table("program_scale") @ self._table("whitening")
            scaled = weight / self._table("gene_scale")[genes, None]
            self._maps[key] = _LinearMap(
                weight=scaled.astype(np.float32),
                offset=(self._table("gene_mean")[genes] @ scaled).astype(np.float32),
                share=float(self._table("gene_share")[genes].mean() * len(genes) / len(self.gene_share)),
            )
            if len(self._maps) > _N_MAPS:
                self._maps.popitem(last=False)
        self._maps.move_to_end(key)
        return self._maps[key]

    def encode(self, x: csr_matrix, genes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Linear features and context of cells, float32.

        ``x`` holds counts of the visible ``genes``, or values proportional to counts within each cell. A cell without
        counts gets 0, the pool's mean. Context, (cells, 3): detected genes among the visible ones (log, scaled), share
        of genes and of counts seen.
        """
        linear = self.linear_map(genes)
        total = np.asarray(x.sum(axis=1, dtype=np.float64)).ravel()
        empty = total <= 0
        factor = (self.target_sum * linear.share / np.where(empty, 1.0, total)).astype(np.float32)
        n_detected = np.diff(x.indptr)
        values = np.repeat(factor, n_detected)
        values *= x.data
        y = csr_matrix((np.log1p(values, out=values), x.indices, x.indptr), shape=x.shape)
        features = y @ linear.weight - linear.offset
        features[empty] = 0.0
        context = np.empty((x.shape[0], N_CONTEXT), dtype=np.float32)
        context[:, 0] = (np.log1p(n_detected) - 6.5) / 1.5
        context[:, 1] = 2 * len(genes) / len(self.gene_mean) - 1
        context[:, 2] = 2 * linear.share - 1
        return features, context
