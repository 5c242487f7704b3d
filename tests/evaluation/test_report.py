import pytest

from more_scvi.evaluation import decide, report, summarise


def record(dataset, protocol, method, own, lr, seed=0, rotation=0, seeded=True, seconds=10.0):
    scores = {"own": own, "LR": lr, "kNN": lr, "CiLISI": 0.5, "structure": 0.9, "dimension": 5.0}
    return {
        "dataset": dataset,
        "protocol": protocol,
        "seed": seed,
        "rotation": rotation,
        "method": method,
        "seeded": seeded,
        "scores": scores,
        "seconds": {"training": seconds},
        "parameters": {"trained": 1000, "frozen": 0},
        "peak_memory": 2**20,
        "versions": {"scvi-tools": "1.4"},
    }


RESULTS = [
    record("d1", "S1", "more", 0.90, 0.70, seconds=1.0),
    record("d2", "S1", "more", 0.60, 0.75, seconds=1.0),
    record("d1", "S1", "scanvi", 0.80, 0.85),
    record("d2", "S1", "scanvi", 0.80, 0.65),
    record("d1", "S1", "pca", None, 0.95, seeded=False),
    record("d2", "S1", "pca", None, 0.50, seeded=False),
    record("d1", "S1", "harmony", None, 0.99),
]


def test_the_classifier_is_chosen_once_by_the_mean_over_rows():
    decision = decide(RESULTS)
    assert decision.classifier == {"more": "own", "scanvi": "own", "pca": "LR"}
    assert decision.scores["more"].tolist() == [0.90, 0.60]  # not .90 and .75


def test_ours_is_compared_with_the_best_peer_of_each_row():
    decision = decide(RESULTS)
    assert decision.best_peer.tolist() == ["pca", "scanvi"]
    assert decision.difference["more"].tolist() == pytest.approx([-0.05, -0.20])


def test_a_peer_that_misses_a_row_is_left_out():
    assert "harmony" not in decide(RESULTS).scores


def test_only_splits_that_all_have_are_compared():
    extra = [record("d1", "S1", "more", 0.10, 0.10, seed=1)]
    decision = decide(RESULTS + extra)
    assert decision.scores["more"].tolist() == [0.90, 0.60]
    assert decision.n_splits.tolist() == [1, 1]


def test_results_without_randomness_stand_for_every_seed_of_a_held_out_batch():
    both = [record("d", "S2a", "more", 0.5 + seed / 10, 0.5, seed=seed) for seed in (0, 1)]
    decision = decide([*both, record("d", "S2a", "lr_hvg", 0.4, None, seeded=False)], peers=["lr_hvg"])
    assert decision.n_splits.tolist() == [2]
    assert decision.difference["more"].tolist() == pytest.approx([0.15])


def test_range_over_seeds_is_of_means_over_rotations():
    values = {(0, 0): 0.2, (0, 1): 0.4, (1, 0): 0.6, (1, 1): 0.8}
    summary = summarise([record("d", "S2a", "more", v, v, seed=s, rotation=r) for (s, r), v in values.items()])
    row = summary.loc[("d", "S2a", "more")]
    assert (row["own"], row["own_min"], row["own_max"]) == pytest.approx((0.5, 0.3, 0.7))


def test_report_states_rule_cost_and_versions():
    text = report([*RESULTS, *(record(d, "S1", "lr_hvg", 0.7, None, seeded=False) for d in ("d1", "d2"))])
    assert "Against plain classifiers" in text
    assert "more: own" in text
    assert "| more | 2/2 | 0.750 |" in text
    assert "0.100" in text  # a tenth of the seconds of scanvi
    assert "scvi-tools 1.4" in text


def test_nothing_to_report_or_compare_is_an_error():
    with pytest.raises(ValueError, match="No results"):
        report([])
    with pytest.raises(ValueError, match="Nothing to compare"):
        decide(RESULTS, ours=["other"])


def test_variants_are_compared_with_their_method_on_the_same_splits():
    variant = record("d1", "S1", "more:no-keep", 0.85, 0.60)
    text = report([*RESULTS, variant])
    assert "| more:no-keep | 1 | -0.050 | -0.100 |" in text
    assert "Δ more:no-keep" not in text
