"""Damaged, foreign and hostile checkpoint files: each refusal names the file and what to do; nothing is run."""

import json
import os
import pickle
import shutil
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from more_scvi.backbones import get_backbone
from more_scvi.backbones._checkpoints import read_dictionary

from .tiny_checkpoints import ENSEMBL, read_pickle, write_dictionaries, write_geneformer, write_pointer, write_scgpt


class Payload:
    """Unpickling it would create a folder."""

    def __reduce__(self):
        return os.mkdir, (os.environ["PAYLOAD_TARGET"],)


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    root = tmp_path_factory.mktemp("originals")
    for version in ("v1", "v2"):
        write_geneformer(root / version, version)
    write_scgpt(root / "scgpt")
    return root


def cut(name, keep=100):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:keep])


def remove(name):
    return lambda folder: (folder / name).unlink()


def pointer(name):
    return lambda folder: write_pointer(folder / name)


def text(name, content):
    return lambda folder: (folder / name).write_text(content)


def edit(name, **changes):
    def apply(folder):
        content = json.loads((folder / name).read_text())
        for key, value in changes.items():
            if value is None:
                del content[key]
            else:
                content[key] = value
        (folder / name).write_text(json.dumps(content))

    return apply


def hostile(name):
    return lambda folder: (folder / name).write_bytes(pickle.dumps({"ENSG": Payload()}))


def hostile_torch(name):
    return lambda folder: torch.save({"a": Payload()}, folder / name)


def weights(name, change):
    def apply(folder):
        path = folder / name
        state = load_file(path) if name.endswith("safetensors") else torch.load(path, weights_only=True)
        state = change(state) or state
        save_file(state, path) if name.endswith("safetensors") else torch.save(state, path)

    return apply


def set_nan(state):
    state[next(n for n in state if n.endswith("layers.0.norm1.weight") or n.endswith("layer.0.output.dense.weight"))][
        0
    ] = np.nan


def pickled(name, change):
    def apply(folder):
        content = read_pickle(folder / name)
        content = change(content) or content
        (folder / name).write_bytes(pickle.dumps(content))

    return apply


def other_version(folder):
    for path in folder.glob("*dict*"):
        path.unlink()
    write_dictionaries(folder, "v1", {name: i for i, name in enumerate(["<pad>", "<mask>", *ENSEMBL])})


def second_dictionary(folder):
    tokens = read_pickle(folder / "token_dictionary_gc104M.pkl")
    a, b = ENSEMBL[:2]
    tokens[a], tokens[b] = tokens[b], tokens[a]
    (folder / "token_dictionary_gc95M.pkl").write_bytes(pickle.dumps(tokens))


def nested(kind):
    value = kind()
    for _ in range(40):
        value = kind([value, value])
    return value


def bomb(name, content):
    return lambda folder: (folder / name).write_bytes(pickle.dumps(content()))


