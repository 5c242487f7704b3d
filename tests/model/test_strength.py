"""How much batches are made alike: as strength says, of several keys each by its own."""

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from sklearn.decomposition import PCA

import more_scvi as more
from more_scvi.data import simulate_batches, simulate_multiomics
from more_scvi.metrics import cilisi, structure

QUIET = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}
KEYS = ["project", "sample"]
pytestmark = pytest.mark.filterwarnings("ignore")


def fit(data, strength=1.0, batch="batch", labels=None, epochs=15, **setup):
    if isinstance(data, mudata.MuData):
        more.MoRE.setup_mudata(data, {m: m for m in data.mod}, batch_key=batch, labels_key=labels, **setup)
    else:
        more.MoRE.setup_anndata(data, batch_key=batch, labels_key=labels, **setup)
    model = more.MoRE(data, seed=0, backbone=None, strength=strength)
    model.train(max_epochs=epochs, batch_size=64, **QUIET)
    return model


def embedded(*args, **kwargs):
    return fit(*args, **kwargs).get_latent_representation()


def components(adata):
    x = adata.X.toarray()
    return PCA(30, random_state=0).fit_transform(np.log1p(x / x.sum(1, keepdims=True) * 1e4))


def column(adata, key):
    return adata.obs[key].astype(str).to_numpy()


def mixing(z, adata, key, within=None):
    """CiLISI of the levels of a key, in each level of another."""
    types, levels = column(adata, "cell_type"), column(adata, key)
    groups = np.zeros(len(z), int) if within is None else column(adata, within)
    return np.mean([cilisi(z[groups == g], types[groups == g], levels[groups == g]) for g in np.unique(groups)])


@pytest.fixture(scope="module")
def platforms():
    return simulate_batches(500, 200, batch_sd=0.3, markers=0.2, seed=0)


@pytest.fixture(scope="module")
def samples():
    """Three samples in each of two projects, all with effects of their own."""
    adata = simulate_batches(720, 200, n_batches=6, batch_sd=0.25, markers=0.2, seed=1)
    adata.obs["sample"] = adata.obs["batch"].astype(str)
    adata.obs["project"] = np.where(adata.obs["sample"] < "batch3", "p", "q")
    rng, of_q = np.random.default_rng(0), (adata.obs["project"] == "q").to_numpy()
    x = adata.X.toarray()
    x[of_q] = rng.poisson(x[of_q] * rng.lognormal(0, 0.4, adata.n_vars))
    adata.X = sp.csr_matrix(x)
    return adata


@pytest.fixture(scope="module", params=[None, "cell_type"])
def usual(platforms, request):
    return fit(platforms.copy(), labels=request.param)


def test_0_leaves_batches_apart_and_more_brings_them_together(platforms, usual):
    labels = usual.schema.setup["labels_key"]
    before = mixing(components(platforms), platforms, "batch")
    none, strong = (mixing(embedded(platforms, s, labels=labels), platforms, "batch") for s in (0, 8))
    assert none < before + 0.1 < 0.4
    assert mixing(usual.get_latent_representation(obsm_key=None), platforms, "batch") > 0.85 and strong > 0.9


def test_0_keeps_what_was_measured(platforms):
    kept, nobody = embedded(platforms, 0, epochs=5), embedded(platforms, batch=None, epochs=5)
    types, one = column(platforms, "cell_type"), np.zeros(platforms.n_obs, int)
    assert structure(kept, nobody, types, one) > 0.9  # distances between batches, too


@pytest.mark.parametrize(("strength", "labels"), [(1.0, None), (4.0, None), (1.0, "cell_type")])
def test_a_batch_split_at_random_stays_as_it_is(strength, labels):
    adata = simulate_batches(400, 200, n_batches=1, markers=0.2, seed=2)
    adata.obs["batch"] = np.random.default_rng(0).choice(["a", "b"], adata.n_obs)
    model = fit(adata, strength, labels=labels)
    z, direct = model.get_latent_representation(), model.reader.arrays(adata).base
    assert mixing(z, adata, "batch") > 0.95
    assert structure(z, direct, column(adata, "cell_type"), np.zeros(adata.n_obs, int)) > 0.97


