r"""Soft clusters that every batch takes part in: what stands in for types where no cell has a label.

Cells :math:`x_i`, of length 1, belong to cluster :math:`k` with

.. math:: R_{ik} \propto \exp\left(-\frac{1 - c_k^\top x_i}{\tfrac12\sigma}\right)
          \prod_v \left(\frac{E_{k b_v(i)} + 1}{O_{k b_v(i)} + 1}\right)^{\theta_v}

with :math:`O` the cells of each batch in each cluster and :math:`E` those expected if batches mixed, for every batch
variable :math:`v`: a cluster that one batch fills draws fewer of its cells. Within each cluster every batch then gets an
offset by ridge regression, the cells are moved by the offsets of their clusters, and clusters are found anew. A batch
that has no cells of a cluster gets no offset there.

The method is that of Harmony (Korsunsky et al. 2019); here the clusters are what is wanted.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.cluster import KMeans

CELLS_PER_CLUSTER, MOST_CLUSTERS = 30, 100
SHARPNESS, RIDGE = 0.1, 0.2
"""σ and the ridge penalty on offsets in cells. Source: paper Korsunsky 2019."""
DIVERSITY = 2.0
"""θ at strength 1. Source: paper Korsunsky 2019."""
N_ROUNDS, N_STEPS, N_BLOCKS = 1, 4, 20
"""Rounds of moving cells, steps of clustering in each, blocks of cells in each step. Source: paper Korsunsky 2019."""
SETTLED = 0.002
"""Mean change of memberships below which clusters are taken as found. Source: plain value, not tuned."""
MOST_CELLS = 20_000
"""Cells that clusters are found on; the others are assigned. Source: plain value, not tuned."""


@dataclass(frozen=True, eq=False)
class SoftClusters:
    """Result of :func:`soft_clusters`."""

    membership: np.ndarray  # (cells, clusters) float32, rows adding up to 1
    moved: np.ndarray  # (cells, columns) float32: cells freed of the offsets of their clusters


def soft_clusters(
    x: np.ndarray, batches: Sequence[np.ndarray], diversity: Sequence[float], seed: int = 0
) -> SoftClusters:
    """Clusters over all batches.

    Parameters
    ----------
    x
        (cells, columns).
    batches
        Codes of each batch variable, (cells,).
    diversity
        θ of each; 0: clusters may be of one batch, and nothing is moved.
    seed
        Of the starting centres and of the order of cells.
    """
    rng = np.random.default_rng(seed)
    x = np.asarray(x, np.float32)
    order = rng.permutation(len(x))[:MOST_CELLS]
    used = [(b, t) for b, t in zip(batches, diversity, strict=True) if t > 0]
    levels = [np.eye(int(b.max()) + 1, dtype=np.float32) for b, _ in used]
    design = np.concatenate([eye[b] for eye, (b, _) in zip(levels, used, strict=True)] or [np.zeros((len(x), 0))], 1)
    theta = np.repeat(np.array([t for _, t in used], np.float32), [len(eye) for eye in levels])
    n = int(np.clip(round(len(order) / CELLS_PER_CLUSTER), 1, MOST_CLUSTERS))
    fitted, phi = x[order], design[order].astype(np.float32)
    centres = _unit(KMeans(n, n_init=1, max_iter=25, random_state=seed).fit(_unit(fitted)).cluster_centers_)
    member = _near(_unit(fitted), centres)
    moved = fitted
    for _ in range(N_ROUNDS):
        before = member
        member, centres = _diverse(_unit(moved), phi, theta, member, rng)
        moved, offsets = _move(fitted, phi, member)
        if not len(theta) or np.abs(member - before).sum(1).mean() < 10 * SETTLED:
            break
    if len(order) == len(x):
        back = np.argsort(order)
        return SoftClusters(member[back], moved[back])
    out = _near(_unit(x), centres)
    for _ in range(3):  # where a cell lies depends on its clusters, and these on where it lies
        shifted = x - np.einsum("nk,kbd,nb->nd", out, offsets, design, optimize=True)
        out = _near(_unit(shifted), centres)
    out[order], shifted[order] = member, moved
    return SoftClusters(out, shifted.astype(np.float32))


def _diverse(
    x: np.ndarray, phi: np.ndarray, theta: np.ndarray, member: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Memberships and centres, found in turn, block by block, as each cell's cluster changes what others expect."""
    member, share = member.copy(), phi.mean(0)
    for _ in range(N_STEPS):
        before, centres = member.copy(), _unit(member.T @ x)
        near = np.exp((x @ centres.T - 1.0) * (2.0 / SHARPNESS))
        observed, total = phi.T @ member, member.sum(0)
        for rows in np.array_split(rng.permutation(len(x)), N_BLOCKS):
            observed -= phi[rows].T @ member[rows]
            total -= member[rows].sum(0)
            expected = np.outer(share, total) + 1e-6
            ratio = expected / (observed + expected)
            new = near[rows] * np.exp(phi[rows] @ (theta[:, None] * np.log(ratio)))
            member[rows] = new / np.maximum(new.sum(1, keepdims=True), 1e-30)
            observed += phi[rows].T @ member[rows]
            total += member[rows].sum(0)
        if np.abs(member - before).sum(1).mean() < SETTLED:
            break
    return member, _unit(member.T @ x)


def _move(x: np.ndarray, phi: np.ndarray, member: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cells without the offsets of their batches in their clusters, and these, (clusters, batches, columns)."""
    design = np.concatenate([np.ones((len(x), 1), np.float32), phi], 1)
    share = phi.mean(0)
    offsets, moved = np.zeros((member.shape[1], phi.shape[1], x.shape[1]), np.float32), x.copy()
    for k in range(member.shape[1]) if phi.shape[1] else ():
        weighted = design * member[:, k : k + 1]
        gram = weighted.T @ design
        gram[range(1, len(gram)), range(1, len(gram))] += RIDGE * share * gram[0, 0] + 1e-6
        offsets[k] = np.linalg.lstsq(gram, weighted.T @ x, rcond=None)[0][1:]
        moved -= member[:, k : k + 1] * (phi @ offsets[k])
    return moved, offsets


def _near(x: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Memberships by distance alone."""
    near = np.exp((x @ centres.T - 1.0) * (2.0 / SHARPNESS))
    return (near / near.sum(1, keepdims=True)).astype(np.float32)


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
