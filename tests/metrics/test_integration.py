import numpy as np
import pytest

from more_scvi.metrics import graph_scores, transfer
from more_scvi.metrics._integration import connectivity

LABELS, BATCHES = np.repeat(list("abcd"), 75), np.tile(["x", "y", "z"], 100)
ONEHOT = np.eye(4)[np.unique(LABELS, return_inverse=True)[1]]


def embedding(effect=0.0):
    z = np.random.default_rng(0).standard_normal((300, 6)) + 6 * np.pad(ONEHOT, ((0, 0), (0, 2)))
    z[BATCHES == "x"] = np.roll(z[BATCHES == "x"], 1, axis=1) if effect else z[BATCHES == "x"]
    return z


def test_labels_are_carried_between_batches_where_types_lie_together():
    noise = np.random.default_rng(1).standard_normal((300, 6))
    assert transfer(embedding(), LABELS, BATCHES) > 0.97
    assert transfer(ONEHOT, LABELS, BATCHES) == 1
    assert transfer(noise, LABELS, BATCHES) < 0.4
    assert transfer(embedding(effect=1), LABELS, BATCHES) < 0.8  # in one batch, each type lies where another was


def test_a_cells_own_batch_has_no_vote():
    z = np.concatenate([np.zeros((40, 2)), np.full((40, 2), 9.0)])
    labels, batches = np.tile(["a", "b"], 40), np.repeat(["x", "y"], 40)
    z[:, 0] += np.where(labels == "a", 0.1, 0)  # within a batch types lie apart, between batches there is nothing
    z[40:, 0] = 9 - (z[40:, 0] - 9)
    assert transfer(z, labels, batches) < 0.6


def test_only_types_of_two_batches_are_scored():
    alone = LABELS.copy()
    alone[BATCHES == "x"] = np.where(LABELS[BATCHES == "x"] == "d", "only here", LABELS[BATCHES == "x"])
    assert transfer(embedding(), alone, BATCHES) > 0.9
    assert np.isnan(transfer(embedding(), LABELS, np.full(300, "x")))
    assert np.isnan(transfer(embedding(), BATCHES, BATCHES))


def test_a_type_in_two_places_is_not_connected_and_clusters_do_not_follow_it():
    whole, torn = embedding(), embedding()
    torn[np.flatnonzero(LABELS == "a")[:30], 4] += 40
    assert graph_scores(whole, LABELS)["connectivity"] > 0.99
    assert graph_scores(torn, LABELS)["connectivity"] == pytest.approx((0.6 + 3) / 4, abs=0.02)
    assert graph_scores(torn, LABELS)["NMI"] < graph_scores(whole, LABELS)["NMI"]


def test_connectivity_counts_the_largest_piece():
    neighbours = np.array([[1, 2], [0, 2], [0, 1], [4, 5], [3, 5], [3, 4]])
    assert connectivity(neighbours, np.array(list("aaaaaa"))) == 0.5
    assert connectivity(neighbours, np.array(list("aaabbb"))) == 1
    assert connectivity(neighbours, np.array(list("aaaabb"))) == pytest.approx((3 / 4 + 1) / 2)


def test_the_graph_is_that_of_scib_metrics():
    scib_metrics = pytest.importorskip("scib_metrics", reason="scib-metrics is not installed")
    from more_scvi.metrics._scib import _neighbours

    z = embedding(effect=1)
    near, ours = _neighbours(z, 15), graph_scores(z, LABELS)
    theirs = scib_metrics.nmi_ari_cluster_labels_leiden(near, LABELS, seed=0)
    assert (ours["NMI"], ours["ARI"]) == pytest.approx((theirs["nmi"], theirs["ari"]))
    assert ours["connectivity"] == pytest.approx(scib_metrics.graph_connectivity(near, LABELS))


def test_refusals_name_what_is_needed():
    with pytest.raises(ValueError, match="n_neighbors=2 of 300 cells leaves 2; a graph needs 3 or more"):
        graph_scores(embedding(), LABELS, n_neighbors=2)
    with pytest.raises(ValueError, match="labels"):
        transfer(embedding(), LABELS[:-1], BATCHES)
