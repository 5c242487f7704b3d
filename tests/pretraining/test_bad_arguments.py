"""What makes the bundled backbone names what it cannot use, before it works for hours."""

import gzip
import shutil
import traceback

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch

from more_scvi.data import GeneMatch
from more_scvi.pretraining import (
    PretrainSettings,
    finetune,
    fit_front,
    full_vocabulary,
    make_views,
    marker_sets,
    pretrain,
    read_pool,
)

SMALL = {"n_components": 4, "n_features": 8, "n_tokens": 4, "d_model": 8, "n_layers": 1, "n_heads": 2}


@pytest.fixture(scope="module")
def good(files, pool, gene_sets, tmp_path_factory):
    """Functions and arguments that they take."""
    backbone = fit_front(pool, gene_sets, **SMALL)
    views = make_views(pool, backbone, n_views=2, n_neighbours=3)
    match = GeneMatch(np.arange(60), "symbol", "human")
    path = tmp_path_factory.mktemp("bad") / "c.pt"
    labels = np.resize(["a", "b"], pool.counts.shape[0])
    return {
        "marker_sets": (marker_sets, {"pool": pool}),
        "full_vocabulary": (full_vocabulary, {"annotation": files / "annotation"}),
        "read_pool": (read_pool, {"folder": files / "pool", "annotation": files / "annotation", "n_genes": 60}),
        "fit_front": (fit_front, {"pool": pool, "gene_sets": gene_sets, **SMALL}),
        "make_views": (make_views, {"pool": pool, "backbone": backbone, "n_views": 2}),
        "pretrain": (pretrain, {"pool": pool, "views": views, "backbone": backbone, "checkpoint": path, "n_steps": 0}),
        "finetune": (
            finetune,
            {"backbone": backbone, "x": pool.counts, "match": match, "labels": labels, "epochs": 1},
        ),
        "settings": (PretrainSettings, {}),
    }


CASES = {
    "marker_sets": [
        ({"pool": None}, ["pool is a NoneType", "read_pool"]),
        ({"n_genes": 0}, ["n_genes=0", "at least 1"]),
        ({"seed": -1}, ["seed=-1"]),
    ],
    "full_vocabulary": [
        ({"annotation": "none"}, ["human_genes.tsv.gz not found"]),
        ({"annotation": "BARE"}, ["human_genes.tsv.gz has no column 'symbol'", "'name'", "'ensembl'"]),
    ],
    "read_pool": [
        ({"folder": "none"}, ["none: no .h5ad file"]),
        ({"n_genes": 0}, ["n_genes=0", "at least 1"]),
        ({"n_genes": 10.0}, ["n_genes=10.0"]),
        ({"folder": "STUDY"}, ["obs lacks 'study'", "cell_type"]),
        ({"folder": "SHAPE"}, ["varm['measured'] has shape (60, 2)", "the 4 studies"]),
        ({"folder": "NEGATIVE"}, ["a.h5ad.X holds 1 negative values"]),
    ],
    "fit_front": [
        ({"pool": None}, ["pool is a NoneType", "read_pool"]),
        ({"gene_sets": [1]}, ["gene_sets is a list", "dict"]),
        ({"n_components": 0}, ["n_components=0"]),
        ({"n_components": 61}, ["n_components=61", "from 1 to 60"]),
        ({"n_features": 8.0}, ["n_features=8.0"]),
        ({"n_layer": 1}, ["'n_layer'", "Did you mean 'n_layers'"]),
        ({"n_heads": 3}, ["n_heads=3"]),
        ({"d_model": "8"}, ["d_model='8'"]),
        ({"seed": -1}, ["seed=-1"]),
        ({"set_weight": np.nan}, ["set_weight=nan"]),
        ({"min_scale": 0}, ["min_scale=0", "positive"]),
    ],
    "make_views": [
        ({"backbone": "more-mini"}, ["backbone is a str", "fit_front"]),
        ({"n_views": 3}, ["n_views=3 is odd", "give 4"]),
        ({"n_views": 0}, ["n_views=0"]),
        ({"n_neighbours": 0}, ["n_neighbours=0"]),
        ({"seed": "0"}, ["seed='0'"]),
        ({"pool": "FEWER"}, ["pool has 30 genes, backbone 60", "fit the front on this pool"]),
    ],
    "pretrain": [
        ({"views": None}, ["views is a NoneType", "make_views"]),
        ({"pool": "HALF"}, ["views hold features of shape (200, 8)", "(80, 8)"]),
        ({"settings": {"seed": 1}}, ["settings is a dict", "PretrainSettings"]),
        ({"checkpoint": 3}, ["checkpoint is a int", "path of a file"]),
        ({"n_steps": -1}, ["n_steps=-1"]),
        ({"n_steps": 1.5}, ["n_steps=1.5"]),
        ({"precision": "half"}, ["precision='half'", "'bf16-mixed'"]),
        ({"on_step": 3}, ["on_step=3 cannot be called"]),
    ],
    "finetune": [
        ({"match": None}, ["match is a NoneType", "match_genes"]),
        ({"x": None}, ["x is a NoneType"]),
        ({"x": np.full((200, 60), "w")}, ["x is a ndarray"]),
        ({"epochs": 1.5}, ["epochs=1.5"]),
        ({"epochs": "2"}, ["epochs='2'"]),
        ({"learning_rate": "fast"}, ["learning_rate='fast'"]),
        ({"learning_rate": 1}, ["learning_rate=1 is out of range"]),
        ({"seed": -1}, ["seed=-1"]),
        ({"unlabeled_category": None}, ["unlabeled_category", "'Unknown'"]),
        ({"labels": [None] * 200}, ["0 types are visible"]),
    ],
    "settings": [
        ({"n_groups": 0}, ["n_groups=0"]),
        ({"n_cells": 1}, ["n_cells=1", "at least 2"]),
        ({"learning_rate": 0}, ["learning_rate=0"]),
        ({"smoothing": 1.5}, ["smoothing=1.5", "from 0 to 1"]),
        ({"drift": -1}, ["drift=-1"]),
        ({"temperature": 0.0}, ["temperature=0.0"]),
        ({"average": float("nan")}, ["average=nan"]),
        ({"kept": "all"}, ["kept='all'"]),
        ({"checkpoint_every": 0}, ["checkpoint_every=0"]),
    ],
}


