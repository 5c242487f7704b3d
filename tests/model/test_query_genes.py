"""Queries of any genes: under other names, and few of them; what is missing makes answers less sure."""

import logging

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
from mudata import MuData
from sklearn.linear_model import LogisticRegression

import more_scvi as more
from more_scvi._compat import no_pull
from more_scvi.modalities import log_normalise

FIT = {"accelerator": "cpu", "enable_progress_bar": False}
pytestmark = pytest.mark.filterwarnings("ignore:.*lacks", "ignore:adata has", "ignore:.*no counts")


@pytest.fixture(scope="module")
def cells(demo_cells):
    return demo_cells


@pytest.fixture(scope="module")
def model(demo_model):
    return demo_model


@pytest.fixture(scope="module")
def student(model):
    return model.distill(max_steps=100, n_hidden=16, progress=False)


@pytest.fixture
def query(cells):
    return cells[1::2].copy()


@pytest.fixture(scope="module")
def table(model):
    """Gene symbol → its other names."""
    known = model.backbone.vocabulary
    return {s: (e, m) for s, e, m in zip(known.human_symbol, known.human_ensembl, known.mouse_symbol, strict=True)}


def some(query, seed, share):
    return query[:, np.random.default_rng(seed).random(query.n_vars) < share].copy()


# ---- other names


RENAMED = {
    "ensembl": (lambda n, t: t.get(n, ("",))[0] or n, "by Ensembl id"),
    "version": (lambda n, t: f"{t[n][0]}.7" if t.get(n, ("",))[0] else n, "by Ensembl id"),
    "mouse": (lambda n, t: t.get(n, ("", ""))[1] or f"x{n}", "by mouse orthologue"),
    "genome": (lambda n, t: f"GRCh38_{n}", "by another symbol"),
    "R": (lambda n, t: n.replace("-", "."), "by another symbol"),
}


@pytest.mark.parametrize("change", RENAMED)
@pytest.mark.parametrize("kind", ["model", "student", "MuData"])
def test_genes_are_found_under_other_names(request, model, query, table, change, kind, caplog):
    rename, how = RENAMED[change]
    new = [rename(name, table) for name in query.var_names]
    found = np.array([a != b for a, b in zip(new, query.var_names, strict=True)])
    assert found.sum() >= 5
    other, which = query.copy(), request.getfixturevalue("student") if kind == "student" else model
    other.var_names = new
    expected = which.predict(query[:, [not n.startswith("x") for n in new]].copy(), soft=True)
    asked = other
    if kind == "MuData":
        with no_pull():
            asked = MuData({"rna": other})
        asked.obs["platform"] = query.obs["platform"].to_numpy()
    with caplog.at_level(logging.INFO, "more_scvi"):
        p = which.predict(asked, soft=True)
    np.testing.assert_allclose(p, expected, atol=2e-3)
    if kind != "student":
        assert how in caplog.text and "go by other names" in caplog.text
    assert list(other.var_names) == new  # the user's object keeps its names


def test_a_gene_with_two_columns_is_read_from_that_of_its_own_name(model, query, table):
    gene = next(n for n in query.var_names if table.get(n, ("",))[0])
    twin = ad.AnnData(sp.csr_matrix(np.full((query.n_obs, 1), 50.0, np.float32)), obs=query.obs)
    twin.var_names = [table[gene][0]]
    both = ad.concat([twin, query], axis=1, merge="same")
    both.obs = query.obs
    assert np.array_equal(model.predict(both, soft=True), model.predict(query, soft=True))


def test_names_of_a_column_are_read_as_at_setup(cells, query, table, caplog):
    adata = cells[::2].copy()
    adata.var["symbol"], adata.var_names = list(adata.var_names), [f"gene{i}" for i in range(adata.n_vars)]
    more.MoRE.setup_anndata(adata, batch_key="platform", labels_key="cell_type", gene_key="symbol")
    model = more.MoRE(adata, seed=0)
    model.train(max_epochs=1, loss_weights="fast", **FIT)
    own, ids, column = query.copy(), query.copy(), query.copy()
    own.var_names = adata.var_names
    ids.var_names = [table.get(n, ("",))[0] or n for n in query.var_names]
    column.var["symbol"], column.var_names = list(ids.var_names), [f"feature{i}" for i in range(query.n_vars)]
    expected = model.predict(own, soft=True)
    for other in (query, ids, column):
        np.testing.assert_allclose(model.predict(other, soft=True), expected, atol=1e-5)


def test_a_saved_model_takes_its_data_under_other_names(model, cells, table, tmp_path):
    model.save(tmp_path / "m")
    adata = cells[::2].copy()
    adata.var_names = [table.get(n, ("",))[0] or n for n in adata.var_names]
    again = more.MoRE.load(tmp_path / "m", adata)
    assert np.array_equal(again.get_latent_representation(), model.get_latent_representation())
    assert adata.var_names[0].startswith("ENSG") or table.get(cells.var_names[0]) is None


