import json

import numpy as np
import pytest

from more_scvi.evaluation import Method, Split, get_method, load_results, run_benchmark, tune


@pytest.fixture
def data_dir(raw, tmp_path):
    raw.write_h5ad(tmp_path / "toy.h5ad")
    return tmp_path


def run(data_dir, methods, **kwargs):
    return run_benchmark(["toy.h5ad"], methods, data_dir, data_dir / "results", max_rotations=2, **kwargs)


def test_results_are_kept_and_not_computed_again(data_dir):
    methods = [get_method("pca"), get_method("lda")]
    assert run(data_dir, methods, seeds=[0], cache_dir=data_dir / "cache") == 2 * 3
    (data_dir / "results/toy.h5ad/S2a_r1_s0/lda.json").unlink()
    assert run(data_dir, methods, seeds=[0]) == 1
    records = load_results(data_dir / "results")
    assert len(records) == 6
    assert {r["split"] for r in records} == {"S1_r0_s0", "S2a_r0_s0", "S2a_r1_s0"}
    split = Split.from_json(json.loads((data_dir / "results/toy.h5ad/S2a_r0_s0/split.json").read_text()))
    assert split.hidden.sum() == 80
    with np.load(data_dir / "cache/embeddings/toy.h5ad__S1_r0_s0__lda.npz") as arrays:
        assert arrays["z"].shape[0] == arrays["prediction"].shape[0] == 240
    assert not list(data_dir.rglob("*.tmp*"))


def test_methods_without_randomness_run_once_where_splits_have_no_seed(data_dir):
    assert run(data_dir, [get_method("pca"), get_method("random")], seeds=[0, 1], protocols=["S2a"]) == 2 + 4


def test_a_failing_method_does_not_stop_the_others(data_dir):
    def fail(*_):
        raise RuntimeError("no convergence")

    done = run(data_dir, [Method("broken", fail), get_method("pca")], seeds=[0], protocols=["S1"])
    assert done == 1
    assert [r["method"] for r in load_results(data_dir / "results")] == ["pca"]


def test_tuning_scores_inner_cells_only_and_refuses_leaks(data_dir):
    table = tune(["toy.h5ad"], [get_method("pca"), get_method("lda")], data_dir)
    assert set(table["protocol"]) == {"S1", "S2a"}
    assert (table["n_scored"] < 100).all()
    with pytest.raises(ValueError, match="must not choose anything"):
        tune(["toy.h5ad"], [get_method("LEAK")], data_dir)
