"""Minibatches and the training plan."""

import numpy as np
import pytest
import scipy.sparse as sp

from more_scvi.annotate import Lessons
from more_scvi.base._arrays import Arrays, MaskedTargets, MaskedViews
from more_scvi.module import LOSS_WEIGHTS, ModalitySizes, MoREModule
from more_scvi.train import BalancedBatchSampler, CachedCells, MoRETrainingPlan, TrainingSet


def test_batches_are_drawn_evenly_and_every_cell_of_a_large_batch_once():
    batch = np.repeat([0, 1], [900, 100])
    sampler = BalancedBatchSampler(batch, batch_size=100)
    drawn = np.concatenate(list(sampler))
    assert len(sampler) == 10 and len(drawn) == 1000
    assert abs((batch[drawn] == 1).mean() - 0.5) < 0.06
    majority = drawn[batch[drawn] == 0]
    assert len(np.unique(majority)) == len(majority)


def test_tiny_batches_are_not_drawn_without_bound():
    batch = np.repeat([0, 1], [995, 5])
    drawn = np.concatenate(list(BalancedBatchSampler(batch, batch_size=100, max_repeat=10)))
    assert (batch[drawn] == 1).sum() < 0.15 * len(drawn)


def test_sampler_is_reproducible_and_differs_between_epochs_and_processes():
    batch = np.repeat([0, 1], 50)
    first, second = BalancedBatchSampler(batch, 20, seed=3), BalancedBatchSampler(batch, 20, seed=3)
    epoch = list(first)
    assert epoch == list(second)
    assert epoch != list(first)
    assert epoch != list(BalancedBatchSampler(batch, 20, seed=3, rank=1))
    assert len(BalancedBatchSampler(batch, 20, n_replicas=2)) == round(5 / 2)


def test_a_minibatch_larger_than_the_data_holds_the_data():
    assert [len(m) for m in BalancedBatchSampler(np.zeros(7, dtype=int), 256)] == [7]


def test_cached_cells_keep_rows_together():
    n = 10
    row = np.arange(n, dtype=np.float32)[:, None]
    arrays = Arrays(
        base=row,
        present=np.ones((n, 1), bool),
        wide=row,
        batch=np.zeros(n, dtype=int),
        domain=np.arange(n) % 2,
        shallow=np.zeros(n, bool),
    )
    lessons = Lessons(np.arange(n) % 3, np.arange(n) % 3, -row, row / n, keeps_niche=True)
    hidden = MaskedTargets(np.array([[True], [False]]), sp.csr_matrix(row), np.arange(n, dtype=np.float32))
    views = row[:, None] + np.array([100.0, 200.0], np.float32)[None, :, None]
    got = CachedCells(TrainingSet(arrays, lessons, MaskedViews(views.astype(np.float16), {"rna": hidden})))[[7, 2]]
    k = 100.0 if got["hidden_rna"].item() else 200.0
    assert got["view"][:, 0].tolist() == [7 + k, 2 + k]
    for name in ("base", "target_rna", "totals_rna"):
        assert got[name][:, 0].tolist() == [7.0, 2.0]
    assert got["guess"][:, 0].tolist() == [-7.0, -2.0] and got["domain"][:, 0].tolist() == [1, 0]
    assert got["labels"][:, 0].tolist() == [1, 2]


@pytest.fixture
def module():
    return MoREModule([ModalitySizes("rna", 20, 4)], n_batch=2, n_labels=2, n_components=3)


@pytest.mark.parametrize(
    ("arguments", "error", "fragments"),
    [
        ({"learning_rate": 1e-3}, TypeError, ["learning_rate", "lr"]),
        ({"loss_weights": {"align": 1.0}}, ValueError, ["align", "align_batch"]),
        ({"loss_weights": {"keep": -1.0}}, ValueError, ["keep", "-1.0", ">= 0"]),
        ({"loss_weights": {"keep": float("nan")}}, ValueError, ["keep", "nan"]),
        ({"loss_weights": {"keep": "high"}}, ValueError, ["keep", "high"]),
        ({"loss_weights": [1.0]}, TypeError, ["list", "masked"]),
    ],
)
def test_plan_refuses_what_it_does_not_know(module, arguments, error, fragments):
    with pytest.raises(error) as caught:
        MoRETrainingPlan(module, **arguments)
    assert all(f in str(caught.value) for f in fragments)


def test_named_weights_change_and_others_keep_their_default(module):
    plan = MoRETrainingPlan(module, loss_weights={"keep": 9.0})
    assert plan.loss_kwargs["weights"] == LOSS_WEIGHTS | {"keep": 9.0}
