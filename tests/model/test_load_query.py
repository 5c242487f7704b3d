"""A query is added to a reference: what stays as it was, what new batches learn, and types that the reference lacks."""

import logging
import re

import numpy as np
import pandas as pd
import pytest
import torch
from mudata import MuData
from sklearn.metrics import roc_auc_score

import more_scvi as more
from more_scvi._compat import no_pull
from more_scvi.data import simulate_batches

from .conftest import FIT

SETUP = {"batch_key": "batch", "labels_key": "label"}
QUIET = {"enable_progress_bar": False}
pytestmark = pytest.mark.filterwarnings("ignore:.*holds values the model was not trained on", "ignore:.*lacks")


@pytest.fixture(scope="module")
def cells():
    """Four batches of five types; ``label`` shows three of them."""
    adata = simulate_batches(1200, 120, 5, 4, markers=0.3, batch_sd=0.5, seed=3)
    adata.obs["truth"] = adata.obs["cell_type"].astype(str)
    adata.obs["batch"] = adata.obs["batch"].astype(str)
    adata.obs["label"] = np.where(adata.obs["truth"].isin(["type3", "type4"]), "Unknown", adata.obs["truth"])
    return adata


def of_batches(cells, *batches, types=None):
    names = sorted(cells.obs["batch"].unique())
    here = cells.obs["batch"].isin([names[b] for b in batches])
    return cells[(here if types is None else here & cells.obs["truth"].isin(types)).to_numpy()].copy()


def labelled(query, **counts):
    """The query with so many visible labels of each type, the others hidden."""
    query = query.copy()
    label = np.full(query.n_obs, "Unknown", dtype=object)
    for name, n in counts.items():
        label[np.flatnonzero(query.obs["truth"] == name)[:n]] = name
    query.obs["label"] = label
    return query


def made(adata, **kwargs):
    more.MoRE.setup_anndata(adata, **SETUP)
    model = more.MoRE(adata, backbone=None, seed=0, n_variable=120, n_components=20, n_wide=40, **kwargs)
    model.train(max_epochs=8, **FIT)
    return model


@pytest.fixture(scope="module")
def reference(cells):
    """Two batches of three types, a third of the labels hidden."""
    adata = of_batches(cells, 0, 1, types=["type0", "type1", "type2"])
    adata.obs["label"] = np.where(np.arange(adata.n_obs) % 3 == 0, "Unknown", adata.obs["label"])
    return made(adata)


@pytest.fixture
def query(cells):
    """Another batch with a type that the reference lacks; 30 cells of it, and some of the others, are labelled."""
    return labelled(of_batches(cells, 2), type3=30, type0=20, type1=20, type2=20)


@pytest.fixture(scope="module")
def multi(make_multi):
    return make_multi(epochs=2)


@pytest.fixture
def multi_query(multi):
    query = multi.adata[:80].copy()
    query.obs["batch"] = "later"
    return query


def answers(model, data=None, **kwargs):
    return model.get_latent_representation(data, obsm_key=None), model.predict(data, soft=True, **kwargs)


def equal(first, second, atol=0.0):
    """Embeddings and the probabilities of the types that the first knows are the same."""
    np.testing.assert_allclose(second[0], first[0], rtol=0, atol=atol)
    np.testing.assert_allclose(second[1][first[1].columns], first[1], rtol=0, atol=atol)


# ---- before training


@pytest.mark.parametrize("place", ["model", "folder"])
@pytest.mark.parametrize("kind", ["AnnData", "MuData"])
def test_without_training_the_query_lies_where_the_reference_maps_it(kind, place, request, tmp_path):
    reference = request.getfixturevalue("reference" if kind == "AnnData" else "multi")
    query = request.getfixturevalue("query" if kind == "AnnData" else "multi_query")
    query.obs["label"] = "Unknown"
    mapped, own = answers(reference, query), answers(reference)
    batches = list(reference.batches)
    if place == "folder":
        reference.save(tmp_path)
    model = more.MoRE.load_query_data(query, reference if place == "model" else tmp_path)
    equal(mapped, answers(model), 1e-6)
    equal(own, answers(model, reference.adata))
    assert model.adata is query and model.is_trained
    assert list(model.batches)[: len(batches)] == batches and set(query.obs["batch"]) <= set(model.batches)
    assert list(reference.batches) == batches, "the reference was changed"
    equal(own, answers(reference))


