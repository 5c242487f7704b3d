"""Whether what surrounds a cell helps to tell its label."""

import numpy as np
from sklearn.linear_model import LogisticRegression

N_HELD_SECTIONS = 3
"""Sections that are left out in turn."""


def niche_helps(base: np.ndarray, niche: slice, sections: np.ndarray, labels: np.ndarray) -> bool:
    """Whether the neighbours' mean helps to tell labels apart in a section that was not used for fitting.

    Regions of a tissue are told by their surroundings, cell types often are not, and neighbours share their noise. A
    logistic regression with and one without the niche are fitted on all labelled sections but one and compared by their
    likelihood in that one, for up to ``N_HELD_SECTIONS`` sections. With one labelled section there is no telling: True.

    Parameters
    ----------
    base
        (cells, width).
    niche
        Its columns with the neighbours' mean.
    sections, labels
        (cells,) codes; label -1 = not visible.
    """
    visible = np.flatnonzero(labels >= 0)
    names, counts = np.unique(sections[visible], return_counts=True)
    names = names[np.argsort(-counts, kind="stable")][:N_HELD_SECTIONS]  # sections that tie come in order
    without = np.delete(np.arange(base.shape[1]), np.arange(base.shape[1])[niche])
    gain = 0.0
    for name in names if len(counts) > 1 else ():
        train, test = visible[sections[visible] != name], visible[sections[visible] == name]
        classes = np.unique(labels[train])
        test = test[np.isin(labels[test], classes)]  # others have no probability
        if len(classes) < 2 or not len(test):
            continue
        likelihood = []
        for columns in (np.arange(base.shape[1]), without):
            x = base[:, columns] / base[train][:, columns].std()
            fitted = LogisticRegression(C=1.0, max_iter=200).fit(x[train], labels[train])
            p = fitted.predict_proba(x[test])[np.arange(len(test)), np.searchsorted(classes, labels[test])]
            likelihood.append(np.log(p + 1e-4).sum())  # one cell that is surely wrong must not decide
        gain += likelihood[0] - likelihood[1]
    return gain >= 0.0