@pytest.mark.parametrize("labels", [None, "cell_type"])
def test_a_key_of_strength_0_keeps_its_difference_while_the_other_goes(samples, labels):
    x, both, one = (
        components(samples),
        embedded(samples, batch=KEYS, labels=labels),
        embedded(samples, {"project": 0, "sample": 1}, KEYS, labels),
    )
    assert mixing(one, samples, "project") < mixing(x, samples, "project") + 0.15 < mixing(both, samples, "project")
    assert mixing(one, samples, "sample", "project") > max(0.85, mixing(x, samples, "sample", "project") + 0.2)


def test_equal_strengths_of_nested_keys_are_as_one_key(samples):
    np.testing.assert_allclose(embedded(samples, batch=KEYS, epochs=2), embedded(samples, batch="sample", epochs=2))


@pytest.fixture(scope="module")
def crossed(samples):
    return fit(samples, {"project": 0.3, "sample": 1}, KEYS, "cell_type", epochs=3)


def test_batches_are_the_combinations_that_occur(crossed, samples):
    names = sorted(set(samples.obs["project"].astype(str) + " / " + samples.obs["sample"].astype(str)))
    assert list(crossed.batches) == names
    assert crossed.init_arguments["strength"] == {"project": 0.3, "sample": 1}


def test_queries_need_every_column(crossed, samples):
    own = crossed.get_latent_representation(obsm_key=None)
    query = ad.AnnData(samples.X.copy(), samples.obs[KEYS].copy(), samples.var.copy())
    np.testing.assert_allclose(crossed.get_latent_representation(query, obsm_key=None), own, atol=1e-4)
    with pytest.warns(UserWarning, match="no batch column 'sample': all cells are taken as one new batch"):
        bare = ad.AnnData(samples.X.copy(), samples.obs[["project"]].copy(), samples.var.copy())
        new = crossed.get_latent_representation(bare, obsm_key=None)
    other = query.copy()
    other.obs["project"] = "r"
    with pytest.warns(UserWarning, match="r / batch0"):
        np.testing.assert_allclose(crossed.get_latent_representation(other, obsm_key=None), new, atol=1e-4)


def test_a_saved_model_keeps_keys_and_strengths(crossed, samples, tmp_path):
    crossed.save(tmp_path / "model")
    again = more.MoRE.load(tmp_path / "model", samples.copy())
    assert again.init_arguments["strength"] == {"project": 0.3, "sample": 1}
    expected = crossed.get_latent_representation(obsm_key=None)
    np.testing.assert_allclose(again.get_latent_representation(obsm_key=None), expected, atol=1e-5)
    again.train(max_epochs=1, batch_size=64, **QUIET)
    moved = samples.copy()
    moved.obs["sample"] = "batch9"
    with pytest.raises(ValueError, match=r"\['project', 'sample'\].*'p / batch9'"):
        more.MoRE.load(tmp_path / "model", moved)
    changed = crossed.adata.obs["sample"].copy()
    try:
        crossed.adata.obs["sample"] = changed.replace("batch0", "batch1")
        with pytest.raises(ValueError, match=r"\['project', 'sample'\].*was changed after setup"):
            crossed.train(max_epochs=1, **QUIET)
    finally:
        crossed.adata.obs["sample"] = changed


