r"""Surface proteins. Their direct path: centred log ratios and their principal components, fitted without labels.

For counts :math:`y` of the visible antibodies :math:`S` of a cell (Stoeckius et al. 2017, per cell),

.. math:: x_j = \log(1 + y_j) - \frac{1}{|S|} \sum_{i \in S} \log(1 + y_i), \qquad
          z_j = \frac{x_j - \mu_j}{\sigma_j}, \qquad u = V^\top z

with :math:`\mu` the mean over all cells, :math:`\sigma` the pooled standard deviation within batches and :math:`V` the
leading eigenvectors of the pooled covariance of :math:`z` within batches. Nothing is clipped: logarithms of counts
have no tail that a clip would have to tame.

Where a panel hides antibodies, the mean that is subtracted is one of fewer antibodies. With
:math:`C_S = I - \mathbf{1}\mathbf{1}^\top / |S|` the visible values are :math:`C_S` times those of the full panel, and
:math:`u` is the posterior mean of that model (probabilistic PCA, Tipping and Bishop 1999):
:math:`A = \Sigma_S^{-1} C_S \Sigma_S V_S` and
:math:`u_S = (A^\top A + \rho I)^{-1} A^\top \Sigma_S^{-1} (x_S - C_S \mu_S)`.

Moments are added up over chunks of rows: memory is bounded by the dense chunk and an antibodies × antibodies matrix.
"""

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from anndata import AnnData
from torch import Tensor, nn

from more_scvi.data._arguments import check_mapping
from more_scvi.data._fields import RNA
from more_scvi.data._matrix import ValueRules
from more_scvi.losses._masked import masked_negative_binomial_mixture
from more_scvi.modalities._antibodies import match_antibodies
from more_scvi.modalities._components import PrincipalComponents
from more_scvi.modalities._modality import Decoder, LinearPath, Modality
from more_scvi.modalities._parts import LowRankMap, fill

logger = logging.getLogger("more_scvi")


class ProteinPath(PrincipalComponents):
    """PCA of standardised centred log ratios; fitted once, then a fixed linear map.

    Notes
    -----
    Centred log ratios add up to zero, so that a panel of ``p`` antibodies has ``p - 1`` components that vary; a panel
    of one antibody has none.
    """

    totals = True

    def normalise(
        self, x: sp.csr_matrix | np.ndarray, visible: np.ndarray | None = None, share: float = 1.0
    ) -> np.ndarray:
        """Counts to log ratios to the mean of the visible antibodies, dense float32; hidden ones come out as 0."""
        dense = np.asarray(sp.csr_matrix(x).toarray() if sp.issparse(x) else x)
        seen = np.ones(self.n_features, bool) if visible is None else np.asarray(visible, bool)
        out = np.zeros(dense.shape, np.float32)
        if seen.any():
            logs = np.log1p(dense[:, seen], dtype=np.float32)
            out[:, seen] = logs - logs.mean(1, keepdims=True)
        return out

    def _seen(self, loadings: np.ndarray, mean: np.ndarray, std: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        scaled = loadings * std
        return (scaled - scaled.mean(0)) / std, mean - mean.mean()


class ProteinDecoder(nn.Module):
    r"""Decoder of antibodies: a mixture of two negative binomials (Gayoso et al. 2021).

    The background is :math:`b_g`, the foreground :math:`b_g (1 + e^{\beta_g + (W z_n)_g})`; the mixing weight depends
    on the cell.

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
        low, high = counts[:half].mean(0) + 0.1, counts[-half:].mean(0) + 0.2  # apart even without counts
        fill(self, log_background=np.log(low), log_ratio=np.log(np.maximum(high / low - 1.0, 0.1)))

    def loss(self, z: Tensor, target: Tensor, totals: Tensor, hidden: Tensor) -> Tensor:
        """Negative log-likelihood of the hidden target antibodies, (cells,)."""
        background = self.log_background.clamp(-10, 15).exp().expand(len(z), -1)
        foreground = background * (1.0 + torch.exp((self.log_ratio + self.map(z)).clamp(-10, 10)))
        mixing = self.mixing_bias + self.mixing(z)
        return masked_negative_binomial_mixture(target, background, foreground, mixing, self.log_dispersion, hidden)


class Protein(Modality):
    """Antibodies: counts, centred log ratios, background and foreground."""

    name, title, features = "protein", "protein", "antibodies"
    count = "n_proteins"
    values = ValueRules(
        ("counts",), "raw antibody counts are needed (not DSB, CLR or log-normalised values)", feature="antibody"
    )
    genes_argument = "antibody_genes"
    imputes_directly = True

    def path(self, n_features: int, data_type: str, n_variable: int, n_components: int, n_wide: int) -> LinearPath:
        """:class:`ProteinPath`."""
        return ProteinPath(n_features, n_components, n_wide)

    def decoder(self, data_type: str, n_latent: int, n_features: int) -> Decoder:
        """:class:`ProteinDecoder`."""
        return ProteinDecoder(n_latent, n_features)

    def genes(self, adata: AnnData, given: Any, others: Mapping[str, AnnData]) -> tuple[list[str], sp.csr_matrix]:
        """Genes of the antigens, by name; ``given`` adds and corrects single ones."""
        known = others[RNA].var_names if RNA in others else None
        match = match_antibodies(adata.var_names, known_genes=known)
        links, genes = sp.lil_matrix(match.matrix), list(match.genes)  # csr is slow to change row by row
        for antibody, gene in check_mapping("antibody_genes", given).items():
            if antibody not in adata.var_names:
                raise KeyError(
                    f"antibody_genes names {antibody!r}, which is no antibody of the protein modality; it has"
                    f" {adata.var_names[:5].tolist()} and {max(adata.n_vars - 5, 0)} more."
                )
            if gene and gene not in genes:
                genes.append(gene)
                links.resize((links.shape[0], len(genes)))
            row = adata.var_names.get_loc(antibody)
            links[row, :] = 0
            if gene:
                links[row, genes.index(gene)] = 1.0
        links = sp.csr_matrix(links)
        links.eliminate_zeros()  # of rows that were set to 0: they are counted by what is stored
        logger.info("%d of %d antibodies have a gene.", (np.diff(links.indptr) > 0).sum(), adata.n_vars)
        return genes, links

    def imputed(self, x: sp.csr_matrix, path: LinearPath) -> np.ndarray:
        """Logarithms of the counts."""
        return np.log1p(x.toarray())

    def expected(self, values: np.ndarray) -> np.ndarray:
        """Counts."""
        return np.expm1(np.maximum(values, 0.0)).astype(np.float32)  # a regression may guess below 0
