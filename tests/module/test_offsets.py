"""Offsets of batches do not depend on what the batches hold."""

import numpy as np
import pytest

from more_scvi.module._offsets import new_offsets, typed_offsets

N_TYPES, N_COLUMNS = 5, 8
CENTRES = np.random.default_rng(0).normal(0, 3, (N_TYPES, N_COLUMNS))
OFFSETS = np.random.default_rng(1).normal(0, 1, (4, N_COLUMNS))


def cells(types, batch, seed=2):
    rng = np.random.default_rng(seed)
    return CENTRES[types] + OFFSETS[batch] + rng.normal(0, 0.3, (len(types), N_COLUMNS))


def draw(shares, n=200):
    """Types and batches; one row of shares per batch."""
    rng = np.random.default_rng(3)
    types = np.concatenate([rng.choice(N_TYPES, n, p=np.array(row) / sum(row)) for row in shares])
    return types, np.repeat(np.arange(len(shares)), n)


def test_batches_of_other_composition_get_their_own_offset():
    types, batch = draw([[8, 4, 2, 1, 1], [1, 1, 2, 4, 8], [1, 0, 8, 0, 1]])
    x = cells(types, batch)
    means = np.stack([x[batch == b].mean(0) for b in range(3)])
    offset, centre, typed = typed_offsets(x, batch, types, 3, N_TYPES)
    true = OFFSETS[:3] - OFFSETS[:3].mean(0)
    error = np.abs(offset - offset.mean(0) - true).max()
    assert typed.all() and error < 0.5 < np.abs(means - means.mean(0) - true).max()
    between = centre[:, None] - centre[None]
    np.testing.assert_allclose(between, CENTRES[:, None] - CENTRES[None], atol=0.5)


def test_a_batch_without_types_stays_where_the_others_are():
    types, batch = draw([[1, 1, 1, 1, 1]] * 3)
    offset, centre, typed = typed_offsets(cells(types, batch), batch, np.where(batch == 2, -1, types), 3, N_TYPES)
    np.testing.assert_array_equal(typed, [True, True, False])
    np.testing.assert_allclose(offset[2], offset[:2].mean(0))
    nothing = typed_offsets(cells(types, batch), batch, np.full(len(types), -1), 3, N_TYPES)
    assert not nothing[2].any() and not nothing[0].any() and np.isnan(nothing[1]).all()
    assert not new_offsets(cells(types, batch), batch, np.full(len(types), -1), centre, 3).any()


@pytest.mark.parametrize("held", [[0], [3], [1, 4]])
def test_the_offset_of_a_new_batch_hardly_depends_on_what_it_holds(held):
    types, _ = draw([[1] * N_TYPES])
    x = cells(types, np.full(len(types), 3))
    few = np.isin(types, held)
    full = new_offsets(x, np.zeros(len(x), int), types, CENTRES, 1)[0]
    part = new_offsets(x[few], np.zeros(few.sum(), int), types[few], CENTRES, 1)[0]
    size = np.linalg.norm(OFFSETS[3])
    assert np.linalg.norm(full - OFFSETS[3]) < 0.3 * size
    assert part @ OFFSETS[3] > 0 and np.linalg.norm(part) <= 1.1 * size
    assert np.linalg.norm(part - full) < 0.5 * np.linalg.norm(x[few].mean(0) - x.mean(0))


def test_one_type_that_differs_moves_a_batch_by_no_more_than_its_share():
    types, _ = draw([[20, 1, 1, 1, 1]], 400)
    x = CENTRES[types] + 5.0 * (types == 0)[:, None]
    assert new_offsets(x, np.zeros(len(x), int), types, CENTRES, 1).max() < 5.0 * 0.5
