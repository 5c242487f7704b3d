import numpy as np
import pytest
from scipy.spatial.distance import cdist

from more_scvi.metrics import foscttm, imputation, recall_at


def test_foscttm_and_recall_are_what_brute_force_finds():
    rng = np.random.default_rng(0)
    a = rng.standard_normal((60, 4))
    b = a + rng.standard_normal((60, 4))
    d = cdist(a, b)
    nearer = [np.mean(np.delete(d[i], i) < d[i, i]) for i in range(60)]
    nearer += [np.mean(np.delete(d[:, i], i) < d[i, i]) for i in range(60)]
    assert foscttm(a, b) == pytest.approx(np.mean(nearer))
    top = [np.sum(np.delete(d[i], i) < d[i, i]) < 10 for i in range(60)]
    top += [np.sum(np.delete(d[:, i], i) < d[i, i]) < 10 for i in range(60)]
    assert recall_at(a, b, 10) == pytest.approx(np.mean(top))


def test_foscttm_of_chance_collapse_and_identity():
    rng = np.random.default_rng(0)
    a = rng.standard_normal((1500, 5))
    assert foscttm(a, rng.standard_normal((1500, 5))) == pytest.approx(0.5, abs=0.02)
    assert foscttm(np.zeros((50, 2)), np.zeros((50, 2))) == 0.5
    assert foscttm(a, a) == 0


def test_recall_of_chance_is_k_in_n():
    a, b = np.random.default_rng(0).standard_normal((2, 2000, 5))
    assert recall_at(a, b, 100) == pytest.approx(100 / 2000, abs=0.01)


def test_imputation_is_the_mean_correlation_per_feature():
    rng = np.random.default_rng(0)
    observed = rng.standard_normal((80, 3))
    imputed = observed + rng.standard_normal((80, 3))
    expected = [np.corrcoef(imputed[:, j], observed[:, j])[0, 1] for j in range(3)]
    scores = imputation(imputed, observed)
    assert scores["pearson"] == pytest.approx(np.mean(expected))
    assert imputation(np.exp(imputed), observed)["spearman"] == pytest.approx(scores["spearman"])
    imputed[:, 0], constant = 1.0, np.column_stack([observed, np.ones(80)])
    scores = imputation(np.column_stack([imputed, rng.standard_normal(80)]), constant)
    assert scores["pearson"] == pytest.approx(sum(expected[1:]) / 3)


def test_imputation_of_features_that_do_not_vary_is_nan():
    assert all(np.isnan(value) for value in imputation(np.ones((5, 2)), np.zeros((5, 2))).values())


A, NAN = np.ones((4, 2)), np.array([[np.nan, 1.0]] * 4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: foscttm(A, A[:3]), r"b \(3, 2\) must be \(4 cells, columns\)"),
        (lambda: recall_at(A, A[:, :1]), r"a \(4, 2\) and b \(4, 1\) must have the same columns"),
        (lambda: foscttm(NAN, A), "a holds 4 values that are not finite"),
        (lambda: imputation(A[:3], A), r"imputed \(3, 2\) must be \(4 cells, columns\)"),
        (lambda: imputation(A[:, :1], A), "must have the same features"),
        (lambda: imputation(NAN, A), "imputed holds 4 values that are not finite"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
