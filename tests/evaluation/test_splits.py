import json

import numpy as np
import pytest

from more_scvi.evaluation import Split, inner_split, make_splits
from more_scvi.evaluation._splits import composed

LABELS = np.array(list("aaabbbcccddd") * 20)
BATCHES = np.repeat(["x", "y", "z"], [120, 80, 40])


EVERY = ["S1", "S1-60", "S2a", "S2b", "S3", "S4-3", "S5-2", "S5b-2.5", "S6-prot", "S7", "S8-1", "S8-all"]
EVERY += ["S8m-half", "S8m-reversed", "S9-50", "S9-antibodies", "S10"]


@pytest.mark.parametrize("protocol", EVERY)
def test_a_split_survives_json(protocol):
    for split in make_splits(LABELS, BATCHES, protocol, seed=1, dataset="toy"):
        again = Split.from_json(json.loads(json.dumps(split.to_json())))
        assert again == split
        assert np.array_equal(again.hidden, split.hidden)
        for mask in ("absent", "kept"):
            assert np.array_equal(getattr(again, mask), getattr(split, mask))


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


def test_s2b_takes_the_batch_out_of_training():
    for split in make_splits(LABELS, BATCHES, "S2b"):
        assert np.array_equal(split.absent, split.held_out == BATCHES)
        assert np.array_equal(split.absent, split.hidden)


def test_s1_of_a_number_of_cells_hides_half_of_these():
    split = make_splits(LABELS, BATCHES, "S1-60", seed=2)[0]
    assert split.kept.sum() == 60
    assert (split.hidden & split.kept).sum() == split.hidden.sum() == 30


def test_s3_hides_a_type_everywhere_and_half_of_the_rest():
    splits = make_splits(LABELS, BATCHES, "S3", max_rotations=3)
    assert len({s.held_out for s in splits}) == 3
    for split in splits:
        novel = split.held_out == LABELS
        assert split.hidden[novel].all()
        assert 0.35 < split.hidden[~novel].mean() < 0.65


def test_s7_hides_every_label_and_leaves_nothing_to_choose_on():
    (split,) = make_splits(LABELS, BATCHES, "S7")
    assert split.hidden.all()
    assert split.kept is None is split.absent
    with pytest.raises(ValueError, match="S7_r0_s0 hides every label, so nothing visible is left"):
        inner_split(split, LABELS, BATCHES)


@pytest.mark.parametrize("kind", ["S8", "S8m"])
def test_s8_cuts_the_query_and_leaves_the_other_batches_whole(kind):
    labels = np.repeat(list("aaaabbbccd"), 24)
    labels[:8] = "e"  # occurs nowhere else
    batches = np.tile(["x", "y"], 120)
    batches[:8] = "x"
    left = {}
    for how in ("all", "1", "2", "half", "shallow", "reversed"):
        split = make_splits(labels, batches, f"{kind}-{how}")[0]
        query = split.held_out == batches
        assert split.kept[~query].all()
        assert not split.hidden[~query].any()
        assert np.array_equal(split.hidden, query & split.kept)
        assert (split.absent is None) if kind == "S8" else np.array_equal(split.absent, split.hidden)
        left[how] = dict(zip(*np.unique(labels[split.hidden], return_counts=True), strict=True))
    assert left["all"] == {"a": 44, "b": 36, "c": 24, "d": 12, "e": 8}
    assert left["1"] == {"a": 44}
    assert left["2"] == {"a": 44, "b": 36}
    assert left["half"] == left["shallow"] == {"a": 44, "c": 24}
    assert left["reversed"] == {"a": 13, "b": 16, "c": 24}  # 24 ** 2 / n; "d" has too few cells


def test_a_composition_is_of_the_same_cells_wherever_it_is_asked():
    for how in ("1", "2", "half", "reversed"):
        joint, mapped = (make_splits(LABELS, BATCHES, f"{kind}-{how}")[0] for kind in ("S8", "S8m"))
        assert np.array_equal(joint.hidden, mapped.absent)
        assert np.array_equal(joint.hidden, composed(LABELS, BATCHES == "x", np.ones(240, bool), how))


def test_s10_adds_batches_with_few_labels_and_one_type_that_the_reference_lacks():
    labels, batches = np.tile(list("abcd"), 250), np.repeat(["w", "x", "y", "z"], [400, 280, 200, 120])
    splits = make_splits(labels, batches, "S10", seed=1)
    assert {split.held_out for split in splits} == set("abcd")
    for split in splits:
        new, joining = labels == split.held_out, np.isin(batches, ["y", "z"])
        assert np.array_equal(split.absent, split.kept & joining)
        assert set(batches[new & split.kept]) == {"y"}
        visible = split.kept & ~split.hidden
        assert (visible & new).sum() == 20
        for batch, n in (("y", 20), ("z", 15)):
            found = np.unique(labels[visible & (batches == batch) & ~new], return_counts=True)[1]
            assert found.tolist() == [n] * 3
        assert 0.4 < visible[~joining & split.kept].mean() < 0.6


