import logging

import numpy as np
import pytest

from more_scvi.evaluation import DATASETS, get_method, make_splits, tune
from more_scvi.evaluation import _tuning as tuning
from more_scvi.evaluation._datasets import BenchSet

METHODS = [get_method("pca"), get_method("lda")]


def test_tuning_scores_inner_cells_only_and_refuses_leaks(raw, tmp_path, monkeypatch):
    monkeypatch.setitem(DATASETS, "toy", BenchSet("toy.h5ad"))
    raw.copy().write_h5ad(tmp_path / "toy.h5ad")
    table = tune(["toy"], METHODS, tmp_path)
    assert set(table["protocol"]) == {"S1", "S2a"}
    assert (table["n_scored"] < 100).all()
    with pytest.raises(ValueError, match="must not choose anything"):
        tune(["toy"], [get_method("LEAK")], tmp_path)


@pytest.mark.parametrize("name", [name for name, entry in DATASETS.items() if entry.file.startswith("bench/")])
def test_sets_of_the_benchmark_choose_nothing(name, tmp_path):
    with pytest.raises(ValueError, match=f"{name!r} is a set of the benchmark.* human_gastrula, "):
        tune(["human_gastrula", name], METHODS, tmp_path)


def test_inner_cells_are_scored_by_no_other_split(raw, monkeypatch, caplog):
    scored = []
    monkeypatch.setattr(
        tuning, "run_task", lambda task, *_: (scored.append(task.scored), {"scores": {}, "seconds": {}})
    )
    plan = {"protocols": ["S1", "S2a"], "seeds": [0, 1], "max_rotations": 1}
    with caplog.at_level(logging.WARNING):
        tune({"mine": raw}, METHODS[:1], **plan)
    labels, batches = raw.obs["cell_type"], raw.obs["batch"]
    outer = [s.hidden for p in plan["protocols"] for seed in (0, 1) for s in make_splits(labels, batches, p, seed, 1)]
    assert len(scored) == len(outer) == 4
    assert all(cells.any() for cells in scored)
    assert not (np.any(scored, axis=0) & np.any(outer, axis=0)).any()
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        tune({"mine": raw}, METHODS[:1], protocols=["S2a"], max_rotations=3)  # every batch takes its turn
    assert "scored by another split, too" in caplog.text


def test_cells_without_a_label_are_not_tuned_on(raw):
    adata = raw.copy()
    names = adata.obs["cell_type"].astype(str)
    adata.obs["cell_type"] = names.where(names != "type0", "Unknown")
    whole = tune({"mine": raw}, METHODS[:1], protocols=["S1"])
    part = tune({"mine": adata}, METHODS[:1], protocols=["S1"])
    assert 0 < part["n_scored"].item() < whole["n_scored"].item()
