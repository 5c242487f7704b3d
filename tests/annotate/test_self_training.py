"""Few labels: what is told with confidence is learned from, and nothing changes where labels are many."""

import numpy as np
import pytest

import more_scvi as more
from more_scvi.annotate._self_training import FEW_LABELS, needs_self_training, self_train, spread_labels
from more_scvi.backbones import get_backbone
from more_scvi.metrics import cilisi, linear_probe, macro_f1

SIZES = (300, 150, 40)


@pytest.fixture
def cells():
    """Three types of unequal size in two batches; the second axis of the noise is shared by all."""
    rng = np.random.default_rng(0)
    truth = np.repeat(np.arange(3), SIZES)
    batch = np.arange(len(truth)) % 2
    wide = 2.5 * np.eye(3, 30)[truth] + rng.standard_normal((len(truth), 30)) * 0.6
    return wide.astype(np.float32), truth, batch


def few(truth, n, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.full(len(truth), -1)
    for code in np.unique(truth):
        rows = rng.permutation(np.flatnonzero(truth == code))[:n]
        labels[rows] = code
    return labels


@pytest.mark.parametrize("n", [1, 3, 10])
def test_told_cells_are_right_in_every_type_and_batch_and_visible_labels_stay(cells, n):
    wide, truth, batch = cells
    labels = few(truth, n)
    told = self_train(wide, wide[:, :10], labels, batch, seed=0)
    assert np.array_equal(told[labels >= 0], labels[labels >= 0])
    new = (told >= 0) & (labels < 0)
    assert 0.4 < new.mean() < 0.75  # three fifths; the rest stays unknown
    assert np.mean(told[new] == truth[new]) > 0.95
    for code in range(3):
        for where in (0, 1):
            assert (new & (told == code) & (batch == where)).sum() > 0.3 * (truth == code).sum() / 2


def test_labels_reach_cells_as_the_linear_system_says(cells):
    wide, truth, _ = cells
    labels, types = few(truth, 5), np.arange(3)
    reached = spread_labels(wide, labels, types, alpha=0.5, n_steps=60)
    from sklearn.neighbors import kneighbors_graph

    graph = kneighbors_graph(wide, 15).toarray()
    graph = np.maximum(graph, graph.T)
    scale = 1 / np.sqrt(graph.sum(1))
    start = np.zeros((len(truth), 3))
    start[labels >= 0, labels[labels >= 0]] = 1 / 5
    exact = 0.5 * np.linalg.solve(np.eye(len(truth)) - 0.5 * scale[:, None] * graph * scale, start)
    exact /= exact.sum(0)
    exact /= exact.sum(1, keepdims=True) + 1e-12
    np.testing.assert_allclose(reached, exact, atol=1e-4)


def test_only_few_labels_start_it(cells):
    _, truth, _ = cells
    many = np.where(np.arange(len(truth)) % 2 == 0, truth, -1)
    assert not needs_self_training(many)
    assert not needs_self_training(np.full(100, -1))
    assert not needs_self_training(np.where(truth == 0, few(truth, 3), -1))  # one type: nothing to tell apart
    assert needs_self_training(few(truth, 3))
    large = np.repeat(np.arange(3), 5000)
    assert not needs_self_training(few(large, FEW_LABELS))
    assert needs_self_training(few(large, FEW_LABELS - 1))


def test_a_large_data_set_takes_part_by_a_sample_that_holds_every_label(cells, monkeypatch):
    wide, truth, batch = cells
    monkeypatch.setattr("more_scvi.annotate._self_training.MAX_CELLS", 200)
    labels = few(truth, 4)
    told = self_train(wide, wide, labels, batch, seed=0)
    assert np.array_equal(told[labels >= 0], labels[labels >= 0])
    assert 12 < (told >= 0).sum() <= 200


def test_a_model_of_few_labels_annotates_and_mixes_better_by_it(monkeypatch):
    adata = more.data.simulate_batches(n_cells=900, n_genes=300, n_types=4, n_batches=2, seed=3)
    adata.var_names = get_backbone("more-mini").vocabulary.human_symbol[:300]
    truth = adata.obs["cell_type"].astype(str).to_numpy()
    visible = few(np.unique(truth, return_inverse=True)[1], 2) >= 0
    adata.obs["label"] = np.where(visible, truth, "Unknown")
    scores = {}
    for told in (True, False):
        if not told:
            monkeypatch.setattr("more_scvi.annotate._annotator.needs_self_training", lambda labels: False)
        more.MoRE.setup_anndata(adata, batch_key="batch", labels_key="label")
        model = more.MoRE(adata, seed=0)
        model.train(max_epochs=15, accelerator="cpu", enable_progress_bar=False)
        given = model.schema.label_codes(adata) >= 0
        assert np.array_equal(given, visible)  # told cells are learned from, never taken for labelled
        z, prediction = model.get_latent_representation(), np.asarray(model.predict())
        scores[told] = (
            macro_f1(truth[~visible], prediction[~visible]),
            linear_probe(z, truth, ~visible),
            cilisi(z, truth, adata.obs["batch"]),
        )
    assert scores[True][0] >= scores[False][0]
    assert scores[True][1] > scores[False][1]
    assert scores[True][2] > scores[False][2] - 0.05
