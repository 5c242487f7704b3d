"""The model as a user meets it, on the 700 PBMCs that ship with scanpy."""

import json

import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import torch
from scvi.train import Trainer  # noqa: F401  imported early: the first import takes seconds

import more_scvi as more
from more_scvi.backbones import Backbone, register_backbone
from more_scvi.metrics import cilisi, linear_probe, macro_f1, structure
from more_scvi.train._split import default_epochs

QUIET = {"accelerator": "cpu", "enable_progress_bar": False}
SHORT = {"max_epochs": 3, **QUIET}
UNTRAINED = {"max_epochs": 0, **QUIET}


@pytest.fixture(scope="module")
def cells():
    adata = more.data.load_demo()
    rng = np.random.default_rng(0)
    truth = adata.obs["cell_type"].astype(str).to_numpy()
    hidden = rng.random(adata.n_obs) < 0.5
    adata.obs["label"] = np.where(hidden, "Unknown", truth)
    adata.obs["truth"], adata.obs["hidden"] = truth, hidden
    adata.obs["batch"] = adata.obs["platform"].astype(str)
    return adata


def build(cells, train=SHORT, setup=None, **kwargs):
    adata = cells.copy()
    more.MoRE.setup_anndata(adata, **({"batch_key": "batch", "labels_key": "label"} if setup is None else setup))
    model = more.MoRE(adata, seed=0, **kwargs)
    if train is not None:
        model.train(**train)
    return model


@pytest.fixture(scope="module")
def trained(cells):
    return build(cells, train=QUIET)


def test_embedding_annotates_hidden_cells_mixes_batches_and_keeps_structure(cells, trained):
    z, truth, hidden = trained.get_latent_representation(), cells.obs["truth"], cells.obs["hidden"].to_numpy()
    base = build(cells, train=UNTRAINED).get_latent_representation()
    batch = cells.obs["batch"]
    assert z.shape == (cells.n_obs, trained.module.n_latent) and z.dtype == np.float32
    predicted = trained.predict()
    own = macro_f1(truth[hidden].to_numpy(), predicted[hidden])
    assert own > linear_probe(base, truth, hidden) - 0.02
    assert cilisi(z, truth, batch) > cilisi(base, truth, batch)
    assert structure(z, base, truth, batch) > 0.8


def test_without_a_step_the_embedding_is_the_linear_base(cells):
    model = build(cells, train=UNTRAINED, setup={"batch_key": "batch"})
    z = model.get_latent_representation()
    base = model.reader.arrays(model.adata).base
    between = np.corrcoef(
        np.linalg.norm(z[:200, None] - z[None, :200], axis=-1).ravel(),
        np.linalg.norm(base[:200, None] - base[None, :200], axis=-1).ravel(),
    )[0, 1]
    assert between > 0.99
    means = [z[cells.obs["batch"] == b].mean(0) for b in cells.obs["batch"].unique()]
    assert np.abs(np.subtract(*means[:2])).max() < 0.1 * z.std(0).max()


def test_embedding_is_written_where_documented(trained):
    z = trained.get_latent_representation()
    assert np.array_equal(trained.adata.obsm["X_more"], z)
    trained.get_latent_representation(obsm_key="X_other")
    assert np.array_equal(trained.adata.obsm["X_other"], z)
    before = set(trained.adata.obsm)
    trained.get_latent_representation(obsm_key=None)
    trained.get_latent_representation(indices=[0, 1], obsm_key="X_part")
    assert set(trained.adata.obsm) == before


def test_soft_predictions_are_probabilities_of_the_known_labels(cells, trained):
    p = trained.predict(soft=True)
    assert list(p.columns) == sorted(set(cells.obs["label"]) - {"Unknown"}) and list(p.index) == list(cells.obs_names)
    assert np.allclose(p.sum(1), 1, atol=1e-4)
    assert (p.columns.to_numpy()[p.to_numpy().argmax(1)] == trained.predict()).all()


def test_the_backbone_is_bit_identical_after_training_and_never_had_a_gradient(cells):
    model = build(cells, train=None)
    before = {k: v.clone() for k, v in model.backbone.state_dict().items()}
    model.train(**SHORT)
    assert not model.backbone.training
    assert all(torch.equal(before[k], v) for k, v in model.backbone.state_dict().items())
    assert all(p.grad is None and not p.requires_grad for p in model.backbone.parameters())


