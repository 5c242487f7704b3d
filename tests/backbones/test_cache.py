"""The feature cache: any matrix, any chunk size, resumable, damage is noticed."""

import errno
import json
import logging
import os
from concurrent.futures import ThreadPoolExecutor

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from filelock import FileLock
from scipy.sparse import csc_array, csr_array, csr_matrix

from more_scvi.backbones import Precomputed, compute_features, make_panels
from more_scvi.data import match_genes


def features(backbone, x, genes, **kwargs):
    return compute_features(backbone, x, genes, progress=False, **kwargs)


@pytest.fixture
def panels():
    return make_panels(60, n_panels=2)


@pytest.fixture
def reference(tiny, counts, genes, panels):
    return features(tiny, counts, genes, panels=panels)


def only_folder(path):
    (folder,) = path.iterdir()
    return folder


def test_panels_are_seeded_and_of_the_size_asked_for():
    panels = make_panels(101, n_panels=4, visible=0.3, seed=3)
    assert panels.shape == (4, 101)
    assert (panels.sum(1) == 30).all()
    np.testing.assert_array_equal(panels, make_panels(101, n_panels=4, visible=0.3, seed=3))
    assert (panels != make_panels(101, n_panels=4, visible=0.3, seed=4)).any()
    assert (panels[0] != panels[1]).any()
    assert make_panels(3, visible=0.01).sum() == 3


@pytest.mark.parametrize(
    "kwargs",
    [
        {"visible": 0}, {"visible": 1.5}, {"visible": "half"}, {"visible": np.nan}, {"n_panels": -1},
        {"n_panels": 2.5}, {"n_genes": 0}, {"n_genes": "10"}, {"n_genes": None}, {"seed": -1}, {"seed": None},
    ],
)  # fmt: skip
def test_panels_that_cannot_be(kwargs):
    [(name, value)] = kwargs.items()
    with pytest.raises((TypeError, ValueError), match=f"{name}={value!r}"):
        make_panels(**({"n_genes": 10} | kwargs))


def test_shapes_and_values(tiny, counts, genes, panels, reference):
    assert reference.full.shape == (30, 8)
    assert reference.views.shape == (30, 2, 8)
    assert reference.full.dtype == reference.views.dtype == np.float16
    match = match_genes(genes, tiny.vocabulary)
    np.testing.assert_array_equal(reference.full, tiny.encode(counts, match).astype(np.float16))
    view = tiny.encode(counts, match, visible=panels[1])
    np.testing.assert_array_equal(reference.views[:, 1], view.astype(np.float16))


@pytest.mark.parametrize("chunk_size", [1, 7, 1000])
def test_chunk_size_changes_nothing(tiny, counts, genes, panels, reference, chunk_size):
    cache = features(tiny, counts, genes, panels=panels, chunk_size=chunk_size)
    np.testing.assert_array_equal(cache.full, reference.full)
    np.testing.assert_array_equal(cache.views, reference.views)
    assert cache.fingerprint == reference.fingerprint


@pytest.mark.parametrize(
    "convert",
    [
        csr_array, csc_array, lambda x: x.toarray(), lambda x: x.toarray().astype(np.int32), lambda x: x.astype(float),
        lambda x: torch.tensor(x.toarray()), lambda x: pd.DataFrame(x.toarray()),
    ],
    ids=["csr_array", "csc_array", "dense", "integer", "double", "tensor", "frame"],
)  # fmt: skip
def test_kind_of_matrix_changes_nothing(tiny, counts, genes, panels, reference, convert):
    cache = features(tiny, convert(counts), genes, panels=panels, chunk_size=7)
    np.testing.assert_array_equal(cache.full, reference.full)
    assert cache.fingerprint == reference.fingerprint


def test_unsorted_indices_change_nothing(tiny, counts, genes, reference, panels):
    reverse = [np.arange(a, b)[::-1] for a, b in zip(counts.indptr, counts.indptr[1:], strict=False)]
    order = np.concatenate(reverse)
    x = csr_matrix((counts.data[order], counts.indices[order], counts.indptr), counts.shape)
    np.testing.assert_array_equal(features(tiny, x, genes, panels=panels).full, reference.full)


