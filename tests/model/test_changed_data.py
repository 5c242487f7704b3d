"""Data that are changed in place after setup or after training: answers follow the data, training refuses."""

import copy

import numpy as np
import pandas as pd
import pytest

import more_scvi as more

FIT = {"max_epochs": 2, "accelerator": "cpu", "enable_progress_bar": False}


@pytest.fixture(scope="module")
def models(make_model, make_multi):
    return {"AnnData": make_model(epochs=2), "MuData": make_multi(epochs=2)}


@pytest.fixture(params=["AnnData", "MuData"])
def model(models, request):
    """A trained model with data of its own, to be changed."""
    shared = models[request.param]
    own = copy.copy(shared)
    own.adata = shared.adata.copy()
    return own


def matrices(data):
    return list(getattr(data, "mod", {"": data}).values())


def answers(model, novelty=False) -> dict[str, pd.DataFrame]:
    """Every answer per cell, by its name."""
    out = {
        "latent": model.get_latent_representation(obsm_key=None),
        "predict": model.predict(),
        "soft": model.predict(soft=True),
        "modalities": model.get_modality_weights(),
        "paths": model.get_path_weights(),
    }
    if novelty:  # compares the cells of a data set with each other
        out["novelty"] = model.get_novelty()
    if hasattr(model.adata, "mod"):
        out["impute"] = model.impute("protein")
    names = model.adata.obs_names
    return {
        k: pd.DataFrame(np.asarray(v.reindex(names) if hasattr(v, "reindex") else v), names) for k, v in out.items()
    }


def reorder(data, order):
    names = data.obs_names[order]
    for part in matrices(data):
        part._inplace_subset_obs(part.obs_names.get_indexer(names))
    if hasattr(data, "mod"):
        obs = data.obs.loc[names]
        data.update()
        for key in obs:
            data.obs[key] = obs[key].reindex(data.obs_names)


CHANGES = {
    "re-ordered": lambda n: np.random.default_rng(0).permutation(n),
    "removed": lambda n: np.flatnonzero(np.arange(n) % 4 > 0),
    "removed and re-ordered": lambda n: np.arange(n)[::-2],
}


@pytest.mark.parametrize("change", CHANGES)
def test_cells_keep_their_answers_by_name(model, change):
    same = change == "re-ordered"
    before = answers(model, novelty=same)
    reorder(model.adata, CHANGES[change](model.adata.n_obs))
    for name, after in answers(model, novelty=same).items():
        expected = before[name].loc[after.index]
        if name == "predict":
            assert (after == expected).all(axis=None), name
        else:
            np.testing.assert_allclose(after, expected, atol=2e-3, err_msg=name)


def test_answers_follow_values_that_are_replaced(model):
    """Cells that take each other's values and columns take each other's answers, as for other data."""
    before = answers(model, novelty=True)
    data, order = model.adata, np.random.default_rng(1).permutation(model.adata.n_obs)
    for part in matrices(data):
        at = part.obs_names.get_indexer(data.obs_names[order])
        new = part.X[at]
        at = data.obs_names.get_indexer(part.obs_names)
        part.X = new[at]
    for key in ("batch", "label"):
        data.obs[key] = data.obs[key].to_numpy()[order]
    after = answers(model, novelty=True)
    for name in ("latent", "soft", "novelty"):
        np.testing.assert_allclose(after[name], before[name].to_numpy()[order], atol=2e-3, err_msg=name)


def test_a_value_that_is_changed_in_place_is_read(model):
    before = model.get_latent_representation(obsm_key=None)
    for part in matrices(model.adata):
        part.X.data[:] = part.X.data[::-1].copy()
    assert np.abs(model.get_latent_representation(obsm_key=None) - before).max() > 0.1


# ---- between setup and training


def renamed(obs, key):
    obs[key] = [f"new {value}" for value in obs[key]]


def deleted(obs, key):
    del obs[key]


def swapped(obs, key):
    values = obs[key].astype(str).to_numpy().copy()
    values[np.flatnonzero(values != "Unknown")[:2]] = values[np.flatnonzero(values != "Unknown")[[1, 0]]]
    one = np.flatnonzero(values != "Unknown")[0]
    values[one] = next(v for v in np.unique(values) if v not in ("Unknown", values[one]))
    obs[key] = values


@pytest.mark.parametrize("kind", ["AnnData", "MuData"])
@pytest.mark.parametrize("key", ["batch", "label"])
@pytest.mark.parametrize("change", [renamed, deleted, swapped], ids=lambda f: f.__name__)
def test_columns_that_changed_since_setup_are_refused(make_model, make_multi, kind, key, change):
    model = {"AnnData": make_model, "MuData": make_multi}[kind]()
    change(model.adata.obs, key)
    with pytest.raises(ValueError, match=rf"'{key}'.*(?s:.)*[Rr]egister the data again"):
        model.train(**FIT)
    assert not model.is_trained
    with pytest.raises(RuntimeError, match="call model.train"):
        model.get_latent_representation()


@pytest.mark.parametrize("kind", ["AnnData", "MuData"])
def test_genes_that_are_gone_since_setup_are_refused(make_model, make_multi, kind):
    model = {"AnnData": make_model, "MuData": make_multi}[kind]()
    rna = matrices(model.adata)[0]
    rna._inplace_subset_var(np.arange(rna.n_vars) > 4)
    with pytest.raises(ValueError, match="lacks 5 of the 60 genes that the model was set up with"):
        model.train(**FIT)


@pytest.mark.parametrize("kind", ["AnnData", "MuData"])
def test_counts_that_were_normalised_since_setup_are_refused(make_model, make_multi, kind):
    model = {"AnnData": make_model, "MuData": make_multi}[kind]()
    rna = matrices(model.adata)[0]
    rna.X = rna.X.astype(np.float32).log1p()
    with pytest.raises(ValueError, match="counts"):
        model.train(**FIT)


# ---- labels of the data that are attached


@pytest.mark.parametrize("values", [["Unknown"], ["first"], ["first", "Unknown"]], ids="-".join)
def test_a_loaded_model_knows_its_types_whatever_is_attached(model, tmp_path, values):
    data, expected = model.adata, answers(model)
    model.save(tmp_path / "m")
    values = [model.labels[0] if v == "first" else v for v in values]
    data.obs["label"] = np.resize(values, data.n_obs)
    after = answers(more.MoRE.load(tmp_path / "m", data, accelerator="cpu"))
    assert (after["predict"] == expected["predict"]).all(axis=None)
    np.testing.assert_allclose(after["latent"], expected["latent"], atol=1e-5)


def test_types_that_are_labelled_later_are_learned(make_model, few_genes, tmp_path):
    """A type none of whose cells trained with a label is predicted after training on data that label it."""
    model = make_model()
    truth = few_genes.obs["cell_type"].astype(str).to_numpy()
    third = truth == model.labels[2]
    labelled = model.adata.obs["label"].to_numpy() != "Unknown"
    seen = np.flatnonzero(labelled & ~third)
    model.train(**FIT, datasplitter_kwargs={"external_indexing": [seen]})
    assert (model.predict(soft=True)[model.labels[2]] == 0).all()
    model.save(tmp_path / "m")
    more_labels = few_genes.copy()
    more_labels.obs["label"] = truth
    loaded = more.MoRE.load(tmp_path / "m", more_labels, accelerator="cpu")
    np.testing.assert_array_equal(loaded.predict(), model.predict())
    loaded.train(**{**FIT, "max_epochs": 10})
    assert (loaded.predict()[third] == model.labels[2]).mean() > 0.8
