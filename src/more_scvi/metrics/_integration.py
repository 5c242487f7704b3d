"""Figures of an integration that nobody labelled: labels carried between batches, clusters, connected types."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from ._annotation import MIN_SCORED, macro_f1
from ._check import break_ties, check_embedding, check_integer, check_matrix, check_names
from ._scib import leiden, nmi_ari


def transfer(
    z: ArrayLike, labels: ArrayLike, batches: ArrayLike, n_neighbors: int = 15, min_cells: int = MIN_SCORED
) -> float:
    """Macro-F1 of the vote of a cell's nearest neighbours among the cells of *other* batches, mean over the batches.

    Mixing alone does not raise it, and neither do batches that lie apart: it asks whether a type is found at the same
    place in every batch.

    Parameters
    ----------
    z
        Embedding ``(n_cells, n_latent)``.
    labels, batches
        True types and batches ``(n_cells,)``.
    n_neighbors
        Neighbours that vote; fewer if the other batches hold fewer cells.
    min_cells
        Types with fewer cells in a batch are left out of its mean.

    Returns
    -------
    Mean F1 over the types of a batch that other batches have, too, mean over the batches; NaN if no batch has any.

    Examples
    --------
    >>> import numpy as np
    >>> types, batches = np.repeat(["a", "b"], 20), np.tile(["x", "y"], 20)
    >>> transfer((types == "a")[:, None] + 0.0, types, batches)
    1.0
    """
    points, y, b = check_embedding(z, labels, batches, flags=False)
    check_integer("n_neighbors", n_neighbors)
    check_integer("min_cells", min_cells)
    points, scores = break_ties(points), []
    for name in np.unique(b):
        here = b == name
        scored = here & np.isin(y, y[~here])
        if scored.any():
            vote = KNeighborsClassifier(min(n_neighbors, int((~here).sum()))).fit(points[~here], y[~here])
            scores.append(macro_f1(y[scored], vote.predict(points[scored]), min_cells))
    known = [score for score in scores if not np.isnan(score)]
    return float(np.mean(known)) if known else float("nan")


def graph_scores(z: ArrayLike, labels: ArrayLike, n_neighbors: int = 15, seed: int = 0) -> dict[str, float]:
    """How well the neighbour graph of an embedding follows the types: ``NMI``, ``ARI``, ``connectivity``.

    ``NMI`` and ``ARI`` compare types with Leiden clusters, at the resolution (of 0.2, 0.4, … 2) with the highest NMI.
    ``connectivity`` is the share of a type's cells in its largest strongly connected piece of the directed graph, mean
    over types: below 1, types fall apart. Both as scib-metrics defines them, on exact neighbours.

    Parameters
    ----------
    z
        Embedding ``(n_cells, n_latent)``.
    labels
        True types ``(n_cells,)``.
    n_neighbors
        Neighbours per cell, the cell itself counted.
    seed
        Of Leiden.

    Returns
    -------
    The three figures; ``NMI`` and ``ARI`` are NaN for a single type.

    Examples
    --------
    >>> import numpy as np
    >>> types = np.repeat(["a", "b"], 40)
    >>> z = 9.0 * (types == "a")[:, None] + np.random.default_rng(0).normal(size=(80, 3))
    >>> round(graph_scores(z, types)["NMI"], 2)
    1.0
    """
    points = check_matrix(z, "z")
    y = check_names(labels, "labels", len(points))
    check_integer("seed", seed, 0)
    indices, distances = neighbours(points, n_neighbors)
    nmi, ari = nmi_ari(leiden(_weights(indices, distances), seed), y)
    return {"NMI": nmi, "ARI": ari, "connectivity": connectivity(indices, y)}


def neighbours(z: ArrayLike, n_neighbors: int = 15) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Indices and distances of each cell's neighbours, itself the first of them."""
    points = break_ties(check_matrix(z, "z"))
    n = min(check_integer("n_neighbors", n_neighbors), len(points))
    if n < 3:
        raise ValueError(f"n_neighbors={n_neighbors} of {len(points)} cells leaves {n}; a graph needs 3 or more.")
    distances, indices = NearestNeighbors(n_neighbors=n - 1).fit(points).kneighbors()
    own = np.arange(len(points))[:, None]
    return np.hstack([own, indices]), np.hstack([np.zeros(own.shape), distances])


def connectivity(indices: NDArray[np.int64], labels: NDArray) -> float:
    """Share of a type's cells in its largest strongly connected piece, mean over types; ``indices`` are neighbours."""
    rows = np.repeat(np.arange(len(indices)), indices.shape[1])
    shape = (len(indices), len(indices))
    graph = sparse.csr_matrix((np.ones(rows.size, dtype=np.int8), (rows, indices.ravel())), shape)
    shares = []
    for name in np.unique(labels):
        member = np.flatnonzero(labels == name)
        pieces = connected_components(graph[member][:, member], connection="strong")[1]
        shares.append(np.bincount(pieces).max() / member.size)
    return float(np.mean(shares))


def _weights(indices: NDArray[np.int64], distances: NDArray[np.float64]) -> sparse.spmatrix:
    """Edges as scanpy and scib-metrics weigh them."""
    from umap.umap_ import fuzzy_simplicial_set  # takes seconds to import

    n = len(indices)
    empty = sparse.coo_matrix(([], ([], [])), shape=(n, 1))
    known = {"knn_indices": indices, "knn_dists": distances.astype(np.float32)}
    return fuzzy_simplicial_set(empty, indices.shape[1], random_state=None, metric=None, **known)[0]
