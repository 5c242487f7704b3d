"""``MoRE.setup_anndata`` on data and arguments it cannot work with."""

from pathlib import Path

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import pytest

from more_scvi import MoRE


def change(adata, cell, gene, value):
    x = adata.X.toarray()
    x[cell, gene] = value
    adata.X = x
    return adata


def column(adata, name, values):
    adata.obs[name] = values
    return adata


def rename(adata, axis, i, j):
    names = list(getattr(adata, f"{axis}_names"))
    names[i] = names[j]
    setattr(adata, f"{axis}_names", names)
    return adata


def scaled(adata):
    x = adata.X.toarray()
    adata.X = (x - x.mean(0)) / (x.std(0) + 1e-6)
    return adata


def with_matrix(adata, x):
    adata.X = x
    return adata


OBJECTS = [
    pytest.param(lambda a: None, TypeError, ["NoneType", "anndata.AnnData"], id="none"),
    pytest.param(lambda a: a.to_df(), TypeError, ["DataFrame", "wrap the matrix"], id="data-frame"),
    pytest.param(lambda a: a.X, TypeError, ["csr_matrix", "wrap the matrix"], id="matrix"),
    pytest.param(lambda a: Path("a.h5ad"), TypeError, ["PosixPath", "read_h5ad"], id="path"),
    pytest.param(lambda a: mudata.MuData({"rna": a}), TypeError, ["MuData", "mdata.mod['rna']"], id="mudata"),
    pytest.param(lambda a: a[:0].copy(), ValueError, ["0 cells", "at least 2"], id="no-cells"),
    pytest.param(lambda a: a[:1].copy(), ValueError, ["1 cell ", "at least 2"], id="one-cell"),
    pytest.param(lambda a: a[:, :0].copy(), ValueError, ["0 genes", "gene subset"], id="no-genes"),
    pytest.param(lambda a: a[:50], ValueError, ["view", ".copy()"], id="view"),
    pytest.param(lambda a: rename(a, "obs", 3, 4), ValueError, ["obs_names", "obs_names_make_unique"], id="same-cells"),
    pytest.param(lambda a: rename(a, "var", 3, 4), ValueError, ["var_names", "var_names_make_unique"], id="same-genes"),
    pytest.param(lambda a: ad.AnnData(obs=a.obs, var=a.var), ValueError, ["adata.X is empty", "layer"], id="no-matrix"),
    pytest.param(
        lambda a: change(a, 7, 3, np.nan), ValueError, ["1 NaN or infinite", "cell 's1_cell7'", "gene"], id="nan"
    ),
    pytest.param(lambda a: change(a, 7, 3, np.inf), ValueError, ["1 NaN or infinite", "first inf"], id="infinite"),
    pytest.param(
        lambda a: change(a, 7, 3, -2), ValueError, ["1 negative", "first -2 in cell 's1_cell7'"], id="negative"
    ),
    pytest.param(scaled, ValueError, ["negative values", "scaled", "adata.layers holds: 'counts'"], id="scaled"),
    pytest.param(
        lambda a: with_matrix(a, a.X * 50.5), ValueError, ["neither counts nor log-normalised", "log1p"], id="unlogged"
    ),
    pytest.param(lambda a: with_matrix(a, a.X * 0), ValueError, ["zeros only"], id="zeros"),
    pytest.param(
        lambda a: with_matrix(a, a.X.toarray().astype(str).astype(object)), TypeError, ["object values"], id="text"
    ),
    pytest.param(lambda a: with_matrix(a, a.X.astype(complex)), TypeError, ["complex128"], id="complex"),
]


@pytest.mark.parametrize(("make", "error", "words"), OBJECTS)
@pytest.mark.filterwarnings("ignore")
def test_objects(bench, refused, make, error, words):
    data = make(bench.adata)
    refused(bench, lambda: MoRE.setup_anndata(data), error, words, data)


