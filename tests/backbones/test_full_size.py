"""Extraction at full size, on tiny folders: chunks by tokens, memory said, kills, precision, mapped weights."""

import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.sparse import csr_matrix

from more_scvi.backbones import (
    _chunks,
    _synthetic,
    _tokens,
    compute_features,
    get_backbone,
    make_panels,
    synthetic_counts,
    token_chunks,
    write_synthetic,
)
from more_scvi.data import match_genes

from .tiny_checkpoints import write_geneformer, write_scgpt

KINDS = ("geneformer", "scgpt")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("synthetic")
    return {kind: write_synthetic(root / kind, kind) for kind in KINDS}


@pytest.fixture(params=KINDS)
def backbone(request, folders):
    return get_backbone(folders[request.param])


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(_tokens, "_BLOCK_TOKENS", 64)
    monkeypatch.setattr(_tokens, "_WIDTH_STEP", 16)
    monkeypatch.setattr(_chunks, "_BLOCKS", 2)


@pytest.fixture
def said(monkeypatch):
    lines = []
    monkeypatch.setattr(logging.getLogger("more_scvi"), "info", lines.append)
    return lines


def counts(backbone, n_cells=24):
    return synthetic_counts(backbone, n_cells, n_genes=20)


def names(backbone):
    return list(backbone.vocabulary.human_symbol)


class TestSynthetic:
    """Folders of random weights."""

    @pytest.mark.parametrize(
        ("kind", "write"),
        [("geneformer", lambda folder: write_geneformer(folder, "v2")), ("scgpt", write_scgpt)],
        ids=KINDS,
    )
    def test_files_and_tensors_are_those_of_the_models_own_code(self, folders, tmp_path, kind, write):
        write(tmp_path)
        ours, theirs = ({p.name for p in folder.iterdir()} for folder in (folders[kind], tmp_path))
        assert ours == theirs

        def tensors(folder):
            if kind == "geneformer":
                return set(load_file(folder / "model.safetensors"))
            return set(torch.load(folder / "best_model.pt", weights_only=True))

        def without_depth(found):
            return {re.sub(r"layers?\.\d+", "layer", name) for name in found if not re.match(r"(mvc_)?decoder\.", name)}

        assert without_depth(tensors(folders[kind])) == without_depth(tensors(tmp_path))

    def test_seed_and_type(self, folders, tmp_path):
        again = write_synthetic(tmp_path / "again", "scgpt")
        other = write_synthetic(tmp_path / "other", "scgpt", seed=1)
        prints = [get_backbone(folder).fingerprint() for folder in (folders["scgpt"], again, other)]
        assert prints[0] == prints[1] != prints[2]
        half = write_synthetic(tmp_path / "half", "geneformer", dtype=torch.float16)
        loaded = get_backbone(half)
        assert {tensor.dtype for tensor in loaded.parameters()} == {torch.float32}
        full = get_backbone(folders["geneformer"])
        for a, b in zip(loaded.parameters(), full.parameters(), strict=True):
            torch.testing.assert_close(a, b.half().float(), atol=0, rtol=0)

    @pytest.mark.parametrize(
        ("kind", "size", "millions"),
        [("geneformer", "V1-10M", 10.29), ("geneformer", "V2-104M", 104.4), ("geneformer", "V2-316M", 316.35)]
        + [("scgpt", "whole-human", 51.33)],
    )
    def test_published_sizes(self, kind, size, millions):
        shapes = getattr(_synthetic, f"_{kind}_shapes")(_synthetic.SYNTHETIC[kind][size])
        assert sum(int(np.prod(shape)) for _, shape in shapes) / 1e6 == pytest.approx(millions, rel=5e-4)

    @pytest.mark.parametrize(
        ("kwargs", "message"),
        [
            ({"kind": "uce"}, "kind='uce'.*geneformer"),
            ({"size": "huge"}, "size='huge'.*V2-104M"),
            ({"seed": -1}, "seed=-1"),
        ],
    )
    def test_unknown_options(self, tmp_path, kwargs, message):
        with pytest.raises((TypeError, ValueError), match=message):
            write_synthetic(tmp_path, **({"kind": "geneformer"} | kwargs))

    def test_counts(self, backbone):
        x = synthetic_counts(backbone, 400, n_genes=20)
        assert x.shape == (400, len(backbone.vocabulary)) and x.data.min() >= 1
        assert np.median(np.diff(x.indptr)) == pytest.approx(20, rel=0.15)
        assert (synthetic_counts(backbone, 400, n_genes=20) != x).nnz == 0
        with pytest.raises(ValueError, match="no vocabulary"):
            synthetic_counts(get_backbone("precomputed", n_features=3), 2)
        with pytest.raises((TypeError, ValueError), match="n_cells=0"):
            synthetic_counts(backbone, 0)


