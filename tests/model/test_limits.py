"""Data and arguments at the border of what makes sense, copies, and processes that models are sent to."""

import copy
import gc
import pickle
import warnings

import numpy as np
import pytest
import scipy.sparse as sp
from mudata import MuData

import more_scvi as more

FIT = {"max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False}


def make_cells(n=80):
    return more.data.simulate_batches(n, 60, 3, 2, seed=1)


def setup(adata):
    more.MoRE.setup_anndata(adata, batch_key="batch", labels_key="cell_type")
    return adata


def setup_multi(mdata):
    more.MoRE.setup_mudata(mdata, {"rna": "rna", "protein": "adt"}, batch_key="batch", labels_key="label")
    return mdata


def finite(model) -> bool:
    z = model.get_latent_representation(obsm_key=None)
    return bool(np.isfinite(z).all() and np.isfinite(model.predict(soft=True)).all(axis=None))


@pytest.fixture(params=["AnnData", "MuData"])
def make(request, make_model, make_multi):
    return {"AnnData": make_model, "MuData": make_multi}[request.param]


def matrices(data):
    return list(data.mod.values()) if isinstance(data, MuData) else [data]


# ---- data


@pytest.mark.parametrize("counts", [0, 1], ids=["empty", "one count"])
@pytest.mark.filterwarnings("ignore:.*no counts")
def test_a_batch_without_counts_trains(counts):
    adata = make_cells()
    x, first = adata.X.toarray(), np.flatnonzero(adata.obs["batch"] == adata.obs["batch"].iloc[0])
    x[first] = 0
    x[first[0], 0] = counts
    adata.X = sp.csr_matrix(x)
    model = more.MoRE(setup(adata), backbone=None)
    model.train(**FIT)
    assert finite(model)


def test_constant_data_train(make):
    model = make()
    for part in matrices(model.adata):
        part.X = sp.csr_matrix(np.full(part.shape, 3.0, np.float32))
    model.train(**FIT)
    assert finite(model)


@pytest.mark.parametrize("n", [2, 3, 5, 8, 20])
def test_tiny_batches_train_without_a_word(n):
    adata = make_cells()[:n].copy()
    adata.obs["batch"] = [f"b{i % max(n // 3, 1)}" for i in range(n)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", module="lightning|mudata|anndata")
        warnings.filterwarnings("ignore", message=".*LeafSpec.*")
        model = more.MoRE(setup(adata), backbone=None)
        model.train(**FIT)
        assert finite(model)


# ---- arguments


@pytest.mark.parametrize("name", ["n_bottleneck", "refinement_rank", "n_refinement_steps", "n_views", "n_latent"])
def test_sizes_that_no_machine_holds_are_refused(make, name):
    with pytest.raises(ValueError, match=rf"{name}=1000000000 is too large; expected an integer from \d to 100000"):
        make(**{name: 10**9})


CALLS = {
    "batch_key": lambda make: more.MoRE.setup_anndata(make_cells(), batch_kye="batch"),
    "modalities": lambda make: more.MoRE.setup_mudata(make_cells(), modalites={}),
    "backbone": lambda make: more.MoRE(setup(make_cells()), backbon=None),
    "max_epochs": lambda make: make().train(max_epoch=1),
    "enable_progress_bar": lambda make: make().train(enable_progres_bar=False),
    "indices": lambda make: make().predict(indexes=[1]),
    "obsm_key": lambda make: make().get_latent_representation(obs_key=None),
}


@pytest.mark.parametrize("meant", CALLS)
def test_misspelt_arguments_lead_to_the_nearest(make_model, meant):
    with pytest.raises(TypeError, match=f"has no argument '.*Did you mean '{meant}'.*It has '"):
        CALLS[meant](make_model)


def test_arguments_that_resemble_none_lead_to_all(make_model):
    with pytest.raises(TypeError, match="train has no argument 'qqq'. It has 'max_epochs', 'accelerator'"):
        make_model().train(qqq=1)


# ---- copies


def pickled(model):
    try:
        pickle.dumps(model.adata)
    except AttributeError:
        pytest.skip("this version of mudata cannot be pickled")
    return pickle.loads(pickle.dumps(model))


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickled])
def test_copies_of_a_model_answer_as_it_does(make, copied):
    model = make(epochs=1)
    other = copied(model)
    for name in ("get_latent_representation", "predict"):
        np.testing.assert_array_equal(getattr(other, name)(), getattr(model, name)())
    other.train(**FIT)
    assert other.is_trained
    del other
    gc.collect()
    assert finite(model)
    more.MoRE(model.adata, backbone=None)


def test_data_stay_registered_when_copies_go(make, tmp_path):
    """Copies that were registered, attached to loaded models or only looked at, and were freed, leave no trace."""
    model = make(epochs=1)
    data, again = model.adata, setup_multi if isinstance(model.adata, MuData) else None
    model.get_latent_representation(data.copy())
    if again is None:
        setup(data.copy())
        other = data.copy()
        setup(other)
        more.MoRE(other, backbone=None)
    else:
        other = again(data.copy())
        more.MoRE(other, backbone=None)
    more.MoRE(data, backbone=None)
    model.save(tmp_path / "m")
    more.MoRE.load(tmp_path / "m", data.copy(), accelerator="cpu")
    del other
    gc.collect()
    more.MoRE(data, backbone=None)
    loaded = more.MoRE.load(tmp_path / "m", data, accelerator="cpu")
    np.testing.assert_allclose(
        loaded.get_latent_representation(obsm_key=None), model.get_latent_representation(obsm_key=None), atol=1e-5
    )
