"""Few labels: cells that are told with confidence get a label of their own before training."""

import itertools

import numpy as np
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors

FEW_LABELS = 50
"""Self-training starts when the median type has fewer visible labels. Source: plain value, not tuned."""
MOST_LABELLED = 0.2
"""… and no larger share of the cells has one. Source: plain value, not tuned."""
N_ROUNDS, SHARE_PER_ROUND = 3, 0.2
"""Rounds of self-training, and the share of the cells added in each. Source: plain value, not tuned."""
WIDE_SHARE = 0.7
"""Share of the wide input in the vote of self-training, the embedding has the rest. Source: plain value, not tuned."""
MAX_CELLS = 20_000


def needs_self_training(labels: np.ndarray) -> bool:
    """Whether labels are few: codes (cells,), -1 = not visible."""
    counts = np.bincount(labels[labels >= 0])
    counts = counts[counts > 0]
    if len(counts) < 2 or counts.sum() > MOST_LABELLED * len(labels):
        return False
    return bool(np.median(counts) < FEW_LABELS)


def self_train(wide: np.ndarray, base: np.ndarray, labels: np.ndarray, batch: np.ndarray, seed: int) -> np.ndarray:
    """Labels of the cells that are told with most confidence, beside the visible ones.

    Two logistic regressions, on the wide input and on the base, are mixed; their probabilities are multiplied by what
    reaches a cell over its neighbours (:func:`spread_labels`). In every round the most certain fifth, two and three
    fifths of the cells taken for each type in each batch are added and both are fitted again. Taking a share of every
    type and batch, rather than all cells above a threshold, keeps rare types from being lost to common ones and lets
    batches be aligned on the same types.

    Parameters
    ----------
    wide, base
        (cells, width); only the first ``MAX_CELLS`` of a random order take part, the labelled ones among them.
    labels
        (cells,) codes, -1 = not visible.
    batch
        (cells,) codes.
    seed
        Of the choice of cells.

    Returns
    -------
    (cells,) codes: visible ones as they were, -1 for cells that remain uncertain.

    References
    ----------
    Self-training: Yarowsky 1995; label spreading: Zhou et al. 2004.
    """
    rows = _chosen(labels, seed)
    wide, base, given, batch = wide[rows], base[rows] / base[rows].std(), labels[rows], batch[rows]
    types = np.unique(given[given >= 0])
    reached = spread_labels(base, given, types)
    seeds = np.flatnonzero(given >= 0)
    known, p = given.copy(), np.zeros((len(rows), len(types)))
    for step in range(N_ROUNDS + 1):
        fitted = known >= 0
        p[:] = 0.0
        for x, share in ((wide, WIDE_SHARE), (base, 1.0 - WIDE_SHARE)):
            p += share * LogisticRegression(max_iter=200).fit(x[fitted], known[fitted]).predict_proba(x)
        certainty = p * (reached + 0.01)  # where no label reaches, the regressions alone decide
        certainty /= certainty.sum(1, keepdims=True)
        best, height = certainty.argmax(1), certainty.max(1)
        best[seeds], height[seeds] = -1, -1.0  # visible labels stay as they are
        known = given.copy()  # anew, so that a label given in an earlier round can be taken back
        share = SHARE_PER_ROUND * min(step + 1, N_ROUNDS)
        for code, where in itertools.product(range(len(types)), np.unique(batch)):
            cells = np.flatnonzero((best == code) & (batch == where))
            taken = cells[np.argsort(-height[cells], kind="stable")][: int(np.ceil(share * len(cells)))]  # one at least
            known[taken] = types[code]
    out = labels.copy()
    out[rows] = known
    return out


def spread_labels(
    base: np.ndarray,
    labels: np.ndarray,
    types: np.ndarray,
    n_neighbors: int = 15,
    alpha: float = 0.8,
    n_steps: int = 30,
) -> np.ndarray:
    """Share of each type in what reaches a cell from the labelled ones over the neighbour graph, (cells, types)."""
    n = len(base)
    k = min(n_neighbors, n - 1)
    neighbours = NearestNeighbors(n_neighbors=k).fit(base).kneighbors(return_distance=False)  # no x: not itself
    graph = sparse.csr_matrix((np.ones(n * k), (np.repeat(np.arange(n), k), neighbours.ravel())), (n, n))
    graph = graph.maximum(graph.T)
    scale = sparse.diags(1.0 / np.sqrt(np.asarray(graph.sum(1)).ravel()))
    graph = scale @ graph @ scale
    start = np.zeros((n, len(types)))
    seeds = np.flatnonzero(labels >= 0)
    start[seeds, np.searchsorted(types, labels[seeds])] = 1.0
    start /= start.sum(0)  # types weigh alike, however many labels they have
    reached = start.copy()
    for _ in range(n_steps):
        reached = alpha * (graph @ reached) + (1.0 - alpha) * start
    reached /= reached.sum(0)
    return reached / (reached.sum(1, keepdims=True) + 1e-12)  # cells in a part of the graph without labels


def _chosen(labels: np.ndarray, seed: int) -> np.ndarray:
    """All cells, or the labelled ones and a random part of the others."""
    if len(labels) <= MAX_CELLS:
        return np.arange(len(labels))
    order = np.random.default_rng(seed).permutation(len(labels))
    order = order[np.argsort(labels[order] < 0, kind="stable")]  # stable: the unlabelled stay in random order
    return np.sort(order[:MAX_CELLS])