def test_a_reference_grows_by_combinations(crossed, samples):
    query = samples[samples.obs["sample"] == "batch0"].copy()
    query.obs["sample"] = "batch9"
    model = more.MoRE.load_query_data(query, crossed)
    assert [*model.batches] == [*crossed.batches, "p / batch9"]
    assert len(model.get_latent_representation(obsm_key=None)) == query.n_obs
    with pytest.raises(ValueError, match="ask the reference itself"):
        model.strength_curve()
    with pytest.raises(KeyError, match="batch_key='sample' is not a column"):
        more.MoRE.load_query_data(ad.AnnData(query.X, query.obs[["project"]], query.var), crossed)


def test_what_reads_batches_reads_all_columns(crossed, samples):
    student = crossed.distill(max_steps=20, progress=False)
    assert list(student.batches) == list(crossed.batches) and student.fidelity["macro_f1_teacher"] > 0.5
    assert student.get_latent_representation(samples, obsm_key=None).shape[0] == samples.n_obs
    table = crossed.diagnose().table.set_index("check")
    assert (table.loc[["batches_separate", "groups_dissolve"], "status"] != "not checked").all()


def test_sections_are_the_batches_of_several_columns(samples):
    adata = samples.copy()
    adata.obsm["spatial"] = np.random.default_rng(0).uniform(size=(adata.n_obs, 2))
    adata.obs["section"] = adata.obs["project"].astype(str) + adata.obs["sample"].astype(str)
    by_keys = embedded(adata, batch=KEYS, epochs=1, spatial_key="spatial")
    by_section = embedded(adata, batch=KEYS, epochs=1, spatial_key="spatial", section_key="section")
    np.testing.assert_array_equal(by_keys, by_section)


def test_keys_of_a_mudata_are_found_in_its_modalities():
    sizes = {"n_cells": 300, "n_genes": 120, "n_proteins": 25, "markers": 0.2, "n_batches": 4}
    mdata = simulate_multiomics(modalities=("rna", "protein"), pattern={"batch1": ("rna",)}, seed=0, **sizes)
    mdata.obs["project"] = np.where(mdata.obs["batch"].isin(["batch0", "batch1"]), "p", "q")
    model = fit(mdata, {"project": 0, "batch": 1}, ["project", "batch"], "cell_type", epochs=5)
    assert list(model.batches) == ["p / batch0", "p / batch1", "q / batch2", "q / batch3"]
    one, none = (fit(mdata, s, "batch", epochs=5) for s in (1, 0))
    assert len(one.module.compared) == 1 and len(none.module.compared) == 1  # modalities are aligned in any case
    assert not np.allclose(one.get_latent_representation(), none.get_latent_representation())


KEY_ERRORS = {
    "repeated": (["project", "project"], ValueError, "'project' more than once"),
    "empty": ([], ValueError, "empty list"),
    "the labels": (["project", "cell_type"], ValueError, "batch_key and labels_key are both 'cell_type'"),
    "no column": (["project", "lane"], KeyError, "batch_key='lane' is not a column"),
    "no text": (["project", 3], TypeError, "expected the name of a column"),
    "one value per cell": (["project", "barcode"], ValueError, "values for 720 cells"),
    "joined before": (["project", "joined"], ValueError, "' / ' joins the values of several batch columns"),
}


@pytest.mark.parametrize("case", KEY_ERRORS)
def test_batch_keys_that_cannot_be(samples, case):
    key, error, words = KEY_ERRORS[case]
    adata = samples.copy()
    adata.obs["barcode"], adata.obs["joined"] = adata.obs_names, "a / b"
    before = adata.obs.copy()
    with pytest.raises(error) as caught:
        more.MoRE.setup_anndata(adata, batch_key=key, labels_key="cell_type")
    assert words in str(caught.value)
    pd.testing.assert_frame_equal(adata.obs, before)


STRENGTH_ERRORS = {
    "negative": (-1, ValueError, "strength=-1 is out of range"),
    "not finite": (float("inf"), ValueError, "strength=inf"),
    "text": ("1", TypeError, "strength='1'"),
    "yes": (True, TypeError, "strength=True"),
    "unknown key": ({"projects": 1}, ValueError, "Did you mean 'project'?"),
    "negative of a key": ({"sample": -0.5}, ValueError, "strength['sample']=-0.5"),
    "text of a key": ({"sample": "all"}, TypeError, "strength['sample']='all'"),
}


