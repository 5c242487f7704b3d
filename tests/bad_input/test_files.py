"""Saved folders that are missing, damaged, hostile or of another model."""

import hashlib
import json
import os
import pickle

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch

from more_scvi import MoRE

from .conftest import SETUP, make_data

CARD, WEIGHTS = "model.json", "adapters.safetensors"


class Payload:
    """Unpickling it would create a file."""

    def __reduce__(self):
        return os.mkdir, (os.environ["PAYLOAD_TARGET"],)


def edit(**changes):
    def apply(folder):
        card = json.loads((folder / CARD).read_text())
        for path, value in changes.items():
            target = card
            *parents, last = path.split("__")
            for parent in parents:
                target = target[parent]
            if value is None:
                del target[last]
            else:
                target[last] = value
        (folder / CARD).write_text(json.dumps(card))

    return apply


def cut(name, keep):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:keep])


def pickled(name):
    return lambda folder: (folder / name).write_bytes(pickle.dumps(Payload()))


def torch_file(folder):
    torch.save({"a": Payload()}, folder / WEIGHTS)


def wrong_shapes(folder):
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / WEIGHTS)
    name = next(iter(tensors))
    tensors[name] = torch.zeros(1, 1, 1)
    tensors["intruder"] = torch.zeros(1)
    save_file(tensors, folder / WEIGHTS)
    edit(sha256={WEIGHTS: hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()})(folder)


def flip(folder):
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[-5] ^= 1
    (folder / WEIGHTS).write_bytes(content)


def instead(name, make):
    def apply(folder):
        (folder / name).unlink()
        make(folder / name)

    return apply


def zero(path):
    path.symlink_to("/dev/zero")


def not_a_number(folder):
    from safetensors.torch import load_file, save_file

    save_file(
        {k: v * np.nan if v.is_floating_point() else v for k, v in load_file(folder / WEIGHTS).items()},
        folder / WEIGHTS,
    )


DAMAGE = [
    pytest.param(flip, ValueError, [WEIGHTS, "changed", CARD], id="weights-one-bit"),
    pytest.param(not_a_number, ValueError, [WEIGHTS, "changed", CARD], id="weights-nan"),
    pytest.param(instead(CARD, os.mkfifo), ValueError, [CARD, "pipe"], id="card-pipe"),
    pytest.param(instead(CARD, zero), ValueError, [CARD, "device"], id="card-device"),
    pytest.param(instead(WEIGHTS, os.mkfifo), ValueError, [WEIGHTS, "pipe"], id="weights-pipe"),
    pytest.param(lambda f: (f / CARD).write_text("[" * 200_000), ValueError, [CARD, "JSON"], id="card-deep"),
    pytest.param(edit(sha256=None, arguments__n_latent=20), ValueError, ["shape", CARD], id="earlier-version-other"),
    pytest.param(lambda f: (f / CARD).unlink(), FileNotFoundError, [CARD, "MoRE.save"], id="card-missing"),
    pytest.param(lambda f: (f / WEIGHTS).unlink(), FileNotFoundError, [WEIGHTS, "MoRE.save"], id="weights-missing"),
    pytest.param(cut(WEIGHTS, 200), ValueError, [WEIGHTS, "truncated"], id="weights-truncated"),
    pytest.param(cut(WEIGHTS, 0), ValueError, [WEIGHTS, "truncated"], id="weights-empty"),
    pytest.param(cut(CARD, 100), ValueError, [CARD, "truncated"], id="card-truncated"),
    pytest.param(lambda f: (f / CARD).write_bytes(b"\xff\xfe\x00"), ValueError, [CARD], id="card-binary"),
    pytest.param(lambda f: (f / CARD).write_text("[1, 2]"), ValueError, [CARD, "MoRE.save"], id="card-a-list"),
    pytest.param(pickled(WEIGHTS), ValueError, [WEIGHTS], id="weights-pickle"),
    pytest.param(pickled(CARD), ValueError, [CARD], id="card-pickle"),
    pytest.param(torch_file, ValueError, [WEIGHTS], id="weights-torch-pickle"),
    pytest.param(wrong_shapes, ValueError, [WEIGHTS, "intruder", "shape"], id="weights-of-another-shape"),
    pytest.param(edit(registry=None), ValueError, [CARD, "registry"], id="card-without-registry"),
    pytest.param(edit(format=99), ValueError, ["format 99", "newer"], id="format-newer"),
    pytest.param({"class": "SCVI"}, ValueError, ["'SCVI'", "'MoRE'"], id="class-other"),
    pytest.param(edit(backbone_fingerprint="0" * 64), ValueError, ["fingerprint", "000"], id="backbone-other"),
    pytest.param(edit(arguments__n_latent=-3), ValueError, ["n_latent=-3"], id="argument-illegal"),
    pytest.param(edit(arguments__n_latent=20), ValueError, ["shape", CARD], id="argument-other"),
    pytest.param(edit(arguments__n_latents=7), ValueError, [CARD, "n_latents"], id="argument-unknown"),
    pytest.param(edit(registry__setup_args=None), ValueError, [CARD, "setup_args"], id="registry-edited"),
    pytest.param(edit(registry__field_registries={}), ValueError, [CARD, "edited"], id="registry-empty"),
    pytest.param(edit(arguments__refinement_rank=10**12), ValueError, [CARD], id="argument-vast"),
    pytest.param(edit(arguments__backbone="gone/"), ValueError, [CARD, "'gone/'"], id="backbone-gone"),
    pytest.param(edit(arguments=[1]), ValueError, [CARD, "arguments"], id="arguments-a-list"),
]


