import logging
import random
import subprocess
import sys

import igraph
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse
from scipy.spatial.distance import cdist
from sklearn.metrics import f1_score
from sklearn.neighbors import NearestNeighbors

scib_metrics = pytest.importorskip("scib_metrics", reason="scib-metrics is not installed")

from scib_metrics.nearest_neighbors import NeighborsResults  # noqa: E402

from more_scvi.metrics import benchmarker, sc_graph, scib  # noqa: E402
from more_scvi.metrics._scib import _neighbours, import_scib_metrics, isolated_f1, kbet, leiden  # noqa: E402

NAMES = ["BRAS", "kBET", "NMI", "ARI", "isolated_F1", "cLISI"]
LABELS, BATCHES = np.repeat(list("abcd"), 75), np.tile(["x", "y", "z"], 100)


def embedding(apart=3.0, effect=0.0):
    """300 cells of four types in three batches."""
    rng = np.random.default_rng(0)
    z = rng.standard_normal((300, 8)) + apart * np.eye(4, 8)[np.unique(LABELS, return_inverse=True)[1]]
    z[:, 4] += effect * (BATCHES == "x")
    return z


@pytest.fixture(scope="module")
def scores():
    """Of an embedding with clear types and some batch effect."""
    return scib(embedding(effect=1.5), LABELS, BATCHES)


def test_bras_is_one_minus_the_absolute_silhouette_of_batches_within_types(scores):
    z, per_type = embedding(effect=1.5), []
    for name in "abcd":
        x, b = z[LABELS == name], BATCHES[LABELS == name]
        d, width = cdist(x, x, "cosine"), []
        for i in range(len(x)):
            own = b == b[i]
            within, without = d[i, own].sum() / (own.sum() - 1), d[i, ~own].mean()
            width.append(abs(without - within) / max(without, within))
        per_type.append(1 - np.mean(width))
    assert scores["BRAS"] == pytest.approx(np.mean(per_type), abs=1e-4)


def test_clusters_agree_with_those_of_scib_metrics(scores):
    near = _neighbours(embedding(effect=1.5), 15)
    theirs = scib_metrics.nmi_ari_cluster_labels_leiden(near, LABELS, seed=0)
    assert (scores["NMI"], scores["ARI"]) == pytest.approx((theirs["nmi"], theirs["ari"]))


@pytest.mark.parametrize("effect", [0, 1.5, 30])
def test_kbet_is_that_of_scib_metrics_less_its_rounding(monkeypatch, effect):
    from scib_metrics.utils import _diffusion_nn

    unrounded = _diffusion_nn._compute_eigen

    def rounded(*args, **kwargs):
        values, vectors = unrounded(*args, **kwargs)
        return np.where(values > 1 - 1e-5, np.float32(1), values), vectors

    def exact(points, n_neighbors):
        distances, indices = NearestNeighbors(n_neighbors=n_neighbors).fit(points).kneighbors(points)
        return NeighborsResults(indices=indices, distances=distances)

    monkeypatch.setattr(_diffusion_nn, "_compute_eigen", rounded)
    monkeypatch.setattr(_diffusion_nn.nearest_neighbors, "pynndescent", exact)
    near = _neighbours(embedding(effect=effect), 50)
    theirs = scib_metrics.kbet_per_label(near, BATCHES, LABELS)
    assert kbet(near.knn_graph_connectivities, LABELS, BATCHES) == pytest.approx(theirs, abs=0.01)


def test_kbet_of_a_type_in_pieces_is_zero_and_small_types_are_left_out():
    block = 1 - np.eye(30)
    whole, pieces = np.kron(np.eye(2), block), np.kron(np.eye(6), 1 - np.eye(10))
    batches, labels = np.tile(["x", "y"], 30), np.repeat(["a", "b"], 30)
    assert kbet(sparse.csr_matrix(pieces), labels, batches) == 0
    assert kbet(sparse.csr_matrix(whole), labels, batches) > 0.9
    assert np.isnan(kbet(sparse.csr_matrix(whole), np.arange(60).astype(str), batches))
    rest = np.where(np.arange(60) < 9, "few", labels)  # nine cells of "few" say nothing; those of "a" left are tested
    assert kbet(sparse.csr_matrix(whole), rest, batches) > 0.9


def test_neighbours_are_exact_and_start_with_the_cell_itself():
    z = embedding()
    near = _neighbours(z, 15)
    assert (near.indices[:, 0] == np.arange(300)).all()
    assert np.allclose(near.distances, np.sort(cdist(z, z), axis=1)[:, :15], atol=1e-3)


