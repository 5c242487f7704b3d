"""Doublets are removed per batch, without labels, and the report says of which types."""

import json
import sys

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from mudata import MuData
from scipy.sparse import csr_matrix, vstack

from more_scvi.data import simulate_batches
from more_scvi.evaluation._prefilter import prefilter


@pytest.fixture(scope="module")
def mixed():
    """Two batches of 300 cells and 30 doublets each, a batch of 40 cells; 12 cells are of a rare type."""
    adata = simulate_batches(640, 300, 4, 2, markers=0.3, type_sd=2.0, seed=3)
    adata.X = csr_matrix(adata.X)
    batch = np.where(np.arange(640) < 320, "a", "b").astype(object)
    batch[[*range(20), *range(620, 640)]] = "small"
    types = adata.obs["cell_type"].astype(str).to_numpy().astype(object)
    types[np.flatnonzero(types == "type0")[:12]] = "rare"
    rng = np.random.default_rng(7)
    pairs = np.concatenate([rng.choice(np.flatnonzero(batch == name), (30, 2)) for name in "ab"])
    counts = vstack([adata.X, adata.X[pairs[:, 0]] + adata.X[pairs[:, 1]]]).tocsr()
    obs = pd.DataFrame({"batch": [*batch, *np.repeat(["a", "b"], 30)], "cell_type": [*types, *["doublet"] * 60]})
    obs.index = [f"cell{i}" for i in range(700)]
    order = rng.permutation(700)
    return AnnData(counts, obs=obs, var=pd.DataFrame(index=adata.var_names))[order].copy()


@pytest.fixture(scope="module")
def filtered(mixed):
    return prefilter(mixed, labels=mixed.obs["cell_type"])


def test_doublets_go_and_cells_stay(mixed, filtered):
    kept, report = filtered
    doublet = (mixed.obs["cell_type"] == "doublet").to_numpy()
    assert (~kept[doublet]).mean() > 0.25
    assert (~kept[~doublet]).mean() < 0.03
    assert report["n_removed"] == (~kept).sum()


def test_report_counts_by_batch_type_and_rarity(mixed, filtered):
    kept, report = filtered
    json.dumps(report)
    removed = mixed.obs[~kept]
    assert {name: row["removed"] for name, row in report["batches"].items()} == {
        name: int((removed["batch"] == name).sum()) for name in ("a", "b", "small")
    }
    assert {name: row["removed"] for name, row in report["types"].items()} == {
        name: int((removed["cell_type"] == name).sum()) for name in mixed.obs["cell_type"].unique()
    }
    assert report["rare"]["types"] == ["rare"]
    assert report["rare"]["n"] == 12
    assert report["rare"]["removed"] == report["types"]["rare"]["removed"]


def test_a_small_batch_is_left_whole_and_named(mixed, filtered):
    kept, report = filtered
    assert kept[(mixed.obs["batch"] == "small").to_numpy()].all()
    assert set(report["untouched"]) == {"small"}
    assert "100 cells" in report["untouched"]["small"]


def test_labels_decide_nothing(mixed, filtered):
    kept, report = prefilter(mixed)
    np.testing.assert_array_equal(kept, filtered[0])
    assert "types" not in report


def test_batches_do_not_see_each_other(mixed, filtered):
    alone = (mixed.obs["batch"] == "a").to_numpy()
    kept, _ = prefilter(mixed[alone].copy())
    np.testing.assert_array_equal(kept, filtered[0][alone])


def test_mudata_is_filtered_by_its_rna_and_nothing_is_changed(mixed, filtered):
    rna = AnnData(mixed.X.copy(), obs=pd.DataFrame(index=mixed.obs_names), var=mixed.var.copy())
    extra = AnnData(np.ones((710, 3)), obs=pd.DataFrame(index=[*mixed.obs_names, *(f"x{i}" for i in range(10))]))
    mdata = MuData({"rna": rna, "prot": extra})
    mdata.obs["batch"] = mixed.obs["batch"].reindex(mdata.obs_names).fillna("a").astype(str)
    before, columns = rna.X.copy(), list(mdata.obs)
    kept, report = prefilter(mdata)
    places = mdata.obs_names.get_indexer(mixed.obs_names)
    np.testing.assert_array_equal(kept[places], filtered[0])
    assert kept[~np.isin(np.arange(710), places)].all()
    assert report["n_without_rna"] == 10
    assert (mdata["rna"].X != before).nnz == 0
    assert list(mdata.obs) == columns
    assert mdata["rna"].obs.empty and not mdata["rna"].uns


def test_no_threshold_keeps_the_batch(mixed, monkeypatch):
    def fails(scores, **kwargs):
        raise RuntimeError("Unable to find two maxima in histogram")

    monkeypatch.setattr("skimage.filters.threshold_minimum", fails)
    kept, report = prefilter(mixed)
    assert kept.all()
    assert "no threshold" in report["untouched"]["a"]


def test_too_few_genes_keep_the_batch():
    panel = simulate_batches(300, 20, 3, 1, seed=1)
    kept, report = prefilter(panel)
    assert kept.all()
    assert report["untouched"]["batch0"].startswith("Scrublet cannot run")


def test_bad_input_says_what_is_wrong(mixed, monkeypatch):
    with pytest.raises(ValueError, match="kind='doubletfinder'"):
        prefilter(mixed, kind="doubletfinder")
    with pytest.raises(KeyError, match="no column 'donor'; it has batch, cell_type"):
        prefilter(mixed, "donor")
    with pytest.raises(ValueError, match="one per cell"):
        prefilter(mixed, labels=["a"])
    with pytest.raises(ValueError, match="raw counts"):
        prefilter(AnnData(np.log1p(mixed.X.toarray()), obs=mixed.obs))
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(ImportError, match=r"more-scvi\[benchmark\]"):
        prefilter(mixed)
