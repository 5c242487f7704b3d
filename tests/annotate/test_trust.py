"""How far answers that hang on the base alone are trusted."""

import numpy as np
import pytest

from more_scvi.annotate._trust import trust_in_base
from more_scvi.base._arrays import Arrays


def cells(wide, base, batch):
    n = len(wide)
    nothing = np.zeros(n, bool)
    return Arrays(base.astype(np.float32), ~nothing[:, None], wide.astype(np.float16), batch, batch, nothing)


def trust(arrays, given, labels):
    return trust_in_base(arrays, given, labels, lambda rows, types: arrays.base[rows].copy(), 0)


@pytest.fixture
def labelled():
    """90 cells of three types; where they lie, and values that say nothing of the type."""
    rng = np.random.default_rng(0)
    labels = np.arange(90) % 3
    told = 3.0 * np.eye(3)[labels] + rng.normal(size=(90, 3))
    return labels, told, 20.0 * rng.normal(size=(90, 8))


def test_a_base_that_holds_the_types_is_trusted_and_noise_is_not(labelled):
    labels, told, noise = labelled
    batch, everyone = np.zeros(90, int), np.arange(90)
    assert trust(cells(noise, told, batch), everyone, labels) == 1.0
    assert trust(cells(100 * told, noise, batch), everyone, labels) < 0.1


def test_only_given_labels_are_read(labelled):
    labels, told, noise = labelled
    arrays, given = cells(100 * told, noise, np.zeros(90, int)), np.arange(60)
    others = np.concatenate([labels[:60], np.full(30, 7)])
    assert trust(arrays, given, others) == trust(arrays, given, labels)


def test_a_base_that_only_holds_within_batches_is_not_trusted(labelled):
    """In each of three batches other axes tell the types: cells of a known batch would not show it."""
    labels, told, _ = labelled
    batch = np.repeat([0, 1, 2], 30)
    turned = np.stack([np.roll(row, 3 * b) for row, b in zip(np.pad(told, ((0, 0), (0, 6))), batch, strict=True)])
    one, several = (trust(cells(100 * told, turned, of), np.arange(90), labels) for of in (0 * batch, batch))
    assert several < 0.2 < one


@pytest.mark.parametrize(
    "labels", [np.zeros(0, int), np.zeros(5, int), np.arange(5)], ids=["none", "one type", "one each"]
)
def test_labels_that_cannot_tell_leave_it_trusted(labels):
    n = len(labels)
    arrays = cells(np.ones((n, 2)), np.ones((n, 2)), np.zeros(n, int))
    assert trust(arrays, np.arange(n), labels) == 1.0


def test_held_out_labels_have_no_part_in_where_batches_are_put(labelled):
    """A base that is moved by labels gives those away that moved it."""
    labels, told, noise = labelled
    arrays, given = cells(100 * told, noise, np.zeros(90, int)), np.arange(90)

    def placed(rows, types):
        return (arrays.base[rows, :3] + 200 * np.eye(4)[types][:, :3]).astype(np.float32)  # -1: nowhere

    everything = cells(100 * told, placed(given, labels), np.zeros(90, int))
    assert trust(everything, given, labels) == 1.0
    assert trust_in_base(arrays, given, labels, placed, 0) < 0.1
