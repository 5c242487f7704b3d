"""A mosaic of real donors: cells with RNA, with proteins, with both."""

import mudata
import numpy as np
import pytest
from sklearn.metrics import f1_score

import more_scvi as more


@pytest.fixture(scope="module")
def mosaic(real_data):
    return mudata.read_h5mu(real_data("bench/pbmc_mosaic_hao.h5mu"))


@pytest.mark.filterwarnings("ignore")
def test_labels_reach_cells_that_share_no_modality_with_the_labelled_ones(mosaic):
    """Only RNA-only cells are labelled; protein-only cells get their labels through cells with both."""
    pattern = mosaic.obs["modality_pattern"].astype(str).to_numpy()
    truth = mosaic.obs["cell_type"].astype(str).to_numpy()
    labels = np.where(pattern == "rna", truth, "Unknown")
    for adata in mosaic.mod.values():
        del adata.obs["cell_type"]
    mosaic.obs = mosaic.obs[["batch"]].astype(str).assign(label=labels)
    more.MoRE.setup_mudata(mosaic, {"rna": "rna", "protein": "prot"}, batch_key="batch", labels_key="label")
    model = more.MoRE(mosaic, n_views=1)
    model.train(max_epochs=40, enable_progress_bar=False)
    target = pattern == "prot"
    seen = np.isin(truth, truth[pattern == "rna"])
    assert f1_score(truth[target & seen], model.predict()[target & seen], average="macro") > 0.55
    assert (model.predict()[target & seen] == truth[target & seen]).mean() > 0.8
    z = model.get_latent_representation(obsm_key=None)
    both = pattern == "both"
    one = model.get_latent_representation(obsm_key=None, modality="protein")
    assert np.isfinite(z).all() and np.isnan(one[pattern == "rna"]).all()
    own = ((z[both] - one[both]) ** 2).sum(1).mean()
    other = ((z[both] - np.roll(one[both], 1, axis=0)) ** 2).sum(1).mean()
    assert own < 0.5 * other, "a cell lies by its proteins near where it lies by both"
