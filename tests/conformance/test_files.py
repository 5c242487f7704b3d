"""Saved models and the objects a model keeps."""

import copy
import gc
import json
import pickle
import subprocess
import sys
import weakref
from pathlib import Path

import anndata as ad
import joblib
import numpy as np
import pandas as pd
import pytest
import torch


def size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def test_t27_constructor_arguments_survive_saving(case, data, tmp_path):
    """A model with another width loads with that width and gives the same embedding."""
    adata = data()
    case.setup(adata)
    model = case.fit(case.build(adata, n_latent=7))
    model.save(str(tmp_path / "m"))
    loaded = case.cls.load(str(tmp_path / "m"), adata=data(), accelerator="cpu")
    latent = case.latent(loaded)
    assert latent.shape == (150, 7)
    np.testing.assert_allclose(latent, case.latent(model), atol=1e-5)


def test_t28_a_model_can_be_saved_before_training(case, data, tmp_path):
    """Saving evaluates no property that needs a trained model."""
    adata = data()
    case.setup(adata)
    case.build(adata).save(str(tmp_path / "m"))
    assert case.cls.load(str(tmp_path / "m"), adata=adata, accelerator="cpu").is_trained is False


def test_t30_registry_helpers_work(case, data, trained):
    """view_registry and update_setup_method_args are public methods."""
    trained.view_registry()
    trained.update_setup_method_args({})


def test_setup_can_be_viewed(case, trained, capsys, tmp_path):
    """view_anndata_setup prints which columns are used, view_setup_args does so for a saved model."""
    trained.view_anndata_setup()
    assert "batch" in capsys.readouterr().out
    trained.save(str(tmp_path / "m"))
    case.cls.view_setup_args(str(tmp_path / "m"))
    printed = capsys.readouterr().out
    assert "batch_key" in printed
    assert "ACTB" not in printed, "setup arguments are no place for thousands of gene names"


def test_t36_values_that_are_not_numbers_are_refused(case, data):
    """A layer of text is refused when the data are set up."""
    adata = data()
    adata.layers["text"] = np.full(adata.shape, "1", dtype=object)
    with pytest.raises(TypeError):
        case.setup(adata, layer="text")


def test_t34_no_cells_is_said_in_so_many_words(case, data):
    """A filter that left nothing over gives an error that says so."""
    with pytest.raises(ValueError, match="0 cells"):
        case.setup(data()[:0].copy())


def test_t37_another_class_cannot_load_the_model(case, trained, tmp_path):
    """A folder of another model raises an error that says so."""
    trained.save(str(tmp_path / "m"))
    other = type("Other", (case.cls,), {})
    with pytest.raises(ValueError, match="class"):
        other.load(str(tmp_path / "m"), adata=False, accelerator="cpu")


def test_t39_new_data_are_released(case, data, trained):
    """Embedding a hundred files one after another does not keep a hundred files in memory."""
    new = data(60, seed=5)
    case.latent(trained, new)
    alive = weakref.ref(new)
    del new
    gc.collect()
    assert alive() is None


def test_t39_training_data_go_with_the_model(case, data):
    """Deleting model and data frees both."""
    adata = data()
    model = case.fitted(adata)
    alive = weakref.ref(adata)
    del model, adata
    gc.collect()
    assert alive() is None


def test_t40_the_saved_model_does_not_grow_with_the_data(case, data, tmp_path):
    """Four times the cells, the same file: no per-cell array is saved."""
    for n_cells in (150, 600):
        case.fitted(data(n_cells)).save(str(tmp_path / str(n_cells)))
    assert size(tmp_path / "600") < 1.02 * size(tmp_path / "150")


def test_t41_no_file_of_a_saved_model_is_a_pickle(case, trained, tmp_path):
    """Loading a model from the internet cannot run code: files are safetensors and JSON."""
    trained.save(str(tmp_path / "m"))
    files = [file for file in (tmp_path / "m").rglob("*") if file.is_file()]
    assert files
    for file in files:
        if file.suffix == ".json":
            json.loads(file.read_text())
        elif file.suffix != ".safetensors":
            torch.load(file, weights_only=True)


