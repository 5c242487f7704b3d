import numpy as np
import pytest

from more_scvi.metrics import cilisi


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


def test_unusable_embeddings_are_refused(cells):
    z, labels, batches = cells
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