def test_backed_data(tiny, counts, genes, panels, reference, tmp_path):
    ad.AnnData(counts).write_h5ad(tmp_path / "x.h5ad")
    backed = ad.read_h5ad(tmp_path / "x.h5ad", backed="r")
    cache = features(tiny, backed.X, genes, panels=panels, chunk_size=7)
    np.testing.assert_array_equal(cache.full, reference.full)
    with h5py.File(tmp_path / "dense.h5", "w") as file:
        dense = file.create_dataset("x", data=counts.toarray())
        np.testing.assert_array_equal(features(tiny, dense, genes, panels=panels).full, reference.full)


def test_on_disk_is_a_read_only_map_with_the_same_values(tiny, counts, genes, panels, reference, tmp_path):
    cache = features(tiny, counts, genes, panels=panels, cache_dir=tmp_path)
    assert isinstance(cache.full, np.memmap)
    assert not cache.full.flags.writeable
    np.testing.assert_array_equal(cache.full, reference.full)
    np.testing.assert_array_equal(cache.views, reference.views)


class TestResume:
    """What happens after a kill, and to files that are damaged."""

    class Killed(Exception):
        pass

    def count_encodes(self, monkeypatch, backbone, die_at=None):
        calls, encode = [], type(backbone).encode

        def counting(self_, x, *args, **kwargs):
            calls.append(x.shape[0])
            if die_at is not None and len(calls) >= die_at:
                raise TestResume.Killed
            return encode(self_, x, *args, **kwargs)

        monkeypatch.setattr(type(backbone), "encode", counting)
        return calls

    def test_takes_up_where_it_was_killed(self, tiny, counts, genes, reference, tmp_path, monkeypatch):
        with monkeypatch.context() as patch:
            self.count_encodes(patch, tiny, die_at=4)
            with pytest.raises(TestResume.Killed):
                features(tiny, counts, genes, chunk_size=7, cache_dir=tmp_path)
        calls = self.count_encodes(monkeypatch, tiny)
        cache = features(tiny, counts, genes, chunk_size=7, cache_dir=tmp_path)
        assert sum(calls) == 30 - 3 * 7
        np.testing.assert_array_equal(cache.full, reference.full)

    def test_finished_cache_is_read_not_computed(self, tiny, counts, genes, reference, tmp_path, monkeypatch):
        features(tiny, counts, genes, cache_dir=tmp_path)
        calls = self.count_encodes(monkeypatch, tiny)
        np.testing.assert_array_equal(features(tiny, counts, genes, cache_dir=tmp_path).full, reference.full)
        assert calls == []

    def test_changed_bytes_are_computed_again(self, tiny, counts, genes, reference, tmp_path, monkeypatch):
        features(tiny, counts, genes, chunk_size=10, cache_dir=tmp_path)
        file = only_folder(tmp_path) / "features.npy"
        content = bytearray(file.read_bytes())
        content[-20] ^= 255  # a row of the last chunk
        file.write_bytes(content)
        calls = self.count_encodes(monkeypatch, tiny)
        cache = features(tiny, counts, genes, chunk_size=10, cache_dir=tmp_path)
        assert sum(calls) == 10
        np.testing.assert_array_equal(cache.full, reference.full)

    @pytest.mark.parametrize("file", ["features.npy", "progress.json"])
    @pytest.mark.parametrize("keep", [0, 50, -10])
    def test_truncated_files_are_computed_again(self, tiny, counts, genes, reference, tmp_path, file, keep):
        features(tiny, counts, genes, cache_dir=tmp_path)
        path = only_folder(tmp_path) / file
        path.write_bytes(path.read_bytes()[:keep])
        cache = features(tiny, counts, genes, cache_dir=tmp_path)
        np.testing.assert_array_equal(cache.full, reference.full)

    @pytest.mark.parametrize(
        ("file", "write"),
        [
            ("features.npy", lambda path: np.savez(path.open("wb"), x=np.zeros(3))),
            ("features.npy", lambda path: np.save(path, np.array([{}]), allow_pickle=True)),
            ("features.npy", lambda path: (path.unlink(), os.mkfifo(path))),
            ("progress.json", lambda path: path.write_text('{"blocks": [[0, Infinity, 1]]}')),
            ("progress.json", lambda path: path.write_text("[" * 200_000)),
            ("progress.json", lambda path: path.write_text("[]")),
        ],
        ids=["zip", "objects", "pipe", "infinity", "deep", "list"],
    )
    def test_files_that_are_something_else(self, tiny, counts, genes, reference, tmp_path, file, write):
        features(tiny, counts, genes, cache_dir=tmp_path)
        write(only_folder(tmp_path) / file)
        np.testing.assert_array_equal(features(tiny, counts, genes, cache_dir=tmp_path).full, reference.full)

    def test_finished_cache_of_another_user(self, tiny, counts, genes, reference, tmp_path, monkeypatch):
        features(tiny, counts, genes, cache_dir=tmp_path)

        def refuse(self, *args, **kwargs):
            raise PermissionError(errno.EACCES, "Permission denied", self.lock_file)

        monkeypatch.setattr(FileLock, "acquire", refuse)
        cache = features(tiny, counts, genes, cache_dir=tmp_path)
        np.testing.assert_array_equal(cache.full, reference.full)
        with pytest.raises(PermissionError, match=r"cannot be written.*cache_dir=None"):
            features(tiny, counts[::-1], genes, cache_dir=tmp_path)

    def test_full_disk_is_said_before_anything_is_computed(self, tiny, counts, genes, reference, tmp_path, monkeypatch):
        def full(*args):
            raise OSError(errno.ENOSPC, "No space left on device")

        calls = self.count_encodes(monkeypatch, tiny)
        with monkeypatch.context() as patch:
            patch.setattr(os, "posix_fallocate", full)
            with pytest.raises(OSError, match=r"no room for the .* bytes.*cache_dir"):
                features(tiny, counts, genes, cache_dir=tmp_path)
        assert not calls and not (only_folder(tmp_path) / "features.npy").exists()
        np.testing.assert_array_equal(features(tiny, counts, genes, cache_dir=tmp_path).full, reference.full)

    def test_room_is_claimed_before_rows_are_written(self, tiny, counts, genes, tmp_path, monkeypatch):
        with monkeypatch.context() as patch:
            self.count_encodes(patch, tiny, die_at=1)
            with pytest.raises(TestResume.Killed):
                features(tiny, counts, genes, cache_dir=tmp_path)
        held = (only_folder(tmp_path) / "features.npy").stat()
        assert held.st_blocks * 512 >= held.st_size

    def test_progress_of_another_run_is_not_believed(self, tiny, counts, genes, reference, tmp_path):
        features(tiny, counts, genes, cache_dir=tmp_path)
        path = only_folder(tmp_path) / "progress.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"fingerprint": "other"}))
        np.testing.assert_array_equal(features(tiny, counts, genes, cache_dir=tmp_path).full, reference.full)


