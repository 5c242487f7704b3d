r"""Imputation: the expected measurements of one modality from the others, solved in closed form after training.

For every set :math:`S` of other modalities, a ridge regression maps :math:`x = [z_S, b_S]` (the embedding from
:math:`S` alone and the linear bases of :math:`S`) to the modality's own low-rank coordinates :math:`u`, fitted on cells
that have both, batch means removed; :math:`D` decodes :math:`u` to features:

.. math:: \hat y = \mu + D^\top (B_S^\top x) .

:math:`y` are values on the scale that the modality chooses (:meth:`more_scvi.modalities.Modality.imputed`): log1p of
counts per 10,000 (RNA), log1p of counts (protein, where :math:`u = y`), "open" (ATAC). Where no
cell has both :math:`S` and the modality, :math:`B` is fitted on the cells that have the modality, from their own
embedding: the shared space is then the only bridge. The penalty is the one with the least leave-one-out error.
"""

import numpy as np
import torch
from sklearn.linear_model import RidgeCV
from torch import nn

PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Ridge penalties that cross-validation chooses among, in units of the mean variance of the inputs."""


class Imputer(nn.Module):
    """Regression to one modality; buffers only, empty until fitted.

    Parameters
    ----------
    n_inputs
        Width of the embedding and of all bases together.
    n_coordinates, n_features
        Low-rank coordinates and features of the modality.
    n_sets
        Number of sets of other modalities.
    """

    coefficients: torch.Tensor
    decoder: torch.Tensor
    mean: torch.Tensor
    centre: torch.Tensor

    def __init__(self, n_inputs: int, n_coordinates: int, n_features: int, n_sets: int):
        super().__init__()
        self.register_buffer("coefficients", torch.zeros(n_sets, n_inputs, n_coordinates))
        self.register_buffer("decoder", torch.zeros(n_coordinates, n_features))
        self.register_buffer("mean", torch.zeros(n_features))
        self.register_buffer("centre", torch.zeros(n_sets, n_inputs))

    def fit_set(self, at: int, x: np.ndarray, u: np.ndarray, centre: np.ndarray) -> None:
        """Fit one set of sources on (cells, n_inputs) inputs and (cells, n_coordinates) targets, both centred."""
        unit = max(np.square(x, dtype=np.float64).sum() / x.shape[1], 1e-12)  # RidgeCV's losses are sums over cells
        ridge = RidgeCV(np.array(PENALTIES) * unit, fit_intercept=False).fit(x, u)
        self.coefficients[at] = torch.from_numpy(np.atleast_2d(ridge.coef_).T)  # of one coordinate it is a vector
        self.centre[at] = torch.from_numpy(centre)

    def predict(self, at: int, x: np.ndarray) -> np.ndarray:
        """(cells, n_inputs) -> low-rank coordinates (cells, n_coordinates)."""
        return (x - self.centre[at].cpu().numpy()) @ self.coefficients[at].cpu().numpy()

    def decode(self, u: np.ndarray, features: np.ndarray | slice = slice(None)) -> np.ndarray:
        """(cells, n_coordinates) -> (cells, chosen features) on the scale of :math:`y`."""
        return u @ self.decoder.cpu().numpy()[:, features] + self.mean.cpu().numpy()[features]
