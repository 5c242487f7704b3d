"""Several models of one object, and covariates far outside what was trained on."""

import copy

import numpy as np
import pytest
from mudata import MuData

from more_scvi import MoRE

from .conftest import QUIET, SETUP, make_data
from .test_mudata_model import build, make_mudata

pytestmark = pytest.mark.filterwarnings("ignore:From 0.4:FutureWarning")


def fitted(adata, **setup):
    MoRE.setup_anndata(adata, **{**SETUP, **setup})
    model = MoRE(adata, backbone=None, n_views=0)
    model.train(max_epochs=1, **QUIET)
    return model


def test_a_second_setup_of_the_same_anndata_leaves_the_first_model_trainable():
    adata, alone = make_data(), fitted(make_data())
    adata.obs["other"] = np.where(np.arange(adata.n_obs) % 2, "u", "v")
    adata.obs["half"] = np.where(np.arange(adata.n_obs) < 60, "u", "v")
    first = fitted(adata)
    second = fitted(adata, batch_key="other", labels_key="half")
    z = second.get_latent_representation()
    twin = copy.deepcopy(first)
    for model in (first, alone, twin):
        model.train(max_epochs=1, **QUIET)
    np.testing.assert_array_equal(first.get_latent_representation(), alone.get_latent_representation())
    np.testing.assert_array_equal(twin.get_latent_representation(), alone.get_latent_representation())
    np.testing.assert_array_equal(second.get_latent_representation(), z)
    adata.obs["batch"] = adata.obs["other"].to_numpy()
    with pytest.raises(ValueError, match="'batch'.*changed after setup"):
        first.train(max_epochs=1, **QUIET)


def test_a_second_setup_of_the_same_mudata_leaves_the_first_model_trainable():
    mdata = make_mudata()
    mdata.obs["other"] = np.where(np.arange(mdata.n_obs) % 2, "u", "v")
    first = build(mdata, {"n_views": 0})
    second = build(mdata, {"n_views": 0}, batch_key="other", labels_key=None)
    for model in (first, second):
        model.train(max_epochs=1, **QUIET)
    assert set(first.predict()) <= set(mdata.obs["cell_type"])
    assert first.batches.tolist() == sorted(set(mdata.obs["batch"]))
    first.view_registry()


@pytest.mark.parametrize("value", [1e300, 1.7e9])
def test_a_covariate_in_another_unit_is_refused(value):
    model, query = fitted(make_data(), continuous_covariate_keys=["score"]), make_data(seed=1)
    query.obs.iloc[2, query.obs.columns.get_loc("score")] = value
    with pytest.raises(ValueError, match=f"'score'.*{query.obs_names[2]}.*standard deviations.*unit"):
        model.predict(query)


def test_missing_antibodies_and_peaks_are_called_by_their_kind():
    model, mdata = build(make_mudata(), {"n_views": 0}), make_mudata()
    model.train(max_epochs=1, **QUIET)
    for name in ("peaks", "adt"):
        query = mdata[name][:, :4].copy()
        with pytest.warns(UserWarning, match=f"lacks .* {'peaks' if name == 'peaks' else 'antibodies'} the model"):
            model.get_latent_representation(MuData({name: query}), obsm_key=None)
