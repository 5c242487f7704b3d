import numpy as np
import pandas as pd
import pytest
from scipy.stats import wilcoxon

from more_scvi.evaluation._compare import cluster_interval, compare, signed_rank

COLUMNS = ["dataset", "protocol", "seed", "rotation", "method", "metric", "value"]


def table(rows):
    return pd.DataFrame(rows, columns=COLUMNS)


def rows_of(differences, metric="own", base=0.5):
    """One split per (data set, protocol): ``a`` is ahead of ``b`` by the difference."""
    made = []
    for (dataset, protocol), difference in differences.items():
        made += [
            (dataset, protocol, 0, 0, "a", metric, base + difference),
            (dataset, protocol, 0, 0, "b", metric, base),
        ]
    return table(made)


def test_only_splits_that_both_have_are_compared():
    rows = [("d", "S1", seed, 0, "a", "own", 0.9) for seed in (0, 1, 2)]
    rows += [("d", "S1", 1, 0, "b", "own", 0.7), ("d", "S1", 3, 0, "b", "own", 0.1), ("e", "S1", 0, 0, "b", "own", 0.1)]
    found = compare(table(rows), "a", "b")
    assert list(found.splits.index) == [("d", "S1", 1, 0)]
    assert found.difference == pytest.approx(0.2)


def test_runs_of_the_same_split_are_averaged_where_nothing_is_drawn():
    rows = [("d", "S2a", seed, r, "a", "own", 0.6 + 0.1 * seed) for seed in (0, 1, 2) for r in (0, 1)]
    rows += [("d", "S2a", 0, r, "b", "own", 0.5) for r in (0, 1)]  # without randomness: run once
    found = compare(table(rows), "a", "b")
    assert found.rows["n_splits"].tolist() == [2]
    assert found.splits["difference"].tolist() == pytest.approx([0.2, 0.2])


def test_seeds_that_draw_other_splits_are_not_mixed():
    rows = [("d", "S4-3", 0, 0, "a", "own", 0.5), ("d", "S4-3", 1, 0, "a", "own", 0.9)]
    found = compare(table([*rows, ("d", "S4-3", 0, 0, "b", "own", 0.5)]), "a", "b")
    assert found.difference == 0


def test_a_row_with_many_splits_counts_as_one():
    rows = [("d", "S1", seed, 0, m, "own", 0.5 + 0.1 * (m == "a")) for seed in range(9) for m in "ab"]
    rows += [("e", "S1", 0, 0, m, "own", 0.5 - 0.1 * (m == "a")) for m in "ab"]
    found = compare(table(rows), "a", "b")
    assert found.difference == pytest.approx(0)
    assert (found.tally("rows"), found.tally("splits")) == ((1, 0, 1), (9, 0, 1))


def test_small_differences_are_ties():
    found = compare(rows_of({("d", "S1"): 0.0049, ("e", "S1"): -0.0049, ("f", "S1"): 0.0051}), "a", "b")
    assert found.tally() == (1, 2, 0)


def test_lower_is_better_for_the_share_of_closer_cells():
    found = compare(rows_of({("d", "S1"): -0.1, ("e", "S1"): -0.2, ("f", "S1"): -0.3}, "FOSCTTM"), "a", "b", "FOSCTTM")
    assert (found.tally(), found.verdict(), found.effect) == ((3, 0, 0), "better", 1)
    assert found.difference == pytest.approx(-0.2)


def test_the_test_is_that_of_scipy_and_the_effect_that_of_its_ranks():
    differences = np.array([0.05, 0.02, -0.01, 0.03, 0.08, -0.04, 0.06])
    p, effect = signed_rank(differences)
    assert p == wilcoxon(differences).pvalue
    assert effect == pytest.approx((5 + 2 + 3 + 7 + 6 - 1 - 4) / 28)


def test_equal_methods_have_no_effect():
    assert signed_rank(np.zeros(7)) == (1.0, 0.0)
    assert signed_rank(np.array([0.1])) == (None, None)


def test_the_interval_is_that_of_all_ways_to_draw_the_clusters():
    values, clusters = np.array([0.1, 0.3, 0.0, -0.1, 0.4]), np.array(["x", "x", "y", "y", "z"])
    # of 27 draws one is y y y and one z z z: each more than 2.5 %; next come x y y and x z z, three each
    assert cluster_interval(values, clusters) == pytest.approx((-0.05, 0.4))
    assert cluster_interval(values, clusters, level=0.8) == pytest.approx((0.2 / 6, 1.2 / 4))


def test_protocols_of_one_data_set_are_no_evidence_of_their_own():
    differences = {("d", f"S4-{n}"): 0.1 for n in range(20)}
    found = compare(rows_of(differences), "a", "b")
    assert found.interval is None and found.verdict() == "not shown"
    assert "1 source of data: no interval" in found.limits


def test_data_sets_with_the_same_cells_are_one_source():
    differences = {("d", "S1"): 0.1, ("e", "S1"): 0.2, ("f", "S1"): 0.3}
    assert compare(rows_of(differences), "a", "b").verdict() == "better"
    found = compare(rows_of(differences), "a", "b", sources={"f": "e"})
    assert (found.n_sources, found.interval) == (2, None)


def test_few_rows_are_said_to_be_few():
    found = compare(rows_of({(name, "S1"): 0.1 for name in "defgh"}), "a", "b")
    assert found.p == pytest.approx(2**-4)
    assert found.limits == "5 rows: no p below 0.0625 is possible"
    assert compare(rows_of({(name, "S1"): 0.1 for name in "defghi"}), "a", "b").limits == ""


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        ((0.10, 0.12, 0.14), "better"),
        ((-0.10, -0.12, -0.14), "worse"),
        ((0.004, -0.004, 0.003), "level"),
        ((0.30, -0.10, 0.05), "not shown"),
    ],
)
def test_a_verdict_needs_an_interval_without_zero(differences, verdict):
    found = compare(rows_of({(name, "S1"): d for name, d in zip("def", differences, strict=True)}), "a", "b")
    assert found.verdict() == verdict


def test_nothing_in_common_is_not_measured():
    rows = [("d", "S1", 0, 0, "a", "own", 0.5), ("d", "S1", 1, 0, "b", "own", 0.5)]
    found = compare(table(rows), "a", "b")
    assert (found.n_rows, found.verdict(), found.tally()) == (0, "not measured", (0, 0, 0))
    assert np.isnan(found.difference) and found.p is None


def test_a_figure_that_one_method_lacks_is_not_measured():
    rows = [("d", "S1", 0, 0, "a", "own", 0.5), ("d", "S1", 0, 0, "b", "LR", 0.5)]
    assert compare(table(rows), "a", "b", "own").verdict() == "not measured"


def test_unknown_names_are_named():
    made = rows_of({("d", "S1"): 0.1})
    with pytest.raises(KeyError, match=r"no method 'c'; it has a, b"):
        compare(made, "a", "c")
    with pytest.raises(KeyError, match=r"no metric 'LR'; it has own"):
        compare(made, "a", "b", "LR")
    with pytest.raises(KeyError, match="no column 'rotation'"):
        compare(made.drop(columns="rotation"), "a", "b")
