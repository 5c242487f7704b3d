"""A model of several modalities: where cells with few of them land, what other data it takes, weights, labels."""

import mudata
import numpy as np
import pandas as pd
import pytest

import more_scvi as more
from more_scvi._compat import no_pull
from more_scvi.backbones import get_backbone

QUIET = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}
TWO = ("rna", "protein")
pytestmark = pytest.mark.filterwarnings("ignore:From 0.4:FutureWarning")


def simulate(pattern, n_batches, modalities=TWO, n_cells=300, seed=0, **kwargs):
    """Cells with the modalities that ``pattern`` says, and the same cells with all of them."""
    names = get_backbone("more-mini").vocabulary.human_symbol[:120]
    sizes = {"n_types": 4, "n_genes": 120, "n_peaks": 300, "n_proteins": 25, "gene_names": names, "markers": 0.2}
    return more.data.simulate_multiomics(
        n_cells=n_cells,
        n_batches=n_batches,
        modalities=modalities,
        pattern=pattern,
        seed=seed,
        return_full=True,
        **{**sizes, **kwargs},
    )


def show_labels(mdata, *batches):
    """Labels of some batches only, in ``obs["label"]``; returns the truth."""
    truth = mdata.obs["cell_type"].astype(str).to_numpy()
    mdata.obs["label"] = np.where(mdata.obs["batch"].isin(batches), truth, "Unknown")
    return truth


def build(mdata, epochs=3, setup=None, **kwargs):
    roles = {name: name for name in mdata.mod}
    default = {"batch_key": "batch", "peak_genes": "gene" if "atac" in roles else None}
    more.MoRE.setup_mudata(mdata, roles, **{**default, **(setup or {})})
    model = more.MoRE(mdata, seed=0, **{"backbone": None, "n_views": 1, **kwargs})
    if epochs is not None:
        model.train(max_epochs=epochs, batch_size=64, **QUIET)
    return model


def part(mdata, names, cells=slice(None)):
    """Some modalities of some cells, as a MuData of its own."""
    with no_pull():
        out = mudata.MuData(
            {name: mdata[name][mdata[name].obs_names.isin(mdata.obs_names[cells])].copy() for name in names}
        )
    out.obs["batch"] = mdata.obs["batch"].reindex(out.obs_names).astype(str)
    return out


def close(a, b):
    np.testing.assert_allclose(a, b, atol=2e-4, rtol=1e-3)


def embed(model, data=None, modality=None, **kwargs):
    return model.get_latent_representation(data, obsm_key=None, modality=modality, **kwargs)


def foscttm(a, b):
    """Mean share of cells that are closer to a cell than its own other half: 0 is perfect, 0.5 is chance."""
    distance = np.linalg.norm(a[:, None] - b[None], axis=2)
    own = np.diag(distance)
    return ((distance < own[:, None]).mean() + (distance < own).mean()) / 2


def share_nearer_to_own(a, b):
    """Share of cells that lie nearer to their own counterpart than to that of a random other cell."""
    other = np.roll(np.random.default_rng(0).permutation(len(b)), 1)
    return (np.linalg.norm(a - b, axis=1) < np.linalg.norm(a - b[other], axis=1)).mean()


@pytest.fixture(scope="module")
def mosaic():
    """Paired cells, then RNA alone with labels, then protein alone. Data, full data, model and true labels."""
    mdata, full = simulate({"batch1": ["rna"], "batch2": ["protein"]}, 3)
    truth = show_labels(mdata, "batch1")
    return mdata, full, build(mdata, setup={"labels_key": "label"}), truth


@pytest.fixture(scope="module")
def three():
    """RNA, ATAC and protein; ATAC is missing in batch1, and proteins are in batch2."""
    mdata, full = simulate({"batch1": ["rna", "protein"], "batch2": ["rna", "atac"]}, 3, ("rna", "atac", "protein"))
    return mdata, full, build(mdata)


def rows(mdata, batch):
    return (mdata.obs["batch"] == batch).to_numpy()


# ---- where cells land