@pytest.mark.parametrize("with_data", ["given", "saved", "none"])
def test_t29_a_loaded_model_gives_the_same_embedding(case, data, trained, z, tmp_path, with_data):
    """Loading with the data, with the data saved beside the model, or without any and then saving again."""
    folder = str(tmp_path / "m")
    trained.save(folder, save_anndata=with_data == "saved")
    adata = {"given": data(), "saved": None, "none": False}[with_data]
    loaded = case.cls.load(folder, adata=adata, accelerator="cpu")
    if with_data == "none":
        loaded.save(str(tmp_path / "again"))
        loaded = case.cls.load(str(tmp_path / "again"), adata=False, accelerator="cpu")
    latent = case.latent(loaded, data() if with_data == "none" else None)
    np.testing.assert_allclose(latent, z, atol=1e-5)


def test_t49_text_columns_of_pandas_3(case, data, tmp_path):
    """Names and columns in pandas' own text type can be set up, trained on, saved and loaded."""
    with pd.option_context("future.infer_string", True):
        adata = data()
        adata.obs = pd.DataFrame(
            {"batch": list(adata.obs["batch"]), "ct": list(adata.obs["ct"])}, list(adata.obs_names)
        )
        model = case.fitted(adata)
        model.save(str(tmp_path / "m"))
        loaded = case.cls.load(str(tmp_path / "m"), adata=adata, accelerator="cpu")
        np.testing.assert_allclose(case.latent(loaded), case.latent(model), atol=1e-5)


@pytest.mark.needs("collection")
def test_t31_two_collections_in_one_process(case, data):
    """Collections of AnnData files do not disturb one another."""
    from anndata.experimental import AnnCollection
    from scvi.dataloaders import CollectionAdapter

    adapters = []
    for seed in (1, 2):
        parts = [data(60, seed=seed), data(60, seed=seed + 10)]
        for part in parts:
            part.layers["counts"] = part.X
        adapter = CollectionAdapter(AnnCollection(parts, join_vars="inner", harmonize_dtypes=False))
        adapter.uns = {}  # a class attribute upstream: both adapters would share one identity
        case.setup(adapter, layer="counts")
        adapters.append(adapter)
    for adapter in adapters:
        assert np.isfinite(case.latent(case.fit(case.build(adapter)))).all()


@pytest.mark.slow
def test_t53_import_needs_no_jax_and_warns_about_nothing_of_ours(case):
    """Jax is not needed, and importing the package triggers no FutureWarning (T50)."""
    module = case.path.split(":")[0]
    code = f"import sys; sys.modules['jax'] = None; import {module} as m; m.{case.name}"
    run = subprocess.run(
        [sys.executable, "-W", "error::FutureWarning:more_scvi", "-c", code],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr


def test_t51_written_by_numpy_2_is_plain(case, trained, tmp_path):
    """Numbers and names of a saved model are readable without the NumPy that wrote them."""
    trained.save(str(tmp_path / "m"))
    for file in (tmp_path / "m").rglob("*"):
        assert b"numpy._core" not in file.read_bytes()


def test_t50_backed_sparse_arrays(case, data, tmp_path):
    """A file read as sparse arrays from disk can be set up and trained on."""
    data().write_h5ad(tmp_path / "a.h5ad")
    with ad.settings.override(use_sparse_array_on_read=True):
        backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
        assert np.isfinite(case.latent(case.fitted(backed))).all()
        backed.file.close()


@pytest.mark.parametrize("way", ["pickle", "deepcopy", "joblib"])
def test_a_model_is_copied_with_its_data(case, trained, z, way, tmp_path):
    """Copies through pickle, copy and joblib answer as the original does, which stays as it is when they go."""
    if way == "pickle":
        copied = pickle.loads(pickle.dumps(trained))
    elif way == "deepcopy":
        copied = copy.deepcopy(trained)
    else:
        joblib.dump(trained, tmp_path / "m")
        copied = joblib.load(tmp_path / "m")
    np.testing.assert_allclose(case.latent(copied), z, atol=1e-5)
    del copied
    gc.collect()
    np.testing.assert_allclose(case.latent(trained), z, atol=1e-5)
