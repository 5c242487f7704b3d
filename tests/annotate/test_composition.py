"""A batch without labels may hold other types than usual; its answers then follow, unless classifiers disagree."""

import numpy as np
import pytest
from scipy.special import log_softmax
from sklearn.metrics import accuracy_score

from more_scvi.annotate._composition import composition_shift

COUNTS = np.array([600, 300, 90, 10, 0])  # the last type has no label


def answers(types, seed=0, wrong=None):
    """Log-probabilities as those of a calibrated classifier of cells that overlap, and their types."""
    rng = np.random.default_rng(seed)
    centres = 2.0 * np.eye(4)
    x = centres[types] + rng.normal(size=(len(types), 4))
    if wrong is not None:
        x += 4.0 * centres[wrong]
    prior = np.log(np.maximum(COUNTS, 1e-300) / COUNTS.sum())
    said = -0.5 * np.square(x[:, None] - centres).sum(2)
    said = np.concatenate([said, np.full((len(types), 1), -1e3)], 1) + np.where(COUNTS > 0, prior, -np.inf)
    return log_softmax(said, axis=1)


def usual(n, seed=0):
    return np.random.default_rng(seed).choice(5, n, p=COUNTS / COUNTS.sum())


@pytest.mark.parametrize("kind", [0, 1, 2, 3])
def test_of_a_batch_of_one_type_more_cells_are_answered_right(kind):
    types = np.full(200, kind)
    said = answers(types)
    shift = composition_shift([said, answers(types, seed=1)], COUNTS)
    before, after = (accuracy_score(types, p.argmax(1)) for p in (said, said + shift))
    assert after > max(before, 0.97) or before == after == 1.0


def test_rare_types_of_a_usual_batch_are_not_lost():
    types = usual(2000)
    said = answers(types)
    shift = composition_shift([said], COUNTS)
    assert np.abs(shift[:4]).max() < 0.05 and shift[4] == 0


def test_where_classifiers_disagree_on_the_composition_nothing_is_changed():
    types = np.full(200, 1)
    said, other = answers(types), answers(types, wrong=3)
    assert composition_shift([said, said], COUNTS).any()
    assert not composition_shift([said, other], COUNTS).any()


def test_few_cells_say_little_and_none_say_nothing():
    one, many = answers(np.array([3])), answers(np.full(200, 3))
    shift, full = (composition_shift([said], COUNTS) for said in (one, many))
    assert np.abs(shift).max() < 0.5 * np.abs(full).max()
    assert not composition_shift([one[:0]], COUNTS).any()


def test_types_that_no_classifier_can_tell_stay_impossible():
    said = answers(usual(50))
    said[:, 2] = -np.inf  # no labelled cell of this type has the modalities of these cells
    shift = composition_shift([said], COUNTS)
    assert np.isfinite(shift).all()
