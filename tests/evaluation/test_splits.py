import json

import numpy as np
import pytest

from more_scvi.evaluation import Split, inner_split, make_splits

LABELS = np.array(list("aaabbbcccddd") * 20)
BATCHES = np.repeat(["x", "y", "z"], [120, 80, 40])


@pytest.mark.parametrize("protocol", ["S1", "S2a", "S4-3"])
def test_a_split_survives_json(protocol):
    for split in make_splits(LABELS, BATCHES, protocol, seed=1, dataset="toy"):
        again = Split.from_json(json.loads(json.dumps(split.to_json())))
        assert again == split
        assert np.array_equal(again.hidden, split.hidden)


def test_s1_hides_half_and_follows_the_seed():
    first, again, other = (make_splits(LABELS, BATCHES, "S1", seed=s)[0] for s in (0, 0, 1))
    assert first.hidden.sum() == 120
    assert first == again
    assert not np.array_equal(first.hidden, other.hidden)


def test_s2a_holds_out_the_largest_batches_whole():
    splits = make_splits(LABELS, BATCHES, "S2a", max_rotations=2)
    assert [s.held_out for s in splits] == ["x", "y"]
    assert all(np.array_equal(s.hidden, s.held_out == BATCHES) for s in splits)


def test_s4_leaves_few_labels_per_type():
    split = make_splits(LABELS, BATCHES, "S4-3", seed=0)[0]
    assert dict(zip(*np.unique(LABELS[~split.hidden], return_counts=True), strict=True)) == dict.fromkeys("abcd", 3)


def test_hide_replaces_only_hidden_labels_and_refuses_a_label_as_placeholder():
    split = make_splits(LABELS, BATCHES, "S1")[0]
    given = split.hide(LABELS)
    assert set(given[split.hidden]) == {"Unknown"}
    assert np.array_equal(given[~split.hidden], LABELS[~split.hidden])
    with pytest.raises(ValueError, match="'a' is one of the labels"):
        split.hide(LABELS, unlabeled="a")


@pytest.mark.parametrize("protocol", ["S1", "S2a", "S4-10"])
def test_inner_split_never_touches_outer_hidden_cells(protocol):
    for outer in make_splits(LABELS, BATCHES, protocol):
        inner, scored = inner_split(outer, LABELS, BATCHES)
        assert scored.any()
        assert not (scored & outer.hidden).any()
        assert np.array_equal(inner.hidden, outer.hidden | scored)
        if protocol == "S2a":
            assert len(set(BATCHES[scored])) == 1
            assert set(BATCHES[~inner.hidden])  # something stays visible
        changed = np.where(outer.hidden, "a", LABELS)
        assert inner_split(outer, changed, BATCHES)[0] == inner


def test_refusals_say_what_is_legal():
    with pytest.raises(ValueError, match="use 'S1', 'S2a' or 'S4-"):
        make_splits(LABELS, BATCHES, "S9")
    with pytest.raises(ValueError, match="only one"):
        make_splits(LABELS, ["x"] * len(LABELS), "S2a")
    two = np.where(BATCHES == "x", "x", "y")
    with pytest.raises(ValueError, match="no second one can be hidden"):
        inner_split(make_splits(LABELS, two, "S2a")[0], LABELS, two)
