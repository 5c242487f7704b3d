"""Genes of other data that were not measured, and how they are told from genes that are off."""

import numpy as np
import pytest

import more_scvi as more


@pytest.fixture(scope="module")
def model():
    adata = more.data.simulate_batches(400, n_genes=200, depth=2000.0, seed=0)
    more.MoRE.setup_anndata(adata, batch_key="batch", labels_key="cell_type")
    model = more.MoRE(adata, backbone=None)
    model.train(max_epochs=0, enable_progress_bar=False)
    return model


@pytest.fixture
def query():
    return more.data.simulate_batches(400, n_genes=200, depth=2000.0, seed=0)[::2].copy()


def embed(model, data):
    return model.get_latent_representation(data, obsm_key=None)


def test_genes_padded_with_zeros_are_missing_like_those_that_are_not_there(model, query, caplog):
    lacking, padded = query[:, ::2].copy(), query.copy()
    padded.X = padded.X.multiply(np.arange(200) % 2 == 0).tocsr()
    with pytest.warns(UserWarning, match="taken as missing"):
        expected = embed(model, lacking)
    assert "look as if" not in caplog.text
    np.testing.assert_allclose(embed(model, padded), expected, atol=1e-3)
    assert "look as if" in caplog.text


def test_genes_that_are_off_in_cells_of_one_type_are_no_missing_ones(model, query, caplog):
    one = query[query.obs["cell_type"] == query.obs["cell_type"].iloc[0]].copy()
    whole = embed(model, query)[query.obs_names.get_indexer(one.obs_names)]
    np.testing.assert_allclose(embed(model, one), whole, atol=1e-3)
    assert "look as if" not in caplog.text