def test_types_are_rotated_over_the_range_of_abundances():
    labels = np.repeat(list("abcdefg"), [300, 200, 100, 60, 40, 25, 5])
    held_out = [s.held_out for s in make_splits(labels, np.ones(730), "S3", max_rotations=3)]
    assert held_out[0] == "a"
    assert held_out[-1] == "f"  # g has too few cells for a figure
    assert held_out == [s.held_out for s in make_splits(labels, np.ones(730), "S3", seed=5, max_rotations=3)]


@pytest.mark.parametrize(("protocol", "share"), [("S5-2", 0.02), ("S5-5", 0.05), ("S5b-5", 0.05)])
def test_s5_makes_a_type_rare_and_keeps_all_other_cells(protocol, share):
    for split in make_splits(LABELS, BATCHES, protocol):
        rare, others = split.held_out == LABELS, split.held_out != LABELS
        n = (rare & split.kept).sum()
        assert n == max(4, round(share / (1 - share) * others.sum()))
        assert split.kept[others].all()
        assert (split.hidden & rare).sum() == n // 2
        assert not (split.hidden & ~split.kept).any()
        homes = set(BATCHES[rare & split.kept])
        assert len(homes) == 1 or not protocol.startswith("S5b")


def test_s5_leaves_out_types_that_have_too_few_cells():
    labels = np.repeat(["common", "other", "small"], [2000, 1900, 45])
    assert {s.held_out for s in make_splits(labels, np.ones(3945), "S5-2")} == {"common", "other"}
    assert {s.held_out for s in make_splits(labels, np.ones(3945), "S5-1")} == {"common", "other", "small"}


@pytest.mark.parametrize("protocol", EVERY)
def test_cells_without_a_label_are_hidden_in_every_split(protocol):
    known = np.arange(LABELS.size) % 4 != 0
    for split in make_splits(np.where(known, LABELS, "Unknown"), BATCHES, protocol, known=known):
        assert split.hidden[~known].all()
        assert split.held_out != "Unknown"


@pytest.mark.parametrize(
    "protocol",
    [
        *("S11", "S4", "S4-0", "S4-x", "S1-", "S2a-1", "S5", "S5-0", "S5-0.0", "S6", "", "s1"),
        *("S7-1", "S8", "S8-0", "S8m-x", "S9", "S9-0", "S9-100", "S10-1"),
    ],
)
def test_unknown_protocols_are_refused_with_the_known_ones(protocol):
    with pytest.raises(ValueError, match="is unknown; use one of S1, S1-<cells>, S2a"):
        make_splits(LABELS, BATCHES, protocol)


def test_refusals_say_what_is_legal():
    with pytest.raises(ValueError, match="asks for 999 of 240 cells; give a number from 4 to 240"):
        make_splits(LABELS, BATCHES, "S1-999")
    with pytest.raises(ValueError, match="needs two others; the labels are a, b. Use S1 or S4"):
        make_splits(["a", "b"] * 20, ["x"] * 40, "S3")
    for protocol in ("S2a", "S2b", "S6-prot", "S8-1", "S9-50", "S10"):
        with pytest.raises(ValueError, match="only one"):
            make_splits(LABELS, ["x"] * len(LABELS), protocol)
    with pytest.raises(ValueError, match=r"labels \(240,\) and batches \(239,\) must be .* equally long"):
        make_splits(LABELS, BATCHES[:-1], "S1")
    two = np.where(BATCHES == "x", "x", "y")
    with pytest.raises(ValueError, match="no second one can be hidden"):
        inner_split(make_splits(LABELS, two, "S2a")[0], LABELS, two)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"seed": None}, "seed=None is not a whole number; give 0 or more"),
        ({"seed": -1}, "seed=-1 is not"),
        ({"seed": 1.5}, "seed=1.5 is not"),
        ({"max_rotations": 0}, "max_rotations=0 is not a whole number; give 1 or more"),
        ({"protocol": 1}, "protocol 1 is a int; use one of S1"),
        ({"labels": [], "batches": []}, "not empty"),
        ({"labels": [None] * 240}, "None of the 240 cells has a label"),
        ({"batches": [None, *BATCHES[1:]]}, "batches: 1 of 240 cells have none"),
        ({"known": np.arange(240)}, "known must be a mask of booleans"),
        ({"known": np.ones(3, bool)}, "known .* one boolean for each of the 240 cells"),
    ],
)
def test_bad_arguments_are_refused_by_name_with_what_is_legal(changed, message):
    given = {"labels": LABELS, "batches": BATCHES, "protocol": "S1"} | changed
    with pytest.raises(ValueError, match=message):
        make_splits(**given)


@pytest.mark.parametrize("missing", [None, np.nan, "Unknown"])
def test_cells_without_a_label_are_known_by_their_label(missing):
    labels = LABELS.astype(object)
    labels[BATCHES == "x"] = missing
    for protocol in ("S1", "S4-3", "S2a"):
        for split in make_splits(labels, BATCHES, protocol):
            assert split.hidden[BATCHES == "x"].all()
            assert split.held_out != "x"  # a batch without any label cannot be scored
            assert set(split.hide(labels)) <= {*LABELS, "Unknown"}


def test_numpy_integers_are_whole_numbers():
    assert make_splits(LABELS, BATCHES, "S1", seed=np.int64(1)) == make_splits(LABELS, BATCHES, "S1", seed=1)