@pytest.mark.parametrize("with_data", [True, False], ids=["data", "no-data"])
@pytest.mark.parametrize(("damage", "error", "words"), DAMAGE)
def test_damaged_folder(bench, refused, monkeypatch, damage, error, words, with_data):
    target = bench.folder / "owned"
    monkeypatch.setenv("PAYLOAD_TARGET", str(target))
    folder = bench.saved()
    (edit(**damage) if isinstance(damage, dict) else damage)(folder)
    adata = bench.adata if with_data else False
    refused(bench, lambda: MoRE.load(folder, adata=adata, accelerator="cpu"), error, words)
    assert not target.exists(), "code from the file was executed"


def test_no_folder(bench, refused):
    refused(bench, lambda: MoRE.load(bench.folder / "nope"), FileNotFoundError, ["nope", "MoRE.save"])


def test_a_saved_model_without_its_data(bench, refused):
    folder = bench.saved()
    refused(bench, lambda: MoRE.load(folder), ValueError, ["no saved data", "adata=False"])


@pytest.mark.parametrize(
    ("adata", "words"), [("a.h5ad", ["str", "read_h5ad"]), (True, ["bool"]), (3, ["int"])], ids=["path", "true", "int"]
)
def test_data_of_the_wrong_type(bench, refused, adata, words):
    folder = bench.saved()
    refused(bench, lambda: MoRE.load(folder, adata=adata), TypeError, words)


def test_data_with_other_genes(bench, refused):
    folder = bench.saved()
    bench.adata.var_names = [f"x{i}" for i in range(60)]
    refused(bench, lambda: MoRE.load(folder, adata=bench.adata), ValueError, ["lacks 60 of the 60 genes", "'x0'"])


def test_data_without_the_batch_column(bench, refused):
    folder = bench.saved()
    del bench.adata.obs["batch"]
    refused(bench, lambda: MoRE.load(folder, adata=bench.adata), KeyError, ["batch_key='batch'", "Available"])


def test_data_with_batches_the_model_does_not_know(bench, refused):
    folder = bench.saved()
    bench.adata.obs["batch"] = "new one"
    words = ["obs['batch']", "'new one'", "adata=False", "get_latent_representation"]
    refused(bench, lambda: MoRE.load(folder, adata=bench.adata), ValueError, words)


def test_an_existing_model_is_not_overwritten(bench, refused):
    folder = bench.saved()
    refused(bench, lambda: bench.model.save(folder), ValueError, ["already holds", "overwrite=True"])
    bench.model.save(folder, overwrite=True)


def test_a_file_where_the_folder_should_be(bench, refused):
    (bench.folder / "saved").write_text("notes")
    refused(bench, lambda: bench.model.save(bench.folder / "saved"), ValueError, ["is a file"])
    refused(bench, lambda: bench.model.save(bench.folder / "saved", overwrite=True), ValueError, ["is a file"])


@pytest.mark.parametrize("prefix", ["../x", "a/b", "..\\x", 3])
def test_a_prefix_is_no_path(bench, refused, prefix):
    folder, error = bench.saved(), (ValueError, TypeError)
    for call in (
        lambda: bench.model.save(bench.folder / "m", prefix=prefix),
        lambda: MoRE.load(folder, prefix=prefix),
        lambda: MoRE.load_registry(folder, prefix=prefix),
        lambda: bench.model.load_weights(folder, prefix=prefix),
    ):
        refused(bench, call, error, ["prefix=", "dir_path"])
    assert not (bench.folder / "m").exists()


def test_weights_of_another_save_are_refused(bench, refused):
    folder, other = bench.saved(), bench.folder / "other"
    model = MoRE.load(folder, adata=False, accelerator="cpu")
    torch.nn.init.ones_(next(model.module.parameters()))
    model.save(other, prefix="run_")
    (folder / WEIGHTS).write_bytes((other / f"run_{WEIGHTS}").read_bytes())
    for call in (lambda: MoRE.load(folder, adata=False), lambda: bench.model.load_weights(folder)):
        refused(bench, call, ValueError, [WEIGHTS, "changed", CARD])
    assert torch.equal(
        next(MoRE.load(other, False, prefix="run_").module.parameters()), next(model.module.parameters())
    )


