"""Neighbours and clusters of the cells of one study."""

import random

import igraph
import numpy as np
from scipy.sparse import csr_matrix
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors
from sklearn.utils.sparsefuncs import mean_variance_axis

from more_scvi.modalities.rna import log_normalise

_N_VARIABLE = 2000


def nearest(counts: csr_matrix, k: int, seed: int) -> np.ndarray:
    """(cells, k) nearest other cells by 30 principal components of the variable genes; repeated where cells are few."""
    y, n_cells = log_normalise(counts), counts.shape[0]
    chosen = np.argsort(-mean_variance_axis(y, axis=0)[1], kind="stable")[:_N_VARIABLE]
    dense = y[:, chosen].toarray()
    n_components = min(30, n_cells - 1, dense.shape[1])
    scores = PCA(n_components, svd_solver="randomized", random_state=seed).fit_transform(dense)
    found = NearestNeighbors(n_neighbors=min(k + 1, n_cells)).fit(scores).kneighbors(return_distance=False)[:, 1:]
    return np.resize(found.T, (k, n_cells)).T if found.shape[1] < k else found[:, :k]


def clusters(near: np.ndarray) -> np.ndarray:
    """(cells,) number of the Leiden cluster (Traag et al. 2019), given (cells, k) neighbours."""
    n, k = near.shape
    graph = igraph.Graph(n, np.stack([np.repeat(np.arange(n), k), near.ravel()], 1).tolist()).simplify()
    random.seed(0)  # igraph draws from Python's generator
    return np.array(graph.community_leiden(objective_function="modularity", n_iterations=3).membership)
