"""Frozen features alone, backbones of other weights, and Scanorama."""

import random
import sys
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from mudata import MuData

from more_scvi.backbones import MoreMini
from more_scvi.data import match_genes, simulate_batches
from more_scvi.evaluation._data import give_labels, prepare
from more_scvi.evaluation.methods._method import Given, get_method
from more_scvi.evaluation.methods._more import BackboneFeatures, make_backbone
from more_scvi.evaluation.methods._rna_peers import Scanorama
from more_scvi.metrics import cilisi
from more_scvi.model import MoRE

needs_scanorama = pytest.mark.skipif(find_spec("scanorama") is None, reason="scanorama is not installed")

FAST = {"epochs": 1}


@pytest.fixture(scope="module")
def adata():
    """240 cells of three types in three batches, in genes that more-mini knows; a third of the labels is hidden."""
    names = MoreMini.load().vocabulary.human_symbol[:3000:10]
    adata = simulate_batches(240, 300, 3, 3, markers=0.2, batch_sd=0.4, gene_names=names, seed=2)
    adata.obs = adata.obs[["batch", "cell_type"]].astype(str)
    shuffled = adata[np.random.default_rng(3).permutation(240)].copy()  # batches are not blocks of rows
    labels = shuffled.obs["cell_type"].to_numpy().copy()
    labels[::3] = "Unknown"
    return give_labels(prepare(shuffled, n_genes=200, n_pcs=20), labels)


@pytest.fixture(scope="module")
def given(adata):
    return Given(adata)


def gap(z, batches):
    """Largest distance between a batch's mean and the mean of all."""
    return max(np.abs(z[batches == b].mean(axis=0) - z.mean(axis=0)).max() for b in np.unique(batches))


def test_frozen_features_are_raw_up_to_their_mean(given, adata):
    result = get_method("backbone")(given)
    raw = MoreMini.load()
    features = raw.encode(adata.X, match_genes(adata.var_names, raw.vocabulary))
    np.testing.assert_allclose(result.z, features - features.mean(axis=0), atol=1e-4)
    assert result.parameters == {"trained": 0, "frozen": raw.n_parameters()}
    assert "features" in result.seconds


def test_centring_removes_what_batches_have_in_common(given, adata):
    batches = adata.obs["batch"].to_numpy()
    plain, centred = get_method("backbone")(given).z, get_method("backbone_centred")(given).z
    assert gap(plain, batches) > 0.1
    assert gap(centred, batches) < 1e-4
    first = batches == batches[0]
    np.testing.assert_allclose(np.ptp(plain[first], axis=0), np.ptp(centred[first], axis=0), atol=1e-4)


@pytest.mark.parametrize("name", ["backbone", "backbone_centred"])
def test_a_query_is_mapped_below_and_changes_nothing_above(given, adata, name):
    held = (adata.obs["batch"] == "batch2").to_numpy()
    rest = replace(given, data=adata[~held].copy())
    alone = get_method(name)(rest).z
    mapped = get_method(name)(replace(rest, query=adata[held].copy())).z
    assert mapped.shape == (240, 192)
    np.testing.assert_array_equal(mapped[: (~held).sum()], alone)


def test_weights_make_a_difference_and_only_drawn_ones_follow_the_seed(given):
    z = {name: get_method(f"backbone_{name}")(given).z for name in ("centred", "untrained", "random")}
    assert all(np.abs(z["centred"] - z[name]).max() > 0.05 for name in ("untrained", "random"))
    other = replace(given, seed=1)
    assert np.abs(get_method("backbone_random")(other).z - z["random"]).max() > 0.05
    np.testing.assert_array_equal(get_method("backbone_centred")(other).z, z["centred"])
    assert get_method("backbone_random").seeded and not get_method("backbone_centred").seeded


def test_a_fine_tuned_backbone_says_what_it_trained(given):
    tuned = get_method("quick", base="backbone_finetuned", options=FAST)(given)
    frozen = get_method("backbone_centred")(given)
    assert tuned.parameters["trained"] > 900_000
    assert sum(tuned.parameters.values()) == frozen.parameters["frozen"]
    assert np.abs(tuned.z - frozen.z).max() > 0.01


