"""Building and training a model with arguments it cannot work with."""

import numpy as np
import pytest
import scvi

from more_scvi import MoRE

from .conftest import QUIET, SETUP

CONSTRUCTOR = [
    pytest.param({"backbone": "more-mni"}, KeyError, ["'more-mni'", "'more-mini'"], id="backbone-unknown"),
    pytest.param({"backbone": 3}, TypeError, ["backbone", "3", "int"], id="backbone-type"),
    pytest.param({"backbone": "EMPTY"}, ValueError, ["no backbone recognises"], id="backbone-empty-folder"),
    pytest.param({"backbone": None, "n_components": 0}, ValueError, ["no features", "n_components"], id="no-path"),
    pytest.param({"backbone_kwargs": {"wieghts": "x"}}, TypeError, ["wieghts"], id="backbone-kwargs-unknown"),
    pytest.param({"backbone_kwargs": "x"}, TypeError, ["backbone_kwargs", "dict"], id="backbone-kwargs-type"),
    pytest.param({"backbone": "precomputed"}, TypeError, ["obsm_key"], id="precomputed-without-key"),
    pytest.param(
        {"backbone": "precomputed", "backbone_kwargs": {"obsm_key": "X_pca"}},
        KeyError,
        ["'X_pca'", "X_own"],
        id="precomputed-unknown-key",
    ),
    pytest.param(
        {"backbone": "precomputed", "backbone_kwargs": {"obsm_key": "X_nan"}},
        ValueError,
        ["obsm['X_nan']", "1 values that are not finite"],
        id="precomputed-nan",
    ),
    pytest.param({"n_latent": 0}, ValueError, ["n_latent=0", "at least 1"], id="n-latent-zero"),
    pytest.param({"n_latent": 10.0}, TypeError, ["n_latent=10.0", "integer"], id="n-latent-float"),
    pytest.param({"n_latent": True}, TypeError, ["n_latent=True"], id="n-latent-bool"),
    pytest.param({"n_components": -1}, ValueError, ["n_components=-1", "at least 0"], id="n-components-negative"),
    pytest.param({"n_variable": "2000"}, TypeError, ["n_variable='2000'"], id="n-variable-text"),
    pytest.param({"n_wide": -1}, ValueError, ["n_wide=-1", "at least 0"], id="n-wide-negative"),
    pytest.param({"n_bottleneck": 0}, ValueError, ["n_bottleneck=0"], id="n-bottleneck-zero"),
    pytest.param({"n_refinement_steps": -1}, ValueError, ["n_refinement_steps=-1"], id="steps-negative"),
    pytest.param({"refinement_rank": None}, TypeError, ["refinement_rank=None"], id="rank-none"),
    pytest.param({"n_views": 1.5}, TypeError, ["n_views=1.5"], id="n-views-float"),
    pytest.param({"dropout": 1.0}, ValueError, ["dropout=1.0", "0.95"], id="dropout-one"),
    pytest.param({"dropout": "0.1"}, TypeError, ["dropout='0.1'"], id="dropout-text"),
    pytest.param({"seed": -1}, ValueError, ["seed=-1"], id="seed-negative"),
    pytest.param({"n_latents": 10}, TypeError, ["n_latents"], id="misspelt-argument"),
]


@pytest.mark.parametrize(("kwargs", "error", "words"), CONSTRUCTOR)
def test_constructor(bench, refused, kwargs, error, words):
    features = bench.adata.obsm["X_own"].copy()
    features[0, 0] = np.nan
    bench.adata.obsm["X_nan"] = features
    MoRE.setup_anndata(bench.adata, **SETUP)
    if kwargs.get("backbone") == "EMPTY":
        kwargs = {"backbone": str(bench.folder)}
    refused(bench, lambda: MoRE(bench.adata, **kwargs), error, words)


def test_genes_nobody_knows(bench, refused):
    bench.adata.var_names = [f"feature{i}" for i in range(60)]
    MoRE.setup_anndata(bench.adata)
    words = ["0 of 60 genes", "more-mini", "'feature0'", "gene_key="]
    refused(bench, lambda: MoRE(bench.adata), ValueError, words)


def test_data_that_were_never_set_up(bench, refused):
    refused(bench, lambda: MoRE(bench.adata), ValueError, ["setup_anndata"])


