import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr
from sklearn.decomposition import PCA

from more_scvi.metrics import sc_graph

N_TYPES = 6


def types_in_batches(effect=0.0):
    """900 cells, 6 types × 3 batches in 20 dimensions."""
    rng = np.random.default_rng(0)
    code, batches = np.arange(900) % N_TYPES, np.arange(900) // 300
    centres = rng.standard_normal((N_TYPES, 20)) * np.linspace(4, 0.5, 20)
    z = centres[code] + rng.standard_normal((900, 20))
    return z + effect * rng.standard_normal((3, 20))[batches], code.astype(str), batches.astype(str)


def published(z, reference, labels, batches):
    """Plain form with means in place of trimmed means: Spearman and weighted Pearson."""

    def distances(x, y):
        means = pd.DataFrame(x).groupby(y).mean().to_numpy()
        return np.array([[np.linalg.norm(a - b) for b in means] for a in means])

    tables = []
    for name in np.unique(batches):
        rows = batches == name
        d = distances(PCA(10, svd_solver="full").fit_transform(reference[rows]), labels[rows])
        tables.append(d / d.max(axis=0))
    consensus, found = np.mean(tables, axis=0), distances(z, labels)
    rank, weighted = [], []
    for t in range(N_TYPES):
        x, y = np.delete(found[:, t], t), np.delete(consensus[:, t], t)
        rank.append(spearmanr(x, y).statistic)
        covariance = np.cov(x, y, aweights=1 / y)
        weighted.append(covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1]))
    return np.mean(rank), np.mean(weighted)


def test_scores_follow_the_definition():
    reference, labels, batches = types_in_batches(effect=2)
    z = reference[:, :3] + np.random.default_rng(1).standard_normal((900, 3))
    rank, weighted = published(z, reference, labels, batches)
    assert sc_graph(z, reference, labels, batches, "spearman", trim=0) == pytest.approx(rank)
    assert sc_graph(z, reference, labels, batches, trim=0) == pytest.approx(weighted)
    assert weighted < 0.95


def test_the_geometry_within_batches_wins_and_noise_and_collapse_do_not():
    reference, labels, batches = types_in_batches(effect=30)
    clean, _, _ = types_in_batches()
    noise = np.random.default_rng(2).standard_normal((900, 10))
    onehot = np.eye(N_TYPES)[labels.astype(int)]
    assert sc_graph(clean, reference, labels, batches) > 0.95
    assert abs(sc_graph(noise, reference, labels, batches)) < 0.4
    assert sc_graph(onehot, reference, labels, batches) == 0
    assert sc_graph(np.full((900, 3), 2.5), reference, labels, batches) == 0


def test_outliers_of_a_type_are_trimmed():
    reference, labels, batches = types_in_batches()
    outliers = reference.copy()
    outliers[:12] += 1e4 * np.random.default_rng(1).standard_normal((12, 20))
    assert sc_graph(outliers, reference, labels, batches) > 0.9
    assert sc_graph(outliers, reference, labels, batches, trim=0) < 0.5


def test_a_pair_of_types_counts_where_a_batch_holds_both():
    reference, labels, batches = types_in_batches()
    kept = ~((batches == "0") & (labels == "0")) & ~((batches == "1") & (labels == "1"))
    whole = sc_graph(reference, reference, labels, batches)
    assert sc_graph(reference[kept], reference[kept], labels[kept], batches[kept]) == pytest.approx(whole, abs=0.05)


def test_too_few_types_or_small_batches_have_no_score():
    reference, labels, batches = types_in_batches()
    three = np.isin(labels, ["0", "1", "2"])
    assert np.isnan(sc_graph(reference[three], reference[three], labels[three], batches[three]))
    assert np.isnan(sc_graph(reference, reference, labels, np.arange(900) // 90))
    assert np.isnan(sc_graph(reference, reference, ["a"] * 900, batches))
    assert sc_graph(reference, reference, labels, ["x"] * 900) > 0.95


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reference": np.ones((5, 2))}, r"reference \(5, 2\) must be \(900 cells, columns\)"),
        ({"labels": ["a"] * 899}, r"labels \(899,\) must hold one name for each of the 900 cells"),
        ({"correlation": "pearson"}, "correlation='pearson' is not supported; choose one of 'weighted', 'spearman'"),
        ({"z": np.full((900, 2), np.nan)}, "z holds 1800 values that are not finite"),
    ],
)
def test_bad_input_is_named(change, message):
    reference, labels, batches = types_in_batches()
    with pytest.raises(ValueError, match=message):
        sc_graph(**{"z": reference, "reference": reference, "labels": labels, "batches": batches} | change)