def made(value, tmp_path, files, pool):
    """Files and pools that are wrong in the way the word says; any other value as it is."""
    if value == "BARE":
        shutil.copytree(files / "annotation", tmp_path / "a")
        with gzip.open(tmp_path / "a" / "human_genes.tsv.gz", "wt") as file:
            file.write("name\tensembl\nGENE1\tE1\n")
        return tmp_path / "a"
    if value in ("STUDY", "SHAPE", "NEGATIVE"):
        adata = ad.read_h5ad(files / "pool/human.h5ad")
        if value == "STUDY":
            del adata.obs["study"]
        elif value == "SHAPE":
            adata.varm["measured"] = adata.varm["measured"][:, :2]
        else:
            adata.X[0, 0] = -1
        adata.write_h5ad(tmp_path / "a.h5ad")
        return tmp_path
    if value == "FEWER":
        return read_pool(files / "pool", files / "annotation", n_genes=30)
    return pool.of_studies(["A", "B"]) if value == "HALF" else value


def test_good_arguments_are_taken(good):
    for function, arguments in good.values():
        function(**arguments)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "change", "words"), [(name, *case) for name, cases in CASES.items() for case in cases]
)
def test_bad_argument_is_named(good, files, pool, tmp_path, name, change, words):
    function, arguments = good[name]
    change = {k: made(v, tmp_path, files, pool) if isinstance(v, str) else v for k, v in change.items()}
    with pytest.raises((TypeError, ValueError, KeyError, FileNotFoundError)) as caught:
        function(**{**arguments, **change})
    assert "more_scvi" in traceback.extract_tb(caught.value.__traceback__)[-1].filename
    missing = [word for word in words if word not in str(caught.value)]
    assert not missing, f"{missing} not in: {caught.value}"


def test_missing_labels_are_hidden_ones(good, pool):
    """None and NaN are no type."""
    arguments = good["finetune"][1]
    labels = arguments["labels"].astype(object)
    hidden, labels[:60] = labels.copy(), None
    hidden[:60] = "Unknown"
    first, second = (finetune(**{**arguments, "labels": given}) for given in (labels, hidden))
    assert first.backbone.fingerprint() == second.backbone.fingerprint()


@pytest.mark.parametrize("convert", [pd.DataFrame, torch.tensor])
def test_counts_may_be_a_frame_or_a_tensor(good, pool, convert):
    arguments = good["finetune"][1]
    first, second = (finetune(**{**arguments, "x": x}) for x in (pool.counts, convert(pool.counts.toarray())))
    assert first.backbone.fingerprint() == second.backbone.fingerprint()
