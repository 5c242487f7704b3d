"""Metrics of an embedding: annotation of hidden labels, batch mixing within types, structure within types.

All functions take plain arrays, are deterministic and need nothing beyond scikit-learn and SciPy. Labels given here are
for *scoring*: true labels, hidden ones included.

===========================  =================================================================  ======================
metric                       question                                                           what a control scores
===========================  =================================================================  ======================
:func:`linear_probe`,        are hidden labels recoverable from the embedding?                  one-hot predictions:
:func:`knn_probe`                                                                               high
:func:`cilisi`               do batches mix where they share a type?                            Gaussian noise: ~1
:func:`structure`            is what a type looks like inside one batch still there?            one-hot, noise: ~0
:func:`effective_dimension`  how many directions does a type still use?                         one-hot: ~0
===========================  =================================================================  ======================
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import pdist
from scipy.stats import rankdata
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors
from sklearn.preprocessing import StandardScaler

MIN_SCORED = 5
"""Types with fewer scored cells are left out of macro means."""


def scorable(labels: ArrayLike, hidden: ArrayLike, scored: ArrayLike | None = None) -> NDArray[np.bool_]:
    """Mask ``(n_cells,)`` of the cells that annotation is scored on: hidden, and of a type with visible labels.

    ``scored`` restricts the hidden cells further (the inner cells of :func:`~more_scvi.evaluation.inner_split`).
    """
    y, h = np.asarray(labels).astype(str), np.asarray(hidden, dtype=bool)
    cells = h if scored is None else h & np.asarray(scored, dtype=bool)
    return cells & np.isin(y, np.unique(y[~h]))


def macro_f1(true: ArrayLike, predicted: ArrayLike, min_cells: int = MIN_SCORED) -> float:
    """Mean F1 over the types with at least ``min_cells`` cells in ``true``; NaN if there is none.

    Cells of rarer types still count as false positives of the types they are taken for.
    """
    y = np.asarray(true).astype(str)
    types, counts = np.unique(y, return_counts=True)
    types = types[counts >= min_cells]
    if types.size == 0:
        return float("nan")
    return float(f1_score(y, np.asarray(predicted).astype(str), labels=types, average="macro", zero_division=0))


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
    """
    z, y, h = _check(z, labels, hidden)
    cells = scorable(y, h, scored)
    scale = StandardScaler().fit(z[~h])
    probe = LogisticRegression(C=1.0, max_iter=1000).fit(scale.transform(z[~h]), y[~h])
    return macro_f1(y[cells], probe.predict(scale.transform(z[cells])), min_cells)


def knn_probe(
    z: ArrayLike,
    labels: ArrayLike,
    hidden: ArrayLike,
    scored: ArrayLike | None = None,
    min_cells: int = MIN_SCORED,
    n_neighbors: int = 15,
) -> float:
    """Macro-F1 of a vote among the ``n_neighbors`` nearest visible cells; arguments as :func:`linear_probe`."""
    z, y, h = _check(z, labels, hidden)
    cells = scorable(y, h, scored)
    probe = KNeighborsClassifier(min(n_neighbors, int((~h).sum()))).fit(z[~h], y[~h])
    return macro_f1(y[cells], probe.predict(z[cells]), min_cells)