def test_all_questions_are_answered_at_once(reference, query, tmp_path):
    model = more.MoRE.load_query_data(query, reference)
    novelty = model.get_novelty()
    assert novelty.index.equals(query.obs_names) and novelty.between(0, 1).all()
    assert len(model.get_path_weights()) == 1 and len(model.get_modality_weights()) == query.n_obs
    assert model.diagnose().n_cells == query.n_obs
    assert model.history is None
    student = model.distill(max_steps=2, n_hidden=8, holdout=0, progress=False)
    assert set(student.labels) == set(model.labels)


def test_the_map_of_the_reference_stays(reference, query):
    reference.fit_map(50)
    model = more.MoRE.load_query_data(query, reference)
    placed = reference.get_map_coordinates(reference.adata)
    model.train(**QUIET)
    assert model.has_map
    np.testing.assert_array_equal(model.get_map_coordinates(reference.adata), placed)


def test_a_type_without_labels_is_novel_for_a_reference_without_cells(reference, cells, tmp_path):
    query = labelled(of_batches(cells, 2))
    new = query.obs["truth"].isin(["type3", "type4"])
    reference.save(tmp_path)
    loaded = more.MoRE.load(tmp_path, adata=False)
    for score in (loaded.get_novelty(query), more.MoRE.load_query_data(query, loaded).get_novelty()):
        assert roc_auc_score(new, score) > 0.9


@pytest.mark.parametrize("what", ["genes", "labels"])
def test_what_the_query_lacks_is_missing(reference, query, what, tmp_path):
    if what == "genes":
        query = query[:, np.random.default_rng(0).random(query.n_vars) < 0.6].copy()
    else:
        del query.obs["label"]
    mapped = answers(reference, query)
    model = more.MoRE.load_query_data(query, reference)
    equal(mapped, answers(model, new_types=False), 1e-6)
    model.train(**QUIET)
    model.save(tmp_path)
    equal(answers(model), answers(more.MoRE.load(tmp_path, query.copy())), 1e-6)


def test_a_query_of_one_modality_is_added_to_a_reference_of_two(multi, multi_query):
    query = MuData({"rna": multi_query["rna"].copy()})
    query.obs["batch"], query.obs["label"] = multi_query.obs["batch"], "Unknown"
    mapped = answers(multi, query)
    model = more.MoRE.load_query_data(query, multi)
    equal(mapped, answers(model), 1e-6)
    own = answers(multi)
    model.train(**QUIET)
    equal(own, answers(model, multi.adata))


# ---- training


def offset(model):
    """Size of what was learned for each batch."""
    return np.array([e.weight.detach().square().sum(1).numpy() for e in model.module.refinement.embedding]).sum(0)


@pytest.mark.parametrize("batches", [1, 2])
def test_training_moves_new_batches_only(reference, cells, query, batches, caplog):
    """Also where the reference has one batch, so that refinement starts with the query."""
    if batches == 1:
        reference = made(of_batches(cells, 0, types=["type0", "type1", "type2"]))
    own, before = answers(reference), answers(reference, query)
    model = more.MoRE.load_query_data(query, reference)
    with caplog.at_level(logging.INFO, "more_scvi"):
        model.train(**QUIET)
    equal(own, answers(model, reference.adata))
    assert np.abs(answers(model)[0] - before[0]).max() > 0.01
    first, last = model.history["distance_validation"].iloc[[0, -1], 0]
    assert last < first and offset(model)[-1] > 0
    assert re.search(rf"held-out cells: distance_validation {first:.4g} before, {last:.4g} after.*: kept", caplog.text)
    right = model.predict() == query.obs["truth"]
    assert right[query.obs["truth"] != "type4"].mean() > 0.8


def test_what_does_not_help_cells_that_were_held_out_is_not_kept(reference, query, caplog):
    model = more.MoRE.load_query_data(query, reference)
    before = answers(model)
    with caplog.at_level(logging.INFO, "more_scvi"):
        model.train(max_epochs=3, plan_kwargs={"lr": 100.0}, **QUIET)
    assert re.search("Refinement of the new batches 'batch2'.* after.*: not kept", caplog.text)
    assert offset(model)[-1] == 0
    equal(before, answers(model), 1e-6)


