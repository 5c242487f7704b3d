import warnings
from functools import partial

import mudata
import numpy as np
import pandas as pd
import pytest
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import cross_val_score

from more_scvi._compat import no_pull
from more_scvi.data import check_mudata
from more_scvi.data._simulate_multi import simulate_multiomics
from more_scvi.modalities import get_modality, list_modalities

ALL = ("rna", "atac", "protein")
check_mudata = partial(check_mudata, rules={name: get_modality(name).values for name in list_modalities()})


def log_shares(adata) -> np.ndarray:
    x = adata.X.toarray().astype(float)
    total = x.sum(1, keepdims=True)
    return np.log1p(x / np.maximum(total, 1) * np.median(total))


def correlations(a, b) -> np.ndarray:
    return np.array([np.corrcoef(a[:, j], b[:, j])[0, 1] for j in range(a.shape[1])])


def activity(atac, genes) -> np.ndarray:
    """Log shares of the counts of all peaks of each gene."""
    of_gene = np.equal.outer(atac.var["gene"].to_numpy(), np.asarray(genes))
    counts = np.asarray(atac.X @ of_gene.astype(float))
    total = counts.sum(1, keepdims=True)
    return np.log1p(counts / total * np.median(total))


def assert_same_counts(a, b):
    assert list(a.obs_names) == list(b.obs_names)
    pd.testing.assert_frame_equal(pd.DataFrame(a.var), pd.DataFrame(b.var))
    assert (a.X != b.X).nnz == 0


@pytest.fixture(scope="module")
def default():
    return simulate_multiomics()


def test_counts_and_truth_have_the_announced_shape(default):
    assert {name: adata.shape for name, adata in default.mod.items()} == {
        "rna": (600, 300),
        "atac": (600, 1000),
        "protein": (600, 20),
    }
    for adata in default.mod.values():
        assert adata.X.format == "csr"
        assert adata.X.dtype == np.float32
        assert (adata.X.data == np.rint(adata.X.data)).all()
        pd.testing.assert_frame_equal(adata.obs, default.obs)
    assert default.obs["cell_type"].nunique() == 4
    assert default.obs["batch"].nunique() == 2
    np.testing.assert_array_equal(default.obsm["state"][:, 0], default.obs["state"])
    median = {name: float(np.median(adata.X.toarray().sum(1))) for name, adata in default.mod.items()}
    assert median == pytest.approx({"rna": 2000, "atac": 800, "protein": 500}, rel=0.1)
    check_mudata(default, modalities={name: name for name in ALL}, batch_key="batch", labels_key="cell_type")


@pytest.mark.parametrize("name", ALL)
def test_every_modality_shows_type_and_state(default, name):
    x = log_shares(default[name])
    kind = default.obs["cell_type"].to_numpy()
    u = PCA(10, random_state=0).fit_transform(x)
    assert cross_val_score(LogisticRegression(max_iter=2000), u, kind).mean() > 0.9
    state = default.obs["state"].to_numpy()
    explained = [cross_val_score(Ridge(10), x[kind == t], state[kind == t]).mean() for t in np.unique(kind)]
    assert np.mean(explained) > 0.1


def test_proteins_follow_their_genes():
    mdata = simulate_multiomics(depth={"rna": 10_000}, batch_sd=0)
    genes = mdata["rna"].var_names.get_indexer(mdata["protein"].var["gene"])
    assert len(set(genes)) == 20 and (genes >= 0).all()
    r = correlations(log_shares(mdata["rna"])[:, genes], np.log1p(mdata["protein"].X.toarray()))
    assert r.min() > 0.5


def test_proteins_follow_their_genes_with_noise(default):
    genes = default["rna"].var_names.get_indexer(default["protein"].var["gene"])
    r = correlations(log_shares(default["rna"])[:, genes], np.log1p(default["protein"].X.toarray()))
    assert np.median(r) > 0.5


