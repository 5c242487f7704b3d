r"""Clusters that every batch takes part in: what stands in for types where no cell has a label.

Cells :math:`x_i`, of length 1, belong to cluster :math:`k` with

.. math:: R_{ik} \propto \exp\left(\frac{c_k^\top x_i - 1}{\sigma / 2}\right)
          \prod_v \left(\frac{E^v_{k b(i)}}{O_{k b(i)} + E^v_{k b(i)}}\right)^{\theta_v}

with :math:`O` the cells of each batch in each cluster and :math:`E^v` those expected if batches mixed, for every term
:math:`v` of the strength among all of them or among those of equal levels of weaker keys: a cluster that one batch
fills draws fewer of its cells (maximum diversity clustering, Korsunsky et al. 2019). Batches are then compared within
clusters (:func:`more_scvi.base._offsets.typed_offsets`) and moved, and clusters are found once more, so that batches
which differ come to share them. All that is done twice, from batches as they were measured and from batches centred on
their means: the first is right where batches hold other types, the second where platforms differ more than types do.
The clusters whose cells lie closer together are taken. Harmony moves each cluster of a batch by its own offset and
repeats that up to ten times; types that only one batch has are then drawn onto others, and training learns what differs
between clusters anyway.
"""

import numpy as np
from sklearn.cluster import KMeans

from more_scvi.base._offsets import TYPE_PRIOR, typed_offsets
from more_scvi.base._path import batch_means
from more_scvi.base._strength import Strength

CELLS_PER_CLUSTER, MOST_CLUSTERS = 30, 100
"""Cells for every cluster, and clusters at most. Source: paper Korsunsky 2019."""
SHARPNESS, DIVERSITY = 0.1, 2.0
"""σ, and θ at strength 1. Source: paper Korsunsky 2019."""
N_ROUNDS = 2
"""How often clusters are found, batches being moved in between. Source: plain value, not tuned."""
N_STEPS, N_BLOCKS = 4, 20
"""Steps of clustering, and blocks of cells in each. Source: paper Korsunsky 2019."""
MOST_CELLS = 20_000
"""Cells that clusters are found on; the others are assigned. Source: plain value, not tuned."""


def shared_clusters(x: np.ndarray, batch: np.ndarray, strength: Strength, seed: int = 0) -> np.ndarray:
    """Cluster of each cell, int64 (cells,).

    Parameters
    ----------
    x
        (cells, columns), of which no batch has been removed.
    batch
        Codes of what is compared within clusters and moved, (cells,).
    strength
        How much batches are made alike; 0: clusters may be of one batch.
    seed
        Of the starting centres and of the order of cells.
    """
    n_batch, best, least = len(strength.levels), np.zeros(len(x), np.int64), np.inf
    for start in (np.zeros((n_batch, x.shape[1])), batch_means(x, batch, n_batch)):
        moved = x - strength.part(start)[batch]
        for _ in range(N_ROUNDS):
            codes = diverse_clusters(np.asarray(moved, np.float32), batch, strength, seed)
            moved = x - strength.part(typed_offsets(x, batch, codes, n_batch, TYPE_PRIOR))[batch]
        apart = float(np.square(moved - batch_means(moved, codes, codes.max() + 1)[codes]).sum())
        if apart < least:
            best, least = codes, apart
    return best


def diverse_clusters(x: np.ndarray, batch: np.ndarray, strength: Strength, seed: int = 0) -> np.ndarray:
    """Cluster of each cell at the place where it is, (cells,); see :func:`shared_clusters`."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(x))[:MOST_CELLS]
    phi = np.eye(len(strength.levels), dtype=np.float32)[batch[order]]
    n = int(np.clip(round(len(order) / CELLS_PER_CLUSTER), 1, MOST_CLUSTERS))
    fitted, share = _unit(x[order]), phi.mean(0)
    terms = []
    for weight, group in strength.terms():
        same = (group[:, None] == group).astype(np.float32)
        of_group = np.float32(1.0) if same.all() else np.maximum(same @ share, 1e-12)
        terms.append((DIVERSITY * weight, same, (share / of_group)[:, None]))
    centres = KMeans(n, n_init=1, max_iter=25, random_state=seed).fit(fitted).cluster_centers_
    member = _near(fitted, centres)
    for _ in range(N_STEPS):
        near = _near(fitted, member.T @ fitted)
        observed, total = phi.T @ member, member.sum(0)
        for rows in np.array_split(rng.permutation(len(fitted)), N_BLOCKS):  # each changes what the next expect
            observed -= phi[rows].T @ member[rows]
            total -= member[rows].sum(0)
            favour = np.zeros_like(observed)
            for theta, same, part in terms:
                expected = part * (total if same.all() else same @ observed).clip(0.0) + 1e-6
                favour += theta * np.log(expected / (observed.clip(0.0) + expected))
            new = near[rows] * np.exp(phi[rows] @ favour)
            member[rows] = new / np.maximum(new.sum(1, keepdims=True), 1e-30)
            observed += phi[rows].T @ member[rows]
            total += member[rows].sum(0)
    out = np.empty(len(x), np.int64)
    rest = np.setdiff1d(np.arange(len(x)), order, assume_unique=True)
    out[order] = member.argmax(1)
    out[rest] = _near(_unit(x[rest]), member.T @ fitted).argmax(1)
    return out


def _near(x: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Memberships by distance alone; both sides are taken by their direction."""
    near = np.exp((x @ _unit(centres).T - 1.0) * (2.0 / SHARPNESS))
    return near / near.sum(1, keepdims=True)


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
