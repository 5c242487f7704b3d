import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from more_scvi.evaluation import Given, Method, Result, get_method, leak, list_methods, make_tasks, run_task
from more_scvi.evaluation._fits import cached

SMALL = {
    "more-small": {"base": "more", "model_kwargs": {"backbone": None}, "train_kwargs": {"max_epochs": 2}},
    "scvi-small": {"base": "scvi", "minibatches": 4},
    "scanvi-small": {"base": "scanvi", "minibatches": 4, "epochs": 1},
    "scarches-small": {"base": "scarches", "minibatches": 4, "epochs": 1},
    "concord-small": {"base": "concord", "n_epochs": 1},
}
LINEAR = ["pca_raw", "pca", "lr_hvg", "lda", "random", "shuffled", "onehot-LR", "blocks", "lr_features"]
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("scvi-small", "scanvi-small")]
CASES = [*LINEAR, "lda_uncentred", "harmony", "scanorama", "concord-small", "more-small", *SLOW]
MAPPING = ["pca_raw", "pca", "lr_hvg", "lda", "lda_uncentred", "random", "shuffled", "onehot-LR", "symphony"]
MAPPING += ["more-small", *SLOW, pytest.param("scarches-small", marks=pytest.mark.slow)]
NEEDED = {"harmony": "harmonypy", "symphony": "harmonypy", "scanorama": "scanorama", "concord-small": "concord"}


def method_of(name):
    if needed := NEEDED.get(name):
        pytest.importorskip(needed, reason=f"{needed} is not installed")
    return get_method(name, **SMALL.get(name, {}))


def with_shuffled_hidden_labels(adata, hidden):
    changed = adata.copy()
    labels = adata.obs["cell_type"].to_numpy(copy=True)
    labels[hidden] = np.roll(labels[hidden], 1)
    changed.obs["cell_type"] = labels
    return changed


def results(prepared, method, protocol):
    """Results on a task, and on the same task with other hidden labels."""
    task = next(make_tasks(prepared, protocol))
    other = with_shuffled_hidden_labels(prepared, task.split.hidden)
    again = next(make_tasks(other, protocol, splits=[task.split]))
    return [run_task(each, method)[0] for each in (task, again)]


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


@pytest.mark.parametrize("name", MAPPING)
def test_a_batch_is_mapped_without_its_labels_and_without_changing_the_others(prepared, name):
    first, second = results(prepared, method_of(name), "S2b")
    task = next(make_tasks(prepared, "S2b"))
    for one, two in ((first.z, second.z), (first.prediction, second.prediction)):
        if one is not None:
            assert len(one) == prepared.n_obs
            np.testing.assert_array_equal(one, two)
    if first.z is None or name in ("random", "shuffled"):
        return
    doubled = next(make_tasks(prepared, "S2b")).prepare()
    doubled.query.X = doubled.query.X * 2
    doubled.query.layers["lognorm"] = doubled.query.layers["lognorm"] * 2
    doubled.query.obsm["view"] = doubled.query.obsm["view"] * 2
    n = task.data.n_obs
    np.testing.assert_array_equal(run_task(doubled, method_of(name))[0].z[:n], first.z[:n])


@pytest.mark.parametrize("method", [get_method("LEAK"), get_method("LEAK:lda"), leak(get_method("lr_hvg"))])
def test_a_leak_is_one(prepared, method):
    first, second = results(prepared, method, "S1")
    assert not np.array_equal(first.prediction, second.prediction)


def test_label_free_more_does_not_look_at_labels(prepared):
    small = SMALL["more-small"] | {"labelled": False}
    task = next(make_tasks(prepared, "S1"))
    blind = next(make_tasks(with_shuffled_hidden_labels(prepared, np.ones(prepared.n_obs, dtype=bool)), "S1"))
    first, second = (run_task(each, get_method("free", **small))[0] for each in (task, blind))
    assert first.prediction is None
    np.testing.assert_array_equal(first.z, second.z)


class Spy(Method):
    name = "spy"

    def run(self, given: Given, seen: list) -> Result:
        seen.append(given)
        return Result(np.zeros((given.data.n_obs, 2)))


