"""Frozen features that do not fit the data: a backbone of another tissue, names of genes that were mixed up."""

import anndata as ad
import numpy as np
import pytest

from more_scvi.metrics import macro_f1

from .conftest import fitted

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def gastrula(real_data):
    data = ad.read_h5ad(real_data("dev/human_gastrula.h5ad"))
    data.obs = data.obs[["batch", "cell_type"]].astype(str)
    return data


def test_with_few_cells_features_that_do_not_fit_cost_little(gastrula):
    """100 cells: principal components of so few hold little, and the base is nearly all frozen features."""
    scores = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        data = gastrula[rng.permutation(gastrula.n_obs)[:100]].copy()
        data.obsm["X_noise"] = rng.normal(size=(100, 64)).astype(np.float32)
        hidden = np.arange(100) % 2 == 0
        data.obs["label"] = data.obs["cell_type"].where(~hidden, "Unknown")
        truth = data.obs["cell_type"][hidden]
        noise = {"backbone": "precomputed", "backbone_kwargs": {"obsm_key": "X_noise"}}
        answers = [fitted(data.copy(), **kind).predict() for kind in ({"backbone": None}, noise)]
        scores.append([macro_f1(truth, np.asarray(answer)[hidden]) for answer in answers])
    without, beside = np.mean(scores, 0)
    assert beside > without - 0.1
