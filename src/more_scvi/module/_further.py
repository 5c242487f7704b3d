r"""A modality that came with a query: its own linear base, and an adapter to the embedding that the reference gives.

With :math:`b` the base of a cell and :math:`e` where the reference puts the same cell by a modality that it knows
(before refinement), a ridge regression is solved from sums over the cells that have both,

.. math:: \hat e = s \odot (W^\top [b, 1] - \bar e) + \bar e, \qquad W = (G + \lambda D)^{-1} C, \qquad
          G = \sum [b, 1][b, 1]^\top, \quad C = \sum [b, 1]\, e^\top ,

so that further pairs add up. A guess scatters less than what it guesses and would draw cells to the middle: every axis
is drawn out by :math:`s` to the spread that it has in the pairs, as in the shared space of several modalities.
"""

from collections.abc import Callable
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

from more_scvi.base._bridge import PAIRED_PENALTY
from more_scvi.base._features import fit_direct, read_features
from more_scvi.base._linear import ModalityBase, ModalitySizes
from more_scvi.base._shared_space import MAX_STRETCH
from more_scvi.data._measured import Measured


class FurtherModality(nn.Module):
    """Linear base and adapter of a modality that the reference lacks; buffers only.

    Cells that have a modality of the reference are embedded by that; this one serves cells which have no other.

    Parameters
    ----------
    sizes
        Sizes of the modality.
    n_latent
        Width of the embedding.
    n_variable, n_components
        Of the direct path.
    """

    def __init__(self, sizes: ModalitySizes, n_latent: int, n_variable: int, n_components: int):
        super().__init__()
        self.base = ModalityBase(sizes, 1, 0, n_variable, n_components, 0, 1, 1)
        self.pairs = PairSums(self.base.width + 1, n_latent)

    def fit(self, measured: Measured) -> None:
        """Fit the base, in which all cells are one batch: batches of a query are not known."""
        batch = np.zeros(len(measured.cells), dtype=np.int64)
        fit_direct(measured, self.base, batch)
        features = read_features(measured, self.base, None)
        self.base.fit(features.paths, batch, np.zeros((len(batch), 0), np.float32), np.ones(1))

    def read(self, measured: Measured) -> np.ndarray:
        """Base of the rows, and ones, (rows, width + 1)."""
        batch = np.zeros(len(measured.cells), dtype=np.int64)
        paths = read_features(measured, self.base, None).paths
        base = self.base.transform(paths, batch, np.zeros((len(batch), 0), np.float32))
        return np.concatenate([base, np.ones((len(base), 1), np.float32)], 1)


class PairSums(nn.Module):
    """Sums over cells that have both, and the regression that follows; in double precision, on the CPU."""

    gram: Tensor
    cross: Tensor
    square: Tensor

    def __init__(self, n_in: int, n_latent: int):
        super().__init__()
        self.register_buffer("gram", torch.zeros(n_in, n_in, dtype=torch.float64))
        self.register_buffer("cross", torch.zeros(n_in, n_latent, dtype=torch.float64))
        self.register_buffer("square", torch.zeros(n_latent, dtype=torch.float64))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        return self  # as the sums of types

    def add(self, x: np.ndarray, z: np.ndarray) -> None:
        """Add cells: (cells, width + 1) from :meth:`FurtherModality.read` and their embeddings (cells, n_latent)."""
        a, b = torch.from_numpy(x).double(), torch.from_numpy(z).double()
        self.gram += a.T @ a
        self.cross += a.T @ b
        self.square += b.square().sum(0)

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Embeddings, (cells, n_latent) float32."""
        n, mean = self.gram[-1, -1], self.cross[-1] / self.gram[-1, -1]
        penalty = torch.full((len(self.gram),), float(self.gram.diagonal()[:-1].mean()) * PAIRED_PENALTY)
        penalty[-1] = 0.0
        weight = torch.linalg.solve(self.gram + torch.diag(penalty.double()), self.cross)
        spread = (self.square / n - mean.square()).clamp_min(0.0)
        explained = (weight * (self.gram @ weight)).sum(0) / n - (weight.T @ self.gram[-1] / n).square()
        stretch = (spread / explained.clamp_min(1e-12)).sqrt().clamp_max(MAX_STRETCH)
        out = (torch.from_numpy(x).double() @ weight - mean) * stretch + mean
        return out.float().numpy()
