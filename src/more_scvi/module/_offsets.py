r"""Offsets of batches at equal composition.

The mean of a batch says what it holds as much as how it was measured. So offsets are compared within types:

.. math:: m_{bt} = \mu_t + \beta_b + \varepsilon_{bt}, \qquad w_{bt} = n_{bt} / (n_{bt} + k), \qquad
          \beta_b \sim N(\bar\beta, 1 / \lambda)

with :math:`m_{bt}` the mean of the :math:`n_{bt}` cells of type :math:`t` in batch :math:`b`. A type weighs at most 1,
however many cells it has: a batch that answers otherwise in one type (:math:`\varepsilon`) is not moved by it alone.
A batch of which no cell's type is known stays where the other batches are.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

FEW_CELLS = 10
"""A type with so many cells in a batch weighs half as much as one with very many."""
PRICE = 1.0
"""Weight, in types, of the belief that a batch lies where the others do."""


def type_means(x: np.ndarray, batch: np.ndarray, types: np.ndarray, n_batch: int, n_types: int):
    """Mean of each type in each batch, (batches, types, columns), and its weight, (batches, types)."""
    known = np.flatnonzero((types >= 0) & (batch >= 0))
    group = batch[known] * n_types + types[known]
    n = np.bincount(group, minlength=n_batch * n_types)
    member = sp.csr_matrix((np.ones(len(known)), (group, known)), shape=(n_batch * n_types, len(x)))
    mean = (member @ x) / np.maximum(n, 1)[:, None]
    return mean.reshape(n_batch, n_types, -1), (n / (n + FEW_CELLS)).reshape(n_batch, n_types)


def typed_offsets(
    x: np.ndarray, batch: np.ndarray, types: np.ndarray, n_batch: int, n_types: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Offset of each batch and centre of each type.

    Parameters
    ----------
    x
        (cells, columns).
    batch, types
        Codes, (cells,); cells of negative type are left out.
    n_batch, n_types
        Numbers of batches and types.

    Returns
    -------
    offsets (batches, columns), the mean of the others for batches without typed cells; centres (types, columns), NaN
    for types without cells; whether a batch has typed cells, bool (batches,).
    """
    mean, weight = type_means(x, batch, types, n_batch, n_types)
    typed, there = weight.sum(1) > 0, weight.sum(0) > 0
    offset, centre = np.zeros((n_batch, x.shape[1])), np.full((n_types, x.shape[1]), np.nan)
    if typed.any():
        w = weight[np.ix_(typed, there)]
        m = mean[typed][:, there]
        share = w / w.sum(0)
        common = np.einsum("bt,btc->tc", share, m)
        # types' centres eliminated: (D - W S' + price * (I - 1/n)) beta = sum_t w (m - common)
        n = len(w)
        system = np.diag(w.sum(1)) - w @ share.T + PRICE * (np.eye(n) - 1.0 / n) + 1e-6
        beta = np.linalg.solve(system, np.einsum("bt,btc->bc", w, m - common))
        offset[typed] = beta
        offset[~typed] = beta.mean(0)
        centre[there] = np.einsum("bt,btc->tc", share, m - beta[:, None])
    return offset, centre, typed


def new_offsets(x: np.ndarray, batch: np.ndarray, types: np.ndarray, centre: np.ndarray, n_batch: int) -> np.ndarray:
    """Offset of batches that took no part in :func:`typed_offsets`, (batches, columns), drawn to 0.

    Parameters
    ----------
    x
        (cells, columns), the mean offset of the known batches already subtracted.
    batch, types
        Codes, (cells,); types negative where unsure.
    centre
        Centres of the types, (types, columns), NaN where unknown.
    """
    mean, weight = type_means(x, batch, types, n_batch, len(centre))
    weight = weight * np.isfinite(centre[:, 0])
    shift = np.einsum("bt,btc->bc", weight, mean - np.nan_to_num(centre))
    return shift / (weight.sum(1) + PRICE)[:, None]
