"""Offsets of batches do not depend on what the batches hold."""

import numpy as np
import pytest

from more_scvi.base._clusters import shared_clusters
from more_scvi.base._offsets import CLUSTER_PRIOR, TYPE_PRIOR, typed_offsets
from more_scvi.base._strength import Strength

N_TYPES, N_COLUMNS = 5, 8
CENTRES = np.random.default_rng(0).normal(0, 3, (N_TYPES, N_COLUMNS))
OFFSETS = np.random.default_rng(1).normal(0, 1, (4, N_COLUMNS))


def cells(types, batch, noise=0.3, seed=2):
    rng = np.random.default_rng(seed)
    return CENTRES[types] + OFFSETS[batch] + rng.normal(0, noise, (len(types), N_COLUMNS))


def draw(shares, n=200):
    """Types and batches; one row of shares per batch."""
    rng = np.random.default_rng(3)
    types = np.concatenate([rng.choice(N_TYPES, n, p=np.array(row) / sum(row)) for row in shares])
    return types, np.repeat(np.arange(len(shares)), n)


SHARES = {
    "mixed": [[8, 4, 2, 1, 1], [1, 1, 2, 4, 8], [1, 0, 8, 0, 1]],
    "one type": [[1, 1, 1, 1, 1], [1, 2, 1, 2, 1], [0, 0, 1, 0, 0]],
    "two types": [[1, 1, 1, 1, 1], [1, 2, 1, 2, 1], [0, 1, 0, 5, 0]],
}


@pytest.mark.parametrize("held", list(SHARES))
def test_offsets_do_not_depend_on_what_a_batch_holds(held):
    types, batch = draw(SHARES[held])
    x = cells(types, batch)
    means = np.stack([x[batch == b].mean(0) for b in range(3)])
    true = OFFSETS[:3] - OFFSETS[:3].mean(0)
    error, own = (
        np.linalg.norm(o - o.mean(0) - true) / np.linalg.norm(true)
        for o in (typed_offsets(x, batch, types, 3, TYPE_PRIOR), means)
    )
    assert error < 0.35 < own


@pytest.mark.parametrize("held", list(SHARES))
def test_without_types_offsets_come_nearer_to_the_truth_than_the_means(held):
    types, batch = draw(SHARES[held])
    x = cells(types, batch, noise=2.0)
    means = np.stack([x[batch == b].mean(0) for b in range(3)])
    true = OFFSETS[:3] - OFFSETS[:3].mean(0)
    clusters = shared_clusters(x, batch, Strength.usual(3))
    found = typed_offsets(x, batch, clusters, 3, CLUSTER_PRIOR)
    error, own = (np.linalg.norm(o - o.mean(0) - true) / np.linalg.norm(true) for o in (found, means))
    assert error < min(1.05, 0.7 * own)


def test_a_batch_without_types_stays_where_the_others_are():
    types, batch = draw([[1, 1, 1, 1, 1]] * 3)
    offset = typed_offsets(cells(types, batch), batch, np.where(batch == 1, -1, types), 3, TYPE_PRIOR)
    np.testing.assert_allclose(offset[1], (offset[0] + offset[2]) / 2, atol=1e-12)
    assert not typed_offsets(cells(types, batch), batch, np.full(len(types), -1), 3, TYPE_PRIOR).any()


def test_one_type_that_differs_moves_a_batch_by_no_more_than_its_share_of_the_cells():
    types, batch = draw([[20, 10, 10, 10, 10], [20, 10, 10, 10, 10]], 400)
    x = CENTRES[types] + 5.0 * ((types == 0) & (batch == 1))[:, None]
    offset = typed_offsets(x, batch, types, 2, TYPE_PRIOR)
    assert (offset[1] - offset[0]).max() < 5.0 * (types == 0).mean()


@pytest.mark.parametrize("size", [0.5, 3.0, 30.0])
def test_clusters_are_shared_however_far_batches_lie_apart(size):
    types, batch = draw([[1, 1, 1, 1, 1]] * 3)
    x = CENTRES[types] + size * OFFSETS[batch] + np.random.default_rng(2).normal(0, 1, (len(types), N_COLUMNS))
    clusters = shared_clusters(x, batch, Strength.usual(3))
    table = np.zeros((clusters.max() + 1, 3))
    np.add.at(table, (clusters, batch), 1)
    assert (table.max(1) / table.sum(1).clip(1) * table.sum(1)).sum() / len(x) < 0.5  # 1/3 where batches mix fully
