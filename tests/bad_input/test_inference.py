"""Asking a model for what it cannot give."""

import warnings

import anndata as ad
import numpy as np
import pytest

from more_scvi import MoRE

from .conftest import QUIET, SETUP, make_data


def renamed(adata, names):
    adata.var_names = names
    return adata


def poisoned(adata, value):
    x = adata.X.toarray()
    x[2, 1] = value
    adata.X = x
    return adata


def gap(adata):
    adata.obs["batch"] = adata.obs["batch"].astype(object).where(np.arange(adata.n_obs) != 4)
    return adata


NEW_DATA = [
    pytest.param(lambda a: a.X, TypeError, ["csr_matrix", "AnnData"], id="matrix"),
    pytest.param(lambda a: "a.h5ad", TypeError, ["str", "read_h5ad"], id="path"),
    pytest.param(lambda a: a[:0].copy(), ValueError, ["0 cells"], id="no-cells"),
    pytest.param(
        lambda a: a[:, :1].copy(), ValueError, ["lacks 59 of the 60 genes", "at least 2%"], id="missing-genes"
    ),
    pytest.param(
        lambda a: renamed(a, [n.lower() + "_" for n in a.var_names]),
        ValueError,
        ["lacks 60 of the 60 genes", "Did you mean"],
        id="renamed-genes",
    ),
    pytest.param(
        lambda a: renamed(a, [a.var_names[1], *a.var_names[1:]]), ValueError, ["more than once"], id="same-genes"
    ),
    pytest.param(lambda a: poisoned(a, np.nan), ValueError, ["NaN", "'s1_cell2'"], id="nan"),
    pytest.param(lambda a: poisoned(a, -1), ValueError, ["negative", "'s1_cell2'"], id="negative"),
    pytest.param(
        lambda a: renamed_log(a),
        ValueError,
        ["not whole", "the model was trained on counts"],
        id="log-given-counts-expected",
    ),
    pytest.param(gap, ValueError, ["obs['batch']", "1 of 120 cells"], id="batch-gap"),
]


def renamed_log(adata):
    adata.X = adata.X.log1p()
    return adata


@pytest.mark.parametrize("method", ["get_latent_representation", "predict"])
@pytest.mark.parametrize(("make", "error", "words"), NEW_DATA)
@pytest.mark.filterwarnings("ignore")
def test_new_data(bench, refused, make, error, words, method):
    data = make(bench.adata)
    refused(bench, lambda: getattr(bench.model, method)(data), error, words, data)


ARGUMENTS = [
    pytest.param({"indices": [120]}, ValueError, ["120", "only 120 cells"], id="index-outside"),
    pytest.param({"indices": [-121]}, ValueError, ["-121"], id="index-below"),
    pytest.param({"indices": [True, False]}, ValueError, ["length 2", "120 cells"], id="mask-length"),
    pytest.param({"indices": [0.5]}, TypeError, ["float64", "integers"], id="index-float"),
    pytest.param({"indices": ["cell0"]}, TypeError, ["get_indexer"], id="index-names"),
    pytest.param({"indices": 3}, ValueError, ["dimensions"], id="index-scalar"),
    pytest.param({"indices": [[0, 1]]}, ValueError, ["2 dimensions"], id="index-2d"),
    pytest.param({"batch_size": 0}, ValueError, ["batch_size=0", "at least 1"], id="batch-size-zero"),
    pytest.param({"batch_size": 2.5}, TypeError, ["batch_size=2.5"], id="batch-size-float"),
]


@pytest.mark.parametrize("method", ["get_latent_representation", "predict"])
@pytest.mark.parametrize(("kwargs", "error", "words"), ARGUMENTS)
def test_arguments(bench, refused, kwargs, error, words, method):
    refused(bench, lambda: getattr(bench.model, method)(**kwargs), error, words)


@pytest.mark.parametrize("key", [3, ["X_more"]], ids=["int", "list"])
def test_obsm_key_of_the_wrong_type(bench, refused, key):
    refused(bench, lambda: bench.model.get_latent_representation(obsm_key=key), TypeError, ["obsm_key is", "None"])


