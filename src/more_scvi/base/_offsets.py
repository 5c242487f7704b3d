r"""Offsets of batches at equal composition.

The mean of a batch says what it holds as much as how it was measured, so batches are compared within types:

.. math:: m_{bt} = \mu_t + \beta_b + \varepsilon_{bt}, \qquad \varepsilon_{bt} \sim N(0, 1 / n_{bt}), \qquad
          \beta_b \sim N(\bar\beta, 1 / \lambda)

with :math:`m_{bt}` the mean of the :math:`n_{bt}` cells of type :math:`t` in batch :math:`b`. A batch of which no
cell's type is known lies where the others do, which is right for any composition; its own mean would be right for one.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

TYPE_PRIOR, CLUSTER_PRIOR = 5, 20
"""Weight, in cells, of the belief that a batch lies where the others do; clusters may be wrong. Source: record
tuning/offsets.md."""


def typed_offsets(x: np.ndarray, batch: np.ndarray, types: np.ndarray, n_batch: int, prior: int) -> np.ndarray:
    """Offset of each batch when types are known.

    Parameters
    ----------
    x
        (cells, columns).
    batch, types
        Codes, (cells,); cells of negative type are left out.
    n_batch
        Number of batches.
    prior
        λ, in cells.

    Returns
    -------
    (batches, columns), of mean zero over the batches with typed cells, and 0 for those without.
    """
    known = np.flatnonzero(types >= 0)
    out = np.zeros((n_batch, x.shape[1]))
    if not len(known):
        return out
    typed, b = np.unique(batch[known], return_inverse=True)
    names, t = np.unique(types[known], return_inverse=True)
    n = np.bincount(b * len(names) + t, minlength=len(typed) * len(names))
    member = sp.csr_matrix((np.ones(len(known)), (b * len(names) + t, known)), shape=(len(n), len(x)))
    mean = ((member @ x) / np.maximum(n, 1)[:, None]).reshape(len(typed), len(names), -1)
    weight = n.reshape(len(typed), len(names)).astype(np.float64)
    # normal equations with the types' centres eliminated
    share = weight / weight.sum(0)
    right = np.einsum("bt,btc->bc", weight, mean - np.einsum("bt,btc->tc", share, mean))
    system = np.diag(weight.sum(1)) - weight @ share.T + prior * np.eye(len(typed))
    beta = np.linalg.solve(system, right)
    out[typed] = beta - beta.mean(0)  # the types' centres take up what batches have in common
    return out