def cilisi(z: ArrayLike, labels: ArrayLike, batches: ArrayLike, n_neighbors: int = 30, min_cells: int = 10) -> float:
    r"""Batch mixing within types (CiLISI): 1 = as mixed as the batch proportions of the type allow, 0 = separated.

    For a cell of type :math:`t` with batch shares :math:`q_b` among its ``n_neighbors`` nearest cells *of the same
    type*, LISI is :math:`L = 1/\sum_b q_b^2`. With :math:`p_b` the batch proportions of the type, the cell scores
    :math:`(L - 1) / (1/\sum_b p_b^2 - 1)`. Cells are averaged within types, then types are averaged, so that a large
    type cannot hide the others. Neighbours are unweighted; equal distances are broken at random (seeded).

    Parameters
    ----------
    z
        Embedding ``(n_cells, n_latent)``.
    labels, batches
        Types and batches ``(n_cells,)``.
    n_neighbors
        Neighbours per cell, the cell itself not counted.
    min_cells
        A batch counts for a type if it holds at least so many of its cells; types in fewer than two such batches are
        left out.

    Returns
    -------
    The mean score; NaN if no type occurs in two batches. Sampling noise keeps perfect mixing slightly below 1.

    References
    ----------
    LISI: Korsunsky et al. 2019; within types: Andreatta et al. 2024 (there weighted by perplexity and over cells).
    """
    points, y, b = _check(z, labels, batches, flags=False)
    points = points + 1e-9 * (points.std() + 1e-12) * np.random.default_rng(0).standard_normal(points.shape)
    per_type = []
    for name in np.unique(y):
        of_type = y == name
        names, counts = np.unique(b[of_type], return_counts=True)
        rows = np.flatnonzero(of_type & np.isin(b, names[counts >= min_cells]))
        kept, code = np.unique(b[rows], return_inverse=True)
        if kept.size < 2:
            continue
        k = min(n_neighbors, rows.size - 1)
        neighbours = NearestNeighbors(n_neighbors=k).fit(points[rows]).kneighbors(return_distance=False)
        shares = np.stack([(code[neighbours] == i).mean(axis=1) for i in range(kept.size)], axis=1)
        expected = 1.0 / np.square(np.bincount(code) / rows.size).sum()
        per_type.append(np.mean((1.0 / np.square(shares).sum(axis=1) - 1.0) / (expected - 1.0)))
    return float(np.mean(per_type)) if per_type else float("nan")


def structure(
    z: ArrayLike,
    reference: ArrayLike,
    labels: ArrayLike,
    batches: ArrayLike,
    min_cells: int = 10,
    max_cells: int = 200,
) -> float:
    """Spearman correlation of distances within each (type, batch) in ``z`` with those in ``reference``.

    The one figure that an embedding which holds nothing but the class cannot win. Only distances between cells of the
    same type *and* batch count, so removing batch effects costs nothing. A group whose distances are constant
    (collapsed) scores 0.

    Parameters
    ----------
    z
        Embedding ``(n_cells, n_latent)``.
    reference
        Untouched low-rank view of the same cells ``(n_cells, d)``; the benchmark takes 50 PCs of the data. PCA scores
        1 by construction, so this is an alarm for distortion rather than a target.
    labels, batches
        Types and batches ``(n_cells,)``.
    min_cells
        Groups with fewer cells are left out.
    max_cells
        Larger groups are subsampled to so many cells (seeded, the same cells for every ``z``).

    Returns
    -------
    Mean over groups; NaN if no group is large enough.
    """
    z, y, b = _check(z, labels, batches, flags=False)
    reference = np.asarray(reference, dtype=np.float64)
    rng = np.random.default_rng(0)
    per_group = []
    for batch in np.unique(b):
        for name in np.unique(y):
            rows = np.flatnonzero((b == batch) & (y == name))
            if rows.size < min_cells:
                continue
            rows = rng.permutation(rows)[:max_cells]
            per_group.append(_spearman(pdist(z[rows]), pdist(reference[rows])))
    return float(np.mean(per_group)) if per_group else float("nan")