def test_isolated_f1_is_the_best_cluster_for_types_in_the_fewest_batches():
    labels, batches = np.array(list("aaaabbbbcccc")), np.array(list("xxyyxxxxxyyy"))
    clusterings = [np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 2]), np.zeros(12, dtype=int)]
    everywhere = np.ones(12, dtype=bool)
    # only "b" is in one batch: the cluster {b, b, b} has recall 3/4; cluster 2 of the one "b" is worse
    assert isolated_f1(clusterings, labels, batches, everywhere) == pytest.approx(2 * 3 / (3 + 4))
    by_hand = max(f1_score(labels == "b", clusters == c) for clusters in clusterings for c in np.unique(clusters))
    assert isolated_f1(clusterings, labels, batches, everywhere) == pytest.approx(by_hand)
    assert isolated_f1(clusterings, labels, batches, np.arange(12) < 6) == 1
    assert np.isnan(isolated_f1(clusterings, labels, batches, labels == "a"))
    assert np.isnan(isolated_f1(clusterings, labels, np.full(12, "x"), everywhere))


def test_batch_effects_cost_mixing_and_not_biology(scores):
    apart = scib(embedding(effect=30), LABELS, BATCHES)
    mixed = scib(embedding(), LABELS, BATCHES)
    assert mixed["kBET"] > 0.9
    assert apart["kBET"] < 0.4
    assert apart["BRAS"] < scores["BRAS"] < mixed["BRAS"]
    assert mixed["cLISI"] > 0.9


def test_collapse_wins_and_noise_fails_what_clusters_measure():
    onehot = scib(np.eye(4)[np.unique(LABELS, return_inverse=True)[1]], LABELS, BATCHES)
    noise = scib(np.random.default_rng(1).standard_normal((300, 8)), LABELS, BATCHES)
    assert min(onehot[name] for name in NAMES) > 0.85
    assert max(noise["NMI"], noise["ARI"]) < 0.15
    assert noise["isolated_F1"] < 0.6
    assert noise["cLISI"] < 0.7
    assert noise["kBET"] > 0.9


def test_an_embedding_of_one_point_has_no_clusters():
    scores = scib(np.full((300, 8), 2.0), LABELS, BATCHES)
    assert max(scores["NMI"], scores["ARI"]) < 0.15
    assert scores["kBET"] > 0.85


def test_scores_are_repeatable_and_leave_the_random_numbers_alone(scores):
    random.seed(3)
    igraph.set_random_number_generator(random)
    expected = random.Random(3).random()
    assert scib(embedding(effect=1.5), LABELS, BATCHES) == pytest.approx(scores, abs=1e-6)
    assert random.random() == expected
    assert logging.getLogger("scib_metrics").level == logging.INFO


def test_types_are_compared_on_hidden_cells_only(scores):
    hidden = np.isin(LABELS, ["a", "b"])
    shuffled = np.concatenate([LABELS[:150], np.random.default_rng(0).permutation(LABELS[150:])])
    some, others = (scib(embedding(effect=1.5), labels, BATCHES, hidden=hidden) for labels in (LABELS, shuffled))
    assert (some["NMI"], some["ARI"]) == (others["NMI"], others["ARI"])
    assert some["NMI"] != scores["NMI"]
    assert others["cLISI"] < some["cLISI"] == pytest.approx(scores["cLISI"])


def test_a_single_batch_and_a_single_type_leave_out_what_they_cannot_say():
    one_batch = scib(embedding(), LABELS, ["x"] * 300)
    assert [name for name in NAMES if np.isnan(one_batch[name])] == ["BRAS", "kBET", "isolated_F1"]
    one_type = scib(embedding(), ["a"] * 300, BATCHES)
    assert [name for name in NAMES if np.isnan(one_type[name])] == ["NMI", "ARI", "cLISI"]


def test_more_cells_than_asked_for_are_subsampled_the_same_for_every_embedding():
    z, one, batches = np.concatenate([embedding(effect=1.5)] * 3), np.full(900, "a"), np.tile(BATCHES, 3)
    rows = np.sort(np.random.default_rng(7).choice(900, 300, replace=False))
    capped, by_hand = scib(z, one, batches, seed=7, max_cells=300), scib(z[rows], one[rows], batches[rows], seed=7)
    assert capped["BRAS"] == pytest.approx(by_hand["BRAS"], abs=1e-6)
    assert capped["kBET"] == by_hand["kBET"]