def test_two_halves_of_a_cell_lie_together(mosaic):
    """Paired cells: what RNA alone and protein alone say."""
    mdata, _, model, _ = mosaic
    paired = rows(mdata, "batch0")
    assert foscttm(embed(model, modality="rna")[paired], embed(model, modality="protein")[paired]) < 0.05


def test_cells_with_one_modality_lie_where_all_modalities_would_put_them(mosaic):
    mdata, full, model, _ = mosaic
    z, whole = embed(model), embed(model, full)
    for batch in ("batch1", "batch2"):
        assert share_nearer_to_own(z[rows(mdata, batch)], whole[rows(full, batch)]) > 0.85
    hidden = rows(full, "batch1")  # the proteins of these cells were never seen
    rna, protein = (embed(model, full, modality=m)[hidden] for m in TWO)
    assert foscttm(rna, protein) < 0.25


def test_modalities_that_share_no_cell_are_aligned_by_their_genes():
    mdata, full = simulate({"batch0": ["rna"], "batch1": ["protein"]}, 2)
    truth = show_labels(mdata, "batch0")
    model = build(mdata, setup={"labels_key": "label"})
    cells = rows(full, "batch1")
    assert foscttm(*(embed(model, full, modality=m)[cells] for m in TWO)) < 0.25
    hidden = rows(mdata, "batch1")
    majority = pd.Series(truth[hidden]).value_counts(normalize=True).iloc[0]
    assert (model.predict()[hidden] == truth[hidden]).mean() > majority + 0.2


def test_labels_reach_modalities_that_carry_none(mosaic):
    """Labels on RNA only; cells with proteins only and paired cells are annotated."""
    mdata, _, model, truth = mosaic
    predicted = model.predict()
    for batch in ("batch0", "batch2"):
        cells = rows(mdata, batch)
        majority = pd.Series(truth[cells]).value_counts(normalize=True).iloc[0]
        assert (predicted[cells] == truth[cells]).mean() > majority + 0.3
    soft = model.predict(soft=True)
    assert np.allclose(soft.sum(1), 1, atol=1e-4)
    assert list(soft.index) == list(mdata.obs_names)


def test_the_spread_within_types_is_not_carried_to_other_modalities(mosaic, monkeypatch):
    """The discriminant analysis speaks where labelled cells were measured alike, and leaves the others alone."""
    mdata, _, model, _ = mosaic
    soft = model.predict(soft=True)
    monkeypatch.setattr("more_scvi.annotate._annotator.GAUSSIAN_SHARE", 0.0)
    change = np.abs(model.predict(soft=True) - soft).max(axis=1).to_numpy()
    assert change[rows(mdata, "batch1")].max() > 1e-3
    assert change[rows(mdata, "batch0")].max() < 1e-5 and change[rows(mdata, "batch2")].max() < 1e-5


def test_modality_only_embeddings_are_nan_where_nothing_was_measured(mosaic):
    mdata, _, model, _ = mosaic
    for modality in TWO:
        measured = mdata.obs_names.isin(mdata[modality].obs_names)
        z = embed(model, modality=modality)
        assert np.isfinite(z[measured]).all() and np.isnan(z[~measured]).all()
        close(embed(model, modality=modality, indices=[250, 3, -1]), z[[250, 3, -1]])


def test_what_one_modality_says_does_not_depend_on_the_others(mosaic):
    """Other protein counts of a cell move it, but not where its RNA puts it; the modalities do differ."""
    mdata, _, model, _ = mosaic
    query = part(mdata, TWO)
    x = query["protein"].X.toarray()
    x[3] = x[3, ::-1] + 20
    cell = query.obs_names.get_loc(query["protein"].obs_names[3])
    before = embed(model, query), embed(model, query, modality="rna"), embed(model, query, modality="protein")
    query["protein"].X = x
    after = embed(model, query), embed(model, query, modality="rna"), embed(model, query, modality="protein")
    np.testing.assert_array_equal(after[1], before[1])
    assert np.abs(after[0][cell] - before[0][cell]).max() > 0.05
    assert np.abs(after[2][cell] - before[2][cell]).max() > 0.05
    assert np.abs(before[1][cell] - before[0][cell]).max() > 0.05
    assert np.abs(before[2][cell] - before[1][cell]).max() > 0.05


