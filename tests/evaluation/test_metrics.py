import numpy as np
import pytest

from more_scvi.evaluation import cilisi, effective_dimension, knn_probe, linear_probe, macro_f1, score, structure


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


def test_macro_f1_leaves_out_types_with_few_cells():
    true = np.array(["a"] * 6 + ["b"] * 6 + ["c"] * 4)
    predicted = np.array(["a"] * 6 + ["b"] * 6 + ["a"] * 4)
    assert macro_f1(true, predicted) == pytest.approx((12 / 16 + 1) / 2)
    assert np.isnan(macro_f1(true[:3], predicted[:3]))


def test_cilisi_is_near_one_for_mixed_and_zero_for_separated_batches(cells):
    z, labels, batches = cells
    assert cilisi(z, labels, batches) == pytest.approx(0.95, abs=0.03)
    assert cilisi(z + 100 * (batches == "x")[:, None], labels, batches) == pytest.approx(0, abs=1e-6)


def test_cilisi_counts_types_alike_and_ignores_types_of_one_batch(cells):
    z, labels, batches = cells
    once = batches.copy()
    once[labels == "a"] = "x"
    rest = labels != "a"
    assert cilisi(z, labels, once) == pytest.approx(cilisi(z[rest], labels[rest], batches[rest]), abs=1e-6)
    assert np.isnan(cilisi(z, labels, ["x"] * 600))


def test_cilisi_does_not_depend_on_the_order_of_tied_cells(cells):
    _, labels, batches = cells
    onehot = np.eye(3)[np.unique(labels, return_inverse=True)[1]]
    by_batch = np.argsort(batches, kind="stable")
    assert cilisi(onehot[by_batch], labels[by_batch], batches[by_batch]) > 0.85


def test_structure_is_one_for_the_reference_itself_also_after_batch_centring(cells):
    z, labels, batches = cells
    assert structure(z, z, labels, batches) == pytest.approx(1)
    assert structure(3 * z + 50 * (batches == "x")[:, None], z, labels, batches) == pytest.approx(1)


def test_label_collapse_loses_structure_and_dimension_but_not_f1(cells):
    z, labels, batches = cells
    onehot = np.eye(3)[np.unique(labels, return_inverse=True)[1]]
    hidden = np.arange(600) % 2 == 0
    assert linear_probe(onehot, labels, hidden) == 1.0
    assert structure(onehot, z, labels, batches) == 0
    assert effective_dimension(onehot, labels, batches) == 0
    assert effective_dimension(z, labels, batches) > 8


def test_score_is_deterministic_and_leaves_out_what_a_method_lacks(cells):
    z, labels, batches = cells
    hidden = np.arange(600) % 2 == 0
    first, again = (score(z, labels, labels, batches, hidden, z) for _ in range(2))
    assert first == again
    assert first["own"] == 1
    bare = score(None, labels, labels, batches, hidden, z)
    assert bare["LR"] is None
    assert bare["own"] == 1


def test_unusable_embeddings_are_refused(cells):
    z, labels, batches = cells
    with pytest.raises(ValueError, match=r"must be \(cells, latent\)"):
        structure(z[:10], z, labels, batches)
    z[0, 0] = np.nan
    with pytest.raises(ValueError, match="1 values that are not finite"):
        cilisi(z, labels, batches)


@pytest.mark.slow
def test_lisi_agrees_with_scib_metrics(cells):
    scib_metrics = pytest.importorskip("scib_metrics", reason="scib-metrics is not installed")
    from scib_metrics.nearest_neighbors import NeighborsResults
    from sklearn.neighbors import NearestNeighbors

    z, labels, batches = cells
    z = z + 0.5 * (batches == "x")[:, None]
    rows = labels == "a"
    distances, indices = NearestNeighbors(n_neighbors=31).fit(z[rows]).kneighbors(z[rows])
    code = (batches[rows] == "x").astype(int)
    # a perplexity close to the number of neighbours makes scib-metrics' weights nearly uniform, as ours are
    lisi = scib_metrics.lisi_knn(NeighborsResults(indices=indices, distances=distances), code, perplexity=29)
    assert cilisi(z[rows], labels[rows], batches[rows]) == pytest.approx(np.mean(lisi) - 1, abs=0.05)
