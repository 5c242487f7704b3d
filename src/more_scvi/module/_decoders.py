r"""Decoders for masked modelling: from the embedding to the expected measurements of a modality.

All share one low-rank map :math:`(W z)_g` that is zero at the start, so that a decoder begins as "every cell is the
average cell"; :math:`\beta` is fitted to the data and :math:`l_n` is the total of the cell.

=========== ====================================================================================================
RNA counts  negative binomial, :math:`\mu_{ng} = l_n\, e^{\beta_g + (W z_n)_g}`, gene-wise dispersion
log values  Gaussian, :math:`\mu_{ng} = \beta_g + (W z_n)_g`, gene-wise scale
ATAC        Bernoulli of "open", :math:`p_{ng} = \sigma(\beta_g + (W z_n)_g + \log l_n / \bar l)`
protein     mixture of two negative binomials, background :math:`b_g` and foreground
            :math:`b_g (1 + e^{\beta_g + (W z_n)_g})`; the mixing weight depends on the cell (Gayoso et al. 2021)
=========== ====================================================================================================
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn

from more_scvi.losses import (
    masked_bernoulli,
    masked_gaussian,
    masked_negative_binomial,
    masked_negative_binomial_mixture,
)


class LowRankMap(nn.Module):
    """Linear map through a bottleneck, zero at the start: (cells, n_in) -> (cells, n_out)."""

    def __init__(self, n_in: int, n_out: int, rank: int = 32):
        super().__init__()
        self.read = nn.Linear(n_in, min(rank, n_in), bias=False)
        self.write = nn.Linear(min(rank, n_in), n_out, bias=False)
        nn.init.zeros_(self.write.weight)

    def forward(self, z: Tensor) -> Tensor:
        """(cells, n_in) -> (cells, n_out)."""
        return self.write(self.read(z))


class ExpressionDecoder(nn.Module):
    """Decoder of genes.

    Parameters
    ----------
    n_latent
        Width of the embedding.
    n_features
        Number of target genes.
    likelihood
        ``"nb"`` for counts, ``"gaussian"`` for log-normalised values.
    """

    average: Tensor

    def __init__(self, n_latent: int, n_features: int, likelihood: str = "nb"):
        super().__init__()
        self.likelihood = likelihood
        self.map = LowRankMap(n_latent, n_features)
        self.register_buffer("average", torch.zeros(n_features))
        self.log_dispersion = nn.Parameter(torch.zeros(n_features))

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
        shift = self.average + self.map(z)
        return totals * torch.exp(shift.clamp_max(15.0)) if self.likelihood == "nb" else shift

    def loss(self, z: Tensor, target: Tensor, totals: Tensor, hidden: Tensor) -> Tensor:
        """Negative log-likelihood of the hidden target genes, (cells,)."""
        term = masked_negative_binomial if self.likelihood == "nb" else masked_gaussian
        return term(target, self(z, totals), self.log_dispersion, hidden)


class AccessibilityDecoder(nn.Module):
    """Decoder of peaks: the probability that a peak is seen open.

    Parameters
    ----------
    n_latent, n_features
        Width of the embedding and number of target peaks.
    """

    average: Tensor
    mean_total: Tensor

    def __init__(self, n_latent: int, n_features: int):
        super().__init__()
        self.map = LowRankMap(n_latent, n_features)
        self.register_buffer("average", torch.zeros(n_features))
        self.register_buffer("mean_total", torch.ones(()))

    def fit_average(self, target: sp.csr_matrix, totals: np.ndarray) -> None:
        """Set the logit of each peak's share of open cells, and the mean total."""
        share = (np.asarray((target > 0).sum(0)).ravel() + 0.5) / (target.shape[0] + 1.0)
        self.average.copy_(torch.from_numpy(np.log(share / (1 - share)).astype(np.float32)))
        self.mean_total.fill_(max(float(totals.mean()), 1.0))

    def logits(self, z: Tensor, totals: Tensor) -> Tensor:
        """Logit of "open": (cells, n_latent), (cells, 1) -> (cells, peaks)."""
        return self.average + self.map(z) + torch.log(totals.clamp_min(1.0) / self.mean_total)

    def forward(self, z: Tensor, totals: Tensor) -> Tensor:
        """Probability that a peak is open: (cells, n_latent), (cells, 1) -> (cells, peaks)."""
        return self.logits(z, totals).sigmoid()

    def loss(self, z: Tensor, target: Tensor, totals: Tensor, hidden: Tensor) -> Tensor:
        """Negative log-likelihood of the hidden target peaks, (cells,)."""
        return masked_bernoulli(target, self.logits(z, totals), hidden)


class ProteinDecoder(nn.Module):
    """Decoder of antibodies: background and foreground.

    Parameters
    ----------
    n_latent, n_features
        Width of the embedding and number of target antibodies.
    """

    def __init__(self, n_latent: int, n_features: int):
        super().__init__()
        self.map = LowRankMap(n_latent, n_features)
        self.mixing = LowRankMap(n_latent, n_features)
        self.log_background = nn.Parameter(torch.zeros(n_features))
        self.log_ratio = nn.Parameter(torch.zeros(n_features))
        self.mixing_bias = nn.Parameter(torch.zeros(n_features))
        self.log_dispersion = nn.Parameter(torch.zeros(n_features))

    def fit_average(self, target: sp.csr_matrix, totals: np.ndarray) -> None:
        """Start the background at the mean of the lower half of the counts and the foreground at that of the upper."""
        counts = np.sort(target.toarray(), axis=0)
        half = max(len(counts) // 2, 1)
        low, high = counts[:half].mean(0) + 0.1, counts[-half:].mean(0) + 0.2
        with torch.no_grad():
            self.log_background.copy_(torch.from_numpy(np.log(low).astype(np.float32)))
            self.log_ratio.copy_(torch.from_numpy(np.log(np.maximum(high / low - 1.0, 0.1)).astype(np.float32)))

    def parts(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Means of background and foreground and the logit of background, (cells, antibodies) each."""
        background = self.log_background.clamp(-10, 15).exp().expand(len(z), -1)
        foreground = background * (1.0 + torch.exp((self.log_ratio + self.map(z)).clamp(-10, 10)))
        return background, foreground, self.mixing_bias + self.mixing(z)

    def forward(self, z: Tensor, totals: Tensor) -> Tensor:
        """Expected counts: (cells, n_latent) -> (cells, antibodies); totals are not used."""
        background, foreground, logits = self.parts(z)
        share = logits.sigmoid()
        return share * background + (1.0 - share) * foreground

    def loss(self, z: Tensor, target: Tensor, totals: Tensor, hidden: Tensor) -> Tensor:
        """Negative log-likelihood of the hidden target antibodies, (cells,)."""
        return masked_negative_binomial_mixture(target, *self.parts(z), self.log_dispersion, hidden)


def make_decoder(
    likelihood: str, n_latent: int, n_features: int
) -> ExpressionDecoder | AccessibilityDecoder | ProteinDecoder:
    """Decoder for a likelihood: ``"nb"``, ``"gaussian"``, ``"bernoulli"`` or ``"nb_mixture"``."""
    if likelihood == "bernoulli":
        return AccessibilityDecoder(n_latent, n_features)
    if likelihood == "nb_mixture":
        return ProteinDecoder(n_latent, n_features)
    return ExpressionDecoder(n_latent, n_features, likelihood)
