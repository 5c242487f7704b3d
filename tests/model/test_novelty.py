"""Cells of a type that nobody labelled stand out."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

import more_scvi as more
from more_scvi.data import simulate_batches


@pytest.fixture(scope="module")
def data():
    adata = simulate_batches(n_cells=800, n_types=4, seed=0)
    rng = np.random.default_rng(7)
    adata.obs["truth"] = adata.obs["cell_type"].astype(str)
    new = adata.obs["truth"] == adata.obs["truth"].unique()[0]
    hidden = new | (rng.random(adata.n_obs) < 0.5)
    adata.obs["cell_type"] = np.where(hidden, "Unknown", adata.obs["truth"])
    adata.obs["new"] = new
    return adata


@pytest.fixture(scope="module")
def model(data):
    adata = data[data.obs["batch"] == data.obs["batch"].unique()[0]].copy()
    more.MoRE.setup_anndata(adata, batch_key="batch", labels_key="cell_type", unlabeled_category="Unknown")
    model = more.MoRE(adata, backbone=None)
    model.train(max_epochs=20)
    return model


def auroc(model, adata, score):
    among = (adata.obs["cell_type"] == "Unknown").to_numpy()
    return roc_auc_score(adata.obs["new"][among], score[among])


def test_an_unlabelled_type_stands_out_more_than_by_the_probabilities(model):
    score = model.get_novelty()
    assert score.index.equals(model.adata.obs_names)
    assert score.between(0, 1).all()
    found = auroc(model, model.adata, score.to_numpy())
    assert found > 0.95
    assert found > auroc(model, model.adata, 1 - model.predict(soft=True).max(axis=1).to_numpy())


def test_cells_of_a_new_batch_are_compared_with_the_labelled_ones(model, data):
    other = data[data.obs["batch"] == data.obs["batch"].unique()[1]].copy()
    score = model.get_novelty(other)
    assert score.index.equals(other.obs_names)
    assert roc_auc_score(other.obs["new"], score) > 0.9


def test_the_data_are_only_read(model, data):
    other = data[data.obs["batch"] == data.obs["batch"].unique()[1]].copy()
    columns, registered = list(other.obs), list(model.adata.obs)
    model.get_novelty(other)
    model.get_novelty()
    assert list(other.obs) == columns and list(other.obsm) == []
    assert list(model.adata.obs) == registered


def test_models_that_cannot_answer_say_why(model, tmp_path):
    model.save(tmp_path / "m")
    with pytest.raises(ValueError, match=r"loaded without data.*MoRE.load\(dir, adata=adata\)"):
        more.MoRE.load(tmp_path / "m", adata=False).get_novelty()
    adata = simulate_batches(n_cells=100)
    more.MoRE.setup_anndata(adata, batch_key="batch")
    unlabelled = more.MoRE(adata, backbone=None)
    with pytest.raises(ValueError, match=r"set up without labels.*labels_key"):
        unlabelled.get_novelty()
