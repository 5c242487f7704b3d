import random

import numpy as np
import pandas as pd
import pytest
import torch

from more_scvi.data import simulate_batches
from more_scvi.evaluation import Given, Method, Result, get_method, make_tasks, prepare, run_task
from more_scvi.evaluation._query_scores import calibration_error
from more_scvi.evaluation.methods._references import symphony
from more_scvi.evaluation.methods._rounds import in_order, rounds_of


@pytest.fixture(scope="module")
def grown():
    """A task of 800 cells in four batches, two of which join the reference."""
    adata = simulate_batches(n_cells=800, n_genes=60, n_types=4, n_batches=4, seed=0)
    adata.obs = adata.obs[["batch", "cell_type"]].astype(str)
    return next(make_tasks(prepare(adata, n_pcs=10), "S10")).prepare()


class Recorder(Method):
    """Says the truth of the last ``right`` cells, embeds a cell by its number, and moves the reference by ``moved``."""

    name = "recorder"
    maps_queries = grows = True

    def run(self, given: Given, truth: list, moved: float = 0.0, seen: list | None = None) -> Result:
        parts = list(rounds_of(given))
        if seen is not None:
            seen += [given, parts]
        n = given.data.n_obs
        z = np.random.default_rng(0).standard_normal((n, 3))
        every = in_order(given, [z + moved, *(np.zeros((part.n_obs, 3)) for part in parts)])
        return Result(every, np.array(truth), before=(z, np.array(truth[:n])), seconds={"growing": 2.0})


def test_a_reference_grows_batch_by_batch_with_the_labels_that_come_along(grown):
    seen = []
    truth = [*grown.labels]
    scores = run_task(grown, Recorder(truth=truth, moved=0.5, seen=seen))[1]["scores"]
    given, parts = seen
    new = grown.split.held_out
    assert [set(part.obs["batch"]) for part in parts] == [{name} for name in given.rounds]
    assert new not in set(given.data.obs["cell_type"])
    shown = [(part.obs["cell_type"] == new).sum() for part in parts]
    assert sorted(shown) == [0, 20]
    assert scores["old"] == scores["old_before"] == scores["added"] == scores["new_type"] == 1
    assert scores["grow_seconds"] == 2
    z = np.random.default_rng(0).standard_normal((given.data.n_obs, 3))
    assert scores["drift"] == pytest.approx(0.5 / z.std(), abs=1e-3)


def test_what_is_forgotten_and_what_is_not_learned_is_seen(grown):
    n, truth = grown.data.n_obs, grown.labels.astype(object)
    wrong = np.where(truth == grown.split.held_out, "other", truth)
    assert run_task(grown, Recorder(truth=list(wrong)))[1]["scores"]["new_type"] == 0
    wrong = np.where(np.arange(truth.size) < n, "other", truth)
    scores = run_task(grown, Recorder(truth=list(wrong)))[1]["scores"]
    assert scores["old"] == 0
    assert scores["added"] == 1


def test_cells_of_rounds_return_to_their_order(grown):
    given = Given(grown.given(), query=grown.given_query(), rounds=grown.rounds)
    names = in_order(given, [given.data.obs_names, *(part.obs_names for part in rounds_of(given))])
    assert list(names) == [*given.data.obs_names, *given.query.obs_names]


def test_only_methods_that_grow_are_asked():
    assert get_method("more").answers("S10")
    assert get_method("scarches").answers("S10")
    assert not get_method("pca").answers("S10")
    assert get_method("pca").answers("S7")
    assert not get_method("lda_uncentred").answers("S7")
    assert get_method("LEAK:lda").answers("S7")


def test_more_keeps_the_reference_to_the_bit_and_learns_a_type_from_twenty_cells(grown):
    pytest.importorskip("more_scvi.model._query", reason="MoRE cannot add to a reference here")
    small = {"model_kwargs": {"backbone": None}, "train_kwargs": {"max_epochs": 2}}
    scores = run_task(grown, get_method("more-small", "more", **small))[1]["scores"]
    assert scores["drift"] == 0
    assert scores["old"] == scores["old_before"]
    assert scores["new_type"] > 0.8


@pytest.mark.slow
def test_surgery_leaves_the_reference_and_labels_new_types_by_neighbours(grown):
    method = get_method("scarches-small", "scarches", minibatches=4, epochs=1)
    result, record = run_task(grown, method)
    assert record["scores"]["drift"] < 1e-4
    assert grown.split.held_out in set(result.prediction)


def test_symphony_takes_a_shift_off_a_query_that_has_one_of_the_references_clusters():
    rng = np.random.default_rng(0)
    member = np.repeat([0, 1], 300)
    reference = rng.standard_normal((600, 4)) + 20 * np.eye(2, 4)[member]
    shares, centroids = np.eye(2)[member], np.array([[1.0, 0], [0, 1], [0, 0], [0, 0]])
    shift = np.array([0, 0, 1.5, -1.0])
    alone = rng.standard_normal((200, 4)) + 20 * np.eye(2, 4)[1]
    mapped = symphony(alone + shift, np.full(200, "q"), reference, shares, centroids)
    # per cluster with one batch: offset = n (mean - c) / (n + ridge (n + N) / N), c the reference's centre
    n, big, centre = 200, 300, reference[300:].mean(axis=0)
    offset = n * ((alone + shift).mean(axis=0) - centre) / (n + (n + big) / big)
    np.testing.assert_allclose(mapped, alone + shift - offset, atol=0.05)


def test_the_calibration_error_is_the_gap_between_confidence_and_truth():
    sure = pd.DataFrame({"a": [0.8] * 10, "b": [0.2] * 10})
    assert calibration_error(sure, np.array(["a"] * 8 + ["b"] * 2)) == pytest.approx(0)
    assert calibration_error(sure, np.array(["a"] * 10)) == pytest.approx(0.2)
    assert calibration_error(sure, np.array(["b"] * 10)) == pytest.approx(0.8)
    assert calibration_error(sure[:0], np.array([])) is None


def test_concord_follows_the_seed_and_leaves_the_random_numbers_alone(prepared):
    pytest.importorskip("concord", reason="concord-sc is not installed")
    task, method = next(make_tasks(prepared, "S7")), get_method("concord-short", "concord", n_epochs=1)
    random.seed(3)
    torch.manual_seed(3)
    expected = random.Random(3).random(), torch.rand(1, generator=torch.Generator().manual_seed(3))
    first, again = (run_task(task, method)[0].z for _ in range(2))
    np.testing.assert_allclose(first, again, atol=1e-5)
    assert (random.random(), torch.rand(1)) == expected


@pytest.mark.parametrize("kind", ["S8", "S8m"])
def test_a_shallow_query_shows_a_tenth_of_its_counts_and_nothing_else_changes(raw, kind):
    before = raw.X.copy()
    task = next(make_tasks(raw, f"{kind}-shallow"))
    whole = next(make_tasks(raw, f"{kind}-half"))
    totals = {
        of.split.protocol: np.concatenate(
            [np.asarray(x.X.sum(1)).ravel() for x in (of.data, of.query) if x is not None]
        )
        for of in (task, whole)
    }
    shallow, deep = totals[f"{kind}-shallow"], totals[f"{kind}-half"]
    thinned = task.batches == task.split.held_out
    assert 0.08 < shallow[thinned].sum() / deep[thinned].sum() < 0.12
    assert np.array_equal(shallow[~thinned], deep[~thinned])
    assert (raw.X != before).nnz == 0