def test_three_modalities(three):
    mdata, full, model = three
    assert np.isfinite(embed(model)).all()
    assert share_nearer_to_own(embed(model), embed(model, full)) > 0.85
    paired = rows(mdata, "batch0")
    alone = {m: embed(model, modality=m)[paired] for m in mdata.mod}
    assert max(foscttm(alone["rna"], alone["atac"]), foscttm(alone["rna"], alone["protein"])) < 0.15


# ---- other data


def test_training_data_given_again_are_where_they_were(mosaic, three):
    for mdata, model in ((mosaic[0], mosaic[2]), (three[0], three[2])):
        close(embed(model, mdata.copy()), embed(model))


def test_a_query_with_one_modality_is_where_cells_of_its_pattern_are(mosaic):
    """Known batch and known pattern: exactly where training put them, by MuData, AnnData, all or one modality."""
    mdata, _, model, _ = mosaic
    for batch, name in (("batch1", "rna"), ("batch2", "protein")):
        cells = rows(mdata, batch)
        query = part(mdata, [name], cells)
        expected = embed(model)[cells]
        close(embed(model, query), expected)
        close(embed(model, query, modality=name), expected)
        close(embed(model, modality=name)[cells], expected)
        if name == "rna":
            close(embed(model, query["rna"]), expected)


def test_a_query_with_a_part_of_paired_cells_is_near_them(mosaic):
    """The pattern is new in that batch, which has its own refinement: not the same place, but nearest to it."""
    mdata, _, model, _ = mosaic
    cells = rows(mdata, "batch0")
    z = embed(model, part(mdata, ["rna"], cells))
    assert share_nearer_to_own(z, embed(model, modality="rna")[cells]) > 0.98


def test_dropping_a_modality_of_one_cell_leaves_the_others_where_they_are(mosaic):
    mdata, _, model, _ = mosaic
    query = part(mdata, TWO)
    before = pd.DataFrame(embed(model, query), index=query.obs_names)
    fewer = mdata["protein"][mdata["protein"].obs_names != "cell7"].copy()
    query = mudata.MuData({"rna": mdata["rna"].copy(), "protein": fewer})
    query.obs["batch"] = mdata.obs["batch"].reindex(query.obs_names).astype(str)
    after = pd.DataFrame(embed(model, query), index=query.obs_names).loc[before.index]
    moved = np.abs(before - after).max(axis=1)
    assert moved["cell7"] > 0.05
    assert moved.drop("cell7").max() < 1e-5


def test_a_new_batch_is_centred_on_its_own_mean(mosaic):
    mdata, _, model, _ = mosaic
    query = part(mdata, ["rna"], rows(mdata, "batch1"))
    query.obs["batch"] = query["rna"].obs["batch"] = "elsewhere"
    with pytest.warns(UserWarning, match="not trained on"):
        z = embed(model, query)
    assert np.isfinite(z).all()
    assert share_nearer_to_own(z, embed(model)[rows(mdata, "batch1")]) > 0.95
    del query.obs["batch"], query["rna"].obs["batch"]
    with pytest.warns(UserWarning, match="no batch column 'batch'"):
        close(embed(model, query), z)


def test_features_in_another_order_and_more_of_them(mosaic):
    mdata, _, model, _ = mosaic
    expected = embed(model)
    query = mdata.copy()
    permuted = {name: adata[:, ::-1].copy() for name, adata in query.mod.items()}
    with no_pull():
        query = mudata.MuData({**permuted, "other": mdata["rna"][:50, :3].copy()})
    query.obs["batch"] = mdata.obs["batch"].reindex(query.obs_names).astype(str)
    z = pd.DataFrame(embed(model, query), index=query.obs_names).loc[mdata.obs_names]
    close(z, expected)


def test_a_query_without_labels_and_covariates_is_enough(mosaic):
    mdata, _, model, _ = mosaic
    query = part(mdata, TWO)
    for adata in query.mod.values():
        adata.obs = pd.DataFrame(index=adata.obs_names)
    assert (model.predict(query) == pd.Series(model.predict(), mdata.obs_names).loc[query.obs_names]).all()


