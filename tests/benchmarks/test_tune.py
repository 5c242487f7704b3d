"""Defaults are chosen on development sets: the benchmark is refused by name, folder and cells."""

import json
import sys
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from more_scvi.data import simulate_batches

FOLDER = Path(__file__).parents[2] / "benchmarks"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="the benchmarks are in the repository only")


@pytest.fixture
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return import_module("development"), import_module("tune")


@pytest.fixture
def toy(tmp_path):
    adata = simulate_batches(n_cells=240, n_genes=120, n_types=3, n_batches=3, markers=0.3)
    path = tmp_path / "toy.h5ad"
    adata.write_h5ad(path)
    return adata, path


@pytest.mark.parametrize("name", ["pbmc_kang", "pbmc_cite_multi", "elsewhere/pbmc_cite.h5mu", "bench/renamed.h5ad"])
def test_the_benchmark_is_refused_by_name_and_folder(scripts, name, tmp_path):
    with pytest.raises(ValueError, match="is a set of the benchmark"):
        scripts[0].load(str(tmp_path / name) if "/" in name else name, tmp_path)


def test_the_benchmark_is_refused_by_its_cells(scripts, toy, tmp_path, monkeypatch):
    development, _ = scripts
    adata, path = toy
    assert development.load(str(path), tmp_path).n_obs == 240
    monkeypatch.setattr(development, "SKETCH", tmp_path / "cells.txt")
    development.SKETCH.write_text("".join(f"secret {cell}\n" for cell in sorted(development.hashes(adata))[:40]))
    rng = np.random.default_rng(0)
    part = adata[rng.permutation(240)[:60], rng.permutation(120)].copy()
    part.obs_names, part.var_names = [f"a{i}" for i in range(60)], [f"b{i}" for i in range(120)]
    part.write_h5ad(path)
    with pytest.raises(ValueError, match="cells of 'secret'"):
        development.load(str(path), tmp_path)


def test_the_committed_sketch_covers_every_file_of_the_benchmark(scripts):
    from more_scvi.evaluation import DATASETS

    development, _ = scripts
    covered = {line.split()[0] for line in development.SKETCH.read_text().splitlines()}
    assert covered >= {Path(entry.file).stem for entry in DATASETS.values() if entry.reported}


def test_variants_are_compared_on_the_same_splits_and_a_stopped_run_goes_on(scripts, toy, tmp_path, monkeypatch):
    _, tune = scripts
    _, path = toy
    words = [json.dumps({"ten": {"base": "pca"}, "none": {"base": "random"}}), "--data", str(tmp_path)]
    words += ["--datasets", str(path), "--records", str(tmp_path / "records"), "--protocols", "S1", "S2a"]
    variants, arguments = tune.asked([*words, "--seeds", "0", "1", "--rotations", "2"])
    records = tune.run(variants, arguments)
    files = sorted((tmp_path / "records").glob("*/toy/*/[!s]*.json"))
    assert len(records) == len(files) == 10  # two halves each; two batches, twice where the method draws
    before = {file: file.stat().st_mtime_ns for file in files}
    files[0].unlink()  # killed before it was written
    again = tune.run(variants, arguments)
    assert [r["scores"] for r in again] == [r["scores"] for r in records]
    assert [file for file in files if file.stat().st_mtime_ns != before[file]] == files[:1]
    change = tune.tables(records, list(variants)).split("Difference to `ten`")[1]
    mean = {m: np.mean([np.mean(of(records, m, p)) for p in ("S1", "S2a")]) for m in variants}
    assert f"| none | {mean['none'] - mean['ten']:+.4f}" in change


def of(records, method, protocol):
    return [r["scores"]["LR"] for r in records if (r["method"], r["protocol"]) == (method, protocol)]


def test_a_constant_changes_wherever_it_was_imported(scripts, monkeypatch):
    _, tune = scripts
    first, second, other = (ModuleType(f"more_scvi.{name}") for name in ("first", "second", "other"))
    first.SHARE = second.SHARE = 0.2
    other.SHARE = 7
    for module in (first, second, other):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    with ExitStack() as stack:
        tune.change(stack, "more_scvi.first.SHARE", 0.5)
        assert (first.SHARE, second.SHARE, other.SHARE) == (0.5, 0.5, 7)
    assert (first.SHARE, second.SHARE) == (0.2, 0.2)


def test_the_benchmark_stays_small():
    files = [file for file in (FOLDER / "results").rglob("*") if file.is_file() and "work" not in file.parts]
    assert sum(len(file.read_text().splitlines()) for file in FOLDER.rglob("*.py")) <= 2000
    assert len(files) <= 40
    assert sum(file.stat().st_size for file in files) <= 2e6
