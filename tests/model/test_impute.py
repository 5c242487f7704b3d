"""Imputation against simulated truth: what was hidden, and what must not be read."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import more_scvi as more
from more_scvi.backbones import get_backbone

QUIET = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}
pytestmark = pytest.mark.filterwarnings("ignore:From 0.4:FutureWarning")


def simulate(pattern, n_batches, modalities, n_cells=300):
    names = get_backbone("more-mini").vocabulary.human_symbol[:120]
    sizes = {"n_types": 4, "n_genes": 120, "n_peaks": 300, "n_proteins": 25, "gene_names": names, "markers": 0.2}
    return more.data.simulate_multiomics(
        n_cells=n_cells, n_batches=n_batches, modalities=modalities, pattern=pattern, return_full=True, **sizes
    )


def build(mdata, epochs=3):
    roles = {name: name for name in mdata.mod}
    more.MoRE.setup_mudata(mdata, roles, batch_key="batch", peak_genes="gene" if "atac" in roles else None)
    model = more.MoRE(mdata, backbone=None, n_views=1, seed=0)
    if epochs:
        model.train(max_epochs=epochs, batch_size=64, **QUIET)
    return model


def correlations(a, b):
    """Pearson correlation of each column over the rows; 0 where one of them is constant."""
    a, b = a - a.mean(0), b - b.mean(0)
    norm = np.sqrt((a**2).sum(0) * (b**2).sum(0))
    return np.where(norm > 1e-9, (a * b).sum(0) / np.maximum(norm, 1e-9), 0.0)


@pytest.fixture(scope="module")
def three():
    """All modalities in batch0; RNA and ATAC in batch1; protein alone in batch2."""
    pattern = {"batch1": ["rna", "atac"], "batch2": ["protein"]}
    mdata, full = simulate(pattern, 3, ("rna", "atac", "protein"))
    return mdata, full, build(mdata)


@pytest.fixture(scope="module")
def diagonal():
    mdata, full = simulate({"batch0": ["rna"], "batch1": ["protein"]}, 2, ("rna", "protein"), 240)
    return mdata, full, build(mdata)


def rows(mdata, batch):
    return (mdata.obs["batch"] == batch).to_numpy()


@pytest.mark.parametrize("modality", ["rna", "protein"])
def test_a_table_of_cells_and_features(three, modality):
    mdata, _, model = three
    values = model.impute(modality)
    assert isinstance(values, pd.DataFrame)
    assert list(values.index) == list(mdata.obs_names)
    assert list(values.columns) == list(mdata[modality].var_names)
    assert np.isfinite(values).all(axis=None) and (values >= 0).all(axis=None)
    wanted = list(mdata[modality].var_names[[7, 2]])
    pd.testing.assert_frame_equal(model.impute(modality, features=wanted), values[wanted], rtol=1e-4)
    mask = np.arange(300) % 7 == 0
    for indices in ([200, 3, 3, -1], slice(5, 50, 9), mask):
        np.testing.assert_allclose(model.impute(modality, indices=indices), values.iloc[indices], rtol=1e-3, atol=1e-3)
    assert list(model.impute(modality, indices=[200, 3]).index) == ["cell200", "cell3"]


def test_accessibility_is_a_sparse_matrix_of_probabilities(three):
    mdata, _, model = three
    values = model.impute("atac")
    assert sp.issparse(values) and values.format == "csr"
    assert values.shape == (300, 300)
    assert values.data.min() >= 0.01 and values.data.max() <= 1
    peaks = list(mdata["atac"].var_names[[9, 4]])
    np.testing.assert_allclose(model.impute("atac", features=peaks).toarray(), values[:, [9, 4]].toarray(), atol=1e-5)
    np.testing.assert_allclose(model.impute("atac", indices=[7, 1]).toarray(), values[[7, 1]].toarray(), atol=1e-5)


def test_hidden_proteins_are_found(three):
    """Over the cells of the batch without proteins; the mean of training cells would correlate by 0."""
    mdata, full, model = three
    hidden = rows(mdata, "batch1")
    values = np.log1p(model.impute("protein").to_numpy()[hidden])
    truth = np.log1p(full["protein"].X.toarray()[rows(full, "batch1")])
    assert correlations(values, truth).mean() > 0.4
    seen = np.log1p(mdata["protein"].X.toarray())
    error, error_of_mean = ((values - truth) ** 2).mean(), ((seen.mean(0) - truth) ** 2).mean()
    assert error < error_of_mean


def test_hidden_genes_and_peaks_are_found_from_proteins(three):
    mdata, full, model = three
    hidden, all_rows = rows(mdata, "batch2"), rows(full, "batch2")
    x = full["rna"].X.toarray()[all_rows]
    x = np.log1p(1e4 * x / x.sum(1, keepdims=True))
    variable = np.argsort(-x.var(0))[:30]
    assert correlations(np.log1p(model.impute("rna").to_numpy()[hidden][:, variable]), x[:, variable]).mean() > 0.2
    opened = full["atac"].X.toarray()[all_rows] > 0
    found = model.impute("atac").toarray()[hidden]
    assert correlations(found, opened.astype(float)).mean() > 0.05
    assert abs(found.mean() - opened.mean()) < 0.1, "probabilities of the right size"


def test_sizes_are_those_of_the_data(three):
    """RNA adds up to about 10,000 in a cell; proteins have the level of the training batches."""
    mdata, _, model = three
    total = model.impute("rna").sum(axis=1).median()
    assert 2_000 < total < 20_000
    level = np.log1p(mdata["protein"].X.toarray()).mean()
    assert abs(np.log1p(model.impute("protein")).mean(axis=None) - level) < 0.3


@pytest.mark.parametrize("modality", ["protein", "rna", "atac"])
def test_own_measurements_are_not_read_where_there_are_others(three, modality):
    """Changing the counts of one modality of a cell does not change what the others say about it."""
    _, full, model = three
    query = full[:40].copy()
    before = model.impute(modality, query)
    x = query[modality].X.toarray()
    x[3] = x[3, ::-1] + 5
    query[modality].X = sp.csr_matrix(x)
    after = model.impute(modality, query)
    if modality == "atac":
        before, after = before.toarray(), after.toarray()
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5)
    changed = model.impute("rna" if modality != "rna" else "protein", query, indices=[3])
    assert np.isfinite(np.asarray(changed)).all()


def test_the_other_measurements_are_read(three):
    _, full, model = three
    query = full[:40].copy()
    before = model.impute("protein", query)
    x = query["rna"].X.toarray()
    x[3] = x[3, ::-1]
    query["rna"].X = sp.csr_matrix(x)
    after = model.impute("protein", query)
    others = np.arange(40) != 3
    np.testing.assert_allclose(after[others], before[others], rtol=1e-4)
    assert np.abs(np.log1p(after.iloc[3]) - np.log1p(before.iloc[3])).max() > 0.05


def test_a_cell_with_that_modality_alone(three):
    """Smoothed by its own measurements: the only thing known about it."""
    mdata, full, model = three
    cells = rows(mdata, "batch2")
    values = np.log1p(model.impute("protein").to_numpy()[cells])
    assert correlations(values, np.log1p(full["protein"].X.toarray()[rows(full, "batch2")])).mean() > 0.3


def test_an_anndata_of_rna_is_enough(three):
    """RNA-only AnnData: the same as the MuData with RNA alone."""
    mdata, full, model = three
    adata = full["rna"][rows(full, "batch0")].copy()
    before = adata.copy()
    values = model.impute("protein", adata)
    assert list(values.index) == list(adata.obs_names)
    truth = np.log1p(full["protein"].X.toarray()[rows(full, "batch0")])
    assert correlations(np.log1p(values.to_numpy()), truth).mean() > 0.4
    assert list(adata.obs) == list(before.obs) and not len(adata.obsm) and not len(adata.uns)


def test_modalities_that_share_no_cell(diagonal):
    """Finite, and better than nothing: genes are the bridge."""
    mdata, full, model = diagonal
    for modality in ("rna", "protein"):
        values = model.impute(modality)
        assert np.isfinite(values).all(axis=None) and (values >= 0).all(axis=None)
    hidden = rows(mdata, "batch0")
    truth = np.log1p(full["protein"].X.toarray()[rows(full, "batch0")])
    assert correlations(np.log1p(model.impute("protein").to_numpy()[hidden]), truth).mean() > 0.15


def test_a_model_of_one_modality_has_nothing_to_impute_from(three):
    full = three[1]
    adata = full["rna"][:80].copy()
    more.MoRE.setup_anndata(adata, batch_key="batch")
    model = more.MoRE(adata, backbone=None, n_views=1)
    model.train(max_epochs=1, **QUIET)
    with pytest.raises(ValueError, match="(?s)several modalities.*'rna'.*setup_mudata"):
        model.impute("rna")
    with pytest.raises(ValueError, match="modality='protein'"):
        model.impute("protein")


def test_before_training_there_is_nothing_to_impute_with(diagonal):
    """Zeros for everything would look like an answer."""
    model = build(diagonal[0].copy(), epochs=0)
    with pytest.raises((RuntimeError, ValueError), match="train"):
        model.impute("protein")
