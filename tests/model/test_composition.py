"""The same cells get the same answers, whichever other cells came along."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import more_scvi as more
from more_scvi.metrics import knn_predict

NEW = "Yolk Sac"
SETTINGS = {"accelerator": "cpu", "enable_progress_bar": False, "logger": False}
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def gastrula(real_data):
    """Parts of an embryo, which hold other shares of its cell types; one of them is new."""
    data = ad.read_h5ad(real_data("dev/human_gastrula.h5ad"))
    data.obs = data.obs[["batch", "cell_type"]].astype(str)
    new = data.obs["batch"] == NEW
    return data[~new].copy(), data[new & data.obs["cell_type"].isin(data.obs["cell_type"][~new])].copy()


def fitted(data, epochs=30, **keys):
    more.MoRE.setup_anndata(data, batch_key="batch", **keys)
    model = more.MoRE(data, n_views=0, seed=0)
    model.train(max_epochs=epochs, **SETTINGS)
    return model


def frequent(query):
    counts = query.obs["cell_type"].value_counts()
    return counts.index[counts >= 15]


@pytest.mark.parametrize("labelled", [True, False])
def test_a_query_of_one_type_is_answered_as_part_of_all(gastrula, labelled):
    reference, query = gastrula
    model = fitted(reference, **({"labels_key": "cell_type"} if labelled else {}))

    def right(cells):
        truth = cells.obs["cell_type"].to_numpy()
        if labelled:
            return pd.Series(model.predict(cells) == truth, cells.obs_names)
        z = np.concatenate([model.get_latent_representation(x, obsm_key=None) for x in (reference, cells)])
        hidden = np.arange(len(z)) >= reference.n_obs
        labels = np.concatenate([reference.obs["cell_type"], truth])
        return pd.Series(knn_predict(z, labels, hidden)[hidden] == truth, cells.obs_names)

    among = right(query)
    assert among.mean() > 0.85
    for kind in frequent(query):
        alone = right(query[query.obs["cell_type"] == kind].copy())
        assert abs(alone.mean() - among[alone.index].mean()) <= 0.03, kind
    one = query[:1].copy()
    np.testing.assert_allclose(
        model.get_latent_representation(one), model.get_latent_representation(query)[:1], atol=1e-3
    )


def test_an_unlabelled_batch_of_one_type_is_answered_as_part_of_all(gastrula):
    reference, query = gastrula

    def right(cells):
        both = ad.concat([reference, cells])
        both.obs["label"] = np.where(both.obs["batch"] == NEW, "Unknown", both.obs["cell_type"])
        model = fitted(both, labels_key="label", unlabeled_category="Unknown")
        new = (both.obs["batch"] == NEW).to_numpy()
        return pd.Series((model.predict() == both.obs["cell_type"].to_numpy())[new], cells.obs_names)

    among, kind = right(query), frequent(query)[0]
    alone = right(query[query.obs["cell_type"] == kind].copy())
    assert among.mean() > 0.9
    assert abs(alone.mean() - among[alone.index].mean()) <= 0.03


def test_composition_found_in_an_unlabelled_batch_helps_is_saved_and_touches_no_other(gastrula, tmp_path):
    reference, query = gastrula
    both = ad.concat([reference, query])
    new = (both.obs["batch"] == NEW).to_numpy()
    both.obs["label"] = np.where(new, "Unknown", both.obs["cell_type"])
    model = fitted(both, labels_key="label", unlabeled_category="Unknown")
    answer, found = model.predict(soft=True), model.module.annotator.composition
    assert [bool(row.any()) for row in found] == [batch == NEW for batch in model.batches]
    pd.testing.assert_frame_equal(model.predict(soft=True, batch_size=7), answer)
    model.save(tmp_path / "model")
    again = more.MoRE.load(tmp_path / "model", adata=both)
    read_again = again.predict(soft=True)
    pd.testing.assert_frame_equal(read_again, answer, atol=1e-4)  # sums of threads come in another order
    pd.testing.assert_frame_equal(again.predict(soft=True, indices=np.flatnonzero(new)[:1]), answer[new][:1], atol=1e-4)
    more_cells = reference[:50].copy()
    more_cells.obs = more_cells.obs.assign(batch="other", label="a new type")
    grown = more.MoRE.load_query_data(more_cells, again)
    assert len(grown.module.annotator.composition) == len(found) + 1
    old = grown.predict(both, soft=True, new_types=False)[list(model.labels)]
    pd.testing.assert_frame_equal(old, read_again, atol=1e-6)
    found.zero_()
    usual, truth = model.predict(soft=True), both.obs["cell_type"].to_numpy()
    pd.testing.assert_frame_equal(usual[~new], answer[~new])
    right = [(p.idxmax(axis=1).to_numpy() == truth)[new].mean() for p in (usual, answer)]
    assert right[1] >= right[0]


def test_what_an_added_query_holds_is_found_by_training_on_it(gastrula, tmp_path):
    reference, query = gastrula
    model = fitted(reference, labels_key="cell_type", unlabeled_category="Unknown")
    truth, cells = query.obs["cell_type"].to_numpy(), query.copy()
    cells.obs["cell_type"] = "Unknown"
    grown = more.MoRE.load_query_data(cells, model)
    before, old = grown.predict(soft=True), grown.predict(reference, soft=True)
    grown.train(max_epochs=1)
    after, found = grown.predict(soft=True), grown.module.annotator.composition
    assert [bool(row.any()) for row in found] == [batch == NEW for batch in grown.batches]
    pd.testing.assert_frame_equal(grown.predict(reference, soft=True), old)
    right = [(p.idxmax(axis=1).to_numpy() == truth).mean() for p in (before, after)]
    assert right[1] >= right[0]
    grown.save(tmp_path / "grown")
    again = more.MoRE.load(tmp_path / "grown", adata=cells)
    pd.testing.assert_frame_equal(again.predict(soft=True), after, atol=1e-4)
    cells.obs["cell_type"] = truth  # labels say what a batch holds
    labelled = more.MoRE.load_query_data(cells, grown)
    assert not labelled.module.annotator.composition.any()
    labelled.train(max_epochs=1)
    assert not labelled.module.annotator.composition.any()


def test_cells_measured_otherwise_than_labelled_ones_are_not_weighed():
    data = more.data.simulate_multiomics(
        500, 3, 3, modalities=("rna", "protein"), n_genes=200, n_proteins=15, pattern={"batch2": ("protein",)}, seed=0
    )
    types, batch = data.obs["cell_type"].astype(str), data.obs["batch"].astype(str)
    rare = types == types.value_counts().index[-1]
    data = data[~batch.isin(["batch1", "batch2"]) | rare].copy()  # two batches of one type, without labels
    data.obs["label"] = data.obs["cell_type"].astype(str).where(data.obs["batch"].astype(str) == "batch0", "Unknown")
    more.MoRE.setup_mudata(data, {"rna": "rna", "protein": "protein"}, batch_key="batch", labels_key="label")
    model = more.MoRE(data, backbone=None, seed=0)
    model.train(max_epochs=5, **SETTINGS)
    found = {model.schema.domains[at][0]: bool(row.any()) for at, row in enumerate(model.module.annotator.composition)}
    assert found == {"batch0": False, "batch1": True, "batch2": False}


def test_what_experts_read_of_proteins_does_not_depend_on_what_a_batch_holds():
    """A batch without labels lies where the others do, one with labels where its types say."""
    whole = more.data.simulate_multiomics(600, 4, 3, modalities=("rna", "protein"), n_genes=200, n_proteins=15, seed=0)
    types, batch = whole.obs["cell_type"].astype(str), whole.obs["batch"].astype(str)
    names = sorted(batch.unique())
    whole.obs["label"] = types.where(batch != names[-1], "Unknown")
    offsets = []
    for data in (whole, whole[(types == types.iloc[0]) | (batch == names[0])].copy()):  # all types, or one
        more.MoRE.setup_mudata(data, {"rna": "rna", "protein": "protein"}, batch_key="batch", labels_key="label")
        model = more.MoRE(data, backbone=None, seed=0)
        model.train(max_epochs=1, **SETTINGS)
        offsets.append(model.module.base("protein").wide_offset.numpy())
    for found in offsets:
        assert not found[2].any() and np.linalg.norm(found[0] - found[1]) > 0.1
    # the two may turn the axes otherwise; how far batches lie apart stays
    np.testing.assert_allclose(*(np.linalg.norm(found[0] - found[1]) for found in offsets), rtol=0.35)