def test_predict_without_labels(bench, refused):
    MoRE.setup_anndata(bench.adata, batch_key="batch")
    model = MoRE(bench.adata)
    model.train(max_epochs=1, **QUIET)
    refused(bench, model.predict, ValueError, ["labels_key", "setup_anndata"])


def test_predict_when_no_label_is_known(bench, refused):
    bench.adata.obs["cell_type"] = "Unknown"
    model = bench.new()
    model.train(max_epochs=1, **QUIET)
    refused(bench, model.predict, ValueError, ["labels"])


def test_before_training_there_is_nothing_to_ask(bench, refused):
    model = bench.new()
    for method in (model.get_latent_representation, model.predict, model.get_novelty, model.get_path_weights):
        refused(bench, method, RuntimeError, ["not trained", "train()"])


def test_new_data_before_training(bench, refused):
    other = make_data(40, seed=2)
    MoRE.setup_anndata(bench.adata, **SETUP)
    model = MoRE(bench.adata)
    refused(bench, lambda: model.get_latent_representation(other), RuntimeError, ["train()"], other)


def test_model_without_data(bench, refused):
    model = MoRE.load(bench.saved(), adata=False, accelerator="cpu")
    refused(bench, model.get_latent_representation, ValueError, ["without data", "adata="])
    refused(bench, lambda: model.train(max_epochs=1, **QUIET), ValueError, ["without data", "MoRE.load(dir, adata="])


@pytest.mark.parametrize("broken", ["missing", "width", "nan"])
def test_precomputed_features_of_new_data(bench, refused, broken):
    MoRE.setup_anndata(bench.adata, **SETUP)
    model = MoRE(bench.adata, backbone="precomputed", backbone_kwargs={"obsm_key": "X_own"})
    model.train(max_epochs=1, **QUIET)
    new = make_data(40, seed=2)
    if broken == "missing":
        del new.obsm["X_own"]
    elif broken == "width":
        new.obsm["X_own"] = new.obsm["X_own"][:, :4]
    else:
        new.obsm["X_own"][0, 0] = np.nan
    error, words = {
        "missing": (KeyError, ["'X_own'", "adata.obsm"]),
        "width": (ValueError, ["4", "6"]),
        "nan": (ValueError, ["X_own", "not finite"]),
    }[broken]
    refused(bench, lambda: model.get_latent_representation(new), error, words, new)


def test_missing_covariates_of_new_data(bench, refused):
    MoRE.setup_anndata(bench.adata, **SETUP, continuous_covariate_keys=["score"])
    model = MoRE(bench.adata)
    model.train(max_epochs=1, **QUIET)
    new = make_data(40, seed=2)
    del new.obs["score"]
    refused(bench, lambda: model.get_latent_representation(new), KeyError, ["'score'", "covariate"], new)


# ---- what looks bad and is not


@pytest.mark.parametrize("value", ["b9", 0, "", False], ids=["text", "zero", "empty", "false"])
def test_a_new_batch_is_embedded_with_a_warning(bench, value):
    bench.adata.obs["batch"] = value
    with pytest.warns(UserWarning, match=r"obs\['batch'\] holds values the model was not trained on"):
        z = bench.model.get_latent_representation(bench.adata, obsm_key=None)
    assert np.isfinite(z).all()


def test_more_genes_than_the_model_knows(bench):
    more = ad.concat([bench.adata, bench.adata[:, :2].copy()], axis=1, merge="first")
    more.var_names = [*bench.adata.var_names, "EXTRA1", "EXTRA2"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        z = bench.model.get_latent_representation(more, obsm_key=None)
    np.testing.assert_allclose(z, bench.model.get_latent_representation(bench.adata, obsm_key=None), atol=1e-5)


def test_one_new_cell(bench):
    z = bench.model.get_latent_representation(bench.adata[:1].copy(), obsm_key=None)
    assert z.shape[0] == 1
    assert np.isfinite(z).all()


def test_cells_without_counts_warn_and_stay_finite(bench):
    x = bench.adata.X.toarray()
    x[3] = 0
    bench.adata.X = x
    with pytest.warns(UserWarning, match="1 of 120 cells have no counts"):
        z = bench.model.get_latent_representation(bench.adata, obsm_key=None)
    assert np.isfinite(z).all()
