"""How far the base is to be trusted with the labels: what discriminant analysis gets wrong of labels held out of it."""

import numpy as np
import torch

from more_scvi.annotate._closed_form import GaussianClassifier, solve_logistic
from more_scvi.base._arrays import Arrays

MOST_LABELS, N_FOLDS = 600, 5
"""Labels that are looked at, and parts of them that are held out in turn. Source: plain values, not tuned."""

PRIOR_ERRORS = 2.0
"""Errors that either classifier is believed to have made beside those that were seen. Source: record
tuning/few_labels.md."""


def trust_in_base(arrays: Arrays, cells: np.ndarray, labels: np.ndarray, seed: int) -> float:
    r"""What counts of answers that hang on the base alone, in (0, 1].

    A discriminant analysis of the base and a regression on wide input and base together are fitted without a part of
    the labels and asked for it. With :math:`e_d` and :math:`e_r` errors, and two more of each,

    .. math:: \min\left(1, \frac{e_r + 2}{e_d + 2}\right)^2

    Where frozen features do not fit the data, a regression learns to ignore them; what follows from distances in the
    base does not. Batches are held out whole where several have labels.

    Parameters
    ----------
    arrays
        All cells.
    cells
        Positions of those that were given a label, (labelled cells,).
    labels
        Codes, (cells,).
    seed
        Of the choice of cells and of their parts.
    """
    cells = np.random.default_rng(seed).permutation(cells)[:MOST_LABELS]
    cells = cells[np.argsort(labels[cells], kind="stable")]
    labels, batch = labels[cells], np.unique(arrays.batch[cells], return_inverse=True)[1]
    base = arrays.base[cells]
    x = np.concatenate([arrays.wide[cells].astype(np.float32), base], 1)
    part = (batch if batch.max(initial=0) > 0 else np.arange(len(labels))) % N_FOLDS
    n_labels, errors = int(labels.max(initial=0)) + 1, np.full(2, PRIOR_ERRORS)
    for k in np.unique(part):
        train, test = np.flatnonzero(part != k), np.flatnonzero(part == k)
        discriminant = GaussianClassifier(base.shape[1], n_labels, np.ones((1, 1), bool))
        discriminant.fit(base[train], labels[train], np.ones((len(train), 1), bool))
        if not discriminant.is_fitted:
            continue
        weight, bias = solve_logistic(x[train], labels[train], n_labels)
        answers = x[test] @ weight.T + bias, discriminant(torch.from_numpy(base[test])).numpy()
        errors += [(answer.argmax(1) != labels[test]).sum() for answer in answers]
    return float(min(1.0, errors[0] / errors[1]) ** 2)
