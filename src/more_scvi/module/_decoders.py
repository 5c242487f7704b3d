r"""Decoders for masked modelling: from the embedding to expected expression.

Counts: :math:`\mu_{ng} = l_n\, e^{\beta_g + (W z_n)_g}` with :math:`l_n` the
cell's total count, a negative binomial with gene-wise dispersion. Log-normalised values:
:math:`\mu_{ng} = \beta_g + (W z_n)_g`, a Gaussian with gene-wise scale. :math:`\beta` is the gene's average
over the data and :math:`W = 0` at the start: the decoder begins as "every cell is the average cell".
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn

from more_scvi.losses import masked_gaussian, masked_negative_binomial


class ExpressionDecoder(nn.Module):
    """Linear decoder of target genes through a low-rank map.

    Parameters
    ----------
    n_latent
        Width of the embedding.
    n_genes
        Number of target genes.
    likelihood
        ``"nb"`` for counts, ``"gaussian"`` for log-normalised values.
    rank
        Rank of the map; keeps the number of trained parameters small.
    """

    average: Tensor

    def __init__(self, n_latent: int, n_genes: int, likelihood: str = "nb", rank: int = 32):
        super().__init__()
        self.likelihood = likelihood
        self.read = nn.Linear(n_latent, min(rank, n_latent), bias=False)
        self.write = nn.Linear(min(rank, n_latent), n_genes, bias=False)
        nn.init.zeros_(self.write.weight)
        self.register_buffer("average", torch.zeros(n_genes))
        self.log_dispersion = nn.Parameter(torch.zeros(n_genes))

    def fit_average(self, target: sp.csr_matrix, totals: np.ndarray) -> None:
        """Set the average of each gene: log share of all counts, or mean and scale of log-normalised values."""
        if self.likelihood == "nb":
            share = (np.asarray(target.sum(0)).ravel() + 0.5) / max(float(totals.sum()), 1.0)
            self.average.copy_(torch.from_numpy(np.log(share).astype(np.float32)))
            return
        mean = np.asarray(target.mean(0)).ravel()
        variance = np.asarray(target.multiply(target).mean(0)).ravel() - mean**2
        self.average.copy_(torch.from_numpy(mean.astype(np.float32)))
        with torch.no_grad():
            self.log_dispersion.copy_(torch.from_numpy(0.5 * np.log(np.maximum(variance, 1e-3)).astype(np.float32)))

    def forward(self, z: Tensor, totals: Tensor) -> Tensor:
        """Expected expression of the target genes: (cells, n_latent), (cells, 1) -> (cells, genes)."""
        shift = self.average + self.write(self.read(z))
        return totals * torch.exp(shift.clamp_max(15.0)) if self.likelihood == "nb" else shift

    def loss(self, target: Tensor, expected: Tensor, hidden: Tensor) -> Tensor:
        """Negative log-likelihood of the hidden target genes, (cells,)."""
        term = masked_negative_binomial if self.likelihood == "nb" else masked_gaussian
        return term(target, expected, self.log_dispersion, hidden)
