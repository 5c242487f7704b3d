r"""Direct path of the protein: centred log ratios and their principal components, fitted without labels.

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

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import scipy.sparse as sp
import torch
from torch import nn

from more_scvi.module._direct import RIDGE

Chunks = Callable[[], Iterable[tuple[np.ndarray, np.ndarray]]]


class ProteinPath(nn.Module):
    """PCA of standardised centred log ratios; fitted once, then a fixed linear map.

    Parameters
    ----------
    n_features
        Antibodies of the data set; all are used. ``features`` lists them, the one that varies most first.
    n_components
        Width of the path (at most ``n_features``).
    n_wide
        Width of the wide view (at most ``n_features``). From ``n_features`` on it is a rotation of the standardised
        values and loses nothing.

    Notes
    -----
    Centred log ratios add up to zero, so that a panel of ``p`` antibodies has ``p - 1`` components that vary; a panel
    of one antibody has none.
    """

    features: torch.Tensor
    mean: torch.Tensor
    std: torch.Tensor
    loadings: torch.Tensor
    wide_loadings: torch.Tensor

    def __init__(self, n_features: int, n_components: int = 50, n_wide: int = 400):
        super().__init__()
        self.n_features = n_features
        self.n_components = min(n_components, n_features)
        self.n_wide = min(n_wide, n_features)
        self.register_buffer("features", torch.arange(n_features))
        self.register_buffer("mean", torch.zeros(n_features))
        self.register_buffer("std", torch.ones(n_features))
        self.register_buffer("loadings", torch.zeros(n_features, self.n_components))
        self.register_buffer("wide_loadings", torch.zeros(n_features, self.n_wide))

    def normalise(
        self, x: sp.csr_matrix | np.ndarray, visible: np.ndarray | None = None, share: float = 1.0
    ) -> np.ndarray:
        """Counts to centred log ratios: (cells, features) -> dense (cells, features) float32.

        Parameters
        ----------
        x
            Counts, (cells, features).
        visible
            Boolean (features,) mask; the mean is that of the visible antibodies, hidden ones come out as 0.
        share
            Share of a cell's counts that is visible. Ratios do not depend on it; it is there because all paths have it.
        """
        dense = np.asarray(sp.csr_matrix(x).toarray() if sp.issparse(x) else x)
        seen = np.ones(self.n_features, bool) if visible is None else np.asarray(visible, bool)
        out = np.zeros(dense.shape, np.float32)
        if seen.any():
            logs = np.log1p(dense[:, seen], dtype=np.float32)
            out[:, seen] = logs - logs.mean(1, keepdims=True)
        return out

    def fit(self, chunks: Chunks, n_batch: int) -> None:
        """Fit mean, scale and components on ``chunks()``, an iterator of (centred log ratios, batch codes)."""
        n, total = np.zeros(n_batch), np.zeros((n_batch, self.n_features))
        gram = np.zeros((self.n_features, self.n_features))
        for x, batch in chunks():
            x = np.asarray(x, np.float64)
            n += np.bincount(batch, minlength=n_batch)
            np.add.at(total, batch, x)
            gram += x.T @ x
        gram -= (total / np.maximum(n, 1)[:, None]).T @ total
        gram /= max(n.sum(), 1)
        std = np.sqrt(np.maximum(np.diag(gram), 0.0))
        order = np.argsort(-std, kind="stable")
        std = np.where(std < 1e-5, 1.0, std)[order]
        correlation = gram[np.ix_(order, order)] / np.outer(std, std)
        v = np.linalg.eigh(correlation)[1][:, ::-1]
        v = v * np.sign(v[np.abs(v).argmax(0), np.arange(v.shape[1])])
        mean = total.sum(0)[order] / max(n.sum(), 1)
        self.features.copy_(torch.from_numpy(order))
        self.mean.copy_(torch.from_numpy(mean))
        self.std.copy_(torch.from_numpy(std))
        self.loadings.copy_(torch.from_numpy(v[:, : self.n_components].copy()))
        self.wide_loadings.copy_(torch.from_numpy(v[:, : self.n_wide].copy()))

    def transform(self, x: np.ndarray, visible: np.ndarray | None = None) -> np.ndarray:
        """Project centred log ratios: (cells, features) -> (cells, components) float32.

        ``visible`` is the boolean (features,) mask that :meth:`normalise` was given; hidden antibodies are missing,
        not zero.
        """
        if visible is None:
            return (self._standardise(x) @ _array(self.loadings)).astype(np.float32)
        features, v, mean, std = (_array(t) for t in (self.features, self.loadings, self.mean, self.std))
        seen = np.asarray(visible, bool)[features]
        if not seen.any():
            return np.zeros((x.shape[0], self.n_components), np.float32)
        v, mean, std = v[seen], mean[seen], std[seen, None]
        scaled = v * std
        a = (scaled - scaled.mean(0)) / std
        solve = np.linalg.solve(a.T @ a + RIDGE * np.eye(a.shape[1]), a.T)
        z = (x[:, features[seen]] - (mean - mean.mean())) / std.T
        return (z @ solve.T).astype(np.float32)

    def transform_wide(self, x: np.ndarray) -> np.ndarray:
        """Wide view of centred log ratios: (cells, features) -> (cells, n_wide) float32."""
        return (self._standardise(x) @ _array(self.wide_loadings)).astype(np.float32)

    def inverse(self, u: np.ndarray) -> np.ndarray:
        """Best linear guess of the centred log ratios: (cells, components) -> (cells, features) float32."""
        out = np.empty((len(u), self.n_features), np.float32)
        out[:, _array(self.features)] = u @ _array(self.loadings).T * _array(self.std) + _array(self.mean)
        return out

    def _standardise(self, x: np.ndarray) -> np.ndarray:
        return (x[:, _array(self.features)] - _array(self.mean)) / _array(self.std)


def _array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()