def test_labels_that_are_held_out_decide_where_there_are_enough(reference, cells):
    query = labelled(of_batches(cells, 2), type0=60, type1=60, type2=60)
    model = more.MoRE.load_query_data(query, reference)
    model.train(**QUIET)
    first, last = model.history["label_likelihood_validation"].iloc[:, 0]
    assert (offset(model)[-1] > 0) == (last > first + 0.01)


def test_no_steps_change_nothing(reference, query):
    model = more.MoRE.load_query_data(query, reference)
    before = model.get_latent_representation(obsm_key=None)
    model.train(max_epochs=0, **QUIET)
    assert offset(model)[-1] == 0
    np.testing.assert_array_equal(model.get_latent_representation(obsm_key=None), before)


def test_unfrozen_trains_all(reference, query):
    frozen, free = (more.MoRE.load_query_data(query, reference, unfrozen=u) for u in (False, True))
    trained = [
        {n.split(".")[0] for n, p in model.module.named_parameters() if p.requires_grad} for model in (frozen, free)
    ]
    assert trained[0] == {"refinement"} and {"adapters", "classifier", "refinement"} <= trained[1]
    before = {k: v.clone() for k, v in free.module.state_dict().items()}
    free.train(max_epochs=2, **FIT)
    changed = {k.split(".")[0] for k, v in free.module.state_dict().items() if not torch.equal(v, before[k])}
    assert {"adapters", "classifier", "refinement"} <= changed and "linear" not in changed
    assert "loss_classify_train" in free.history and np.isfinite(answers(free)[0]).all()


def test_arguments_of_joint_training_are_named_where_they_do_nothing(reference, query):
    model = more.MoRE.load_query_data(query, reference)
    with pytest.warns(UserWarning, match=r"ignores 'check_val_every_n_epoch', 'weight_decay'.*unfrozen=True"):
        model.train(max_epochs=1, check_val_every_n_epoch=10, plan_kwargs={"weight_decay": 0.0}, **QUIET)


# ---- new types


def test_a_new_type_is_found_in_new_batches_and_old_batches_keep_their_answers(reference, query):
    own = answers(reference)
    model = more.MoRE.load_query_data(query, reference)
    assert list(model.labels) == ["type0", "type1", "type2", "type3"]
    hidden = (query.obs["label"] == "Unknown").to_numpy()
    truth = query.obs["truth"].to_numpy()
    right = model.predict() == truth
    assert right[hidden & (truth == "type3")].mean() > 0.8
    before = reference.predict(query) == truth
    old = hidden & np.isin(truth, ["type0", "type1", "type2"])
    assert right[old].mean() >= before[old].mean() - 0.02
    p = model.predict(soft=True)
    np.testing.assert_allclose(p.sum(1), 1, atol=1e-5)
    kept = model.predict(reference.adata, soft=True)
    assert (kept["type3"] == 0).all()
    equal(own, answers(model, reference.adata))
    assert (model.predict(reference.adata, soft=True, new_types=True)["type3"] > 0).any()
    assert (model.predict(soft=True, new_types=False)["type3"] == 0).all()


def test_nineteen_cells_are_no_type(reference, cells):
    first = labelled(of_batches(cells, 2), type3=19)
    with pytest.warns(UserWarning, match=r"too few cells: 'type3' \(19\).*not labelled until 20 cells"):
        model = more.MoRE.load_query_data(first, reference)
    mapped = answers(reference, first)
    equal(mapped, answers(model), 1e-6)
    assert "type3" not in model.predict()
    assert "type3" in more.MoRE.load_query_data(labelled(of_batches(cells, 2), type3=20), reference).predict()
    assert "type3" in more.MoRE.load_query_data(labelled(of_batches(cells, 3), type3=1), model).predict()


def test_the_order_of_additions_changes_nothing(reference, cells, tmp_path):
    first = labelled(of_batches(cells, 2), type3=30, type0=15)
    second = labelled(of_batches(cells, 3), type4=25, type3=5, type1=15)
    one = more.MoRE.load_query_data(second, more.MoRE.load_query_data(first, reference))
    two = more.MoRE.load_query_data(second, reference)
    two.save(tmp_path)
    two = more.MoRE.load_query_data(first, tmp_path)
    assert set(one.labels) == set(two.labels) == {f"type{i}" for i in range(5)}
    for data in (first, second, reference.adata):
        equal(answers(one, data), answers(two, data), 1e-6)
    right = one.predict(second) == second.obs["truth"]
    assert right[second.obs["truth"] == "type4"].mean() > 0.8


