"""Batch and label columns as users have them."""

import numpy as np
import pandas as pd
import pytest


@pytest.mark.needs("labels")
def test_t11_predictions_carry_the_names_of_the_labels(case, data):
    """Levels that sort before and after the unlabelled category keep their names; unused levels do not come back."""
    adata = data()
    names = {"t0": "zz", "t1": "Alpha", "t2": "Unsorted", "Unknown": "Unknown"}
    adata.obs["ct"] = pd.Categorical(adata.obs["ct"].map(names), categories=["ghost", *names.values()])
    case.setup(adata)
    model = case.fit(case.build(adata), max_epochs=20)
    soft = model.predict(soft=True)
    assert sorted(soft.columns) == ["Alpha", "Unsorted", "zz"]
    assert list(soft.index) == list(adata.obs_names)
    np.testing.assert_allclose(soft.sum(axis=1), 1, atol=1e-4)
    hard = np.asarray(model.predict())
    assert (hard == soft.idxmax(axis=1).to_numpy()).all()
    known = (adata.obs["ct"] != "Unknown").to_numpy()
    assert (hard[known] == adata.obs["ct"].astype(str).to_numpy()[known]).mean() > 0.5, "better than chance (1/3)"


@pytest.mark.needs("labels")
@pytest.mark.parametrize("kind", ["int", "bool", "nan", "category-of-int", "string-dtype"])
def test_t20_labels_of_any_type(case, data, kind):
    """Integers (Leiden clusters), booleans and columns with gaps are labels, too."""
    adata = data()
    ct = adata.obs["ct"]
    adata.obs["ct"] = {
        "int": lambda: ct.map({"t0": 0, "t1": 1, "t2": 2, "Unknown": 3}),
        "bool": lambda: ct == "t0",
        "nan": lambda: ct.where(ct != "Unknown"),
        "category-of-int": lambda: ct.map({"t0": 0, "t1": 1, "t2": 2, "Unknown": 3}).astype("category"),
        "string-dtype": lambda: ct.astype("string"),
    }[kind]()
    soft = case.fitted(adata).predict(soft=True)
    expected = {"int": "0123", "category-of-int": "0123", "bool": ["False", "True"]}.get(kind, ["t0", "t1", "t2"])
    assert sorted(soft.columns) == list(expected)


@pytest.mark.parametrize("kind", ["no-key", "all-unknown", "one-label"])
def test_t21_training_without_labels(case, data, kind):
    """No label column, a column of unknowns only, or a single label: the model trains and the embedding is finite."""
    adata = data()
    adata.obs["ct"] = "Unknown" if kind != "one-label" else "t0"
    case.setup(adata, **({"labels_key": None} if kind == "no-key" and case.labels else {}))
    model = case.fit(case.build(adata))
    latent = case.latent(model)
    assert np.isfinite(latent).all()
    assert latent.std(axis=0).max() > 1e-3, "the cells have not collapsed into one point"


def test_t22_new_data_without_batch_and_label_columns(case, data, trained):
    """New data usually have neither column: they are embedded all the same, with a warning."""
    new = data(60, seed=5)
    del new.obs["batch"], new.obs["ct"]
    with pytest.warns(UserWarning, match="'batch'"):
        latent = case.latent(trained, new)
    assert np.isfinite(latent).all()


@pytest.mark.needs("labels")
def test_t22_new_data_with_unknown_labels(case, data, trained):
    """A label the model does not know is no obstacle for embedding or predicting new data."""
    new = data(60, seed=5)
    new.obs["ct"] = "never seen"
    assert np.isfinite(case.latent(trained, new)).all()
    assert set(np.asarray(trained.predict(new))) <= {"t0", "t1", "t2"}


def test_t23_a_gap_in_the_batch_column_is_named(case, data):
    """A missing batch raises an error before training."""
    adata = data()
    adata.obs["batch"] = adata.obs["batch"].where(adata.obs_names != adata.obs_names[3])
    with pytest.raises(ValueError, match="batch"):
        case.setup(adata)
