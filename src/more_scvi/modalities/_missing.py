r"""What is expected of features that were not measured, given those that were, and how sure that is.

.. math:: x = \mu + L f + \varepsilon, \qquad f \sim N(0, \Lambda), \qquad \varepsilon \sim N(0, \sigma^2 I)

With :math:`S` the features that were measured, the factors of a cell have the posterior mean and covariance

.. math:: \hat f = C L_S^\top (x_S - \mu_S) / \sigma^2, \qquad
          C = \sigma^2 (L_S^\top L_S + \sigma^2 \Lambda^{-1})^{-1}

and the others are expected at :math:`\mu + L \hat f` (probabilistic PCA, Tipping and Bishop 1999). The variances
:math:`\Lambda` decide how far a factor is drawn to zero: one that varies much is hardly drawn at all, however few of
its features are there. All features take part, also those that no path reads: where few are left, each counts.

The covariance is the same for all cells with the same features. What is not known of the others is drawn from it.
"""

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn

from more_scvi.modalities._parts import array, fill

N_FACTORS = 50
"""Factors at most. Source: plain value, not tuned."""

LEAST_SIGNAL = 1e-3
"""Least variance of a factor, in units of the noise."""


def signal(variances: np.ndarray, noise: float) -> np.ndarray:
    """Variances of factors, given what those of components hold beside noise: not below a little of it."""
    return np.maximum(variances, LEAST_SIGNAL * noise)


def posterior(seen: np.ndarray, variances: np.ndarray, noise: float) -> np.ndarray:
    """Covariance of factors given features with these loadings, (features, factors) -> (factors, factors)."""
    return noise * np.linalg.inv(seen.T @ seen + np.diag(noise / variances))


class FactorModel(nn.Module):
    """Factors of the features of a modality; fitted once, then read where features are missing. Buffers only.

    Parameters
    ----------
    n_features
        Features of the data set.
    n_factors
        Number of factors.
    """

    mean: Tensor
    loadings: Tensor
    variances: Tensor
    noise: Tensor

    def __init__(self, n_features: int, n_factors: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(n_features))
        self.register_buffer("loadings", torch.zeros(n_features, n_factors, dtype=torch.float16))  # most of a file
        self.register_buffer("variances", torch.ones(n_factors))
        self.register_buffer("noise", torch.ones(()))

    def fit(self, mean: np.ndarray, loadings: np.ndarray, variances: np.ndarray, noise: float) -> None:
        """Take over what was fitted; ``variances`` are those of the components."""
        noise = max(float(noise), 1e-6)
        fill(self, mean=mean, loadings=loadings, noise=noise)
        fill(self, variances=signal(variances - noise, noise))

    def weights(self, features: slice | np.ndarray = slice(None)) -> np.ndarray:
        """Loadings of some features, (features, factors) float64."""
        return array(self.loadings)[features].astype(np.float64)

    def covariance(self, visible: np.ndarray) -> np.ndarray:
        """Covariance of the factors given the visible features, (factors, factors)."""
        return posterior(self.weights(np.asarray(visible, bool)), array(self.variances), float(self.noise))

    def expected(self, x: sp.csr_matrix | np.ndarray, visible: np.ndarray) -> np.ndarray:
        """Factors of cells, (cells, features) -> (cells, factors); columns that are not visible are not read."""
        seen = np.where(np.asarray(visible, bool)[:, None], self.weights(), 0.0)
        gain = seen @ self.covariance(visible) / float(self.noise)
        return (np.asarray(x @ gain) - array(self.mean) @ gain).astype(np.float32)

    def draw(self, hidden: np.ndarray, visible: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
        """What ``hidden`` features may be beside what is expected of them, (n, features); the draws add up to zero."""
        root = np.linalg.cholesky(self.covariance(visible))
        x = rng.normal(size=(n // 2, len(root))) @ root.T @ self.weights(hidden).T
        x += np.sqrt(float(self.noise)) * rng.normal(size=x.shape)
        return np.concatenate([x, -x])