def test_nothing_is_read_from_legacy_saves(bench, refused, monkeypatch):
    monkeypatch.setenv("PAYLOAD_TARGET", str(bench.folder / "owned"))
    (bench.folder / "legacy").mkdir()
    (bench.folder / "legacy" / "attr.pkl").write_bytes(pickle.dumps(Payload()))
    call = lambda: MoRE.convert_legacy_save(bench.folder / "legacy", bench.folder / "new")  # noqa: E731
    refused(bench, call, NotImplementedError, ["MoRE.load"])
    assert not (bench.folder / "owned").exists()


def test_a_card_names_no_place_to_write_to(bench):
    MoRE.setup_anndata(bench.adata, **SETUP)
    MoRE(bench.adata, cache_dir=bench.folder / "cache").save(bench.folder / "m")
    assert "cache" not in (bench.folder / "m" / CARD).read_text()
    edit(arguments__cache_dir=str(bench.folder / "theirs"))(bench.folder / "m")  # as earlier versions wrote it
    assert MoRE.load(bench.folder / "m", adata=False, accelerator="cpu").init_arguments["cache_dir"] is None


def test_genes_in_another_order_and_among_others(bench, shared_model):
    """What inference takes, loading takes."""
    folder, training = bench.saved(), make_data()
    more = ad.concat(
        [training, ad.AnnData(training.X[:, :3], training.obs[[]], pd.DataFrame(index=["x", "y", "z"]))], axis=1
    )
    more.obs = training.obs
    more.layers["counts"] = more.X
    more = more[:, np.random.default_rng(0).permutation(more.n_vars)].copy()
    loaded = MoRE.load(folder, adata=more, accelerator="cpu")
    for ask in (lambda m: m.get_latent_representation(), lambda m: m.predict(soft=True)):
        np.testing.assert_allclose(ask(loaded), ask(shared_model), atol=1e-4)
    loaded.save(bench.folder / "again")
    again = MoRE.load(bench.folder / "again", adata=training, accelerator="cpu")
    np.testing.assert_allclose(again.get_latent_representation(), shared_model.get_latent_representation(), atol=1e-4)


def test_an_interrupted_save_leaves_the_old_model(bench, monkeypatch):
    folder = bench.saved()
    before = {file.name: file.read_bytes() for file in folder.iterdir()}

    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        bench.model.save(folder, overwrite=True)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_an_interrupted_save_of_the_data_leaves_nothing(bench, monkeypatch):
    def fail(self, path, **kwargs):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(type(bench.model.adata), "write_h5ad", fail)
    with pytest.raises(OSError, match="disk full"):
        bench.model.save(bench.folder / "m", save_anndata=True)
    assert not [file for file in (bench.folder / "m").iterdir() if file.suffix == ".h5ad"]


def test_arguments_that_json_does_not_know(bench, refused):
    """NumPy numbers and paths are saved as what they mean; an object that is neither is refused before writing."""
    MoRE.setup_anndata(bench.adata, **SETUP)
    model = MoRE(bench.adata, n_latent=np.int64(6), dropout=np.float32(0.25), cache_dir=bench.folder / "cache")
    model.save(bench.folder / "m")
    loaded = MoRE.load(bench.folder / "m", adata=False, accelerator="cpu")
    assert (loaded.module.n_latent, loaded.init_arguments["dropout"]) == (6, 0.25)
    model.init_arguments["backbone_kwargs"] = {"weights": object()}
    refused(bench, lambda: model.save(bench.folder / "n"), TypeError, ["object", "cannot be saved"])
    assert not (bench.folder / "n").exists()


def test_saving_data_the_model_does_not_have(bench, refused):
    model = MoRE.load(bench.saved(), adata=False, accelerator="cpu")
    refused(bench, lambda: model.save(bench.folder / "m", save_anndata=True), ValueError, ["without data"])


def test_a_device_that_does_not_exist(bench, refused):
    folder = bench.saved()
    with pytest.raises(Exception, match="(?i)abacus"):
        MoRE.load(folder, adata=False, accelerator="abacus")


def test_a_model_loads_with_more_cells_than_it_was_trained_on(bench):
    """Few cells at training, many at loading: sizes come from the file, not from the data."""
    few = make_data(30, seed=3)
    MoRE.setup_anndata(few, **SETUP)
    model = MoRE(few)
    model.train(max_epochs=1, accelerator="cpu", enable_progress_bar=False)
    model.save(bench.folder / "few")
    loaded = MoRE.load(bench.folder / "few", adata=bench.adata, accelerator="cpu")
    assert np.isfinite(loaded.get_latent_representation()).all()
