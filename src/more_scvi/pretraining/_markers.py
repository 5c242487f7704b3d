"""Gene sets of the pool's own: what the clusters of its studies express more than the rest of the study."""

import numpy as np
from sklearn.utils.sparsefuncs import mean_variance_axis

from more_scvi.data._arguments import check_integer, check_type
from more_scvi.modalities.rna import log_normalise

from ._neighbours import clusters, nearest
from ._pool import Pool

_N_NEIGHBOURS = 15
_FEWEST_CELLS, _FEWEST_OTHERS, _FEWEST_OF_STUDY = 8, 20, 60
_LEAST_EFFECT, _SLACK, _FEWEST_GENES = 0.3, 0.1, 5


def marker_sets(pool: Pool, n_genes: int = 60, seed: int = 0) -> dict[str, list[str]]:
    """Markers of every cluster of every study, without a label.

    The cells of a study are clustered (Leiden on 15 neighbours by principal components). A cluster's markers are the
    genes with the largest difference of its mean to that of the other cells of the study, in units of the spread within
    both. Clusters of several studies may find the same type; each contributes a set.

    Parameters
    ----------
    pool
        The cells.
    n_genes
        Most genes of a set.
    seed
        Seed of the principal components.

    Returns
    -------
    Name of study and number of cluster to human symbols. Studies of fewer than 60 cells and clusters of fewer than 8
    give none, nor do clusters that hardly differ.
    """
    check_type("pool", pool, Pool, "what read_pool returns")
    check_integer("n_genes", n_genes)
    check_integer("seed", seed, 0)
    symbols, out = np.array(pool.vocabulary.human_symbol), {}
    for number, study in enumerate(pool.studies):
        cells, measured = np.flatnonzero(pool.study == number), np.flatnonzero(pool.measured[number])
        if len(cells) < _FEWEST_OF_STUDY:
            continue
        counts = pool.counts[cells][:, measured]
        y, cluster = log_normalise(counts), clusters(nearest(counts, _N_NEIGHBOURS, seed))
        for k in range(cluster.max() + 1):
            own = cluster == k
            if own.sum() < _FEWEST_CELLS or (~own).sum() < _FEWEST_OTHERS:
                continue
            (mean, variance), (other, around) = (mean_variance_axis(y[rows], axis=0) for rows in (own, ~own))
            effect = (mean - other) / np.sqrt(variance + around + _SLACK)
            best = np.argsort(-effect, kind="stable")[:n_genes]
            best = best[effect[best] > _LEAST_EFFECT]
            if len(best) >= _FEWEST_GENES:
                out[f"{study} {k}"] = symbols[measured[best]].tolist()
    return out
