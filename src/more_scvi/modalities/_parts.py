"""What the paths and decoders of several modalities share."""

from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn

from more_scvi.modalities._modality import Chunks

RIDGE = 0.1
"""Variance of the noise in the posterior mean of components where features are hidden. Source: plain value, not
tuned."""


def array(tensor: Tensor) -> np.ndarray:
    """A tensor as NumPy array."""
    return tensor.detach().cpu().numpy()


def fill(module: nn.Module, **values: Any) -> None:
    """Set tensors of a module, by name, to arrays or numbers of the same shape."""
    with torch.no_grad():
        for name, value in values.items():
            getattr(module, name).copy_(torch.as_tensor(value))  # in place: dtype and device stay


def fix_signs(vectors: np.ndarray) -> np.ndarray:
    """Columns whose largest entry is positive, so that a decomposition gives the same everywhere."""
    return vectors * np.sign(vectors[np.abs(vectors).argmax(0), np.arange(vectors.shape[1])])


def members(batch: np.ndarray, n_batch: int) -> sp.csr_matrix:
    """1 where a cell is of a batch, csr (n_batch, cells): what sums the rows of each batch."""
    return sp.csr_matrix((np.ones(len(batch)), (batch, np.arange(len(batch)))), shape=(n_batch, len(batch)))


def posterior_map(loadings: np.ndarray) -> np.ndarray:
    """Map from the visible features to the posterior mean of all components, (features, components).

    Probabilistic PCA (Tipping and Bishop 1999); ``loadings``: (visible features, components).
    """
    gram = loadings.T @ loadings
    return np.linalg.solve(gram + RIDGE * np.eye(len(gram), dtype=gram.dtype), loadings.T).T


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


class ComponentTables(nn.Module):
    """What a fitted PCA of some features holds: which they are, their mean and scale, and two sets of loadings."""

    features: Tensor
    mean: Tensor
    std: Tensor
    loadings: Tensor
    wide_loadings: Tensor

    def __init__(self, n_used: int, n_components: int, n_wide: int):
        super().__init__()
        self.n_components, self.n_wide = min(n_components, n_used), min(n_wide, n_used)
        self.register_buffer("features", torch.arange(n_used))
        self.register_buffer("mean", torch.zeros(n_used))
        self.register_buffer("std", torch.ones(n_used))
        self.register_buffer("loadings", torch.zeros(n_used, self.n_components))
        self.register_buffer("wide_loadings", torch.zeros(n_used, self.n_wide))


class PrincipalComponents(ComponentTables):
    """PCA of standardised values of all features, dense; fitted once, then a fixed linear map.

    Meant for some thousand features at most: a features × features matrix is held in memory. A modality derives its
    path from it and says in :meth:`values` on which scale its components are taken.

    Parameters
    ----------
    n_features
        Features of the data set; all are used. ``features`` lists them, the one that varies most first.
    n_components
        Width of the path (at most ``n_features``).
    n_wide
        Width of the wide input (at most ``n_features``). From ``n_features`` on it is a rotation of the standardised
        values and loses nothing.
    """

    def __init__(self, n_features: int, n_components: int = 50, n_wide: int = 400):
        super().__init__(n_features, n_components, n_wide)
        self.n_features = n_features

    def values(self, x: np.ndarray) -> np.ndarray:
        """Measured values on the scale of the components, elementwise: dense (cells, features) float32."""
        return np.asarray(x, np.float32)

    def normalise(
        self, x: sp.csr_matrix | np.ndarray, visible: np.ndarray | None = None, share: float = 1.0
    ) -> np.ndarray:
        """Measured values to what the other methods read: dense (cells, features) float32, hidden features 0.

        ``share`` is that of a cell's total that is visible; values that do not depend on a total have no use for it.
        """
        out = self.values(x.toarray() if sp.issparse(x) else np.asarray(x))  # type: ignore[union-attr]
        return out if visible is None else np.where(visible, out, np.float32(0.0))

    def fit(self, chunks: Chunks, n_batch: int) -> None:
        """Fit mean, scale and components on ``chunks()``, an iterator of (normalised values, batch codes)."""
        n, total = np.zeros(n_batch), np.zeros((n_batch, self.n_features))
        gram = np.zeros((self.n_features, self.n_features))
        for x, batch in chunks():
            x = np.asarray(x, np.float64)  # what is subtracted below cancels most digits of float32
            n += np.bincount(batch, minlength=n_batch)
            np.add.at(total, batch, x)
            gram += x.T @ x
        gram -= (total / np.maximum(n, 1)[:, None]).T @ total  # pooled within batches; one may have no cell
        gram /= max(n.sum(), 1)
        std = np.sqrt(np.maximum(np.diag(gram), 0.0))  # rounding can leave less than 0
        order = np.argsort(-std, kind="stable")  # features that tie keep their order on every machine
        std = np.where(std < 1e-5, 1.0, std)[order]  # rounding of a constant feature is not blown up
        correlation = gram[np.ix_(order, order)] / np.outer(std, std)
        v = fix_signs(np.linalg.eigh(correlation)[1][:, ::-1])
        mean = total.sum(0)[order] / max(n.sum(), 1)
        loadings = {"loadings": v[:, : self.n_components], "wide_loadings": v[:, : self.n_wide]}
        fill(self, features=order, mean=mean, std=std, **loadings)

    def transform(self, x: np.ndarray, visible: np.ndarray | None = None) -> np.ndarray:
        """Project normalised values: (cells, features) -> (cells, components) float32."""
        return self._project(x, array(self.loadings), visible)

    def transform_wide(self, x: np.ndarray, visible: np.ndarray | None = None) -> np.ndarray:
        """Wide input of normalised values: (cells, features) -> (cells, n_wide) float32."""
        return self._project(x, array(self.wide_loadings), visible)

    def _project(self, x: np.ndarray, v: np.ndarray, visible: np.ndarray | None) -> np.ndarray:
        features, mean, std = (array(t) for t in (self.features, self.mean, self.std))
        if visible is None:
            return ((x[:, features] - mean) / std @ v).astype(np.float32)
        seen = np.asarray(visible, bool)[features]
        if not seen.any():  # the posterior mean of nothing seen is that of the prior
            return np.zeros((x.shape[0], v.shape[1]), np.float32)
        std = std[seen, None]
        a, mean = self._seen(v[seen], mean[seen], std)
        return ((x[:, features[seen]] - mean) / std.T @ posterior_map(a)).astype(np.float32)

    def _seen(self, loadings: np.ndarray, mean: np.ndarray, std: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Loadings and mean of the visible features, where these alone are normalised."""
        return loadings, mean