def test_a_reference_adds_sc_graph(scores):
    z, reference = embedding(effect=1.5), embedding(apart=5)
    assert "scGraph" not in scores
    assert scib(z, LABELS, BATCHES, reference=reference)["scGraph"] == sc_graph(z, reference, LABELS, BATCHES)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"z": np.full((300, 2), np.nan)}, "z holds 600 values that are not finite"),
        ({"hidden": [True]}, r"hidden \(1,\) must be a mask with one boolean for each of the 300 cells"),
        ({"labels": ["a"]}, r"labels \(1,\) must hold one name for each of the 300 cells"),
        ({"max_cells": 10}, "max_cells=10 is too small; expected an integer of at least 30"),
        (
            {"z": embedding()[:10], "labels": LABELS[:10], "batches": BATCHES[:10]},
            "z holds 10 cells; neighbour graphs of fewer than 30",
        ),
    ],
)
def test_bad_input_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        scib(**{"z": embedding(), "labels": LABELS, "batches": BATCHES} | change)


@pytest.mark.parametrize(("version", "warns"), [("0.5.5", True), ("0.5.6", False), ("0.5.10", False), ("0.6.0", True)])
def test_versions_that_cannot_be_compared_are_named_once(monkeypatch, recwarn, version, warns):
    monkeypatch.setattr(scib_metrics, "__version__", version)
    import_scib_metrics.cache_clear()
    import_scib_metrics()
    import_scib_metrics()
    import_scib_metrics.cache_clear()
    named = [str(w.message) for w in recwarn if f"scib-metrics {version} is installed" in str(w.message)]
    assert len(named) == warns


def test_without_scib_metrics_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "scib_metrics", None)
    import_scib_metrics.cache_clear()
    with pytest.raises(ImportError, match=r"pip install \"more-scvi\[benchmark\]\""):
        scib(embedding(), LABELS, BATCHES)
    import_scib_metrics.cache_clear()


def test_metrics_import_without_jax():
    code = "import sys, more_scvi.metrics; assert not {'jax', 'scib_metrics'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture
def adata():
    obs = pd.DataFrame({"donor": pd.Categorical(BATCHES), "kind": LABELS}, index=[f"c{i}" for i in range(300)])
    obsm = {"X_pca": embedding(effect=1.5), "X_mine": embedding()}
    return AnnData(np.ones((300, 3), dtype=np.float32), obs=obs, obsm=obsm)


def test_benchmarker_runs_on_the_given_keys_and_leaves_the_object_alone(adata):
    from scib_metrics.benchmark import BatchCorrection

    before = adata.copy()
    batch_metrics = BatchCorrection(ilisi_knn=False, kbet_per_label=False, graph_connectivity=False)
    out = benchmarker(
        adata,
        ["X_mine"],
        "donor",
        "kind",
        neighbor_computer=_neighbours,
        batch_correction_metrics=batch_metrics,
        progress_bar=False,
    )
    table = out.get_results(clean_names=False)
    assert {"X_mine", "Metric Type"} == set(table.index)
    assert {"bras", "pcr_comparison", "clisi_knn", "nmi_ari_cluster_labels_leiden_nmi", "Total"} <= set(table.columns)
    assert not [name for name in table.columns if "silhouette" in name or "isolated" in name or "ilisi" in name]
    assert (adata.obsm["X_pca"] == before.obsm["X_pca"]).all()
    assert adata.obs.equals(before.obs)
    assert set(adata.obsm) == {"X_pca", "X_mine"}
    assert not adata.uns and not adata.varm


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((["X_mine"], "batch", "kind"), KeyError, "obs has no column 'batch'; it has donor, kind"),
        ((["X_scvi"], "donor", "kind"), KeyError, "obsm has no 'X_scvi'; it has X_pca, X_mine"),
        (("X_mine", "donor", "kind"), TypeError, r"a list of obsm keys, e.g. \['X_mine'\]"),
        ((["X_mine"], "donor", "kind", "X_raw"), KeyError, "obsm has no 'X_raw'"),
    ],
)
def test_wrong_keys_are_named(adata, arguments, error, message):
    with pytest.raises(error, match=message):
        benchmarker(adata, *arguments)


def test_a_missing_pca_says_how_to_get_one(adata):
    del adata.obsm["X_pca"]
    with pytest.raises(KeyError, match=r"sc.pp.pca"):
        benchmarker(adata, ["X_mine"], "donor", "kind")


def test_leiden_sees_more_clusters_at_higher_resolution():
    sizes = [np.unique(found).size for found in leiden(_neighbours(embedding(apart=1), 15).knn_graph_connectivities, 0)]
    assert sizes[-1] > sizes[0]