class TestChunks:
    """Chunks and the bar go by tokens."""

    def test_lengths_are_those_of_the_sequences(self, backbone):
        x = counts(backbone).toarray()
        x[3] = 0
        match = match_genes(names(backbone), backbone.vocabulary)
        sequences = backbone._sequences(x, match, None, False)
        np.testing.assert_array_equal(backbone.lengths(x, match), [len(ids) for ids, _ in sequences])

    def test_no_chunk_has_more_tokens_unless_a_cell_has(self, backbone):
        x, match = counts(backbone), match_genes(names(backbone), backbone.vocabulary)
        plan = _chunks.plan_chunks(backbone, x, match, 8)
        lengths, rows = backbone.lengths(x, match), list(plan)
        assert [start for start, _, _ in rows][1:] == [stop for _, stop, _ in rows][:-1]
        assert (rows[0][0], rows[-1][1]) == (0, 24) and plan.longest == lengths.max() and plan.unit == "token"
        for start, stop, amount in rows:
            assert amount == lengths[start:stop].sum()
            assert stop - start <= 8 and (amount <= 2 * backbone.tokens_at_once or stop - start == 1)
        assert any(stop - start < 8 for start, stop, _ in rows[:-1])  # the tokens end it, not the cells
        rest = _chunks.plan_chunks(backbone, x, match, 5, n_done=7)
        assert rest.starts[0] == 7 and rest.done == lengths[:7].sum()
        assert rest.done + sum(rest.amounts) == lengths.sum()

    def test_features_do_not_depend_on_them(self, backbone, monkeypatch):
        x, panels = counts(backbone), make_panels(60, n_panels=1)
        few = compute_features(backbone, x, names(backbone), panels=panels, progress=False)
        monkeypatch.setattr(_chunks, "_BLOCKS", 100)
        many = compute_features(backbone, x, names(backbone), panels=panels, progress=False)
        np.testing.assert_array_equal(few.full, many.full)
        np.testing.assert_array_equal(few.views, many.views)

    def test_the_bar_counts_tokens(self, backbone, monkeypatch, tmp_path):
        bars = []

        class Bar:
            def __init__(self, **kwargs):
                self.kwargs, self.n = kwargs, kwargs["initial"]
                bars.append(self)

            def __enter__(self):
                return self

            def __exit__(self, *error):
                return False

            def update(self, amount):
                self.n += amount

        monkeypatch.setattr(_chunks, "progress_bar", Bar)
        x = counts(backbone)
        lengths = backbone.lengths(x, match_genes(names(backbone), backbone.vocabulary))
        compute_features(backbone, x, names(backbone))
        assert bars[0].kwargs["unit"] == "token"
        assert bars[0].n == bars[0].kwargs["total"] == lengths.sum()
        list(token_chunks(backbone, x, names(backbone), depth=1))
        assert bars[1].n == bars[1].kwargs["total"] == lengths.sum()

    def test_cells_are_the_unit_where_all_cost_the_same(self, tiny):
        plan = _chunks.plan_chunks(tiny, csr_matrix((30, 60)), None, 7, n_done=14)
        assert plan.unit == "cell" and list(plan) == [(14, 21, 7), (21, 28, 7), (28, 30, 2)] and plan.done == 14
        assert list(_chunks.plan_chunks(tiny, csr_matrix((30, 60)), None, 7, n_done=30)) == []


