"""The map of a reference: cells stand where their like do, wherever the model is loaded."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from lightning.pytorch import Callback
from safetensors.torch import load_file

import more_scvi as more
from more_scvi.model._reference_map import PREFIX, ReferenceMap

FIT = {"accelerator": "cpu", "enable_progress_bar": False, "loss_weights": "fast"}


@pytest.fixture(scope="module")
def cells():
    return more.data.load_demo()


@pytest.fixture(scope="module")
def model(cells):
    """Trained on every other cell, with a map."""
    adata = cells[::2].copy()
    more.MoRE.setup_anndata(adata, batch_key="platform", labels_key="cell_type")
    model = more.MoRE(adata, backbone=None, seed=0)
    model.train(max_epochs=10, **FIT)
    before = np.random.get_state()[1].copy()  # noqa: NPY002 - what a user may draw from
    model.fit_map()
    assert np.array_equal(np.random.get_state()[1], before)  # noqa: NPY002
    return model


@pytest.fixture
def query(cells):
    return cells[1::2].copy()


def test_landmarks_stand_for_all_cells_and_are_labelled(model):
    landmarks = model.get_map()
    assert landmarks["n_cells"].sum() == model.adata.n_obs
    assert 20 < len(landmarks) <= np.ceil(model.adata.n_obs / 5)
    assert set(landmarks["label"]) <= set(model.labels)
    assert "X_more_map" not in model.adata.obsm


def test_new_cells_stand_among_their_like(model, query):
    places, landmarks = model.get_map_coordinates(query), model.get_map()
    assert np.array_equal(query.obsm["X_more_map"], places)
    distance = ((places[:, None] - landmarks[["x", "y"]].to_numpy()[None]) ** 2).sum(2)
    told = landmarks["label"].to_numpy()[distance.argmin(1)]
    truth = query.obs["cell_type"].astype(str).to_numpy()
    assert (told == truth).mean() > (model.predict(query) == truth).mean() - 0.1  # two axes hold less than fifty


def test_indices_give_the_same_places_and_write_nothing(model, query):
    some = model.get_map_coordinates(query, indices=[5, 2])
    assert not query.obsm
    assert np.allclose(some, model.get_map_coordinates(query)[[5, 2]], atol=1e-4)


def test_a_place_moves_smoothly_and_depends_on_one_cell_alone(model):
    z = model.get_latent_representation(obsm_key=None)
    far = int(((z - z[0]) ** 2).sum(1).argmax())
    path = z[0] + np.linspace(0, 1, 2001)[:, None] * (z[far] - z[0])
    places = model._map.place(path)
    steps = np.linalg.norm(np.diff(places, axis=0), axis=1)
    assert steps.max() < 0.05 * np.linalg.norm(np.ptp(places, axis=0))
    assert np.allclose(model._map.place(path[7:8]), places[7], atol=1e-5)


def test_a_saved_reference_is_drawn_without_its_cells(model, query, tmp_path):
    model.save(tmp_path / "m")
    loaded = more.MoRE.load(tmp_path / "m", adata=False)
    assert loaded.has_map and loaded.get_map().equals(model.get_map())
    places = model.get_map_coordinates(query)
    assert np.array_equal(loaded.get_map_coordinates(query), places)
    ax = more.pl.query(loaded, query, color="cell_type")
    drawn = np.concatenate([c.get_offsets() for c in ax.collections[1:]])
    assert np.allclose(np.sort(drawn, axis=0), np.sort(places, axis=0))
    plt.close("all")
    held = load_file(tmp_path / "m" / "adapters.safetensors")
    assert sum(t.numel() * t.element_size() for name, t in held.items() if name.startswith(PREFIX)) < 500_000


def test_training_drops_the_map_and_training_that_fails_keeps_it(model, tmp_path):
    model.save(tmp_path / "m", save_anndata=True)
    loaded = more.MoRE.load(tmp_path / "m")
    before = loaded.get_map()

    class Stop(Callback):
        def on_train_start(self, *_):
            raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        loaded.train(max_epochs=1, callbacks=[Stop()], **FIT)
    assert loaded.get_map().equals(before)
    loaded.train(max_epochs=1, **FIT)
    with pytest.raises(ValueError, match=r"has no map of its cells; call fit_map\(\)"):
        loaded.get_map_coordinates()


@pytest.mark.parametrize("n", [1, 2, 3, 30, 200])
def test_references_of_any_size_have_a_map(n):
    z = np.random.default_rng(0).normal(size=(n, 4)).astype(np.float32)
    found = ReferenceMap.fit(z, np.full(n, -1), 50, 0)
    places = found.place(np.vstack([z, 100 + z]))  # and cells that are far from all of them
    assert places.shape == (2 * n, 2) and np.isfinite(places).all()
    assert int(found.counts.sum()) == n and set(found.types.tolist()) == {-1}
    assert np.array_equal(ReferenceMap.fit(z, np.full(n, -1), 50, 0).place(z), places[:n])
    low, high = found.places.min(0).values - 1e-4, found.places.max(0).values + 1e-4
    assert (places >= low.numpy()).all() and (places <= high.numpy()).all()
    assert found.place(z[:0]).shape == (0, 2)


def test_cells_that_are_all_the_same_have_a_map():
    places = ReferenceMap.fit(np.ones((60, 3), np.float32), np.zeros(60, int), 50, 0).place(np.ones((2, 3)))
    assert np.isfinite(places).all()


NOT_ONE = "{} of the map of the reference cannot be"
DAMAGE = {
    "lost": ("counts", lambda t: None, "1 tensors are missing"),
    "narrow": ("centres", lambda t: t[:, 1:], "'centres' has shape"),
    "scalar": ("counts", lambda t: t[0], "shape"),
    "nobody": ("counts", lambda t: t * 0, NOT_ONE.format("counts")),
    "floats": ("counts", lambda t: t.float(), NOT_ONE.format("counts")),
    "no such label": ("types", lambda t: t + 99, NOT_ONE.format("types")),
    "negative label": ("types", lambda t: t - 99, NOT_ONE.format("types")),
    "nowhere": ("places", lambda t: t * float("nan"), "'places' holds NaN"),
    "empty": (None, lambda t: t[:0], NOT_ONE.format("counts")),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_map_is_refused(model, tmp_path, kind):
    which, change, says = DAMAGE[kind]
    tensors = {k: change(v) if which in (None, k.removeprefix(PREFIX)) else v for k, v in model._map.tensors().items()}
    tensors = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    with pytest.raises(ValueError, match=says):
        ReferenceMap.take(tensors, model.module.n_latent, len(model.labels), tmp_path / "w", "Save again.")


def test_models_without_labels_have_landmarks_without_names(cells):
    adata = cells[:80].copy()
    more.MoRE.setup_anndata(adata)
    model = more.MoRE(adata, backbone=None)
    with pytest.raises(RuntimeError, match="not trained"):
        model.fit_map()
    model.train(max_epochs=1, **FIT)
    assert not model.has_map
    model.fit_map(n_landmarks=4)
    assert list(model.get_map()) == ["x", "y", "n_cells"] and len(model.get_map()) <= 4


def test_a_map_needs_the_cells_of_the_reference(model, tmp_path):
    model.save(tmp_path / "m")
    loaded = more.MoRE.load(tmp_path / "m", adata=False)
    with pytest.raises(ValueError, match="fit_map needs the registered cells"):
        loaded.fit_map()
    loaded._map = None
    with pytest.raises(ValueError, match=r"load the model with its data, then call model.fit_map\(\)"):
        loaded.get_map()