def test_peaks_follow_their_genes(default):
    rna, genes = log_shares(default["rna"]), default["rna"].var_names
    open_ = activity(default["atac"], genes)
    varied = genes.get_indexer(default["protein"].var["gene"])
    assert np.median(correlations(rna[:, varied], open_[:, varied])) > 0.5
    others = np.roll(varied, 1)
    assert abs(np.median(correlations(rna[:, varied], open_[:, others]))) < 0.2
    assert np.corrcoef(rna.mean(0), open_.mean(0))[0, 1] > 0.5


@pytest.mark.parametrize(("n_genes", "n_peaks"), [(50, 170), (30, 20), (5, 400)])
def test_positions_lead_to_the_same_genes(n_genes, n_peaks):
    mdata = simulate_multiomics(n_cells=10, n_genes=n_genes, n_peaks=n_peaks, n_proteins=2)
    peaks, genes = mdata["atac"].var, mdata.uns["genes"]
    assert list(genes["symbol"]) == list(mdata["rna"].var_names)
    assert set(genes["strand"]) == {"+", "-"}
    assert list(mdata["atac"].var_names) == [f"{p.chrom}:{p.start}-{p.end}" for p in peaks.itertuples()]
    assert peaks.index.is_unique
    for window in (0, 2000, 10_000):
        for name, peak in peaks.iterrows():
            same = genes["chrom"] == peak["chrom"]
            near = (peak["end"] > genes["start"] - 1 - window) & (peak["start"] < genes["end"] + window)
            assert list(genes.index[same & near]) == [peak["gene"]], name
    first = peaks.groupby("gene", sort=False).head(1)
    for _, peak in first.iterrows():
        gene = genes.loc[peak["gene"]]
        assert peak["start"] < (gene["start"] if gene["strand"] == "+" else gene["end"]) <= peak["end"]


def test_background_is_found_where_the_protein_is_not():
    def lowest(background):
        mdata = simulate_multiomics(background=background, batch_sd=0, depth={"protein": 1000})
        return np.median(np.quantile(mdata["protein"].X.toarray(), 0.1, axis=0))

    assert lowest(0) == 0
    assert 0 < lowest(0.2) < lowest(0.6)


def test_batch_effects_are_in_every_modality_and_can_be_switched_off():
    def shift(sd, name):
        mdata = simulate_multiomics(n_types=1, batch_sd=sd)
        x = mdata[name].X.toarray()
        x = x / x.sum(1, keepdims=True)
        return np.abs(x[:300].mean(0) - x[300:].mean(0)).sum()

    for name in ALL:
        assert shift(0.0, name) < 0.5 * shift(0.5, name)


# -- mosaics ----------------------------------------------------------------------------------------------------------


def test_a_pattern_hides_exactly_what_it_says():
    pattern = {"batch1": ("rna",), "batch2": ("protein", "atac")}
    shown, full = simulate_multiomics(n_cells=90, n_batches=3, n_proteins=8, pattern=pattern, return_full=True)
    batch = full.obs["batch"]
    assert set(shown.obs_names) == set(full.obs_names)
    for name in ALL:
        expected = [b for b in ("batch0", "batch1", "batch2") if name in pattern.get(b, ALL)]
        assert list(shown[name].obs_names) == list(batch.index[batch.isin(expected)])
        assert_same_counts(shown[name], full[name][shown[name].obs_names])
    truth = full.obs.loc[shown.obs_names]
    pd.testing.assert_frame_equal(shown.obs, truth)
    np.testing.assert_array_equal(shown.obsm["state"][:, 0], truth["state"])
    without = simulate_multiomics(n_cells=90, n_batches=3, n_proteins=8)
    for name in ALL:
        assert_same_counts(full[name], without[name])


def test_a_mosaic_can_be_checked():
    mdata = simulate_multiomics(n_cells=60, pattern={"batch0": ("protein",), "batch1": ("rna", "atac")})
    cells, summaries = check_mudata(mdata, modalities={name: name for name in ALL}, labels_key="batch")
    assert cells.present.sum(0).tolist() == [30, 30, 30]
    assert summaries["protein"].labels == ("batch0",)


