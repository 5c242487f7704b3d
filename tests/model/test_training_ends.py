"""Training that is watched, seeded, repeated, interrupted or fails: what it leaves behind."""

import copy
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger
from scvi.train import SaveCheckpoint

import more_scvi as more
from more_scvi.base import _prepare

FIT = {"accelerator": "cpu", "enable_progress_bar": False, "batch_size": 80}


def state(model) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in model.module.state_dict().items()}


def differing(a, b) -> list[str]:
    return [k for k in a if not torch.equal(a[k], b[k])]


@pytest.fixture(params=["AnnData", "MuData"])
def make(request, make_model, make_multi):
    return {"AnnData": make_model, "MuData": make_multi}[request.param]


class Poison(Callback):
    """Makes the loss NaN from a step on."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step >= self.step:
            for values in pl_module.module.adapters.parameters():
                values.data.fill_(float("nan"))


# ---- nothing that is fitted for answers is read by a loss


def test_checkpoints_do_not_change_what_is_trained(make, tmp_path):
    plain, watched = make(), make()
    plain.train(max_epochs=3, train_size=0.8, check_val_every_n_epoch=1, **FIT)
    save = SaveCheckpoint(dirpath=str(tmp_path / "ck"), monitor="validation_loss")
    watched.train(max_epochs=3, train_size=0.8, check_val_every_n_epoch=1, callbacks=[save], **FIT)
    assert differing(state(plain), state(watched)) == []
    np.testing.assert_array_equal(*(m.get_latent_representation(obsm_key=None) for m in (plain, watched)))


def test_losses_do_not_read_what_annotates(make):
    class Spoil(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            for name, values in pl_module.module.named_buffers():
                if name.startswith(("annotator.", "spread.", "imputers.")):
                    values.fill_(3)

    models = make(), make()
    for model, callbacks in zip(models, ([], [Spoil()]), strict=True):
        model.train(max_epochs=2, callbacks=callbacks, **FIT)
    curves = [model.history["train_loss"] for model in models]
    np.testing.assert_array_equal(*curves)
    weights = [{k: v for k, v in state(model).items() if not k.startswith("spread")} for model in models]
    assert [k for k in differing(*weights) if k.startswith(("adapters", "fusion", "refinement", "classifier"))] == []


# ---- seeds


def test_every_draw_follows_the_seed(make, monkeypatch):
    """All generators that training makes are seeded by what ``seed`` says, and the same seed gives the same model."""
    models, drawn = [make(), make(), make()], []
    models[2].seed = 7
    for model in models:
        seen, real = [], np.random.default_rng
        with monkeypatch.context() as patched:
            patched.setattr(np.random, "default_rng", lambda seed=None, s=seen, f=real: s.append(seed) or f(seed))
            model.train(max_epochs=1, **FIT)
        drawn.append(seen)
    assert differing(*map(state, models[:2])) == []
    assert drawn[0] == drawn[1] and len(drawn[0]) == len(drawn[2]) > 1
    assert [a for a, b in zip(drawn[0], drawn[2], strict=True) if a == b] == []


# ---- failure


@pytest.mark.parametrize("step", [0, 3])
def test_a_loss_that_is_not_finite_leaves_the_model_as_it_was(make, step):
    model = make(epochs=2)
    before, history, z = state(model), copy.deepcopy(model.history), model.get_latent_representation(obsm_key=None)
    with pytest.raises(ValueError, match="training loss is nan"):
        model.train(max_epochs=3, callbacks=[Poison(step)], **FIT)
    assert differing(before, state(model)) == []
    assert model.is_trained and not model.module.training
    assert {k: v.to_dict() for k, v in model.history.items()} == {k: v.to_dict() for k, v in history.items()}
    np.testing.assert_array_equal(model.get_latent_representation(obsm_key=None), z)
    model.train(max_epochs=1, **FIT)
    assert np.isfinite(model.get_latent_representation(obsm_key=None)).all()


def test_a_first_training_that_fails_leaves_an_untrained_model(make):
    model, other = make(), make()
    other.train(max_epochs=1, **FIT)
    before = state(model)
    with pytest.raises(ValueError, match="training loss is nan"):
        model.train(max_epochs=1, callbacks=[Poison(0)], **FIT)
    assert differing(before, state(model)) == [] and not model.is_trained and not model.history
    with pytest.raises(RuntimeError, match="not trained"):
        model.predict()
    model.train(max_epochs=1, **FIT)
    assert differing(state(other), state(model)) == []


@pytest.mark.parametrize("wanted", [True, False], ids=["asked for", "not asked for"])
def test_a_checkpoint_against_nan_restores_its_best_weights_if_asked(make, tmp_path, wanted):
    """With ``check_nan_gradients`` the best checkpoint stays when training fails; without it the model of before."""
    model = make()
    save = SaveCheckpoint(dirpath=str(tmp_path / "ck"), monitor="validation_loss", check_nan_gradients=wanted)
    with pytest.raises(ValueError, match="training loss is nan"):
        model.train(max_epochs=5, callbacks=[save, Poison(4)], train_size=0.8, check_val_every_n_epoch=1, **FIT)
    assert model.is_trained == wanted
    if wanted:
        best = more.MoRE.load(save.best_model_path, model.adata.copy(), accelerator="cpu")
        assert differing(state(best), state(model)) == []
        assert len(model.history["validation_loss"])
        np.testing.assert_array_equal(model.predict(), best.predict())


# ---- Ctrl-C


class Interrupt(Callback):
    """A user who stops in a step."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, *args):
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture
def interruptible():
    """Ctrl-C raises, also where the tests run in the background of a shell, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupted_training_keeps_what_it_learned(make):
    model = make()
    with pytest.raises(KeyboardInterrupt):
        model.train(max_epochs=50, callbacks=[Interrupt(3)], **FIT)
    assert model.is_trained and not model.module.training
    assert len(model.history["train_loss"]) == 1
    z = model.get_latent_representation(obsm_key=None)
    assert np.isfinite(z).all() and set(model.predict()) <= set(model.labels)
    model.train(max_epochs=1, **FIT)
    assert len(model.history["train_loss"]) >= 2


def interrupted(process):
    """What a process says once it is interrupted; a signal that reached a place that swallows it is sent again."""
    for _ in range(5):
        process.send_signal(signal.SIGINT)
        try:
            return process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            continue
    process.kill()
    return process.communicate()


def test_a_process_that_is_interrupted_ends_as_python_does(tmp_path):
    """From outside, by a signal: KeyboardInterrupt reaches the script, which can go on with the model."""
    script = tmp_path / "script.py"
    script.write_text(
        "import signal\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background jobs ignore it
        "import more_scvi as more\n"
        "from lightning.pytorch.callbacks import Callback\n"
        "class Say(Callback):\n"
        "    def on_train_epoch_end(self, *args): print('ready', flush=True)\n"
        "adata = more.data.simulate_batches(200, 60)\n"
        "more.MoRE.setup_anndata(adata, batch_key='batch', labels_key='cell_type')\n"
        "model = more.MoRE(adata, backbone=None, n_views=0)\n"
        "try:\n"
        "    model.train(max_epochs=100000, accelerator='cpu', enable_progress_bar=False, callbacks=[Say()])\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted', model.is_trained, len(model.predict()), flush=True)\n"
        "    raise\n"
    )
    process = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in process.stdout:
        if line.startswith("ready"):
            break
    out, errors = interrupted(process)
    assert "interrupted True 200" in out, errors
    assert errors.rstrip().endswith("KeyboardInterrupt")
    # scvi-tools ends with 1 where IPython is installed
    usual = subprocess.run([sys.executable, "-c", "import scvi; raise KeyboardInterrupt"], capture_output=True)
    assert process.returncode in (130, -signal.SIGINT, usual.returncode)


# ---- history


def test_curves_are_there_beside_a_logger_of_the_user(make, tmp_path):
    model = make()
    model.train(max_epochs=3, logger=CSVLogger(tmp_path), log_every_n_steps=1, **FIT)
    assert len(model.history["train_loss"]) == 3 and len(model.history["loss_classify_train"]) == 3
    assert list(tmp_path.rglob("metrics.csv"))


def test_a_curve_that_is_not_there_leads_to_those_that_are(make):
    model = make(epochs=1)
    assert model.history.get("elbo_train") is None
    with pytest.raises(KeyError, match="(?s)elbo_train.*train_loss"):
        model.history["elbo_train"]


def test_lightning_advertises_nothing(make, capfd, caplog):
    model = make(epochs=1)
    said = "".join(capfd.readouterr()) + caplog.text
    assert model.is_trained and "litlogger" not in said and "Tip" not in said


# ---- threads


@pytest.mark.parametrize(("bound", "threads"), [(5_000_000, 1), (0, 3)], ids=["small", "large"])
def test_only_large_backbones_are_read_with_several_threads(make_model, monkeypatch, bound, threads):
    """Small networks gain nothing by threads and suffer from other processes; training runs on one in any case."""
    seen = {}

    class Look(Callback):
        def on_train_batch_start(self, *args):
            seen["step"] = torch.get_num_threads()

    def read(*args, **kwargs):
        seen["features"] = torch.get_num_threads()
        return compute(*args, **kwargs)

    compute = _prepare.compute_features
    monkeypatch.setattr(_prepare, "compute_features", read)
    monkeypatch.setattr(_prepare, "MANY_WEIGHTS", bound)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        make_model().train(max_epochs=1, callbacks=[Look()], **FIT)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert seen == {"features": threads, "step": 1}