ARGUMENTS = [
    pytest.param({"layer": "count"}, KeyError, ["layer='count'", "Did you mean 'counts'"], id="layer-unknown"),
    pytest.param({"layer": 3}, TypeError, ["layer is 3 (int)", "None for"], id="layer-type"),
    pytest.param({"batch_key": "bacth"}, KeyError, ["batch_key='bacth'", "Did you mean 'batch'"], id="batch-unknown"),
    pytest.param({"batch_key": ["batch", 3]}, TypeError, ["batch_key is 3 (int)"], id="batch-type"),
    pytest.param({"batch_key": "score"}, ValueError, ["continuous", "astype(str)"], id="batch-continuous"),
    pytest.param({"batch_key": "gaps"}, ValueError, ["obs['gaps']", "2 of 120 cells", "'s1_cell5'"], id="batch-gaps"),
    pytest.param({"labels_key": "celltype"}, KeyError, ["Did you mean 'cell_type'"], id="labels-unknown"),
    pytest.param({"labels_key": 7}, TypeError, ["labels_key is 7 (int)"], id="labels-type"),
    pytest.param({"labels_key": "score"}, ValueError, ["obs['score'] is continuous"], id="labels-continuous"),
    pytest.param(
        {"labels_key": "batch", "batch_key": "batch"},
        ValueError,
        ["both 'batch'", "two columns"],
        id="labels-are-batch",
    ),
    pytest.param(
        {"labels_key": "cell_type", "unlabeled_category": None},
        TypeError,
        ["unlabeled_category=None"],
        id="unlabeled-none",
    ),
    pytest.param(
        {"categorical_covariate_keys": "batch"}, TypeError, ["Did you mean ['batch']"], id="categorical-not-a-list"
    ),
    pytest.param(
        {"categorical_covariate_keys": ["donor"]}, KeyError, ["'donor'", "Available"], id="categorical-unknown"
    ),
    pytest.param({"categorical_covariate_keys": ["gaps"]}, ValueError, ["obs['gaps']"], id="categorical-gaps"),
    pytest.param({"continuous_covariate_keys": ["cell_type"]}, TypeError, ["must be numeric"], id="continuous-text"),
    pytest.param(
        {"continuous_covariate_keys": ["holes"]}, ValueError, ["obs['holes']", "1 of 120"], id="continuous-nan"
    ),
    pytest.param({"gene_key": "symbols"}, KeyError, ["gene_key='symbols'", "Did you mean 'symbol'"], id="gene-unknown"),
    pytest.param({"gene_key": 0}, TypeError, ["gene_key is 0 (int)", "adata.var"], id="gene-type"),
    pytest.param({"data_type": "count"}, ValueError, ["data_type='count'", "'lognorm'"], id="data-type-unknown"),
    pytest.param({"data_type": None}, ValueError, ["data_type=None", "'auto'"], id="data-type-none"),
    pytest.param({"data_type": "lognorm"}, ValueError, ["too large", "data_type='counts'"], id="counts-as-lognorm"),
    pytest.param(
        {"data_type": "counts", "layer": "log"},
        ValueError,
        ["layers['log']", "not whole", "'lognorm'"],
        id="log-as-counts",
    ),
    pytest.param({"batchkey": "batch"}, TypeError, ["batchkey"], id="misspelt-argument"),
]


@pytest.mark.parametrize(("kwargs", "error", "words"), ARGUMENTS)
def test_arguments(bench, refused, kwargs, error, words):
    adata = bench.adata
    adata.obs["gaps"] = pd.Series(["a", "b"] * 60, adata.obs_names).where(~np.isin(np.arange(120), [5, 9]))
    adata.obs["holes"] = adata.obs["score"].where(np.arange(120) != 5)
    adata.layers["log"] = adata.X.log1p()
    refused(bench, lambda: MoRE.setup_anndata(adata, **kwargs), error, words)


def test_setting_up_again_after_an_error_works(bench):
    with pytest.raises(KeyError):
        MoRE.setup_anndata(bench.adata, batch_key="nope")
    MoRE.setup_anndata(bench.adata, batch_key="batch")
    assert MoRE(bench.adata).summary_stats.n_batch == 2