def effective_dimension(z: ArrayLike, labels: ArrayLike, batches: ArrayLike, min_cells: int = 20) -> float:
    r"""Directions that types still use: participation ratio :math:`(\sum\lambda)^2/\sum\lambda^2`, mean over types.

    :math:`\lambda` are the eigenvalues of the covariance of ``z`` within the type, each (type, batch) centred. Types
    with fewer than ``min_cells`` cells are left out; a collapsed type counts 0.
    """
    z, y, b = _check(z, labels, batches, flags=False)
    scale = np.square(z - z.mean(axis=0)).sum()
    per_type = []
    for name in np.unique(y):
        rows = np.flatnonzero(y == name)
        if rows.size < min_cells:
            continue
        centred = z[rows].copy()
        for batch in np.unique(b[rows]):
            member = b[rows] == batch
            centred[member] -= centred[member].mean(axis=0)
        power = np.square(np.linalg.svd(centred, compute_uv=False))
        collapsed = power.sum() <= 1e-12 * scale
        per_type.append(0.0 if collapsed else power.sum() ** 2 / np.square(power).sum())
    return float(np.mean(per_type)) if per_type else float("nan")


def score(
    z: NDArray | None,
    prediction: ArrayLike | None,
    labels: ArrayLike,
    batches: ArrayLike,
    hidden: ArrayLike,
    reference: ArrayLike,
    scored: ArrayLike | None = None,
    cells: ArrayLike | None = None,
) -> dict[str, float | None]:
    """All metrics of one result.

    Parameters
    ----------
    z
        Embedding ``(n_cells, n_latent)``, or ``None`` for a bare classifier.
    prediction
        Predicted labels ``(n_cells,)``, or ``None`` for a method without a classifier of its own.
    labels, batches, hidden
        True types, batches and the mask of hidden labels, ``(n_cells,)`` each.
    reference
        Reference of :func:`structure`.
    scored
        Restricts the cells that annotation is scored on.
    cells
        Restricts the cells of mixing and structure (default: all).

    Returns
    -------
    ``own``, ``LR``, ``kNN`` (macro-F1), ``CiLISI``, ``structure``, ``dimension`` and ``n_scored``; ``None`` where a
    figure does not exist for the method.
    """
    y, b = np.asarray(labels).astype(str), np.asarray(batches).astype(str)
    on = scorable(y, hidden, scored)
    out: dict[str, float | None] = dict.fromkeys(("own", "LR", "kNN", "CiLISI", "structure", "dimension"))
    out["n_scored"] = int(on.sum())
    if prediction is not None:
        out["own"] = macro_f1(y[on], np.asarray(prediction)[on])
    if z is not None:
        keep = np.ones(y.size, dtype=bool) if cells is None else np.asarray(cells, dtype=bool)
        out["LR"] = linear_probe(z, y, hidden, scored)
        out["kNN"] = knn_probe(z, y, hidden, scored)
        out["CiLISI"] = cilisi(z[keep], y[keep], b[keep])
        out["structure"] = structure(z[keep], np.asarray(reference)[keep], y[keep], b[keep])
        out["dimension"] = effective_dimension(z[keep], y[keep], b[keep])
    return out


def _check(z: ArrayLike, first: ArrayLike, second: ArrayLike, flags: bool = True) -> tuple[NDArray, NDArray, NDArray]:
    z = np.asarray(z, dtype=np.float64)
    one = np.asarray(first).astype(str)
    two = np.asarray(second, dtype=bool) if flags else np.asarray(second).astype(str)
    if z.ndim != 2 or one.shape != (len(z),) or two.shape != (len(z),):
        raise ValueError(
            f"z {z.shape} must be (cells, latent), with one label {one.shape} and one {'flag' if flags else 'batch'} "
            f"{two.shape} per cell."
        )
    if not np.isfinite(z).all():
        raise ValueError(f"z holds {int((~np.isfinite(z)).sum())} values that are not finite; it cannot be scored.")
    return z, one, two


def _spearman(a: NDArray, b: NDArray) -> float:
    ranks = np.stack([rankdata(a), rankdata(b)])
    ranks -= ranks.mean(axis=1, keepdims=True)
    norm = np.sqrt(np.square(ranks).sum(axis=1).prod())
    collapsed = np.ptp(a) <= 1e-9 * max(float(np.abs(a).max()), 1e-30)
    return 0.0 if collapsed or norm == 0 else float(ranks.prod(axis=0).sum() / norm)
