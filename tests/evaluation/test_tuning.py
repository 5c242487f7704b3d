import pytest

from more_scvi.evaluation import DATASETS, get_method, tune
from more_scvi.evaluation._datasets import BenchSet


@pytest.fixture
def data_dir(raw, tmp_path, monkeypatch):
    monkeypatch.setitem(DATASETS, "toy", BenchSet("toy.h5ad"))
    raw.write_h5ad(tmp_path / "toy.h5ad")
    return tmp_path


def test_tuning_scores_inner_cells_only_and_refuses_leaks(data_dir):
    table = tune(["toy"], [get_method("pca"), get_method("lda")], data_dir)
    assert set(table["protocol"]) == {"S1", "S2a"}
    assert (table["n_scored"] < 100).all()
    with pytest.raises(ValueError, match="must not choose anything"):
        tune(["toy"], [get_method("LEAK")], data_dir)