def test_what_is_found_is_said_and_can_be_asked(model, query, caplog):
    part = some(query, 0, 0.5)
    with caplog.at_level(logging.INFO, "more_scvi"):
        model.predict(part)
        model.get_latent_representation(part, obsm_key=None)
    assert caplog.text.count("which held") == 1
    row = model.get_gene_coverage(part).loc["rna"]
    assert (row["features"], row["found"]) == (query.n_vars, part.n_vars)
    assert row["share"] == pytest.approx(part.n_vars / query.n_vars)
    level = np.asarray(model.adata.X.sum(0)).ravel()
    assert row["share_of_counts"] == pytest.approx(
        level[query.var_names.isin(part.var_names)].sum() / level.sum(), 1e-4
    )
    assert f"{part.n_vars} of the model's {query.n_vars} genes" in caplog.text
    assert model.get_gene_coverage().loc["rna", "share"] == 1
    padded = query.copy()
    padded.X = sp.csr_matrix(query.X.multiply(query.var_names.isin(part.var_names)[None]))
    assert model.get_gene_coverage(padded).loc["rna", "share"] < 0.6


# ---- few genes


@pytest.mark.parametrize("share", [0.5, 0.1])
def test_with_few_genes_it_does_as_well_as_a_regression_on_these_genes(model, query, share):
    """Mean of three draws; one draw of genes is luck."""
    ours, theirs = [], []
    for seed in range(3):
        part = some(query, seed, share)
        ours.append((model.predict(part) == part.obs["truth"]).mean())
        train = model.adata[:, part.var_names]
        fitted = LogisticRegression(max_iter=200).fit(log_normalise(train.X), train.obs["truth"])
        theirs.append((fitted.predict(log_normalise(part.X)) == part.obs["truth"]).mean())
    assert np.mean(ours) > np.mean(theirs) - 0.02


def test_confidence_falls_with_the_genes_as_accuracy_does(model, query):
    confidence, right = [], []
    for share in (1.0, 0.5, 0.1, 0.04):
        p = [model.predict(some(query, seed, share), soft=True) for seed in range(3)]
        confidence.append(np.mean([x.max(1).mean() for x in p]))
        right.append(np.mean([(x.idxmax(1) == query.obs["truth"]).mean() for x in p]))
    assert np.all(np.diff(confidence) < 0)
    gap = np.array(confidence) - right
    assert gap.max() < max(gap[0], 0.0) + 0.06


def test_missing_genes_do_not_move_the_cells(model, query):
    """The mean of the embedding stays, though the backbone reads a tenth of the genes."""
    whole = model.get_latent_representation(query, obsm_key=None)
    part = model.get_latent_representation(some(query, 0, 0.1), obsm_key=None)
    assert np.square(part.mean(0) - whole.mean(0)).sum() < 0.1 * whole.var(0).sum()


def test_answers_with_few_genes_do_not_depend_on_other_cells(model, query):
    part = some(query, 0, 0.3)
    few = model.predict(part[:5].copy(), soft=True)
    np.testing.assert_allclose(few, model.predict(part, soft=True).iloc[:5], atol=1e-5)


def test_genes_that_the_backbone_does_not_know_suffice(cells, query):
    """What it would say of them is taken from the other genes."""
    adata = cells[::2].copy()
    half = np.random.default_rng(0).random(adata.n_vars) < 0.5
    adata.var_names = query.var_names = np.where(half, [f"own{i}" for i in range(adata.n_vars)], adata.var_names)
    more.MoRE.setup_anndata(adata, batch_key="platform", labels_key="cell_type")
    model = more.MoRE(adata, seed=0)
    model.train(max_epochs=5, loss_weights="fast", **FIT)
    whole, unknown = ((model.predict(q) == query.obs["truth"]).mean() for q in (query, query[:, half].copy()))
    assert unknown > whole - 0.08


def test_nothing_changes_where_nothing_is_missing(model, query):
    arrays = model.reader.arrays(query[:, ::-1].copy())
    assert arrays.doubt is None
    assert np.array_equal(model.predict(query[:, ::-1].copy(), soft=True), model.predict(query, soft=True))


def test_a_student_is_less_sure_with_fewer_genes(student, query):
    """Its labels and its embedding are those of the expected genes; without missing genes nothing is drawn."""
    confidence = [student.predict(some(query, 1, share), soft=True).max(1).mean() for share in (1.0, 0.5, 0.15)]
    assert np.all(np.diff(confidence) < 0)
    part = some(query, 1, 0.3)
    few = student.predict(part[:5].copy(), soft=True)
    np.testing.assert_allclose(few, student.predict(part, soft=True).iloc[:5], atol=1e-5)