@pytest.mark.parametrize("chosen", [("rna",), ("protein", "rna"), ("atac",)], ids="-".join)
def test_a_modality_is_the_same_alone_and_with_others(chosen, default):
    mdata = simulate_multiomics(modalities=chosen)
    assert list(mdata.mod) == [name for name in ALL if name in chosen]
    for name in chosen:
        assert_same_counts(mdata[name], default[name])


def test_the_seed_decides(default):
    again, other = simulate_multiomics(), simulate_multiomics(seed=1)
    for name in ALL:
        assert_same_counts(default[name], again[name])
        assert (default[name].X != other[name].X).nnz > 0


# -- names and arguments ----------------------------------------------------------------------------------------------


def test_names_of_genes_reach_peaks_and_proteins():
    genes = [f"G{i}" for i in range(12)]
    mdata = simulate_multiomics(n_cells=20, n_genes=12, n_peaks=30, n_proteins=3, gene_names=genes)
    assert list(mdata["rna"].var_names) == genes
    assert set(mdata["atac"].var["gene"]) == set(genes)
    assert set(mdata["protein"].var["gene"]) <= set(genes)
    assert list(mdata["protein"].var_names) == [f"prot_{gene}" for gene in mdata["protein"].var["gene"]]
    named = simulate_multiomics(n_cells=20, n_proteins=3, protein_names=["CD3", "CD4", "CD8"])
    assert list(named["protein"].var_names) == ["CD3", "CD4", "CD8"]


def test_several_states():
    mdata = simulate_multiomics(n_cells=50, n_factors=3)
    assert mdata.obsm["state"].shape == (50, 3)


def test_written_and_read_again(tmp_path):
    mdata = simulate_multiomics(n_cells=30, pattern={"batch0": ("rna", "protein")})
    with no_pull():
        mdata.write(tmp_path / "a.h5mu")
        again = mudata.read(tmp_path / "a.h5mu")
    for name in ALL:
        assert (mdata[name].X != again[name].X).nnz == 0
    assert list(again.uns["genes"]["symbol"]) == list(mdata.uns["genes"]["symbol"])
    check_mudata(again, modalities={name: name for name in ALL}, batch_key="batch")


def test_no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings(
            "ignore", message=".*(infer_string|chained_assignment|inplace)"
        )  # anndata with pandas 3.1
        simulate_multiomics(n_cells=20, pattern={"batch1": ("rna",)}, return_full=True)


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"modalities": ()}, "at least one of 'rna', 'atac', 'protein'"),
        ({"modalities": "rna"}, "must be a tuple"),
        ({"modalities": ("rna", "prot")}, "Did you mean 'protein'"),
        ({"pattern": {"batch7": ("rna",)}}, "'batch7' is not supported; choose one of 'batch0', 'batch1'"),
        ({"pattern": {"batch1": "rna"}}, "must be a tuple"),
        ({"pattern": {"batch1": ()}}, "at least one"),
        ({"pattern": {"batch0": ("rna",), "batch1": ("rna",)}}, "'atac', 'protein' in no batch"),
        ({"modalities": ("rna",), "pattern": {"batch1": ("atac",)}}, "at least one of 'rna'"),
        ({"gene_names": ["A"]}, "gene_names has 1 names.* must have 300"),
        ({"protein_names": ["A"] * 20}, "1 of them different"),
        ({"depth": {"adt": 100}}, "'adt'"),
        ({"depth": {"rna": 0}}, "depth"),
        ({"background": 1}, "background"),
        ({"n_proteins": 301}, "n_genes = 300"),
        ({"n_peaks": 0}, "n_peaks=0"),
    ],
)
def test_wrong_arguments_are_refused(kwargs, match):
    with pytest.raises(ValueError, match=match):
        simulate_multiomics(n_cells=20, **kwargs)