def raw(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def repacked(folder, change, method):
    with zipfile.ZipFile(folder / "best_model.pt") as old:
        records = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(folder / "best_model.pt", "w", method) as new:
        for name, content in records.items():
            new.writestr(name, change(name, content))


def torch_bomb(folder):
    repacked(
        folder, lambda n, c: pickle.dumps({"a": nested(tuple)}) if n.endswith("data.pkl") else c, zipfile.ZIP_STORED
    )


def zip_bomb(folder):
    repacked(folder, lambda n, c: c + bytes(10**7) if n.endswith("data/0") else c, zipfile.ZIP_DEFLATED)


def compress_one(folder):
    """A record that a map would show packed; the file holds no more than it says."""
    path = folder / "best_model.pt"
    with zipfile.ZipFile(path) as old:
        records = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as new:
        for name, content in records.items():
            new.writestr(name, content, zipfile.ZIP_DEFLATED if name.endswith("data/1") else None)


TOKENS, MEDIANS = "token_dictionary_gc104M.pkl", "gene_median_dictionary_gc104M.pkl"
BAD = {
    "pointer instead of safetensors": ("v2", pointer("model.safetensors"), "git-lfs pointer.*git lfs pull"),
    "pointer instead of bin": ("v1", pointer("pytorch_model.bin"), "git-lfs pointer"),
    "pointer instead of a dictionary": ("v2", pointer(TOKENS), "git-lfs pointer"),
    "pointer instead of best_model.pt": ("scgpt", pointer("best_model.pt"), "git-lfs pointer"),
    "pointer instead of vocab.json": ("scgpt", pointer("vocab.json"), "git-lfs pointer"),
    "truncated safetensors": ("v2", cut("model.safetensors"), "truncated or damaged"),
    "truncated bin": ("v1", cut("pytorch_model.bin", 5000), "truncated, damaged"),
    "empty bin": ("v1", cut("pytorch_model.bin", 0), "truncated, damaged"),
    "truncated best_model.pt": ("scgpt", cut("best_model.pt", 5000), "truncated, damaged"),
    "truncated dictionary": ("v2", cut(TOKENS), "not a plain dictionary|truncated or damaged"),
    "truncated vocabulary": ("scgpt", cut("vocab.json"), "truncated or damaged"),
    "truncated arguments": ("scgpt", cut("args.json", 20), "args.json is not readable JSON"),
    "no weights": ("v2", remove("model.safetensors"), "model.safetensors: missing"),
    "no best_model.pt": ("scgpt", remove("best_model.pt"), "best_model.pt: missing"),
    "no medians": ("v2", remove(MEDIANS), "no gene_median_dictionary_gc104M"),
    "no tokens": ("v2", remove(TOKENS), "no token_dictionary.*dictionaries="),
    "hostile dictionary": ("v2", hostile(TOKENS), "asks for .*mkdir"),
    "hostile medians": ("v2", hostile(MEDIANS), "asks for .*mkdir"),
    "hostile bin": ("v1", hostile_torch("pytorch_model.bin"), "Nothing of it was run"),
    "hostile best_model.pt": ("scgpt", hostile_torch("best_model.pt"), "Nothing of it was run"),
    "old pickle as best_model.pt": ("scgpt", hostile("best_model.pt"), "Nothing of it was run"),
    "dictionary of the other version": ("v2", other_version, "vocab_size 64.*sizes.*: 62.*V1 and V2"),
    "two dictionaries that differ": ("v2", second_dictionary, "differ.*dictionaries="),
    "token id twice": ("v2", pickled(TOKENS, lambda d: d.update({ENSEMBL[0]: 5})), "0 to 63, each once"),
    "token id not whole": ("v2", pickled(TOKENS, lambda d: d.update({ENSEMBL[0]: 4.0})), "0 to 63, each once"),
    "no padding token": ("v2", pickled(TOKENS, lambda d: {k.replace("<pad>", "<p>"): v for k, v in d.items()}), "<p>"),
    "median lacks a gene": ("v2", pickled(MEDIANS, lambda d: d.pop(ENSEMBL[3]) and None), "lacks 1 genes"),
    "median of zero": ("v2", pickled(MEDIANS, lambda d: d.update({ENSEMBL[3]: 0.0})), "not a positive number"),
    "median as a word": ("v2", pickled(MEDIANS, lambda d: d.update({ENSEMBL[3]: "two"})), "not a positive number"),
    "list instead of a dictionary": ("v2", pickled(TOKENS, lambda d: list(d)), "holds a list"),
    "config is no BERT": ("v2", edit("config.json", num_hidden_layers=0), "num_hidden_layers is 0"),
    "config lacks a size": ("v2", edit("config.json", hidden_size=None), "has no hidden_size"),
    "config of a wider model": ("v2", edit("config.json", hidden_size=64), r"\(64, 32\).*implies \(64, 64\)"),
    "config of a deeper model": ("v2", edit("config.json", num_hidden_layers=4), "16 tensors are missing"),
    "config without end": ("v2", edit("config.json", num_hidden_layers=10**7), "10000000; at most 1000"),
    "config with endless positions": ("v2", edit("config.json", max_position_embeddings=10**13), "implies"),
    "config with a vast hidden layer": ("v2", edit("config.json", intermediate_size=10**13), "implies"),
    "deep config": ("v2", text("config.json", "[" * 200_000), "config.json is not readable JSON"),
    "bins without end": ("scgpt", edit("args.json", n_bins=10**12), "n_bins is 1000000000000; at most"),
    "lists in lists": ("v2", bomb(TOKENS, lambda: {"a": nested(list)}), "str to list"),
    "tuples in tuples": ("v2", bomb(TOKENS, lambda: [nested(tuple)]), "beyond all measure"),
    "memo without end": ("v2", raw(TOKENS, b"\x80\x04}r\xff\xff\xff\x7f."), "beyond all measure"),
    "tuples in tuples in tensors": ("scgpt", torch_bomb, "beyond all measure"),
    "tensors that unpack to more": ("scgpt", zip_bomb, "unpack to more"),
    "tensors that are compressed": ("scgpt", compress_one, "records are compressed"),
    "config of a shallower model": ("v2", edit("config.json", num_hidden_layers=2), "16 unexpected"),
    "config with more positions": ("v2", edit("config.json", max_position_embeddings=64), "position_embeddings"),
    "config with heads that do not divide": ("v2", edit("config.json", num_attention_heads=5), "no network from it"),
    "config with an unknown activation": ("v2", edit("config.json", hidden_act="rolu"), "no network from it.*rolu"),
    "config with relative positions": ("v2", edit("config.json", position_embedding_type="relative_key"), "'absolute'"),
    "NaN in a tensor of BERT": ("v2", weights("model.safetensors", set_nan), "NaN or infinite"),
    "NaN in a tensor of scGPT": ("scgpt", weights("best_model.pt", set_nan), "NaN or infinite"),
    "not a state dict": ("scgpt", weights("best_model.pt", lambda s: {"epoch": 3, "model": s}), "state dict"),
    "tensors of another model": ("scgpt", weights("best_model.pt", lambda s: {"encoder.x": torch.ones(2)}), "lacks"),
    "layers of its own": (
        "scgpt", weights("best_model.pt", lambda s: s.update({"dsbn.bns.0.weight": torch.ones(3)})), "dsbn.*precomputed"
    ),
    "vocabulary of another checkpoint": ("scgpt", edit("vocab.json", GENE3=None), "0 to 61"),
    "longer vocabulary": ("scgpt", edit("vocab.json", OTHER=63), "64 tokens, but .* 63 rows"),
    "vocabulary without <cls>": ("scgpt", edit("vocab.json", **{"<cls>": None, "OTHER": 61}), "no <pad> or no <cls>"),
    "arguments of a wider model": ("scgpt", edit("args.json", embsize=64), "embsize.* is 64.* have 32"),
    "arguments of a deeper model": ("scgpt", edit("args.json", nlayers=12), "nlayers is 12.* have 3"),
    "heads that do not divide": ("scgpt", edit("args.json", nheads=5), "5 heads"),
    "another style of values": ("scgpt", edit("args.json", input_emb_style="category"), "only 'continuous'"),
    "another place of norms": ("scgpt", edit("args.json", pre_norm=True), "only False"),
    "arguments that are a list": ("scgpt", text("args.json", "[1]"), "holds a list"),
    "padding value as a word": ("scgpt", edit("args.json", pad_value="-2"), "pad_value is '-2'"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_files(originals, tmp_path, monkeypatch, case):
    kind, damage, message = BAD[case]
    folder = shutil.copytree(originals / kind, tmp_path / "weights")
    monkeypatch.setenv("PAYLOAD_TARGET", str(tmp_path / "payload"))
    damage(folder)
    name = "scgpt" if kind == "scgpt" else "geneformer"
    with pytest.raises(ValueError, match=message) as error:
        get_backbone(name, path=folder)
    assert str(folder) in str(error.value)
    assert not (tmp_path / "payload").exists()


@pytest.mark.parametrize("module", ["numpy.core.multiarray", "numpy._core.multiarray"])
@pytest.mark.parametrize("number", [np.int16(-3), np.float64(0.25), np.uint8(7), np.float32(1.5)])
def test_numbers_of_numpy_come_out_of_pickles(tmp_path, module, number):
    raw = pickle.dumps({"a": number, "b": 1}, protocol=4)
    for spelling in (b"numpy._core.multiarray", b"numpy.core.multiarray"):
        old, new = len(spelling).to_bytes(1, "little") + spelling, len(module).to_bytes(1, "little") + module.encode()
        raw = raw.replace(b"\x8c" + old, b"\x8c" + new)
    path = tmp_path / "d.pkl"
    path.write_bytes(_without_frame(raw))
    assert read_dictionary(path) == {"a": number.item(), "b": 1}


def _without_frame(raw: bytes) -> bytes:
    """Drop the frame header, whose length no longer fits."""
    return raw[:2] + raw[11:] if raw[2:3] == b"\x95" else raw


@pytest.mark.parametrize(
    "content",
    [print, np.dtype, {"a": np.array([1, 2])}, {"a": np.str_("x")}, {"a": [1]}, {"a": None}, {1: 2}, {}, {"a": {1}}],
)
def test_other_content_of_pickles_is_refused(tmp_path, content):
    path = tmp_path / "d.pkl"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match=r"d\.pkl"):
        read_dictionary(path)


def test_dictionaries_must_be_a_folder(originals):
    with pytest.raises(ValueError, match="dictionaries='nowhere' is not a folder"):
        get_backbone(originals / "v2", dictionaries="nowhere")