@pytest.mark.parametrize("case", STRENGTH_ERRORS)
def test_strengths_that_cannot_be(samples, case):
    strength, error, words = STRENGTH_ERRORS[case]
    more.MoRE.setup_anndata(samples, batch_key=KEYS)
    with pytest.raises(error) as caught:
        more.MoRE(samples, backbone=None, strength=strength)
    assert words in str(caught.value)


def test_a_strength_per_key_needs_keys(samples):
    more.MoRE.setup_anndata(samples)
    with pytest.raises(ValueError, match="no batch_key was given"):
        more.MoRE(samples, backbone=None, strength={"sample": 1})


def test_the_curve_shows_mixing_rise_and_leaves_the_model_alone(usual):
    model, adata = usual, usual.adata
    z, obs = model.get_latent_representation(obsm_key=None), adata.obs.copy()
    state = {name: tensor.clone() for name, tensor in model.module.state_dict().items()}
    table = model.strength_curve((0, 1), batch_size=64)
    assert list(table.columns) == ["strength", "mixing", "structure"] and list(table["strength"]) == [0.0, 1.0]
    assert table["mixing"][0] < 0.5 < 0.75 < table["mixing"][1]
    assert (table["structure"] > 0.9).all()
    pd.testing.assert_frame_equal(adata.obs, obs)
    assert all((state[name] == tensor).all() for name, tensor in model.module.state_dict().items())
    np.testing.assert_array_equal(model.get_latent_representation(obsm_key=None), z)
    groups = column(adata, "cell_type") if len(model.labels) else None
    if groups is not None:  # the model's own strength gives what the model has
        assert table["mixing"][1] == pytest.approx(cilisi(z, groups, column(adata, "batch")), abs=1e-6)


def test_the_curve_of_one_key(crossed):
    table = crossed.strength_curve((0, 1), key="project", batch_size=64)
    assert table["mixing"][0] < table["mixing"][1]
    with pytest.raises(ValueError, match="key='sampel'.*Did you mean 'sample'"):
        crossed.strength_curve((0, 1), key="sampel")
    with pytest.raises(ValueError, match="a strength=-1"):
        crossed.strength_curve((0, -1))
    with pytest.raises(RuntimeError, match="not trained"):
        more.MoRE(crossed.adata, backbone=None).strength_curve()


@pytest.fixture(scope="module")
def own_type():
    """A type that only one of two batches has."""
    shares = [[0.3, 0.3, 0.2, 0.2], [0.4, 0.3, 0.3, 0.0]]
    return simulate_batches(600, 200, batch_sd=0.2, markers=0.2, proportions=shares, seed=0)


@pytest.mark.parametrize("labels", [None, "cell_type"])
def test_a_type_that_one_batch_has_stays_itself(own_type, labels):
    result = fit(own_type, labels=labels, epochs=20).diagnose(labels="cell_type")
    assert result.ok and result.table.set_index("check").loc["groups_dissolve", "value"] > 0.95


def test_too_much_strength_dissolves_it_and_is_found(own_type):
    model = fit(own_type, 20.0, epochs=20)
    found = model.diagnose().warnings.set_index("check")
    assert list(found.index) == ["groups_dissolve"]
    assert "strength" in found.loc["groups_dissolve", "remedy"]
    named = model.diagnose(labels="cell_type").warnings.set_index("check").loc["groups_dissolve", "message"]
    assert "'type3', which only 'batch0' has" in named


def test_too_little_strength_is_found(platforms):
    found = fit(platforms, 0.0).diagnose().warnings.set_index("check")
    assert "MoRE(strength=...)" in found.loc["batches_separate", "remedy"]
