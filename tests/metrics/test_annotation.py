import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score

from more_scvi.metrics import (
    average_precision,
    balanced_accuracy,
    confusion,
    knn_predict,
    knn_probe,
    linear_probe,
    macro_f1,
    per_type_f1,
    probe_probabilities,
    scorable,
)

TRUE = np.array(["B"] * 4 + ["T"] * 3 + ["NK"])
PREDICTED = np.array(["B", "B", "T", "doublet", "T", "T", "B", "T"])


def overlapping(seed=0):
    """300 cells of three types that overlap, half of them hidden."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(list("abc"), 300, p=[0.6, 0.3, 0.1])
    z = 2 * np.eye(3, 6)[np.unique(labels, return_inverse=True)[1]] + rng.standard_normal((300, 6))
    return z, labels, rng.random(300) < 0.5


def test_probes_read_separated_types_and_not_noise(cells):
    z, labels, _ = cells
    hidden = np.random.default_rng(1).random(600) < 0.5
    noise = np.random.default_rng(2).standard_normal(z.shape)
    for probe in (linear_probe, knn_probe):
        assert probe(z, labels, hidden) == 1.0
        assert probe(noise, labels, hidden) < 0.5


@pytest.mark.parametrize("probe", [linear_probe, knn_probe])
def test_probes_are_fitted_on_visible_labels_only(cells, probe):
    z, labels, _ = cells
    hidden = labels == "c"
    hidden[:20] = hidden[200:220] = True
    # no visible cell is a "c": these cells are not scored at all, whatever the probe makes of them
    assert probe(z, labels, hidden) == 1.0


@pytest.mark.parametrize("predict", [probe_probabilities, knn_predict])
def test_labels_of_hidden_cells_are_not_read(predict):
    z, labels, hidden = overlapping()
    others = labels.copy()
    others[hidden] = np.random.default_rng(1).permutation(labels[hidden])
    assert (np.asarray(predict(z, labels, hidden)) == np.asarray(predict(z, others, hidden))).all()


def test_knn_predict_is_the_vote_of_the_nearest_visible_cells():
    z, labels, hidden = overlapping()
    predicted = knn_predict(z, labels, hidden, n_neighbors=7)
    shown = np.flatnonzero(~hidden)
    for cell in np.flatnonzero(hidden)[:50]:
        nearest = shown[np.argsort(np.linalg.norm(z[shown] - z[cell], axis=1))[:7]]
        votes = pd.Series(labels[nearest]).value_counts()
        assert predicted[cell] in votes.index[votes == votes.max()]


def test_predictions_of_the_probes_score_what_the_probes_score():
    z, labels, hidden = overlapping()
    on = scorable(labels, hidden)
    probability = probe_probabilities(z, labels, hidden)
    assert list(probability.columns) == ["a", "b", "c"]
    assert np.allclose(probability.sum(axis=1), 1)
    assert macro_f1(labels[on], probability.idxmax(axis=1)[on]) == linear_probe(z, labels, hidden)
    assert macro_f1(labels[on], knn_predict(z, labels, hidden)[on]) == knn_probe(z, labels, hidden)


def test_macro_f1_leaves_out_types_with_few_cells():
    true = np.array(["a"] * 6 + ["b"] * 6 + ["c"] * 4)
    predicted = np.array(["a"] * 6 + ["b"] * 6 + ["a"] * 4)
    assert macro_f1(true, predicted) == pytest.approx((12 / 16 + 1) / 2)
    assert np.isnan(macro_f1(true[:3], predicted[:3]))


def test_balanced_accuracy_weighs_types_equally():
    true, predicted = ["a"] * 90 + ["b"] * 10 + ["c"] * 2, ["a"] * 100 + ["c"] * 2
    assert balanced_accuracy(true, predicted) == pytest.approx(0.5)
    assert np.isnan(balanced_accuracy(true[-2:], predicted[-2:]))


def test_per_type_f1_by_hand():
    table = per_type_f1(TRUE, PREDICTED)
    assert list(table.index) == ["B", "NK", "T"]
    assert list(table["n"]) == [4, 1, 3]
    assert list(table["precision"]) == pytest.approx([2 / 3, 0, 2 / 4])
    assert list(table["recall"]) == pytest.approx([2 / 4, 0, 2 / 3])
    assert list(table["f1"]) == pytest.approx([4 / 7, 0, 4 / 7])


def test_macro_f1_is_the_mean_of_the_types_that_are_large_enough():
    z, labels, hidden = overlapping()
    predicted = knn_predict(z, labels, hidden)
    table = per_type_f1(labels[hidden], predicted[hidden])
    assert macro_f1(labels[hidden], predicted[hidden]) == pytest.approx(table["f1"][table["n"] >= 5].mean())
    for name in table.index:
        assert table.loc[name, "f1"] == pytest.approx(f1_score(labels[hidden] == name, predicted[hidden] == name))


def test_confusion_counts_every_cell_once():
    table = confusion(TRUE, PREDICTED)
    assert list(table.index) == list(table.columns) == ["B", "NK", "T", "doublet"]
    assert table.loc["B"].to_dict() == {"B": 2, "NK": 0, "T": 1, "doublet": 1}
    assert table.loc["NK", "T"] == 1
    assert table.to_numpy().sum() == TRUE.size
    assert (np.diag(table)[[0, 2]] / table.sum(axis=1)[["B", "T"]]).tolist() == pytest.approx([2 / 4, 2 / 3])


@pytest.mark.filterwarnings("error")
def test_confusion_of_a_single_type_says_nothing():
    assert confusion(["T", "T"], ["T", "T"]).to_dict() == {"T": {"T": 2}}


def test_average_precision_by_hand_and_by_chance():
    # positives stand at ranks 1 and 3 of 4: precision 1/1 and 2/3
    assert average_precision([True, False, True, False], [0.9, 0.8, 0.7, 0.1]) == pytest.approx((1 + 2 / 3) / 2)
    rng = np.random.default_rng(0)
    positive = rng.random(20_000) < 0.02
    assert average_precision(positive, rng.random(20_000)) == pytest.approx(0.02, abs=0.01)
    assert average_precision(positive, np.ones(20_000)) == pytest.approx(positive.mean())
    assert np.isnan(average_precision([False, False], [0.1, 0.2]))


def test_one_visible_type_is_predicted_everywhere():
    z, labels, hidden = overlapping()
    one = np.where(hidden, labels, "a")
    assert (probe_probabilities(z, one, hidden).columns == ["a"]).all()
    assert (knn_predict(z, one, hidden) == "a").all()
    assert linear_probe(z, one, hidden) == knn_probe(z, one, hidden) == 1.0


@pytest.mark.parametrize("probe", [linear_probe, knn_probe])
def test_nothing_to_score_is_nan(probe):
    z, labels, _ = overlapping()
    assert np.isnan(probe(z, labels, np.zeros(300, dtype=bool)))


def test_an_embedding_of_one_point_predicts_the_largest_type():
    _, labels, hidden = overlapping()
    probability = probe_probabilities(np.ones((300, 2)), labels, hidden)
    assert (probability.idxmax(axis=1) == "a").all()
    assert np.allclose(probability.iloc[0], pd.Series(labels[~hidden]).value_counts(normalize=True), atol=0.01)


def test_empty_lists_give_empty_tables():
    assert list(per_type_f1([], []).columns) == ["n", "precision", "recall", "f1"]
    assert per_type_f1([], []).empty
    assert confusion([], []).empty


Z, Y = np.ones((4, 2)), list("aabb")
NAN = np.array([[1.0, np.nan]] * 4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: per_type_f1(Y, Y[:3]), r"true \(4,\) and predicted \(3,\) must hold one name per cell"),
        (lambda: confusion(Y, [Y]), r"predicted \(1, 4\)"),
        (lambda: macro_f1(Y[:3], Y), r"true \(3,\) and predicted \(4,\)"),
        (lambda: balanced_accuracy(Y[:2], Y), r"true \(2,\) and predicted \(4,\)"),
        (lambda: average_precision([True], [0.1, 0.2]), r"positive \(1,\) must be a mask with one boolean for each of"),
        (lambda: average_precision(["a", "b"], [0.1, 0.2]), "positive must be a mask of booleans"),
        (lambda: average_precision([True, False], [0.1, np.nan]), "score holds 1 values that are not finite"),
        (lambda: probe_probabilities(NAN, Y, [True, False, False, True]), "z holds 4 values that are not finite"),
        (lambda: probe_probabilities(Z, Y, [True] * 4), "hidden covers all 4 cells; .* show some"),
        (lambda: knn_predict(Z, Y, [True] * 4), "hidden covers all 4 cells"),
        (
            lambda: knn_predict(Z, Y, [True, False]),
            r"hidden \(2,\) must be a mask with one boolean for each of the 4 cells",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
