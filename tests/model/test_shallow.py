"""Batches and cells of which far less was read than of labelled ones."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch

import more_scvi as more

from .conftest import fitted, regression_on_genes

NEW = "SN"
pytestmark = pytest.mark.filterwarnings("ignore")


def thinned(data, share):
    """Cells with a share of their counts; those of which hardly anything is left are dropped."""
    x = sp.csr_matrix(data.X, copy=True)
    x.data = np.random.default_rng(0).binomial(np.round(x.data).astype(int), share).astype(np.float32)
    out = data.copy()
    out.X = x  # zeros are stored: a matrix may do so
    return out[np.asarray(x.sum(1)).ravel() >= 20].copy()


@pytest.fixture(scope="module")
def brain(real_data):
    """Regions of a brain, and the deepest of them as it is."""
    data = ad.read_h5ad(real_data("dev/mouse_oligo_regions.h5ad"))
    data.obs = data.obs[["batch", "cell_type"]].astype(str)
    new = (data.obs["batch"] == sorted(data.obs["batch"].unique())[0]).to_numpy()
    query = data[new & data.obs["cell_type"].isin(data.obs["cell_type"][~new])].copy()
    query.obs["batch"] = NEW
    return data[~new].copy(), query


def together(reference, query, labelled=False):
    both = ad.concat([reference, query])
    both.obs["label"] = both.obs["cell_type"].where((both.obs["batch"] != NEW) | labelled, "Unknown")
    return both


def logistic_regression(reference, query):
    """Share right of logistic regression on log-normalised values."""
    return (regression_on_genes(reference, query) == query.obs["cell_type"]).mean()


@pytest.fixture(scope="module")
def reference(brain):
    cells, _ = brain
    return fitted(together(cells, cells[:0]))


def test_an_unlabelled_batch_of_a_tenth_of_the_depth_is_answered_as_well_as_by_regression(brain, tmp_path):
    cells, query = brain
    query = thinned(query, 0.1)
    both = together(cells, query)
    model = fitted(both)
    answer, new = model.predict(soft=True), (both.obs["batch"] == NEW).to_numpy()
    truth = both.obs["cell_type"][new]
    assert (answer[new].idxmax(axis=1) == truth).mean() >= logistic_regression(cells, query) - 0.05
    model.save(tmp_path / "model")
    again = more.MoRE.load(tmp_path / "model", adata=both).predict(soft=True)
    pd.testing.assert_frame_equal(again, answer, atol=1e-4)  # read again: sums of threads come in another order


@pytest.mark.parametrize("share", [0.1, 0.05, 0.03])
def test_a_mapped_query_of_little_depth_is_answered_as_well_as_by_regression(brain, reference, share):
    cells, query = brain[0], thinned(brain[1], share)
    right = (reference.predict(query) == query.obs["cell_type"]).mean()
    assert right >= logistic_regression(cells, query) - 0.05


def test_what_a_query_holds_beside_shallow_cells_is_answered_as_without_them(brain, reference):
    whole = brain[1]
    thin = thinned(whole, 0.05)
    thin.obs_names += "-thin"
    among = reference.predict(ad.concat([whole, thin]), soft=True)
    pd.testing.assert_frame_equal(among[: len(whole)], reference.predict(whole, soft=True), atol=1e-4)
    pd.testing.assert_frame_equal(among[len(whole) :], reference.predict(thin, soft=True), atol=1e-4)


def test_a_shallow_query_with_some_of_the_genes_is_answered(brain, reference):
    query = thinned(brain[1], 0.1)
    some = query[:, np.random.default_rng(0).random(query.n_vars) < 0.5].copy()
    right = (reference.predict(some) == some.obs["cell_type"]).mean()
    assert right >= (reference.predict(query) == query.obs["cell_type"]).mean() - 0.1


def test_labels_vouch_for_a_shallow_batch(brain):
    cells, query = brain[0], thinned(brain[1], 0.1)
    for labelled in (False, True):
        both = together(cells, query, labelled)
        model = fitted(both, epochs=1)
        arrays = model.reader.arrays(both)
        new = (both.obs["batch"] == NEW).to_numpy()
        assert np.array_equal(arrays.shallow, new)
        vouched = model.module.annotator.vouched(*map(torch.from_numpy, (arrays.domain, arrays.shallow))).numpy()
        assert np.array_equal(vouched, ~new | labelled)


def test_where_no_expert_answers_shallow_cells_are_answered_by_all_that_is_left(brain):
    """Without a wide input nothing takes the place of the discriminant analysis, which must not fall silent."""
    both = together(brain[0], thinned(brain[1], 0.1))
    model = fitted(both, epochs=1, n_wide=0)
    annotator = model.module.annotator
    assert model.reader.arrays(both).shallow.any() and annotator.gaussian.is_fitted
    usual = model.predict(soft=True)
    annotator.taught.fill_(True)
    pd.testing.assert_frame_equal(model.predict(soft=True), usual)