def test_two_processes_share_one_cache(tiny, counts, genes, reference, tmp_path):
    with ThreadPoolExecutor(2) as threads:
        runs = [threads.submit(features, tiny, counts, genes, chunk_size=3, cache_dir=tmp_path) for _ in range(2)]
    for run in runs:
        np.testing.assert_array_equal(run.result().full, reference.full)


def test_fingerprint_follows_everything_that_features_follow_from(tiny, make_tiny, counts, genes, panels, reference):
    changed = counts.copy()
    changed.data[5] += 1
    prints = {
        reference.fingerprint,
        features(tiny, changed, genes, panels=panels).fingerprint,
        features(tiny, counts, genes[::-1], panels=panels).fingerprint,
        features(tiny, counts, genes).fingerprint,
        features(tiny, counts, genes, panels=~panels).fingerprint,
        features(tiny, counts.log1p(), genes, panels=panels, normalised=True).fingerprint,
        features(tiny, counts, genes, panels=panels, dtype="float32").fingerprint,
        features(tiny, counts, genes, panels=panels, precision="bfloat16").fingerprint,
        features(make_tiny(1), counts, genes, panels=panels).fingerprint,
    }
    assert len(prints) == 9


def test_bfloat16_is_close(tiny, counts, genes, reference):
    cache = features(tiny, counts, genes, precision="bfloat16")
    error = np.abs(cache.full.astype(float) - reference.full.astype(float))
    assert 0 < error.max() < 0.1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.gpu
