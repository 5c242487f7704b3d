"""Leiden clusters of a neighbour graph against types."""

from __future__ import annotations

import random

import igraph
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

RESOLUTIONS = tuple(round(0.2 * step, 1) for step in range(1, 11))
"""Resolutions that scib-metrics searches."""


def leiden(graph: sparse.spmatrix, seed: int) -> list[NDArray[np.int64]]:
    """Clusters of every cell at each of the :data:`RESOLUTIONS`, as scib-metrics finds them."""
    edges = igraph.Graph.Weighted_Adjacency(graph, mode="directed")
    edges.to_undirected(mode="each")
    clusterings = []
    try:
        for resolution in RESOLUTIONS:
            igraph.set_random_number_generator(random.Random(seed))
            found = edges.community_leiden(objective_function="modularity", weights="weight", resolution=resolution)
            clusterings.append(np.asarray(found.membership))
    finally:
        igraph.set_random_number_generator(random)
    return clusterings


def nmi_ari(clusterings: list[NDArray[np.int64]], labels: NDArray) -> tuple[float, float]:
    """NMI and ARI of the clustering with the highest NMI; NaN if there is one type only."""
    if np.unique(labels).size < 2:
        return float("nan"), float("nan")
    scores = [normalized_mutual_info_score(labels, clusters) for clusters in clusterings]
    best = clusterings[int(np.argmax(scores))]
    return float(max(scores)), float(adjusted_rand_score(labels, best))


def isolated_f1(
    clusterings: list[NDArray[np.int64]], labels: NDArray, batches: NDArray, scored: NDArray[np.bool_]
) -> float:
    """Mean over isolated types of the best F1 that any one cluster reaches for the type.

    Isolated are the types in the fewest batches (all types, if all are in as many). F1 is counted on ``scored`` cells.
    """
    pairs = pd.DataFrame({"type": labels, "batch": batches}).drop_duplicates()
    if pairs["batch"].nunique() < 2:
        return float("nan")
    n_batches = pairs.groupby("type").size()
    isolated = np.intersect1d(n_batches.index[n_batches == n_batches.min()], labels[scored])
    scores = [max(_best_f1(clusters[scored], labels[scored] == name) for clusters in clusterings) for name in isolated]
    return float(np.mean(scores)) if scores else float("nan")


def _best_f1(clusters: NDArray[np.int64], member: NDArray[np.bool_]) -> float:
    inside, sizes = np.bincount(clusters, weights=member), np.bincount(clusters)
    return float((2 * inside / (sizes + member.sum())).max())