def test_trained_parameters_are_few(trained):
    table = trained.parameter_counts()
    assert table.loc["backbone", "trained"] == 0
    assert table.loc["total", "trained"] < 0.05 * table.loc["total", "frozen"]
    annotator = trained.module.annotator
    fitted = sum(x.numel() for e in (annotator.experts, annotator.shallow_experts) for x in (e.weight, e.bias))
    by_gradient = sum(p.numel() for p in trained.module.parameters() if p.requires_grad)
    assert table.loc["total", "trained"] == by_gradient + fitted


@pytest.mark.parametrize(
    ("setup", "has_labels"),
    [({"batch_key": "batch"}, False), ({"labels_key": "label"}, True), ({}, False)],
    ids=["batches only", "labels only", "neither"],
)
def test_works_without_batches_or_labels(cells, setup, has_labels):
    model = build(cells, setup=setup)
    assert np.isfinite(model.get_latent_representation()).all()
    assert (model.module.classifier is not None) == has_labels
    if not has_labels:
        with pytest.raises(ValueError, match="labels_key"):
            model.predict()


def test_history_has_one_curve_per_term_and_validation(cells):
    model = build(cells, train={**SHORT, "train_size": 0.8})
    for term in ("masked", "classify", "contrast", "align_batch", "variance", "keep"):
        for part in ("train", "validation"):
            curve = model.history[f"loss_{term}_{part}"]
            assert len(curve) == 3 and np.isfinite(curve.to_numpy(dtype=float)).all()
    assert {"refinement_step_1_train", "refinement_step_2_train", "train_loss"} <= set(model.history)


def test_a_removed_term_is_neither_computed_nor_logged(cells):
    model = build(cells, train={**SHORT, "loss_weights": {"masked": 0, "keep": 0}})
    assert not any("masked" in k or "keep" in k for k in model.history)


def test_early_stopping_holds_out_cells_and_stops(cells):
    model = build(cells, train={**QUIET, "max_epochs": 300, "early_stopping": True, "early_stopping_patience": 3})
    assert len(model.history["train_loss"]) < 300
    assert 0 < len(model.validation_indices) <= 0.1 * cells.n_obs


