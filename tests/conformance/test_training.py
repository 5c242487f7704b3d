"""Training: modes, histories, callbacks, splits, seeds."""

import warnings

import numpy as np
import pytest
import scvi
from lightning.pytorch.callbacks import Callback
from scvi.train import SaveCheckpoint


class Modes(Callback):
    """Whether the module was in training mode in each step."""

    def __init__(self):
        self.seen = []

    def on_train_batch_start(self, trainer, pl_module, *args):
        self.seen.append(pl_module.module.training)


def test_t02_every_round_of_training_trains(case, data, tmp_path):
    """Dropout is on in the second round, and in a round after loading, as it is in the first."""
    adata = data()
    model = case.fitted(adata)
    second, third = Modes(), Modes()
    case.fit(model, callbacks=[second])
    model.save(str(tmp_path / "m"))
    case.fit(case.cls.load(str(tmp_path / "m"), adata=adata, accelerator="cpu"), callbacks=[third])
    assert all(second.seen + third.seen)
    assert second.seen
    assert third.seen


@pytest.mark.needs("frozen")
def test_t03_frozen_parts_stay_frozen_under_checkpoints(case, data, tmp_path):
    """Checkpoints switch the module to training mode; nothing that is frozen may change because of it."""
    adata = data()
    case.setup(adata)
    model = case.build(adata)
    before = model.backbone.fingerprint()
    checkpoint = SaveCheckpoint(dirpath=str(tmp_path / "ck"), monitor="validation_loss")
    case.fit(model, callbacks=[checkpoint], train_size=0.8, check_val_every_n_epoch=1)
    assert model.backbone.fingerprint() == before
    assert not model.backbone.training
    assert not any(p.requires_grad for p in model.backbone.parameters())


def test_t04_history_adds_up_over_rounds(case, data, tmp_path):
    """Two rounds of two and three epochs are five rows, checkpoints or not; a metric of the second round is there."""
    model = case.fitted(data())
    checkpoint = SaveCheckpoint(dirpath=str(tmp_path / "ck"), monitor="validation_loss")
    case.fit(model, max_epochs=3, callbacks=[checkpoint], train_size=0.8, check_val_every_n_epoch=1)
    assert len(model.history["train_loss"]) == 5
    assert list(model.history["train_loss"].index) == list(range(5))
    assert "validation_loss" in model.history


def test_t09_nan_is_an_error_before_the_first_step(case, data):
    """One missing value in the matrix: an error that names it, not a model full of NaN."""
    adata = data()
    x = adata.X.toarray()
    x[17, 3] = np.nan
    adata.X = x
    with pytest.raises(ValueError, match=f"(?s)NaN.*{adata.obs_names[17]}.*{adata.var_names[3]}"):
        case.fitted(adata)


def test_t10_setup_draws_no_random_number(case, data):
    """Setting up data does not move the global generator that other code relies on."""
    adata = data()
    before = np.random.get_state()[1].copy()  # noqa: NPY002 the global generator is what must not move
    case.setup(adata)
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002


def test_t12_arguments_are_not_changed(case, data):
    """Lists and dictionaries given to train() can be used again."""
    callbacks, plan = [Modes()], {"lr": 1e-3}
    model = case.fitted(data())
    for _ in range(2):
        case.fit(model, max_epochs=1, callbacks=callbacks, plan_kwargs=plan, enable_progress_bar=True)
    assert len(callbacks) == 1
    assert plan == {"lr": 1e-3}


def test_t13_the_best_checkpoint_is_restored_and_loads(case, data, tmp_path):
    """scvi-tools' own checkpoint callback saves the best epoch, restores it at the end, and the folder loads."""
    adata = data()
    case.setup(adata)
    model = case.build(adata)
    checkpoint = SaveCheckpoint(dirpath=str(tmp_path / "ck"), monitor="validation_loss", load_best_on_end=True)
    case.fit(model, max_epochs=3, callbacks=[checkpoint], train_size=0.8, check_val_every_n_epoch=1)
    loaded = case.cls.load(checkpoint.best_model_path, adata=adata, accelerator="cpu")
    np.testing.assert_allclose(case.latent(loaded), case.latent(model), atol=1e-5)


def test_t13_checkpoints_need_no_callback(case, data, tmp_path):
    """`enable_checkpointing=True` is enough; each checkpoint is a whole model."""
    adata = data()
    case.setup(adata)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scvi.settings, "_logging_dir", tmp_path)
        case.fit(case.build(adata), train_size=0.8, enable_checkpointing=True, check_val_every_n_epoch=1)
    (folder,) = tmp_path.glob("*/*")
    assert np.isfinite(case.latent(case.cls.load(str(folder), adata=adata, accelerator="cpu"))).all()


def test_t16_a_split_need_not_name_every_cell(case, data):
    """Cells that a given split leaves out are simply not trained on."""
    adata = data()
    case.setup(adata)
    model = case.build(adata)
    split = [np.arange(80), np.arange(80, 110)]
    case.fit(model, datasplitter_kwargs={"external_indexing": split}, check_val_every_n_epoch=1)
    assert set(model.train_indices) == set(range(80))
    assert set(model.validation_indices) == set(range(80, 110))
    assert len(split) == 2
    assert np.isfinite(case.latent(model)).all()


@pytest.mark.parametrize("n_cells", [129, 65])
def test_t17_a_last_minibatch_of_one_cell(case, data, n_cells):
    """n = k * batch_size + 1 with all cells in training."""
    adata = data(n_cells)
    case.setup(adata)
    model = case.fit(case.build(adata), train_size=1.0)
    assert np.isfinite(case.latent(model)).all()
    assert np.isfinite(model.history["train_loss"].to_numpy(dtype=float)).all()


def test_t35_a_callback_does_not_change_training(case, data):
    """A callback that only looks gives the same model as none."""
    latents = []
    for callbacks in (None, [Modes()]):
        adata = data()
        scvi.settings.seed = 3
        case.setup(adata)
        model = case.fit(case.build(adata), **({"callbacks": callbacks} if callbacks else {}))
        latents.append(case.latent(model))
    np.testing.assert_allclose(*latents, atol=1e-5)


@pytest.mark.parametrize("before", ["nothing-before", "other-model-before"])
def test_t42_a_seed_decides_the_result(case, data, before):
    """Same seed, same embedding: also when an unrelated model was trained first."""
    latents = []
    for unrelated in (False, before == "other-model-before"):
        scvi.settings.seed = 7
        if unrelated:
            case.fitted(data(80, seed=9))
        latents.append(case.latent(case.fitted(data())))
    np.testing.assert_allclose(*latents, atol=1e-5)


def test_t52_a_second_round_warns_about_nothing(case, data):
    """Lightning's remarks on modules in evaluation mode and on its own settings are not for users."""
    model = case.fitted(data())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        case.fit(model)
    assert not [str(w.message) for w in caught if not issubclass(w.category, (FutureWarning, DeprecationWarning))]
