"""What is removed of differences between batches that several keys name, and what is compared with what."""

import numpy as np
import pytest

from more_scvi.base._strength import Strength, check_strength

PROJECT, SAMPLE = np.array([0, 0, 0, 1, 1]), np.array([0, 1, 2, 3, 4])
NESTED = np.column_stack([PROJECT, SAMPLE])
OF_PROJECT = np.array([[1.0, -2.0], [5.0, 0.0]])
OF_SAMPLE = np.array([[1.0, 0.0], [-1.0, 1.0], [0.0, -1.0], [2.0, 3.0], [-2.0, -3.0]])
OFFSET = OF_PROJECT[PROJECT] + OF_SAMPLE


@pytest.mark.parametrize("values", [(1.0, 1.0), (2.0, 1.0), (0.0, 1.0), (1.0, 0.0), (0.25, 0.5), (0.0, 0.0)])
def test_each_key_loses_its_share_of_the_offset(values):
    project, sample = np.minimum(values, 1.0)
    np.testing.assert_allclose(
        Strength(values, NESTED).part(OFFSET), project * OF_PROJECT[PROJECT] + sample * OF_SAMPLE, atol=1e-12
    )


def test_batches_of_which_nothing_is_known_take_no_part():
    known = np.array([True, True, True, False, True])
    part = Strength((1.0, 0.5), NESTED).part(OFFSET * known[:, None])
    assert not part[3].any()
    np.testing.assert_allclose(part[4], OFFSET[4])  # alone in its project, all of it is the project's


@pytest.mark.parametrize("value", [0.3, 1.0, 4.0])
def test_keys_of_equal_strength_are_one_comparison_of_all_batches(value):
    ((weight, group),) = Strength((value, value), NESTED).terms()
    assert weight == value and set(group) == {0}


def test_what_a_weak_key_tells_apart_is_compared_less():
    (weak, among), (more, within) = Strength((0.3, 1.0), NESTED).terms()
    assert (weak, more) == pytest.approx((0.3, 0.7))
    assert set(among) == {0} and within.tolist() == PROJECT.tolist()
    ((weight, within),) = Strength((0.0, 1.0), NESTED).terms()
    assert weight == 1 and within.tolist() == PROJECT.tolist()
    (weak, among), (more, within) = Strength((1.0, 0.5), NESTED).terms()
    assert (weak, more) == (0.5, 0.5) and set(among) == {0} and len(set(within)) == len(SAMPLE)


def test_parts_of_a_batch_are_made_alike_at_any_strength():
    batch, kind = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])
    ((weight, group),) = Strength((0.0,), batch[:, None]).within(kind).terms()
    assert weight == 1 and group.tolist() == batch.tolist()
    assert len(Strength((3.0,), batch[:, None]).within(kind).terms()) == 1


@pytest.mark.parametrize(
    ("given", "keys", "expected"),
    [(2, [], (2.0,)), (0.5, ["a", "b"], (0.5, 0.5)), ({"b": 0}, ["a", "b"], (1.0, 0.0)), ({"a": 3}, ["a"], (3.0,))],
)
def test_every_key_gets_a_strength(given, keys, expected):
    assert check_strength(given, keys) == expected