def test_a_mudata_for_a_model_of_an_anndata(mosaic):
    """The modality called ``rna`` is read."""
    mdata = mosaic[0]
    adata = mdata["rna"].copy()
    more.MoRE.setup_anndata(adata, batch_key="batch")
    model = more.MoRE(adata, backbone=None, n_views=1)
    model.train(max_epochs=1, **QUIET)
    close(embed(model, part(mdata, TWO, mdata.obs_names.isin(adata.obs_names))), embed(model))


def test_refinement_and_alignment_know_batch_and_pattern(mosaic):
    assert mosaic[2].schema.domains == [("batch0", TWO), ("batch1", ("rna",)), ("batch2", ("protein",))]


# ---- weights


def test_weights_are_a_table_of_cells_and_modalities(three):
    mdata, _, model = three
    weights = model.get_modality_weights()
    assert list(weights.columns) == ["rna", "atac", "protein"]
    assert list(weights.index) == list(mdata.obs_names)
    present = np.stack([mdata.obs_names.isin(mdata[name].obs_names) for name in weights], 1)
    assert np.allclose(weights.sum(axis=1), 1, atol=1e-5)
    assert ((weights > 0) == present).all(axis=None)
    per_axis = model.get_modality_weights(per_dimension=True)
    assert per_axis.shape == (300, 3, model.module.n_latent)
    assert np.allclose(per_axis.sum(1), 1, atol=1e-5)
    close(per_axis.mean(2), weights)
    some = model.get_modality_weights(indices=[5, -1])
    pd.testing.assert_frame_equal(some, weights.iloc[[5, -1]])
    assert model.get_modality_weights(indices=[5, -1], per_dimension=True).shape == (2, 3, model.module.n_latent)
    assert model.get_modality_weights(part(mdata, ["atac"])).eq([0.0, 1.0, 0.0]).all(axis=None)


def test_no_modality_is_ignored_before_and_after_training(three):
    """Paired cells: each modality has a share of the whole, and rules the axes that are its own."""
    mdata, _, model = three
    for m in (build(mdata.copy(), epochs=0), model):
        per_axis = m.get_modality_weights(indices=rows(mdata, "batch0"), per_dimension=True).mean(0)
        assert per_axis.mean(1).min() > 0.12
        assert (per_axis.max(1) > 0.5).all()


def test_one_modality_has_weight_one(mosaic):
    mdata = part(mosaic[0], ["rna"])
    weights = build(mdata, epochs=1).get_modality_weights()
    assert weights.eq(1.0).all(axis=None) and list(weights.columns) == ["rna"]


@pytest.mark.parametrize("fusion", ["mean", "concatenation"])
def test_controls_train_no_weights(mosaic, fusion):
    mdata = part(mosaic[0], TWO)
    model = build(mdata, fusion=fusion, epochs=1)
    assert not list(model.module.fusion.parameters())
    assert "fusion" not in model.parameter_counts().index
    weights = model.get_modality_weights(per_dimension=True)
    paired = model.get_modality_weights().gt(0).all(axis=1).to_numpy()
    assert np.isfinite(embed(model)).all()
    assert len(np.unique(weights[paired].round(5), axis=0)) == 1, "the same in every cell"


def test_attention_trains_weights(mosaic):
    model = mosaic[2]
    assert model.parameter_counts().loc["fusion", "trained"] > 0
    paired = rows(mosaic[0], "batch0")
    weights = model.get_modality_weights(per_dimension=True)[paired]
    assert weights.std(0).max() > 1e-4, "weights depend on the cell"


def test_accessibility_and_protein_need_no_rna():
    mdata, _ = simulate({"batch1": ["protein"]}, 2, ("atac", "protein"), n_cells=160)
    model = build(mdata)
    assert np.isfinite(embed(model)).all()
    assert list(model.get_modality_weights().columns) == ["atac", "protein"]
    close(embed(model, mdata.copy()), embed(model))
