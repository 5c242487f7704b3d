"""What the paths and decoders of several modalities share."""

from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn

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