def test_cuda_agrees_with_the_cpu(tiny, counts, genes, reference):
    cache = features(tiny, counts, genes, device="cuda", precision="float32")
    np.testing.assert_allclose(cache.full.astype(float), reference.full.astype(float), atol=1e-2)
    assert tiny.device.type == "cpu"


def test_precomputed_has_no_views():
    x = np.random.default_rng(0).normal(size=(5, 3))
    cache = features(Precomputed(3), x, None, panels=make_panels(3))
    np.testing.assert_array_equal(cache.full, x.astype(np.float16))
    assert cache.views.shape == (5, 0, 3)


def test_few_known_genes_warn_and_none_is_an_error(tiny, counts, genes, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("more_scvi"), "propagate", True)
    names = [*genes[:3], *(f"peak{i}" for i in range(57))]
    features(tiny, counts, names)
    assert "Only 3 of 60 genes" in caplog.text
    with pytest.raises(ValueError, match=r"peak0, peak1, peak2.*gene_key"):
        features(tiny, counts, [f"peak{i}" for i in range(60)])


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"chunk_size": 0}, "chunk_size=0"),
        ({"device": "abacus"}, "device='abacus'"),
        ({"device": "meta"}, "device='meta'.*'cpu'"),
        ({"dtype": "int8"}, "int8"),
        ({"precision": "half"}, "float32, bfloat16"),
        ({"panels": np.ones((1, 3), bool)}, r"\(1, 3\)"),
    ],
)
def test_unknown_options(tiny, counts, genes, kwargs, message):
    with pytest.raises(ValueError, match=message):
        features(tiny, counts, genes, **kwargs)


def test_no_cells(tiny, genes, tmp_path):
    assert features(tiny, csr_matrix((0, 60)), genes, panels=make_panels(60)).views.shape == (0, 3, 8)
    assert features(tiny, csr_matrix((0, 60)), genes, cache_dir=tmp_path).full.shape == (0, 8)


@pytest.mark.parametrize(
    ("backbone", "x", "kwargs", "message"),
    [
        ("more-mini", None, {}, "get_backbone"),
        (None, "x.h5ad", {}, "cells, genes"),
        (None, np.zeros(3), {}, "cells, genes"),
        (None, None, {"chunk_size": 2.5}, "chunk_size=2.5"),
        (None, None, {"chunk_size": True}, "chunk_size=True"),
        (None, np.full((30, 60), "w"), {}, "x is a ndarray of <U1 values; give a matrix of numbers"),
        (None, ad.AnnData(np.ones((30, 60))), {}, "x is a AnnData .*adata.X"),
        (None, None, {"normalised": "no"}, "normalised is a str"),
        (None, None, {"panels": np.arange(60)[None]}, "panels holds int64 values; give booleans"),
        (None, None, {"panels": "all"}, "panels holds"),
        (None, None, {"cache_dir": 3}, "cache_dir is a int"),
    ],
)
def test_arguments_of_the_wrong_type(tiny, counts, genes, backbone, x, kwargs, message):
    with pytest.raises(TypeError, match=message):
        features(backbone or tiny, counts if x is None else x, genes, **kwargs)
