"""What may look odd and works: data without batches, without labels, with one of either, and small data."""

import numpy as np
import pandas as pd
import pytest
import scanpy as sc

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


def test_gene_names_in_a_column():
    adata = make_data()
    adata.var_names = [f"ENS{i}" for i in range(60)]
    run(adata, batch_key="batch", gene_key="symbol")
