import numpy as np
import pytest
import scanpy as sc

from more_scvi.data import load_demo, simulate_batches, simulate_platform


def test_batches_have_the_announced_truth():
    adata = simulate_batches(n_cells=90, n_genes=50, n_types=3, n_batches=2, proportions=[[1, 1, 0], [1, 1, 1]])
    assert adata.shape == (90, 50)
    assert (adata.X.data == np.rint(adata.X.data)).all()
    assert "type2" not in set(adata.obs.loc[adata.obs["batch"] == "batch0", "cell_type"])
    again = simulate_batches(n_cells=90, n_genes=50, n_types=3, n_batches=2, proportions=[[1, 1, 0], [1, 1, 1]])
    assert (adata.X != again.X).nnz == 0


def test_batch_effect_can_be_switched_off():
    def shift(sd):
        x = simulate_batches(n_cells=400, n_genes=40, n_types=1, state_sd=0, batch_sd=sd).X.toarray()
        x = x / x.sum(1, keepdims=True)
        return np.abs(x[:200].mean(0) - x[200:].mean(0)).sum()

    assert shift(0.0) < 0.2 * shift(0.5)


@pytest.mark.parametrize("bad", [{"proportions": [[1, 1]]}, {"gene_names": ["A"]}])
def test_wrong_sizes_are_refused(bad):
    with pytest.raises(ValueError, match="must"):
        simulate_batches(n_types=2, **bad)


def test_platform_changes_depth_genes_and_ambient():
    x = simulate_batches(n_cells=200, n_genes=60, n_batches=1).X
    before = x.copy()
    thin = simulate_platform(x, depth=0.4, capture_sd=0, ambient=0)
    assert (x != before).nnz == 0
    assert thin.sum() == pytest.approx(0.4 * x.sum(), rel=0.05)
    assert (thin > x).nnz == 0
    ambient = simulate_platform(x, depth=0.4, capture_sd=0, ambient=0.2)
    assert ambient.sum() == pytest.approx(1.2 * thin.sum(), rel=0.03)
    assert (ambient > x).nnz > 0
    captured = simulate_platform(x, depth=0.4, capture_sd=1, ambient=0)
    ratio = np.asarray(captured.sum(0) / x.sum(0)).ravel()
    assert ratio.std() > 0.1
    assert (simulate_platform(x.toarray(), seed=3) != simulate_platform(x, seed=3)).nnz == 0


def test_platform_refuses_what_is_not_counts():
    with pytest.raises(ValueError, match="raw counts"):
        simulate_platform(np.array([[0.5, 1.0]]))
    with pytest.raises(ValueError, match="depth"):
        simulate_platform(np.ones((2, 2)), depth=0)


def test_demo_counts_are_those_behind_the_lognormalised_values():
    adata, source = load_demo(), sc.datasets.pbmc68k_reduced()
    assert adata.obs_names.is_unique
    assert set(adata.obs_names) == set(source.obs_names)
    cells = adata.obs_names[adata.obs["platform"] == "10x"]
    total = source[cells].obs["n_counts"].to_numpy()[:, None]
    again = np.log1p(adata[cells].X.toarray() * 1e4 / total)
    np.testing.assert_allclose(again, source.raw[cells].X.toarray(), atol=2e-3)
