import numpy as np
import pytest

from more_scvi.evaluation import get_method, leak, list_methods, make_splits, run_split

SMALL = {
    "more-small": {"base": "more", "model_kwargs": {"backbone": None}, "train_kwargs": {"max_epochs": 2}},
    "scanvi-small": {"base": "scanvi", "minibatches": 4, "epochs": 1},
}
CASES = [
    *("pca_raw", "pca", "lr_hvg", "lda", "random", "onehot-LR", "harmony", "more-small"),
    pytest.param("scanvi-small", marks=pytest.mark.slow),
]


def method_of(name):
    if name == "harmony":
        pytest.importorskip("harmonypy", reason="harmonypy is not installed")
    return get_method(name, **SMALL.get(name, {}))


def with_shuffled_hidden_labels(adata, split):
    changed = adata.copy()
    labels = adata.obs["cell_type"].to_numpy(copy=True)
    labels[split.hidden] = np.roll(labels[split.hidden], 1)
    changed.obs["cell_type"] = labels
    return changed


def results(prepared, method, protocol):
    split = make_splits(prepared.obs["cell_type"], prepared.obs["batch"], protocol)[0]
    return [run_split(data, split, method)[0] for data in (prepared, with_shuffled_hidden_labels(prepared, split))]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("protocol", ["S1", "S2a"])
def test_hidden_labels_do_not_reach_a_method(prepared, name, protocol):
    first, second = results(prepared, method_of(name), protocol)
    if first.z is not None:
        assert len(first.z) == prepared.n_obs
        np.testing.assert_array_equal(first.z, second.z)
    if first.prediction is not None:
        assert "Unknown" not in set(first.prediction)
        np.testing.assert_array_equal(first.prediction, second.prediction)


@pytest.mark.parametrize("method", [get_method("LEAK"), get_method("LEAK:lda"), leak(get_method("lr_hvg"))])
def test_a_leak_is_one(prepared, method):
    first, second = results(prepared, method, "S1")
    assert not np.array_equal(first.prediction, second.prediction)


def test_the_data_a_method_receives_hold_no_true_label(prepared):
    split = make_splits(prepared.obs["cell_type"], prepared.obs["batch"], "S1")[0]
    seen = []
    method = get_method("pca")
    spy = type(method)("spy", lambda adata, *rest: seen.append(adata) or method.function(adata, *rest))
    run_split(prepared, split, spy)
    assert list(seen[0].obs) == ["batch", "cell_type"]
    assert set(seen[0].obs["cell_type"][split.hidden]) == {"Unknown"}


def test_results_say_what_they_cost(prepared):
    split = make_splits(prepared.obs["cell_type"], prepared.obs["batch"], "S1")[0]
    _, record = run_split(prepared, split, method_of("more-small"))
    assert {"setup", "training", "embedding"} <= set(record["seconds"])
    assert record["parameters"]["trained"] > 0
    assert record["versions"]["scvi-tools"]


def test_unknown_methods_are_refused_with_the_known_ones():
    with pytest.raises(KeyError, match="known are LEAK, harmony"):
        get_method("scvii")
    assert "scanvi" in list_methods()
