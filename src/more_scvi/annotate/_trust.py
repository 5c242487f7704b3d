"""How far the base is to be trusted with the labels: what discriminant analysis gets wrong of labels held out of it."""

from collections.abc import Callable

import numpy as np
import torch

from more_scvi.annotate._closed_form import GaussianClassifier, solve_logistic
from more_scvi.base._arrays import Arrays

MOST_LABELS, N_FOLDS = 600, 5
"""Labels that are looked at, and parts of them that are held out in turn. Source: plain values, not tuned."""

PRIOR_ERRORS, POWER = 2.0, 4
"""Errors that either classifier is believed to have made beside those that were seen, and how fast trust falls. Source:
record tuning/few_labels.md."""

Placed = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Base of cells, given their positions and codes of their types, (cells,) each, -1 = unknown, -> (cells, width): where
batches are put when only these types are known."""


def trust_in_base(arrays: Arrays, cells: np.ndarray, labels: np.ndarray, placed: Placed, seed: int) -> float:
    r"""What counts of answers that hang on the base alone, in (0, 1].

    A discriminant analysis of the base and a regression on wide input and base together are fitted without a part of
    the labels and asked for it. With :math:`e_d` and :math:`e_r` errors, and two more of each,

    .. math:: \min\left(1, \frac{e_r + 2}{e_d + 2}\right)^4

    Where frozen features do not fit the data, a regression learns to ignore them; what follows from distances in the
    base does not. Batches are held out whole where several have labels. Held-out labels have no part in where batches
    are put: with few cells in a batch, the base would give them away.

    Parameters
    ----------
    arrays
        All cells.
    cells
        Positions of those that were given a label, (labelled cells,).
    labels
        Codes, (cells,).
    placed
        Base by types.
    seed
        Of the choice of cells and of their parts.
    """
    cells = np.random.default_rng(seed).permutation(cells)[:MOST_LABELS]
    cells = cells[np.argsort(labels[cells], kind="stable")]
    labels, batch = labels[cells], np.unique(arrays.batch[cells], return_inverse=True)[1]
    wide, one = arrays.wide[cells].astype(np.float32), np.ones((len(cells), 1), bool)
    part = (batch if batch.max(initial=0) > 0 else np.arange(len(labels))) % N_FOLDS
    n_labels, errors = int(labels.max(initial=0)) + 1, np.full(2, PRIOR_ERRORS)
    for k in np.unique(part):
        train, test = np.flatnonzero(part != k), np.flatnonzero(part == k)
        base = placed(cells, np.where(part != k, labels, -1))
        discriminant = GaussianClassifier(base.shape[1], n_labels, one[:1])
        discriminant.fit(base[train], labels[train], one[train])
        if not discriminant.is_fitted:
            continue
        x = np.concatenate([wide, base], 1)
        weight, bias = solve_logistic(x[train], labels[train], n_labels)
        answers = x[test] @ weight.T + bias, discriminant(torch.from_numpy(base[test])).numpy()
        errors += [(answer.argmax(1) != labels[test]).sum() for answer in answers]
    return float(min(1.0, errors[0] / errors[1]) ** POWER)