def test_cells_without_rna_rule_the_methods_out(adata):
    half = AnnData(np.ones((300, 2)), obs=pd.DataFrame(index=[*adata.obs_names, *(f"x{i}" for i in range(60))]))
    mosaic = MuData({"rna": AnnData(adata.X, obs=adata.obs[[]], var=adata.var[[]]), "prot": half})
    for name in ("backbone", "scanorama"):
        assert not get_method(name).suits(mosaic)
        assert get_method(name).suits(adata)
    assert get_method("backbone").suits(adata, has_query=True)
    assert not get_method("scanorama").suits(adata, has_query=True)


@pytest.mark.parametrize("kind", ["pretrained", "untrained", "random", "finetuned"])
def test_more_takes_a_backbone_of_any_weights(given, adata, tmp_path, kind):
    backbone, trained, notes = make_backbone(kind, given, **(FAST if kind == "finetuned" else {}))
    backbone.save(tmp_path)
    data = AnnData(adata.X, obs=adata.obs.copy(), var=adata.var[[]].copy())
    MoRE.setup_anndata(data, batch_key="batch", labels_key="cell_type", unlabeled_category="Unknown")
    found = MoRE(data, backbone=str(tmp_path), n_components=10).backbone.fingerprint()
    assert (found == MoreMini.load().fingerprint()) == (kind == "pretrained")
    assert (trained > 0) == (kind == "finetuned") == bool(notes)


def test_random_weights_follow_the_seed(given):
    prints = [make_backbone("random", replace(given, seed=s))[0].fingerprint() for s in (0, 1, 0)]
    assert prints[0] == prints[2] != prints[1]


def test_unknown_weights_are_named(given):
    with pytest.raises(ValueError, match="'scrambled' are unknown; choose one of pretrained"):
        make_backbone("scrambled", given)
    with pytest.raises(TypeError, match="has no option 'weight'"):
        BackboneFeatures(weight="random")


@needs_scanorama
def test_scanorama_keeps_the_order_of_cells(given, adata):
    order = np.argsort(adata.obs["batch"].to_numpy(), kind="stable")
    sorted_z = Scanorama()(replace(given, data=adata[order].copy())).z
    np.testing.assert_allclose(Scanorama()(given).z[order], sorted_z, atol=1e-6)


@needs_scanorama
def test_scanorama_mixes_batches(adata):
    truth = simulate_batches(240, 300, 3, 3, markers=0.2, batch_sd=0.4, gene_names=list(adata.var_names), seed=2).obs
    types, batches = truth.loc[adata.obs_names, "cell_type"].astype(str), adata.obs["batch"]
    mixed = {name: cilisi(get_method(name)(Given(adata)).z, types, batches) for name in ("scanorama", "pca_raw")}
    assert mixed["scanorama"] > mixed["pca_raw"] + 0.1


@needs_scanorama
def test_scanorama_is_seeded_and_leaves_other_random_states_alone(given, capsys):
    np.random.seed(5)  # noqa: NPY002
    random.seed(5)
    first = Scanorama()(given).z
    numbers, word = np.random.random(), random.random()  # noqa: NPY002
    np.random.seed(5)  # noqa: NPY002
    random.seed(5)
    assert (numbers, word) == (np.random.random(), random.random())  # noqa: NPY002
    np.testing.assert_array_equal(Scanorama()(given).z, first)
    assert capsys.readouterr().out == ""


@needs_scanorama
def test_scanorama_names_a_batch_of_one_cell(given, adata):
    lone = adata.copy()
    lone.obs["batch"] = ["alone", *lone.obs["batch"].to_numpy()[1:]]
    with pytest.raises(ValueError, match="2 cells of a batch, but 'alone' has 1"):
        Scanorama()(replace(given, data=lone))


@needs_scanorama
def test_scanorama_with_one_batch_says_that_nothing_was_integrated(given, adata):
    one = adata[(adata.obs["batch"] == "batch0").to_numpy()].copy()
    result = Scanorama()(replace(given, data=one))
    assert len(result.z) == one.n_obs
    assert "one batch" in result.notes["integration"]


def test_scanorama_that_is_not_installed_says_how_to_get_it(given, monkeypatch):
    monkeypatch.setitem(sys.modules, "scanorama", None)
    with pytest.raises(ImportError, match=r"more-scvi\[benchmark\]"):
        Scanorama()(given)