def test_labels_outside_the_training_set_are_not_used(cells):
    rng = np.random.default_rng(1)
    train = np.sort(rng.permutation(cells.n_obs)[: cells.n_obs // 2])
    rest = np.setdiff1d(np.arange(cells.n_obs), train)
    changed = cells.copy()
    labels = changed.obs["label"].to_numpy().astype(object)
    labels[rest] = rng.permutation(labels[rest])
    changed.obs["label"] = labels
    fit = {**SHORT, "datasplitter_kwargs": {"external_indexing": [train]}}
    one, two = (build(data, train=fit).get_latent_representation() for data in (cells, changed))
    assert np.array_equal(one, two)


def test_save_and_load_give_the_same_model(cells, trained, tmp_path):
    trained.save(tmp_path / "m")
    assert sorted(p.name for p in (tmp_path / "m").iterdir()) == ["adapters.safetensors", "model.json"]
    z, p = trained.get_latent_representation(), trained.predict(soft=True)
    with_data = more.MoRE.load(tmp_path / "m", cells.copy(), accelerator="cpu")
    assert np.allclose(with_data.get_latent_representation(), z, atol=1e-4)
    pd.testing.assert_frame_equal(with_data.predict(soft=True), p, atol=1e-4)
    without = more.MoRE.load(tmp_path / "m", adata=False, accelerator="cpu")
    shuffled = cells[::-1, ::-1].copy()
    assert np.allclose(without.get_latent_representation(shuffled, obsm_key=None)[::-1], z, atol=1e-3)
    assert without.history.keys() == trained.history.keys()


def test_another_backbone_is_refused_on_load(trained, tmp_path):
    trained.save(tmp_path / "m")
    card = json.loads((tmp_path / "m" / "model.json").read_text())
    card["backbone_fingerprint"] = "0" * 64
    (tmp_path / "m" / "model.json").write_text(json.dumps(card))
    with pytest.raises(ValueError, match="fingerprint"):
        more.MoRE.load(tmp_path / "m", adata=False)


def test_precomputed_features_and_registered_backbones(cells, tmp_path):
    adata = cells.copy()
    adata.obsm["X_mine"] = np.random.default_rng(0).normal(size=(adata.n_obs, 7)).astype(np.float32)
    more.MoRE.setup_anndata(adata, batch_key="batch", labels_key="label")
    model = more.MoRE(adata, backbone="precomputed", backbone_kwargs={"obsm_key": "X_mine"})
    model.train(**SHORT)
    assert model.module.base("rna").paths["frozen"].rotation.shape[0] == 7

    adata.obsm["X_layers"] = np.random.default_rng(1).normal(size=(adata.n_obs, 6)).astype(np.float32)
    options = {"obsm_key": "X_layers", "n_pooled": 3}
    model = more.MoRE(adata, backbone="precomputed", backbone_kwargs=options)
    model.train(**SHORT)
    assert len(model.get_layer_weights()) == 3
    model.save(tmp_path / "layers")
    loaded = more.MoRE.load(tmp_path / "layers", adata)
    np.testing.assert_allclose(loaded.get_latent_representation(), model.get_latent_representation(), atol=1e-4)

    class Depth(Backbone):
        name, n_features, vocabulary = "depth", 1, None

        def encode(self, x, match=None, *, visible=None, normalised=False):
            return np.log1p(np.asarray(x.sum(1), np.float32)).reshape(-1, 1)

    register_backbone("depth", Depth)
    assert np.isfinite(build(cells, backbone="depth").get_latent_representation()).all()


def test_lognormalised_input_gives_a_gaussian_decoder_and_a_similar_embedding(cells):
    adata = cells.copy()
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    model = build(adata)
    assert model.module.decoders["rna"].likelihood == "gaussian"
    assert np.isfinite(model.get_latent_representation()).all()


def test_gene_key_leads_to_the_same_features(cells):
    adata = cells.copy()
    adata.var["symbol"] = adata.var_names
    adata.var_names = [f"gene_{i}" for i in range(adata.n_vars)]
    setup = {"batch_key": "batch", "labels_key": "label", "gene_key": "symbol"}
    renamed, plain = build(adata, setup=setup), build(cells)
    assert renamed.reader.frozen.overlaps == plain.reader.frozen.overlaps
    assert np.allclose(renamed.get_latent_representation(), plain.get_latent_representation(), atol=1e-4)


def test_a_new_batch_lands_beside_the_known_ones(cells):
    known = cells.obs["batch"].unique()[0]
    model = build(cells[cells.obs["batch"] != cells.obs["batch"].unique()[-1]].copy(), train=QUIET)
    query = cells[cells.obs["batch"] == cells.obs["batch"].unique()[-1]].copy()
    before = query.copy()
    with pytest.warns(UserWarning, match="not trained on"):
        z = model.get_latent_representation(query, obsm_key=None)
        predicted = model.predict(query)
    assert np.isfinite(z).all() and known in set(model.batches)
    truth = query.obs["truth"].to_numpy()
    assert (predicted == truth).mean() > 2 * pd.Series(truth).value_counts(normalize=True).iloc[0] - 0.5
    assert list(query.obs) == list(before.obs) and list(query.uns) == list(before.uns) and not len(query.obsm)


def test_covariates_are_removed_from_the_base(cells):
    adata = cells.copy()
    adata.obs["phase"] = np.where(np.arange(adata.n_obs) % 2, "G1", "S")
    adata.obs["score"] = np.random.default_rng(0).normal(size=adata.n_obs)
    setup = {"batch_key": "batch", "categorical_covariate_keys": ["phase"], "continuous_covariate_keys": ["score"]}
    model = build(adata, train=UNTRAINED, setup=setup)
    base = model.reader.arrays(model.adata).base
    assert np.abs(np.corrcoef(base[:, 0], adata.obs["score"])[0, 1]) < 0.05
    with pytest.raises(KeyError, match="score"):
        build(adata, setup=setup).get_latent_representation(cells, obsm_key=None)


@pytest.mark.parametrize("n_cells", [2, 300, 5_000, 100_000])
def test_default_epochs_bound_the_number_of_steps(n_cells):
    """Unlike a fixed number of epochs, the price does not grow with the data."""
    assert default_epochs(n_cells, 256) * max(1, n_cells / 256) <= 810
    assert default_epochs(10_000_000, 256) == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_gpu_gives_the_same_embedding(cells, trained, precision):
    model = build(cells, train={"accelerator": "gpu", "precision": precision, "enable_progress_bar": False})
    z, reference = model.get_latent_representation(), trained.get_latent_representation()
    assert z.dtype == np.float32 and np.isfinite(z).all()
    assert (model.predict() == trained.predict()).mean() > 0.9
    assert np.corrcoef(z.ravel(), reference.ravel())[0, 1] > 0.9
