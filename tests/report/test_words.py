"""The verdict says what the numbers say."""

import pytest

from more_scvi.report._words import compare_annotation, method_words, protocol_words, verdict

from .conftest import SCORES, tidy


def of(more, other=0.80, **metrics):
    """Verdict where MoRE's macro-F1 is ``more`` and that of the best other method is ``other``."""
    cilisi, structure = metrics.get("CiLISI", 0.8), metrics.get("structure", 0.9)
    scores = {"more": (more, more, more, cilisi, structure), "harmony": (None, other, other, 0.7, 0.8)}
    scores |= {"pca_raw": (None, 0.1, 0.1, 0.4, 1.0), "LEAK": (0.99, 0.99, 0.99, 0.9, 0.9)}
    return verdict(tidy(scores, ["S1"], [0, 1, 2]), 90, 100)  # mean over seeds: 0.01 more


def test_it_counts_cells_and_names_the_next_best():
    assert of(0.9).startswith(
        "MoRE named 90 of 100 hidden cells correctly and annotates better than every other method"
    )
    assert "harmony (mean macro-F1 0.91 against 0.81, ahead in 3 of 3 splits)" in of(0.9)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (0.85, "better than every"),
        (0.81, "about as well as"),
        (0.79, "about as well as"),
        (0.7, "less well than harmony"),
    ],
)
def test_a_small_difference_is_called_none(more, words):
    assert words in of(more)


def test_a_control_is_never_the_rival():
    assert "LEAK" not in of(0.85)


@pytest.mark.parametrize(
    ("metrics", "words"),
    [
        ({"CiLISI": 0.8}, "better than pca_raw (CiLISI 0.81"),
        ({"CiLISI": 0.2}, "less than pca_raw"),
        ({"CiLISI": 0.405}, "about as well as pca_raw"),
        ({"CiLISI": None}, "correctly"),
        ({"structure": 0.9}, "keeps the distances"),
        ({"structure": 0.5}, "bends the distances"),
        ({"structure": 0.1}, "loses most of the distances"),
    ],
)
def test_mixing_and_structure_are_told_as_they_are(metrics, words):
    sentence = of(0.9, **metrics)
    assert words in sentence
    assert ("CiLISI" in sentence) == (metrics.get("CiLISI", 0) is not None)


def test_methods_count_by_the_better_of_classifier_and_probe():
    found = compare_annotation(tidy({"more": (0.6, 0.9, 0, 0, 0), "scanvi": (0.8, 0.5, 0, 0, 0)}, ["S1"], [0]))
    assert (*found.rows[["ours", "other"]].values[0], found.other) == (0.9, 0.8, "scanvi")


def test_only_splits_that_both_have_are_compared():
    table = tidy({"more": SCORES["more"], "pca": (None, 0.8, 0.8, 0.3, 1.0)})  # S2a is 0.1 harder
    table = table[~((table["method"] == "pca") & (table["protocol"] == "S2a"))]
    found = compare_annotation(table)
    assert found.rows["ours"].mean() == pytest.approx(0.865) and len(found.splits) == 2


def test_methods_run_for_one_seed_only_are_compared_over_all_seeds_of_ours():
    table = tidy({"more": SCORES["more"], "pca": SCORES["pca"]}, ["S2a"], [0, 1, 2])
    once = table[(table["method"] == "more") | (table["seed"] == 0)]
    assert compare_annotation(once).rows["ours"].mean() == pytest.approx(0.87)


def test_alone_it_just_says_the_score():
    sentence = verdict(tidy({"more": SCORES["more"]}, ["S1"], [0]), 9, 10)
    assert sentence.startswith("MoRE named 9 of 10 hidden cells correctly (macro-F1 0.86);")


@pytest.mark.parametrize(
    ("protocol", "words"),
    [
        ("S1", "random half"),
        ("S1-300", "of 300 random"),
        ("S2b", "absent"),
        ("S4-3", "all labels but 3"),
        ("S5-0.5", "0.5 %"),
    ],
)
def test_protocols_are_told_in_words(protocol, words):
    assert words in protocol_words(protocol)


def test_every_kind_of_method_is_told_in_words():
    assert method_words("LEAK:more") == "more, given the hidden labels: a ceiling."
    assert "obsm['X_mine']" in method_words("obsm:X_mine")
    assert method_words("shuffled")  # from its docstring
    assert method_words("somebody's") == ""
