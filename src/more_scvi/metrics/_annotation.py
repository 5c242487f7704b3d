"""Annotation of hidden labels: F1 of a prediction, of a linear probe and of neighbours, over types and for each."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, precision_recall_fscore_support
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from ._check import check_embedding, check_finite, check_integer, check_labels, check_mask, check_names, check_scores

MIN_SCORED = 5
"""Types with fewer scored cells are left out of macro means."""


def scorable(labels: ArrayLike, hidden: ArrayLike, scored: ArrayLike | None = None) -> NDArray[np.bool_]:
    """Mask ``(n_cells,)`` of the cells that annotation is scored on: hidden, and of a type with visible labels.

    ``scored`` restricts the hidden cells further (the inner cells of :func:`~more_scvi.evaluation.inner_split`).
    """
    n = check_names(labels, "labels", but=True).size
    h = check_mask(hidden, "hidden", n)
    y = check_names(labels, "labels", n, h)
    cells = h if scored is None else h & check_mask(scored, "scored", n)
    return cells & np.isin(y, np.unique(y[~h]))


def macro_f1(true: ArrayLike, predicted: ArrayLike, min_cells: int = MIN_SCORED) -> float:
    """Mean F1 over the types with at least ``min_cells`` cells in ``true``; NaN if there is none.

    Cells of rarer types still count as false positives of the types they are taken for.
    """
    return float(_macro(true, predicted, min_cells)[2])


def balanced_accuracy(true: ArrayLike, predicted: ArrayLike, min_cells: int = MIN_SCORED) -> float:
    """Mean recall over the types with at least ``min_cells`` cells; NaN if there is none."""
    return float(_macro(true, predicted, min_cells)[1])


def _macro(true: ArrayLike, predicted: ArrayLike, min_cells: int) -> tuple[float, float, float]:
    """Means of precision, recall and F1 over the types that are large enough."""
    y, p = check_labels(true, predicted, ("true", "predicted"))
    types, counts = np.unique(y, return_counts=True)
    if not (types := types[counts >= check_integer("min_cells", min_cells)]).size:
        return (float("nan"),) * 3
    return precision_recall_fscore_support(y, p, labels=types, average="macro", zero_division=0)[:3]


def per_type_f1(true: ArrayLike, predicted: ArrayLike) -> pd.DataFrame:
    """Precision, recall and F1 of every type in ``true``.

    Parameters
    ----------
    true, predicted
        Types ``(n_cells,)`` of the scored cells.

    Returns
    -------
    One row per type (index ``"type"``, sorted), columns ``n`` (cells of the type), ``precision``, ``recall``, ``f1``.
    A type that is never predicted scores 0. A figure of a handful of cells is noise: show ``n`` with it.

    Examples
    --------
    >>> per_type_f1(["B", "B", "T"], ["B", "T", "T"])
          n  precision  recall        f1
    type
    B     2        1.0     0.5  0.666667
    T     1        0.5     1.0  0.666667
    """
    y, p = check_labels(true, predicted, ("true", "predicted"))
    types = np.unique(y)
    empty = np.empty(0), np.empty(0), np.empty(0), np.empty(0, dtype=int)
    found = precision_recall_fscore_support(y, p, labels=types, zero_division=0) if types.size else empty
    columns = dict(zip(("precision", "recall", "f1", "n"), found, strict=True))
    return pd.DataFrame(columns, pd.Index(types, name="type", dtype=object), ["n", "precision", "recall", "f1"])


def confusion(true: ArrayLike, predicted: ArrayLike) -> pd.DataFrame:
    """Counts of cells, true types × predicted types; every type of either is a row and a column (sorted)."""
    y, p = check_labels(true, predicted, ("true", "predicted"))
    types = np.unique(np.concatenate([y, p]))
    counts = pd.crosstab(y, p, rownames=["true"], colnames=["predicted"])
    return counts.reindex(index=types, columns=types, fill_value=0)


def average_precision(positive: ArrayLike, score: ArrayLike) -> float:
    """Area under the precision–recall curve of a (rare) type; the share of positive cells is what chance scores.

    Parameters
    ----------
    positive
        Mask ``(n_cells,)`` of the cells of the type.
    score
        Probability of the type ``(n_cells,)``, or any score that orders the cells.

    Returns
    -------
    Average precision of :func:`sklearn.metrics.average_precision_score`; NaN if no cell is positive.
    """
    ranking = check_scores(score, "score")
    found = check_mask(positive, "positive", ranking.size)
    check_finite(ranking, "score")
    return float(average_precision_score(found, ranking)) if found.any() else float("nan")


def linear_probe(
    z: ArrayLike, labels: ArrayLike, hidden: ArrayLike, scored: ArrayLike | None = None, min_cells: int = MIN_SCORED
) -> float:
    """Macro-F1 of a logistic regression on ``z`` (standardised, L2, ``C=1``), fitted on visible labels only.

    Parameters
    ----------
    z
        Embedding ``(n_cells, n_latent)``.
    labels
        True types ``(n_cells,)``.
    hidden
        Mask of the cells whose label is hidden: not fitted on, scored if their type occurs among the visible ones.
    scored
        Optional mask that restricts the scored cells.
    min_cells
        Types with fewer scored cells are left out of the mean.

    Returns
    -------
    The mean F1; NaN if no type has enough scored cells. To have probabilities and F1 per type of the same fit, take
    :func:`probe_probabilities` and score its most probable types.
    """
    z, y, h = check_embedding(z, labels, hidden)
    return _score(_linear(z, y, h), z, y, scorable(y, h, scored), min_cells)


def probe_probabilities(z: ArrayLike, labels: ArrayLike, hidden: ArrayLike) -> pd.DataFrame:
    """Probabilities of the types by the regression of :func:`linear_probe`, for all cells.

    Parameters
    ----------
    z, labels, hidden
        As for :func:`linear_probe`. Labels of hidden cells are not read.

    Returns
    -------
    Cells × visible types (sorted); rows sum to 1.

    Examples
    --------
    >>> probability = probe_probabilities(z, labels, hidden)
    >>> cells = scorable(labels, hidden)
    >>> per_type_f1(labels[cells], probability.idxmax(axis=1)[cells])  # doctest: +SKIP
    """
    z, y, h = check_embedding(z, labels, hidden)
    probe = _linear(z, y, h)
    return pd.DataFrame(probe.predict_proba(z), columns=pd.Index(probe.classes_, name="type"))


def knn_probe(
    z: ArrayLike,
    labels: ArrayLike,
    hidden: ArrayLike,
    scored: ArrayLike | None = None,
    min_cells: int = MIN_SCORED,
    n_neighbors: int = 15,
) -> float:
    """Macro-F1 of a vote among the ``n_neighbors`` nearest visible cells; arguments as :func:`linear_probe`."""
    z, y, h = check_embedding(z, labels, hidden)
    return _score(_neighbours(z, y, h, n_neighbors), z, y, scorable(y, h, scored), min_cells)


def knn_predict(z: ArrayLike, labels: ArrayLike, hidden: ArrayLike, n_neighbors: int = 15) -> NDArray:
    """Types ``(n_cells,)`` by the vote of :func:`knn_probe`, for all cells; a visible cell has a vote of its own."""
    z, y, h = check_embedding(z, labels, hidden)
    return _neighbours(z, y, h, n_neighbors).predict(z)


def _score(probe: Any, z: NDArray, y: NDArray, cells: NDArray[np.bool_], min_cells: int) -> float:
    check_integer("min_cells", min_cells)
    return macro_f1(y[cells], probe.predict(z[cells]), min_cells) if cells.any() else float("nan")


def _linear(z: NDArray, y: NDArray, hidden: NDArray) -> Pipeline:
    _check_visible(hidden)
    several = np.unique(y[~hidden]).size > 1  # a logistic regression refuses a single type
    last = LogisticRegression(C=1.0, max_iter=1000) if several else DummyClassifier(strategy="most_frequent")
    return make_pipeline(StandardScaler(), last).fit(z[~hidden], y[~hidden])


def _neighbours(z: NDArray, y: NDArray, hidden: NDArray, n_neighbors: int) -> KNeighborsClassifier:
    _check_visible(hidden)
    return KNeighborsClassifier(min(check_integer("n_neighbors", n_neighbors), int((~hidden).sum()))).fit(
        z[~hidden], y[~hidden]
    )


def _check_visible(hidden: NDArray) -> None:
    if hidden.all():
        raise ValueError(f"hidden covers all {hidden.size} cells; a probe is fitted on visible labels, show some.")
