"""What may look odd and works: data without batches, without labels, with one of either, and small data."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp

from more_scvi import MoRE

from .conftest import QUIET, make_data


def run(adata, init=None, **setup):
    MoRE.setup_anndata(adata, **setup)
    model = MoRE(adata, **(init or {}))
    model.train(max_epochs=2, **QUIET)
    z = model.get_latent_representation()
    assert z.shape[0] == adata.n_obs
    assert z.dtype == np.float32
    assert np.isfinite(z).all()
    assert z.std(axis=0).max() > 0
    np.testing.assert_array_equal(adata.obsm["X_more"], z)
    return model


@pytest.mark.parametrize("batch_key", [None, "batch"], ids=["", "batches"])
@pytest.mark.parametrize("labels_key", [None, "cell_type"], ids=["", "labels"])
def test_batches_and_labels_in_every_combination(batch_key, labels_key):
    model = run(make_data(), batch_key=batch_key, labels_key=labels_key)
    if labels_key:
        assert set(model.predict()) <= set(model.predict(soft=True).columns)


@pytest.mark.parametrize("kind", ["one-batch", "one-label", "one-label-per-batch", "one-labelled-cell", "batch-of-one"])
def test_extreme_columns(kind):
    adata = make_data()
    if kind == "one-batch":
        adata.obs["batch"] = "only"
    elif kind == "one-label":
        adata.obs["cell_type"] = "only"
    elif kind == "one-label-per-batch":
        adata.obs["cell_type"] = "type of " + adata.obs["batch"].astype(str)
    elif kind == "one-labelled-cell":
        adata.obs["cell_type"] = np.where(np.arange(120) == 0, "rare", "Unknown")
    else:
        adata.obs["batch"] = np.where(np.arange(120) == 0, "single", "rest")
    run(adata, batch_key="batch", labels_key="cell_type")


@pytest.mark.parametrize("n_cells", [2, 3, 5, 17])
def test_few_cells(n_cells):
    run(make_data()[:n_cells].copy(), batch_key="batch", labels_key="cell_type")


@pytest.mark.parametrize("n_genes", [10, 11])
def test_few_genes(n_genes):
    run(make_data()[:, :n_genes].copy(), batch_key="batch", labels_key="cell_type")


@pytest.mark.parametrize(
    "init", [{"backbone": None}, {"n_components": 0}, {"n_views": 0}, {"n_refinement_steps": 0}, {"n_wide": 0}], ids=str
)
def test_parts_can_be_left_out(init):
    model = run(make_data(), init, batch_key="batch", labels_key="cell_type")
    new = make_data(40, seed=2)
    assert np.isfinite(model.get_latent_representation(new, obsm_key=None)).all()
    assert set(model.predict(new)) <= set(model.predict())


def test_without_labels_and_losses_the_linear_base_stays():
    adata = make_data()
    MoRE.setup_anndata(adata, batch_key="batch")
    model = MoRE(adata)
    terms = ["masked", "classify", "contrast", "align_batch", "variance", "keep"]
    before = model.get_latent_representation()
    model.train(max_epochs=1, loss_weights=dict.fromkeys(terms, 0), **QUIET)
    np.testing.assert_allclose(model.get_latent_representation(), before, atol=0.05)


def test_cells_without_counts_train():
    adata = make_data()
    x = adata.X.toarray()
    x[[3, 50]] = 0
    adata.X = x
    with pytest.warns(UserWarning, match="2 of 120 cells have no counts"):
        run(adata, batch_key="batch", labels_key="cell_type")


def test_constant_genes_and_a_gene_that_nobody_has():
    adata = make_data()
    x = adata.X.toarray()
    x[:, 0], x[:, 1] = 0, 3
    adata.X = x
    run(adata, batch_key="batch", labels_key="cell_type")


def test_log_normalised_data():
    adata = make_data()
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    run(adata, batch_key="batch", labels_key="cell_type")


def test_precomputed_features():
    run(
        make_data(),
        {"backbone": "precomputed", "backbone_kwargs": {"obsm_key": "X_own"}},
        batch_key="batch",
        labels_key="cell_type",
    )


def test_covariates_of_both_kinds():
    adata = make_data()
    adata.obs["sex"] = pd.Categorical(["f", "m", "m"] * 40)
    keys = {"categorical_covariate_keys": pd.Index(["sex"]), "continuous_covariate_keys": np.array(["score"])}
    run(adata, batch_key="batch", **keys)


def repeated(x):
    """The same matrix, every value stored in two parts."""
    whole = sp.csr_matrix(x)
    half = np.floor(whole.data / 2)
    data, indices = (np.c_[a, b].ravel() for a, b in ((half, whole.data - half), (whole.indices, whole.indices)))
    return sp.csr_matrix((data, indices, whole.indptr * 2), shape=whole.shape)


STORED = {
    "float16": lambda x: x.astype(np.float16),
    "big-endian": lambda x: x.astype(">f4"),
    "uint8": lambda x: x.astype(np.uint8),
    "repeated": repeated,
    "repeated-csc": lambda x: sp.csc_matrix(repeated(x.T).T),
}


@pytest.mark.parametrize("stored", STORED)
def test_storage_of_the_matrix_changes_no_answer(bench, stored, tmp_path):
    adata = bench.adata
    adata.X = adata.X.toarray()
    want = bench.model.get_latent_representation(adata, obsm_key=None)
    adata.X = STORED[stored](adata.X)
    np.testing.assert_array_equal(bench.model.get_latent_representation(adata, obsm_key=None), want)
    ad.AnnData(adata.X, adata.obs, adata.var).write_h5ad(tmp_path / "a.h5ad")
    backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    np.testing.assert_array_equal(bench.model.get_latent_representation(backed, obsm_key=None), want)
    backed.file.close()


def test_training_on_odd_storage_is_training_on_the_canonical_matrix():
    z = []
    for change in (np.asarray, STORED["float16"], STORED["repeated"]):
        adata = make_data()
        adata.X = change(adata.X.toarray())
        z.append(run(adata, batch_key="batch", labels_key="cell_type").get_latent_representation())
    np.testing.assert_array_equal(z[0], z[1])
    np.testing.assert_array_equal(z[0], z[2])


def test_other_data_may_be_cells_without_counts(bench):
    adata = bench.adata[:3].copy()
    adata.X = adata.X * 0
    with pytest.warns(UserWarning, match="3 of 3 cells have no counts"):
        assert np.isfinite(bench.model.get_latent_representation(adata, obsm_key=None)).all()


def test_numpy_scalars_are_numbers(tmp_path):
    adata = make_data()
    MoRE.setup_anndata(adata, batch_key="batch")
    model = MoRE(adata, n_latent=np.int64(8), dropout=np.float32(0.1), seed=np.uint8(3))
    weights = {"keep": np.int64(2), "masked": np.float32(0.5)}
    model.train(np.int64(1), batch_size=np.int32(64), train_size=np.float32(0.8), loss_weights=weights, **QUIET)
    model.save(tmp_path / "model")
    assert MoRE.load(tmp_path / "model", adata).get_latent_representation().shape == (120, 8)


def test_text_columns_of_new_pandas():
    with pd.option_context("future.infer_string", True):
        adata = make_data()
        for key in ("batch", "cell_type"):
            adata.obs[key] = pd.Series(list(adata.obs[key]), adata.obs_names)
        assert adata.obs["batch"].dtype != object
        MoRE.setup_anndata(adata, batch_key="batch", labels_key="cell_type", categorical_covariate_keys=["batch"])
        assert MoRE(adata).summary_stats.n_batch == 2


def test_gene_names_in_a_column():
    adata = make_data()
    adata.var_names = [f"ENS{i}" for i in range(60)]
    run(adata, batch_key="batch", gene_key="symbol")