def test_data_set_up_for_another_model(bench, refused):
    scvi.model.SCVI.setup_anndata(bench.adata)
    refused(bench, lambda: MoRE(bench.adata), ValueError, ["MoRE.setup_anndata"])


def test_a_copy_of_registered_data(bench, refused):
    MoRE.setup_anndata(bench.adata)
    copy = bench.adata.copy()
    refused(bench, lambda: MoRE(copy), ValueError, ["copy"], copy)


def test_neither_data_nor_registry(bench, refused):
    refused(bench, lambda: MoRE(), ValueError, ["adata"])


TRAIN = [
    pytest.param({"plan_kwargs": {"lrr": 1e-3}}, TypeError, ["'lrr'", "'lr'"], id="plan-unknown"),
    pytest.param({"plan_kwargs": "lr"}, TypeError, ["plan_kwargs='lr'", "dict"], id="plan-type"),
    pytest.param({"plan_kwargs": {"lr": -1.0}}, ValueError, ["lr", "-1"], id="lr-negative"),
    pytest.param({"plan_kwargs": {"lr": "fast"}}, TypeError, ["lr", "'fast'"], id="lr-text"),
    pytest.param({"plan_kwargs": {"warmup": 2.0}}, ValueError, ["warmup", "2.0"], id="warmup-too-large"),
    pytest.param(
        {"loss_weights": {"algin_batch": 1.0}}, ValueError, ["'algin_batch'", "'align_batch'"], id="term-unknown"
    ),
    pytest.param({"loss_weights": {"keep": -1}}, ValueError, ["'keep'", "-1", "0 removes"], id="term-negative"),
    pytest.param({"loss_weights": {"keep": float("nan")}}, ValueError, ["'keep'", "nan"], id="term-nan"),
    pytest.param({"loss_weights": {"keep": "5"}}, ValueError, ["'keep'", "'5'"], id="term-text"),
    pytest.param({"loss_weights": [1, 2]}, TypeError, ["loss_weights", "list"], id="terms-list"),
    pytest.param({"max_epochs": -1}, ValueError, ["max_epochs=-1", "at least 0"], id="negative-epochs"),
    pytest.param({"max_epochs": 1.5}, TypeError, ["max_epochs=1.5"], id="half-epochs"),
    pytest.param({"devices": 9999}, ValueError, ["devices=9999", "cores"], id="more-devices-than-cores"),
    pytest.param({"batch_size": 1}, ValueError, ["batch_size", "1", "at least 2"], id="batch-size-one"),
    pytest.param({"batch_size": "64"}, TypeError, ["batch_size", "'64'"], id="batch-size-text"),
    pytest.param({"train_size": 0}, ValueError, ["train_size", "0"], id="train-size-zero"),
    pytest.param({"train_size": 1.2}, ValueError, ["train_size", "1.2", "between 0 and 1"], id="train-size-large"),
    pytest.param(
        {"train_size": 0.8, "validation_size": 0.5}, ValueError, ["0.8", "0.5", "at most 1"], id="sizes-add-up"
    ),
    pytest.param(
        {"early_stopping": True, "train_size": 1.0}, ValueError, ["validation"], id="early-stopping-without-cells"
    ),
    pytest.param(
        {"datasplitter_kwargs": {"external_index": []}},
        TypeError,
        ["external_index", "external_indexing"],
        id="split-unknown",
    ),
    pytest.param(
        {"datasplitter_kwargs": {"external_indexing": [np.array([0, 1]), np.array([1, 2])]}},
        ValueError,
        ["disjoint", "1 repeats"],
        id="split-overlap",
    ),
    pytest.param(
        {"datasplitter_kwargs": {"external_indexing": [np.array([0, 500])]}},
        ValueError,
        ["500", "119"],
        id="split-outside",
    ),
    pytest.param({"accelerator": "abacus"}, ValueError, ["abacus"], id="accelerator-unknown"),
    pytest.param({"enable_progres_bar": False}, TypeError, ["enable_progres_bar"], id="trainer-unknown"),
]


@pytest.mark.parametrize(("kwargs", "error", "words"), TRAIN)
def test_train(bench, refused, kwargs, error, words):
    refused(bench, lambda: bench.model.train(**{**QUIET, "max_epochs": 1, **kwargs}), error, words)
    assert bench.model.is_trained