def test_earlier_queries_keep_their_place_when_later_ones_are_trained(reference, cells, query):
    first = more.MoRE.load_query_data(query, reference)
    first.train(**QUIET)
    there = first.get_latent_representation(obsm_key=None)
    again = query.copy()
    again.obs["batch"] = "later"
    later = more.MoRE.load_query_data(again, first)
    later.train(**QUIET)
    np.testing.assert_array_equal(later.get_latent_representation(query, obsm_key=None), there)
    assert offset(later)[-1] > 0


def test_without_batches_new_types_have_to_be_asked_for(cells):
    adata = of_batches(cells, 0, types=["type0", "type1"])
    more.MoRE.setup_anndata(adata, labels_key="label")
    model = more.MoRE(adata, backbone=None, seed=0, n_components=10, n_wide=20)
    model.train(max_epochs=1, **FIT)
    with pytest.warns(UserWarning, match=r"no batch_key.*'type3'.*predict\(new_types=True\)"):
        grown = more.MoRE.load_query_data(labelled(of_batches(cells, 0), type3=30), model)
    assert "type3" not in grown.predict()
    assert "type3" in grown.predict(new_types=True)
    grown.train(**QUIET)  # nothing to learn


# ---- without cells


def test_a_grown_reference_is_passed_on_without_cells(reference, query, tmp_path, caplog):
    model = more.MoRE.load_query_data(query, reference)
    model.train(**QUIET)
    with caplog.at_level(logging.INFO, "more_scvi"):
        model.save(tmp_path)
    assert re.search(r"\d\.\d MB, without any cell", caplog.text)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 3e6
    loaded = more.MoRE.load(tmp_path, adata=False)
    for data in (query, reference.adata):
        equal(answers(model, data), answers(loaded, data))
    pd.testing.assert_frame_equal(model.history["distance_train"], loaded.history["distance_train"])
    again = more.MoRE.load_query_data(query.copy(), tmp_path)
    assert list(again.batches) == list(model.batches) and list(again.labels) == list(model.labels)
    attached = more.MoRE.load(tmp_path, query.copy())
    equal(answers(model), answers(attached))


# ---- preparation


def test_genes_are_brought_to_the_order_of_the_reference(reference, query, caplog, tmp_path):
    reference.save(tmp_path)
    other = query[:, :3].copy()
    other.var_names = ["a", "b", "c"]
    import anndata as ad

    mixed = ad.concat([query[:, ::-2], other], axis=1, merge="same")
    mixed.obs = query.obs
    before = answers(reference, mixed)
    for given in (reference, tmp_path, str(tmp_path)):
        with caplog.at_level(logging.INFO, "more_scvi"):
            out = more.MoRE.prepare_query_anndata(mixed, given, inplace=False)
        assert "60 of the 120 genes of the reference are there; 3 others are left out" in caplog.text
        assert list(out.var_names) == [g for g in reference.genes if g in set(mixed.var_names)]
        equal(before, answers(reference, out), 1e-6)
    assert mixed.n_vars == 63
    assert list(more.MoRE.prepare_query_anndata(None, tmp_path, return_reference_var_names=True)) == list(
        reference.genes
    )
    assert more.MoRE.prepare_query_anndata(mixed, reference) is None
    assert list(mixed.var_names) == list(out.var_names)
    model = more.MoRE.load_query_data(query[:, ::-1].copy(), reference, inplace_subset_query_vars=True)
    assert list(model.adata.var_names) == list(reference.genes)


def test_features_of_each_modality_are_brought_to_their_order(multi, multi_query):
    before = answers(multi, multi_query)
    with no_pull():
        mixed = MuData(
            {
                "adt": multi_query["adt"][:, ::-1].copy(),
                "rna": multi_query["rna"][:, ::-1].copy(),
                "hto": multi_query["adt"][:40, :2].copy(),
            }
        )
    for key in ("batch", "label"):
        mixed.obs[key] = multi_query.obs[key].reindex(mixed.obs_names)
    mixed.obsm["X_own"] = np.arange(mixed.n_obs)[:, None]
    mixed.uns["note"] = "kept"
    own = pd.Series(np.arange(mixed.n_obs), index=mixed.obs_names)
    names = more.MoRE.prepare_query_mudata(None, multi, return_reference_var_names=True)
    out = more.MoRE.prepare_query_mudata(mixed, multi, inplace=False)
    assert set(out.mod) == {"rna", "adt"} == set(names) and "hto" in mixed.mod
    assert more.MoRE.prepare_query_mudata(mixed, multi) is None
    for data in (out, mixed):
        assert set(data.mod) == {"rna", "adt"} and data.uns["note"] == "kept"
        assert list(data.obsm["X_own"][:, 0]) == list(own[data.obs_names])
        assert all(list(data[n].var_names) == list(names[n]) for n in names)
        equal(before, answers(multi, data[multi_query.obs_names].copy()), 1e-6)