class TestMemory:
    """What an extraction takes is said before it starts."""

    def test_it_is_said_first_and_follows_from_sizes(self, backbone, said, monkeypatch, tmp_path):
        monkeypatch.setattr(_chunks, "_WORTH_SAYING", 0)
        monkeypatch.setattr(type(backbone), "encode", lambda self, *_, **__: 1 / 0)
        x, panels = counts(backbone), make_panels(60, n_panels=2)
        with pytest.raises(ZeroDivisionError):
            compute_features(backbone, x, names(backbone), panels=panels, cache_dir=tmp_path, progress=True)
        (line,) = said
        assert f"(24 cells x 3 views x {backbone.n_features}, float16)" in line and str(tmp_path) in line
        assert re.search(r"of weights, .* of features in .*, at most .* at work; [\d,]+ tokens in", line)

    def test_little_is_not_said(self, backbone, said):
        compute_features(backbone, counts(backbone), names(backbone), progress=True)
        assert said == []

    def test_published_sizes_stay_within_four_gigabytes(self, monkeypatch):
        monkeypatch.undo()  # blocks of the usual size
        sizes = _synthetic.SYNTHETIC["geneformer"]["V2-104M"]
        layer = torch.nn.Linear(sizes.d_model, sizes.d_hidden, device="meta")

        class Full(_tokens.TokenBackbone):
            _sequence = _embed = None
            d_model, max_length, device = sizes.d_model, sizes.n_tokens, torch.device("cpu")

            def __init__(self):
                torch.nn.Module.__init__(self)

            def _layers(self):
                return [layer]

        assert Full().tokens_at_once == sizes.n_tokens == 4096
        assert Full().working_bytes() == 4 * 4096 * (16 * 768 + 3 * 3072) < 4e9

    def test_tokens_that_are_kept_are_said(self, backbone, said, monkeypatch):
        monkeypatch.setattr(_chunks, "_WORTH_SAYING", 0)
        x = counts(backbone)
        longest = backbone.lengths(x, match_genes(names(backbone), backbone.vocabulary)).max()
        next(token_chunks(backbone, x, names(backbone), depth=2))
        (line,) = said
        assert "last 2 layers of 24 cells" in line and f"({longest} tokens of width 32, float16)" in line

    def test_passes_through_adapters_are_bounded_by_tokens(self):
        from more_scvi.model._inside import TOKENS_PER_PASS, _passes

        for n_cells, width in ((0, 0), (1, 5000), (300, 2048), (300, 16)):
            passes = _passes(n_cells, width)
            assert np.concatenate([np.arange(n_cells)[part] for part in passes]).tolist() == list(range(n_cells))
            assert all((part.stop - part.start) * width <= max(TOKENS_PER_PASS, width) for part in passes)

    @pytest.mark.parametrize("kind", KINDS)
    def test_files_that_change_leave_a_network_as_it_is(self, kind, tmp_path):
        """Weights are read from a mapped file, but copied out of it."""
        folder = write_synthetic(tmp_path, kind)
        backbone = get_backbone(folder)
        before = backbone.fingerprint()
        for path in folder.iterdir():
            with path.open("r+b") as handle:  # in place: the same file that was mapped
                handle.write(b"\1" * path.stat().st_size)
        assert backbone.fingerprint() == before


def test_files_of_old_torch_are_read_without_a_map(folders, tmp_path):
    shutil.copytree(folders["scgpt"], tmp_path / "old")
    path = tmp_path / "old" / "best_model.pt"
    torch.save(torch.load(path, weights_only=True), path, _use_new_zipfile_serialization=False)
    assert get_backbone(tmp_path / "old").fingerprint() == get_backbone(folders["scgpt"]).fingerprint()


