"""Types that have no label: whether they are found, and kept apart."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

from ._check import break_ties, check_finite, check_integer, check_mask, check_matrix, check_names, check_scores


def novelty_auroc(score: ArrayLike, novel: ArrayLike, among: ArrayLike | None = None) -> float:
    """Probability that a cell of the novel type has a higher novelty score than another cell; 0.5 is chance.

    Parameters
    ----------
    score
        Novelty ``(n_cells,)``, high for cells unlike anything labelled: :func:`knn_novelty`, one minus the largest
        class probability, …
    novel
        Mask of the cells of the novel type.
    among
        Mask of the cells that are scored (by default all). Take the hidden ones: visible cells were fitted on, and
        score low for that reason alone.

    Returns
    -------
    Area under the ROC curve, ties counted half; NaN unless cells of both kinds are scored.
    """
    values = check_scores(score, "score")
    of_type = check_mask(novel, "novel", values.size)
    cells = np.ones(values.size, dtype=bool) if among is None else check_mask(among, "among", values.size)
    check_finite(values[cells], "score")
    if np.unique(of_type[cells]).size < 2:
        return float("nan")
    return float(roc_auc_score(of_type[cells], values[cells]))


def knn_novelty(z: ArrayLike, visible: ArrayLike, n_neighbors: int = 15) -> NDArray[np.float64]:
    """Mean distance of every cell ``(n_cells,)`` to its ``n_neighbors`` nearest visible cells, itself not counted.

    Parameters
    ----------
    z
        Embedding ``(n_cells, n_latent)``.
    visible
        Mask of the cells with a label, at least two.
    n_neighbors
        Fewer are taken if fewer cells are visible.
    """
    points = check_matrix(z, "z")
    shown = check_mask(visible, "visible", len(points))
    if shown.sum() < 2:
        raise ValueError(f"visible marks {int(shown.sum())} cells; distances to labelled cells need at least 2.")
    search = NearestNeighbors(n_neighbors=min(check_integer("n_neighbors", n_neighbors), int(shown.sum()) - 1)).fit(
        points[shown]
    )
    out = np.empty(len(points))
    out[shown] = search.kneighbors()[0].mean(axis=1)  # without points the cell itself is left out
    if not shown.all():
        out[~shown] = search.kneighbors(points[~shown])[0].mean(axis=1)
    return out


def neighbour_novelty(
    z: ArrayLike, visible: ArrayLike, batches: ArrayLike | None = None, n_neighbors: int = 30
) -> NDArray[np.float64]:
    r"""How few labelled cells there are around a cell ``(n_cells,)``, compared with its batch: 0 to 1, usual 0.5.

    With :math:`s` the share of labelled cells among the nearest of *all* other cells and :math:`\bar s` the mean of
    :math:`s` over the cell's batch, the score is :math:`\bar s / (\bar s + s)`; 1 where no neighbour has a label.
    Unlike a distance to labelled cells (:func:`knn_novelty`) it does not rise for types that vary much or cells of
    little depth. It needs unlabelled cells beside labelled ones, and enough labels: as many neighbours are taken as
    hold five labelled ones on average, but no more than a twentieth of the cells.

    Parameters
    ----------
    z
        Embedding ``(n_cells, n_latent)``.
    visible
        Mask of the cells with a label.
    batches
        Optional batches ``(n_cells,)``: a batch without any label is compared with itself.
    n_neighbors
        Neighbours, more where labels are few.

    Raises
    ------
    ValueError
        If no cell is labelled.

    Examples
    --------
    >>> import numpy as np
    >>> z = np.repeat([[0.0], [9.0]], 50, axis=0) + np.linspace(0, 1, 100)[:, None]
    >>> visible = (np.arange(100) % 2 == 0) & (z[:, 0] < 5)
    >>> score = neighbour_novelty(z, visible, n_neighbors=10)
    >>> bool(score[50:].min() > score[:50].max())
    True
    """
    points = check_matrix(z, "z")
    shown = check_mask(visible, "visible", len(points))
    if not shown.any():
        raise ValueError("visible marks no cell; novelty is measured against labelled cells.")
    n, n_neighbors = len(points), check_integer("n_neighbors", n_neighbors)
    if n < 2:
        raise ValueError("z holds 1 cell, which has no neighbours; give at least 2.")
    k = min(max(n_neighbors, min(int(np.ceil(5 / shown.mean())), n // 20)), n - 1)
    near = NearestNeighbors(n_neighbors=k).fit(points).kneighbors(return_distance=False)
    share = shown[near].mean(axis=1)
    groups = (
        np.zeros(n, int) if batches is None else np.unique(check_names(batches, "batches", n), return_inverse=True)[1]
    )
    usual = (np.bincount(groups, share) / np.bincount(groups))[groups]
    return np.where(usual > 0, usual / np.maximum(usual + share, 1e-12), 1.0)


def purity(z: ArrayLike, of_type: ArrayLike, batches: ArrayLike | None = None, n_neighbors: int = 15) -> float:
    r"""Is a type kept apart? 1 = its cells have only each other as neighbours, as far as there are enough of them.

    For each of the :math:`n` cells of the type, the share of the type among the :math:`k` nearest of all :math:`N`
    cells, itself not counted, is divided by the best possible share :math:`\min(k, n - 1) / k`; cells are averaged.
    Chance scores :math:`\frac{n - 1}{N - 1} \cdot \frac{k}{\min(k, n - 1)}`: about the type's share of the cells if it
    has more than :math:`k`, up to :math:`k / (N - 1)` if it has fewer. Equal distances are broken at random (seeded).

    Parameters
    ----------
    z
        Embedding ``(n_cells, n_latent)``.
    of_type
        Mask of the cells of the type.
    batches
        Optional batches ``(n_cells,)``. Neighbours are then sought in the cell's own batch (:math:`n` and :math:`N`
        are counted there), so that batch effects neither help nor hurt; a cell alone of its type in its batch is left
        out.
    n_neighbors
        Neighbours per cell; fewer if there are fewer cells.

    Returns
    -------
    The mean; NaN if the type has fewer than two cells (with ``batches``: in every batch).
    """
    points = check_matrix(z, "z")
    member = check_mask(of_type, "of_type", len(points))
    groups = np.zeros(len(points), dtype=int) if batches is None else check_names(batches, "batches", len(points))
    check_integer("n_neighbors", n_neighbors)
    points = break_ties(points)
    parts = [groups == name for name in np.unique(groups[member])]
    each = np.concatenate([np.empty(0), *(_purity(points[of], member[of], n_neighbors) for of in parts)])
    return float(each.mean()) if each.size else float("nan")


def _purity(z: NDArray[np.float64], member: NDArray[np.bool_], n_neighbors: int) -> NDArray[np.float64]:
    n, k = int(member.sum()), min(n_neighbors, len(z) - 1)
    if n < 2:
        return np.empty(0)
    search = NearestNeighbors(n_neighbors=k + 1).fit(z)  # the cell itself is among those that are found
    nearest = search.kneighbors(z[member], return_distance=False)
    other = nearest != np.flatnonzero(member)[:, None]
    other[other.all(axis=1), -1] = False  # a twin in the cell's own place
    return (member[nearest] & other).sum(axis=1) / min(k, n - 1)