# ---- refusals


def untrained(reference, query):
    return more.MoRE.load_query_data(query, more.MoRE(reference.adata, backbone=None))


def without_batch(reference, query):
    del query.obs["batch"]
    return more.MoRE.load_query_data(query, reference)


WRONG = {
    "no query": (lambda r, q: more.MoRE.load_query_data(None, r), TypeError, "adata is a NoneType"),
    "no reference": (lambda r, q: more.MoRE.load_query_data(q, None), TypeError, "reference_model is a NoneType"),
    "another model": (lambda r, q: more.MoRE.load_query_data(q, object()), TypeError, "folder of MoRE.save"),
    "no folder": (lambda r, q: more.MoRE.load_query_data(q, "nowhere"), FileNotFoundError, "no such folder"),
    "not trained": (untrained, RuntimeError, "not trained"),
    "no batch column": (without_batch, KeyError, "batch_key='batch' is not a column"),
    "MuData": (
        lambda r, q: more.MoRE.load_query_data(MuData({"rna": q}), r),
        TypeError,
        "a model of an AnnData; of a MuData",
    ),
    "unfrozen": (lambda r, q: more.MoRE.load_query_data(q, r, unfrozen="yes"), TypeError, "unfrozen='yes'"),
    "other genes": (lambda r, q: more.MoRE.load_query_data(renamed(q), r), ValueError, "adata lacks 120 of the 120"),
    "prepared genes": (lambda r, q: more.MoRE.prepare_query_anndata(renamed(q), r), ValueError, "adata lacks 120 of"),
    "prepare a path": (lambda r, q: more.MoRE.prepare_query_anndata("q.h5ad", r), TypeError, "read it first"),
    "prepare a MuData": (lambda r, q: more.MoRE.prepare_query_mudata(q, r), ValueError, "prepare_query_anndata"),
    "registry": (lambda r, q: more.MoRE.load_query_data(q, r, registry={}), TypeError, "no argument registry"),
    "misspelt": (lambda r, q: more.MoRE.load_query_data(q, r, unfrozn=True), TypeError, "Did you mean 'unfrozen'"),
}


def renamed(query):
    query.var_names = [f"x{i}" for i in range(query.n_vars)]
    return query


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_added_is_refused(reference, query, case):
    call, error, words = WRONG[case]
    columns = [*query.obs]
    with pytest.raises(error, match=re.escape(words)):
        call(reference, query)
    assert set(query.obs) <= set(columns), "the query was changed"


# ---- a modality that the reference lacks


def taken(mdata, names, cells):
    """Some modalities of some cells."""
    with no_pull():
        out = MuData({name: mdata[name][cells].copy() for name in names})
    for key in ("batch", "label"):
        out.obs[key] = mdata.obs[key].reindex(out.obs_names)
    return out


@pytest.fixture(scope="module")
def paired():
    """RNA, peaks and proteins of three batches."""
    with no_pull():
        mdata = more.data.simulate_multiomics(900, 4, 3, n_genes=200, n_peaks=300, n_proteins=30, seed=2)
    mdata.obs["label"] = mdata.obs["cell_type"].astype(str)
    return mdata


@pytest.fixture(scope="module", params=["AnnData", "MuData"])
def without_protein(paired, request):
    """A model of two batches, of RNA alone, or of RNA and peaks."""
    cells = np.flatnonzero(paired.obs["batch"] != "batch2")
    kwargs = {"backbone": None, "seed": 0, "n_components": 15, "n_wide": 30}
    if request.param == "AnnData":
        data = taken(paired, ["rna"], cells)["rna"].copy()
        data.obs["label"] = data.obs["cell_type"].astype(str)
        more.MoRE.setup_anndata(data, **SETUP)
    else:
        data = taken(paired, ["rna", "atac"], cells)
        more.MoRE.setup_mudata(data, {"rna": "rna", "atac": "atac"}, **SETUP)
    model = more.MoRE(data, **kwargs)
    model.train(max_epochs=5, **FIT)
    return model