def test_the_data_a_method_receives_hold_no_true_label(prepared):
    task, seen = next(make_tasks(prepared, "S1")), []
    run_task(task, Spy(seen=seen))
    assert list(seen[0].data.obs) == ["batch", "cell_type"]
    assert set(seen[0].data.obs["cell_type"][task.hidden]) == {"Unknown"}


def test_results_say_what_they_cost(prepared):
    _, record = run_task(next(make_tasks(prepared, "S1")), method_of("more-small"))
    assert {"setup", "training", "embedding"} <= set(record["seconds"])
    assert record["parameters"]["trained"] > 0
    assert record["versions"]["scvi-tools"]
    assert record["per_type"]["own"].keys() == set(prepared.obs["cell_type"])


def test_any_embedding_of_the_data_is_a_method(prepared):
    adata = prepared.copy()
    adata.obsm["X_mine"] = np.random.default_rng(0).standard_normal((adata.n_obs, 4))
    result, _ = run_task(next(make_tasks(adata, "S1")), get_method("obsm:X_mine"))
    np.testing.assert_allclose(result.z, adata.obsm["X_mine"], rtol=1e-6)
    with pytest.raises(KeyError, match="no embedding 'X_other' in .obsm; they hold X_mine"):
        run_task(next(make_tasks(adata, "S1")), get_method("obsm:X_other"))


class Planted:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_trained_peer_comes_from_the_cache_as_weights_and_a_planted_file_runs_nothing(prepared, tmp_path):
    task, method = next(make_tasks(prepared, "S1")), method_of("scvi-small")
    first = run_task(task, method, tmp_path)[0]
    (file,) = tmp_path.iterdir()
    again = run_task(task, method, tmp_path)[0]
    np.testing.assert_allclose(again.z, first.z, atol=1e-5)
    assert again.seconds["training"] == first.seconds["training"]
    ran = tmp_path / "ran"
    torch.save({"model_state_dict": Planted(ran)}, file)
    with pytest.raises(ValueError, match=f"{file.name}: holds no fit of this model.* delete it"):
        run_task(task, method, tmp_path)
    assert not ran.exists()
    torch.load(file, weights_only=False)
    assert ran.exists()  # the planted file is armed


@pytest.mark.parametrize("content", ["pickle", "objects", "nothing"])
def test_a_planted_fit_of_a_peer_runs_nothing(tmp_path, content):
    file, ran = tmp_path / "totalvi_key.npz", tmp_path / "ran"
    if content == "objects":
        np.savez(file, record=np.array([Planted(ran)], dtype=object))
        ran.unlink(missing_ok=True)
    else:
        file.write_bytes(pickle.dumps(Planted(ran)) if content == "pickle" else b"")
    with pytest.raises(ValueError, match=f"{file.name}: holds no fit of this model .*; delete it"):
        cached(file, None, None)
    assert not ran.exists()


def test_unknown_methods_and_options_are_refused_with_the_known_ones():
    with pytest.raises(KeyError, match="'scvii' is unknown. Known are LEAK, "):
        get_method("scvii")
    with pytest.raises(TypeError, match=r"'scvi' has no option 'steps'; it has \['minibatches'\]"):
        get_method("mine", base="scvi", steps=5)
    assert {"more", "scanvi", "totalvi", "harmony", "scanorama"} <= set(list_methods())


def test_controls_behave_as_they_must(prepared):
    task = next(make_tasks(prepared, "S1"))
    scores = {name: run_task(task, get_method(name))[1]["scores"] for name in (*LINEAR, "LEAK")}
    assert scores["onehot-LR"]["LR"] > 0.95 * scores["lr_hvg"]["own"]
    assert abs(scores["onehot-LR"]["structure"]) < 0.2
    assert scores["LEAK"]["own"] >= scores["lr_hvg"]["own"]
    for chance in ("random", "shuffled"):
        assert scores[chance]["LR"] < 0.5
        assert abs(scores[chance]["structure"]) < 0.1
    assert scores["shuffled"]["own"] < 0.5


def test_a_method_whose_results_could_not_be_found_again_is_refused_where_it_is_made():
    with pytest.raises(ValueError, match=r"'\.5' cannot be the name of a file"):
        get_method(".5", base="pca")