SCRIPT = """
import os, signal, sys
from more_scvi.backbones import _chunks, _tokens, compute_features, get_backbone, make_panels, synthetic_counts

folder, cache = sys.argv[1:]
_tokens._BLOCK_TOKENS, _tokens._WIDTH_STEP, _chunks._BLOCKS = 64, 16, 2
backbone, encode, calls = get_backbone(folder), _tokens.TokenBackbone.encode, []

def dying(self, *args, **kwargs):
    calls.append(1)
    if len(calls) == 6:
        os.kill(os.getpid(), signal.SIGKILL)
    return encode(self, *args, **kwargs)

_tokens.TokenBackbone.encode = dying
x = synthetic_counts(backbone, 24, n_genes=20)
names = list(backbone.vocabulary.human_symbol)
compute_features(backbone, x, names, panels=make_panels(60, n_panels=1), cache_dir=cache)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs a signal that nothing catches")
def test_a_killed_process_loses_one_chunk(folders, tmp_path, monkeypatch):
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT), str(folders["geneformer"]), str(tmp_path)]
    done = subprocess.run(command, env=os.environ | {"TQDM_DISABLE": "1"}, capture_output=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    backbone = get_backbone(folders["geneformer"])
    x, panels, rows = counts(backbone), make_panels(60, n_panels=1), []
    encode = type(backbone).encode

    def counting(self, part, *args, **kwargs):
        rows.append(part.shape[0])
        return encode(self, part, *args, **kwargs)

    plan = _chunks.plan_chunks(backbone, x, match_genes(names(backbone), backbone.vocabulary), 2048)
    expected = compute_features(backbone, x, names(backbone), panels=panels, progress=False)
    with monkeypatch.context() as patch:
        patch.setattr(type(backbone), "encode", counting)
        found = compute_features(backbone, x, names(backbone), panels=panels, cache_dir=tmp_path, progress=False)
    assert sum(rows) == 2 * (24 - plan.starts[2])  # two views; killed at the second view of the third chunk
    np.testing.assert_array_equal(found.full, expected.full)
    np.testing.assert_array_equal(found.views, expected.views)


def test_bfloat16_is_float32_within_a_tolerance_in_every_layer(backbone):
    """The tolerance that docs/foundation/index.md states."""
    x, given = counts(backbone, 60), {"dtype": "float32", "progress": False}
    exact, half = (
        compute_features(backbone, x, names(backbone), precision=precision, **given).full.reshape(
            60, backbone.n_pooled, -1
        )
        for precision in ("float32", "bfloat16")
    )
    error = np.linalg.norm(half - exact, axis=(0, 2)) / np.linalg.norm(exact, axis=(0, 2))
    cosine = (half * exact).sum(2) / np.linalg.norm(half, axis=2) / np.linalg.norm(exact, axis=2)
    assert (error <= 0.02).all() and (cosine >= 0.999).all()
    assert (error[1:] > 0).all()  # it is another precision


@pytest.mark.parametrize(
    ("tiles", "products", "weights", "precision"),
    [(True, False, 1, "bfloat16"), (False, True, 3 * 10**7, "bfloat16"), (False, True, 10**7, "float32")]
    + [(False, False, 10**9, "float32")],
)
def test_precision_follows_from_cpu_and_size(backbone, monkeypatch, tiles, products, weights, precision):
    for name, found in (("amx_tile", tiles), ("avx512_bf16", products)):
        monkeypatch.setattr(torch.cpu, f"_is_{name}_supported", lambda found=found: found, raising=False)
    monkeypatch.setattr(type(backbone), "n_parameters", lambda self: weights)
    x, given = counts(backbone), {"progress": False, "dtype": "float32"}
    auto = compute_features(backbone, x, names(backbone), **given)
    explicit = compute_features(backbone, x, names(backbone), precision=precision, **given)
    assert auto.fingerprint == explicit.fingerprint
    np.testing.assert_array_equal(auto.full, explicit.full)


def test_a_saved_store_says_nothing_when_it_is_done(backbone, said, monkeypatch, tmp_path):
    monkeypatch.setattr(_chunks, "_WORTH_SAYING", 0)
    x = counts(backbone)
    for expected in (1, 1):  # nothing is left the second time
        compute_features(backbone, x, names(backbone), cache_dir=tmp_path)
        assert len(said) == expected