def test_cells_with_a_new_modality_alone_are_embedded(paired, without_protein, tmp_path):
    reference = without_protein
    own = answers(reference)
    cells = np.flatnonzero(paired.obs["batch"] == "batch2")
    query, other = taken(paired, ["rna", "protein"], cells[::2]), taken(paired, ["protein"], cells[1::2])
    model = more.MoRE.load_query_data(query, reference, modalities={"protein": "protein"})
    equal(own, answers(model, reference.adata))
    by_rna = taken(paired, ["rna"], cells[1::2])
    wanted, z = (m.get_latent_representation(d, obsm_key=None) for m, d in ((reference, by_rna), (model, other)))
    shuffled = np.random.default_rng(0).permutation(len(z))
    apart = [np.square(z - w).sum(1).mean() for w in (wanted, wanted[shuffled], wanted.mean(0))]
    assert apart[0] < 0.7 * apart[1] and apart[0] < 1.2 * apart[2]
    right = model.predict(other) == other.obs["label"]
    assert right.mean() > 0.8
    assert model.get_novelty(other).between(0, 1).all()
    # cells that the reference can read are embedded by what it reads
    both = taken(paired, ["rna", "protein"], cells[1::2])
    np.testing.assert_allclose(model.get_latent_representation(both, obsm_key=None), wanted, atol=1e-6)
    model.train(**QUIET)
    equal(own, answers(model, reference.adata))
    if reference.schema.is_mudata:
        prepared = more.MoRE.prepare_query_mudata(other, model, inplace=False)
        assert list(prepared["protein"].var_names) == list(other["protein"].var_names)
    # it is saved without cells, and further pairs add up
    model.save(tmp_path)
    loaded = more.MoRE.load(tmp_path, adata=False)
    equal(answers(model, other), answers(loaded, other))
    more_pairs = taken(paired, ["rna", "protein"], cells[1::2])
    grown = more.MoRE.load_query_data(more_pairs, tmp_path)
    pairs = [m.module.further["protein"].pairs.gram[-1, -1].item() for m in (model, grown)]
    assert pairs == [len(cells[::2]), len(cells)]


LACKING = {
    "too few": ({"protein": "protein"}, 40, ValueError, "40 of its 40 cells also have one of 'rna'"),
    "a known one": ({"rna": "rna"}, 60, ValueError, "a key of modalities='rna' is not supported"),
    "no role": ({"adt": "protein"}, 60, ValueError, "a key of modalities='adt' is not supported"),
    "no such name": ({"protein": "adt"}, 60, ValueError, "modalities['protein']='adt' is not supported"),
    "no dict": ("protein", 60, TypeError, "expected a dict"),
}


@pytest.mark.parametrize("case", LACKING)
def test_a_new_modality_that_cannot_be_learned_is_refused(paired, without_protein, case):
    modalities, n, error, words = LACKING[case]
    query = taken(paired, ["rna", "protein"], np.flatnonzero(paired.obs["batch"] == "batch2")[:n])
    with pytest.raises(error, match=re.escape(words)):
        more.MoRE.load_query_data(query, without_protein, modalities=modalities)


def test_labels_that_a_query_gives_count_for_it(reference, cells):
    query = of_batches(cells, 2, types=["type0", "type1", "type2"])
    truth, swapped = query.obs["truth"].to_numpy(), {"type0": "type1", "type1": "type0", "type2": "type2"}
    given = np.arange(query.n_obs) % 2 == 0
    query.obs["label"] = np.where(given, [swapped[t] for t in truth], "Unknown")  # as if names had been changed
    model = more.MoRE.load_query_data(query, reference)
    before, after = reference.predict(query, soft=True), model.predict(soft=True)
    wrong = np.flatnonzero(~given & np.isin(truth, ["type0", "type1"]))
    names = [swapped[t] for t in truth[wrong]]
    at = before.columns.get_indexer(names)
    assert (after.to_numpy()[wrong, at] > before.to_numpy()[wrong, at]).mean() > 0.9
    pd.testing.assert_frame_equal(reference.predict(soft=True), model.predict(reference.adata, soft=True))
