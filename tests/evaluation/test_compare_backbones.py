"""Which backbone helps on the data at hand: differences that are right, features computed once, nothing that leaks."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from mudata import MuData

from more_scvi.backbones import MoreMini, get_backbone
from more_scvi.data import simulate_batches
from more_scvi.evaluation import compare_backbones, make_tasks, run_task
from more_scvi.evaluation._backbone_result import differences_of, interval, judge, sentence
from more_scvi.evaluation._data import standardise
from more_scvi.evaluation._sources import compute, load_backbone, read_source
from more_scvi.evaluation.methods._features import OnFeatures
from more_scvi.evaluation.methods._more import MoRE

KEYS = {"batch_key": "batch", "labels_key": "cell_type"}
QUICK = {**KEYS, "train_kwargs": {"max_epochs": 2}, "progress": False}


@pytest.fixture(scope="module")
def cells():
    """240 cells of three types that lie close together, in two batches, in genes that more-mini knows."""
    names = MoreMini.load().vocabulary.human_symbol[:3000:15]
    adata = simulate_batches(240, 200, 3, 2, markers=0.05, batch_sd=0.4, gene_names=names, seed=2)
    adata.obs = adata.obs[["batch", "cell_type"]].astype(str)
    code = np.unique(adata.obs["cell_type"], return_inverse=True)[1]
    adata.obsm["X_answer"] = np.eye(3, dtype=np.float32)[code]
    adata.obsm["X_noise"] = np.random.default_rng(0).standard_normal((240, 8)).astype(np.float32)
    return adata


@pytest.fixture
def count(monkeypatch):
    """Cells that pass the bundled backbone."""
    passed, encode = [], MoreMini.encode

    def counted(self, x, match, **kwargs):
        passed.append(x.shape[0])
        return encode(self, x, match, **kwargs)

    monkeypatch.setattr(MoreMini, "encode", counted)
    return passed


@pytest.fixture(scope="module")
def found(cells):
    """Two labels per type: features that are the answer, and noise."""
    return compare_backbones(cells, ["obsm:X_answer", "obsm:X_noise"], regimes=["S4-2"], **QUICK)


def test_features_that_are_the_answer_are_shown_to_help_and_noise_is_not(found):
    rows = found.differences.set_index(["backbone", "against"])
    answer, noise = rows.loc[("obsm:X_answer", "none")], rows.loc[("obsm:X_noise", "none")]
    assert answer["verdict"] == "better" and answer["low"] > 0 and answer["macro_f1"] > 0.95
    assert answer["difference"] > 0.1 and answer["n"] == 3
    assert noise["verdict"] != "better" and noise["difference"] < answer["difference"]
    assert found.backbones == ("none", "obsm:X_answer", "obsm:X_noise")  # none is always there
    assert list(found.sentences) == ["S4-2"]
    said = found.sentences["S4-2"]
    assert said.startswith("With 2 labels per type (S4-2), obsm:X_answer is best") and "above none (shown, +" in said
    assert said.count(".") - len(re.findall(r"\d\.\d", said)) == 1  # one sentence


def test_differences_are_those_of_the_table(found):
    own = found.table[found.table["metric"] == "own"].pivot_table("value", "seed", "method")
    gain = own["obsm:X_answer"] - own["none"]
    row = found.differences.set_index(["backbone", "against"]).loc[("obsm:X_answer", "none")]
    assert row["difference"] == pytest.approx(gain.mean()) and "lr_hvg" in own
    assert (row["low"], row["high"]) == pytest.approx(interval(gain.to_numpy()))
    assert found.cost.loc["obsm:X_noise", "megabytes"] == pytest.approx(0.032)  # 8 numbers of 4 bytes
    assert found.cost["trained"].gt(0).all() and found.cost.loc["none", "frozen"] == 0


def test_page_says_everything_and_is_not_replaced_unasked(found, tmp_path):
    page = tmp_path / "page.html"
    assert found.write(page, command="make <it>") == page
    text = page.read_text()
    assert found.sentences["S4-2"].replace("'", "&#39;") in text and "make &lt;it&gt;" in text
    assert all(f">{name}<" in text for name in (*found.backbones, "lr_hvg"))
    assert "http" not in text.replace("http://www.w3.org", "")  # needs no network
    with pytest.raises(FileExistsError, match="give overwrite=True"):
        found.write(page)
    found.write(page, overwrite=True)
    with pytest.raises(ValueError, match="ends in .html"):
        found.write(tmp_path / "page.pdf")
    page.unlink()
    with pytest.raises(FileExistsError, match="page.json exists"):
        found.write(page)
    assert [path.name for path in tmp_path.iterdir()] == ["page.json"]
    assert json.loads((tmp_path / "page.json").read_text()) == found.to_json()


def test_features_are_computed_once_and_a_second_call_computes_nothing(cells, tmp_path, count, monkeypatch):
    given = cells.copy()
    names = ["zeroed", "more-mini"]
    options = {**QUICK, "regimes": ["S1-60", "S9-50"], "seeds": [0], "results_dir": tmp_path}
    first = compare_backbones(given, names, **options)
    # all genes once, and the genes of the query once, though two batches are held out in turn; for each of two
    assert sum(count) == 4 * cells.n_obs
    assert first.left_out.empty and set(first.table["protocol"]) == {"S1-60", "S9-50"}
    assert first.differences["against"].isin(["none", "zeroed"]).all()
    assert "the network of more-mini adds" in first.sentences["S1-60"]
    count.clear()
    monkeypatch.setattr("more_scvi.evaluation._runner.run_task", lambda *_: pytest.fail("trained"))
    second = compare_backbones(given, names, **options)
    assert not count
    for name in ("table", "differences", "cost", "left_out"):
        pd.testing.assert_frame_equal(getattr(first, name), getattr(second, name))
    assert first.sentences == second.sentences
    assert given.obs.equals(cells.obs) and (given.X != cells.X).nnz == 0
    assert list(given.obsm) == list(cells.obsm) and list(given.uns) == list(cells.uns)


def features_of(cells, name, panels=()):
    bare, known = standardise(cells, **KEYS)
    source, genes = read_source(name, cells), bare.var_names.to_numpy().astype(str)
    features, cost = compute(source, load_backbone(source, genes), bare, genes, panels, None, "cpu", False)
    return bare, known, features, cost


def test_hidden_labels_do_not_matter(cells):
    bare, known, features, _ = features_of(cells, "more-mini")
    task = next(make_tasks(bare, "S1", known=known))
    other = bare.copy()
    labels = other.obs["cell_type"].astype(str).to_numpy()
    labels[task.hidden] = np.random.default_rng(1).permutation(labels[task.hidden])
    other.obs["cell_type"] = labels
    method = OnFeatures("mini", features, train_kwargs={"max_epochs": 2})
    probabilities = []
    for data in (bare, other):
        again = next(make_tasks(data, "S1", known=known, splits=[task.split]))
        probabilities.append(run_task(again, method)[0].probability)
    pd.testing.assert_frame_equal(*probabilities)


def test_stored_features_serve_as_the_backbone_itself(cells):
    bare, known, features, cost = features_of(cells, "more-mini")
    train = {"train_kwargs": {"max_epochs": 2, "loss_weights": "fast"}}  # no masked views
    task = next(make_tasks(bare, "S1", known=known))
    ours, native = (run_task(task, method)[0] for method in (OnFeatures("mini", features, **train), MoRE("m", **train)))
    np.testing.assert_allclose(ours.z, native.z, atol=1e-4)
    assert cost["frozen"] == get_backbone("more-mini").n_parameters() and cost["megabytes"] == 0.384


def test_controls_differ_from_the_backbone(cells):
    tables = {}
    for name in ("more-mini", "shuffled", "zeroed", "random"):
        bare, _, features, _ = features_of(cells, name)
        tables[name] = features.rows(bare.var_names, bare.obs_names)
    for name in ("shuffled", "zeroed", "random"):
        assert np.abs(tables[name] - tables["more-mini"]).max() > 0.01, name
    bare, _, again, _ = features_of(cells, "shuffled")
    np.testing.assert_array_equal(again.rows(bare.var_names, bare.obs_names), tables["shuffled"])


def test_regimes_that_the_data_do_not_allow_are_left_out_with_a_reason(cells, tmp_path):
    one = cells.copy()
    one.obs["batch"] = "a"
    regimes = ["S4-2", "S2a", "S1-300", "S4-200"]
    found = compare_backbones(one, ["none"], regimes=regimes, seeds=[0], **QUICK)
    reasons = found.left_out.set_index("regime")["reason"]
    assert "only one ('a')" in reasons["S2a"] and "300 of 240 cells" in reasons["S1-300"]
    assert "hidden cells to score" in reasons["S4-200"] and set(found.left_out["backbone"]) == {"all"}
    text = found.write(tmp_path / "page.html").read_text()
    assert "only one (&#39;a&#39;)" in text and list(found.sentences) == ["S4-2"]
    assert "MoRE without a backbone is best" in found.sentences["S4-2"]
    with pytest.raises(ValueError, match="allow none of the regimes. S2a: .*only one"):
        compare_backbones(one, regimes=["S2a"], **QUICK)


def test_splits_without_enough_to_score_are_counted(cells):
    labels = cells.obs["cell_type"].to_numpy().astype(str)
    few = cells[np.isin(labels, np.unique(labels)[:2])].copy()
    few.obs.loc[few.obs.index[20:], "cell_type"] = None  # 20 cells with a label: their halves differ from seed to seed
    found = compare_backbones(few, ["none"], regimes=["S1"], seeds=range(4), **QUICK)
    (regime, which, why), n = found.left_out.to_numpy().tolist()[0], found.differences["n"]
    assert (regime, which) == ("S1", "all") and re.match(r"in \d of 4 splits fewer than two types", why)
    assert (n == 4 - int(why.split()[1])).all() and found.data["unlabelled"] == few.n_obs - 20


def test_given_features_are_left_out_where_genes_are_missing(cells):
    options = {**QUICK, "max_rotations": 1, "seeds": [0]}
    found = compare_backbones(cells, ["obsm:X_noise"], regimes=["S9-50", "S1-60"], **options)
    assert found.left_out.to_numpy().tolist() == [["S9-50", "obsm:X_noise", "its features are those of all genes"]]
    assert "obsm:X_noise" not in found.sentences["S9-50"] and len(found.sentences) == 2


def test_a_backbone_that_fails_is_named(cells, monkeypatch):
    monkeypatch.setattr(OnFeatures, "_of_rna", lambda *_: 1 / 0)
    found = compare_backbones(cells, ["obsm:X_noise"], regimes=["S1-60"], seeds=[0, 1], **QUICK)
    assert found.left_out.to_numpy().tolist() == [
        ["S1-60", "obsm:X_noise", "2 of 2 splits gave no result; the log says why"]
    ]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"backbones": "more-mini"}, TypeError, r"backbones is 'more-mini'; give a list"),
        ({"backbones": ["more-mini", 3]}, TypeError, r"backbones holds 3, a int; give names: none, zeroed"),
        ({"backbones": ["zerod"]}, ValueError, r"'zerod' is unknown, and no folder. Give one of none, .*'zeroed'\?"),
        ({"backbones": ["precomputed"]}, ValueError, r"'precomputed' is unknown.* obsm:KEY"),
        ({"backbones": ["geneformer:no/where"]}, ValueError, r"no/where is no folder. Give geneformer:FOLDER"),
        ({"backbones": ["geneformer"]}, ValueError, r"'geneformer' cannot be used: "),
        ({"backbones": ["scgpt:{tmp}"]}, ValueError, r"cannot be used: .*"),
        ({"backbones": ["{tmp}"]}, ValueError, r"no backbone recognises"),
        ({"backbones": ["obsm:X_mine"]}, KeyError, r"has no 'X_mine'. There are: obsm:X_answer, obsm:X_noise"),
        ({"backbones": ["obsm:X_nan"]}, ValueError, r"X_nan.* values that are not finite"),
        ({"regimes": "S1"}, TypeError, r"regimes is 'S1'; give a list"),
        ({"regimes": []}, ValueError, r"regimes is empty"),
        ({"regimes": ["S1", "S3"]}, ValueError, r"regimes holds 'S3'; give some of S1, S1-<cells>"),
        ({"regimes": ["S4"]}, ValueError, r"regimes holds 'S4'"),
        ({"regimes": ["S1-"]}, ValueError, r"regimes holds 'S1-'"),
        ({"seeds": [-1]}, ValueError, r"seeds holds -1"),
        ({"seeds": []}, ValueError, r"seeds is empty"),
        ({"max_rotations": 0}, ValueError, r"max_rotations is 0"),
        ({"batch_key": "lane"}, KeyError, r"batch_key: obs has no column 'lane'"),
        ({"labels_key": "type"}, KeyError, r"labels_key: obs has no column 'type'"),
        ({"labels_key": "batch", "unlabeled_category": "batch0"}, ValueError, r"at least two types are needed"),
        ({"layer": "counts"}, KeyError, r"no layer 'counts'"),
        ({"gene_key": "symbol"}, KeyError, r"gene_key: var has no column 'symbol'"),
        ({"gene_key": "odd"}, ValueError, r"'more-mini' cannot be used: none of the 200 genes"),
        ({"model_kwargs": {"backbone": "x"}}, ValueError, r"model_kwargs holds 'backbone'"),
        ({"train_kwargs": [1]}, TypeError, r"train_kwargs=\[1\] is a list"),
        ({"dataset": "a/b"}, ValueError, r"dataset 'a/b' cannot be the name"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_computed(
    cells, tmp_path, monkeypatch, count, change, error, message
):
    monkeypatch.setattr("more_scvi.evaluation._runner.run_task", lambda *_: pytest.fail("trained"))
    adata = cells.copy()
    adata.obsm["X_nan"] = np.full((240, 2), np.nan)
    adata.var["odd"] = [f"gene{i}" for i in range(200)]
    change = dict(change)
    if "backbones" in change and isinstance(change["backbones"], list):
        change["backbones"] = [b.format(tmp=tmp_path) if isinstance(b, str) else b for b in change["backbones"]]
    with pytest.raises(error, match=message):
        compare_backbones(adata, **{"backbones": ["more-mini"], **QUICK, **change})
    assert not count


def test_several_modalities_are_refused(cells):
    with pytest.raises(TypeError, match="adata is a MuData"):
        compare_backbones(MuData({"rna": cells.copy()}), **QUICK)


def test_sentences_follow_from_the_numbers():
    rows = [
        ("d", "S1", s, 0, m, "own", v + s / 1000) for m, v in {"none": 0.8, "more-mini": 0.7}.items() for s in range(3)
    ]
    rows += [("d", "S1", s, 0, "lr_hvg", "own", 0.9) for s in range(3)]
    table = pd.DataFrame(rows, columns=["dataset", "protocol", "seed", "rotation", "method", "metric", "value"])
    found = differences_of(table, ["S1"], ["none", "more-mini"])
    assert found[["backbone", "against", "verdict"]].to_numpy().tolist() == [
        ["more-mini", "none", "worse"],
        ["lr_hvg", "none", "better"],
    ]
    means = {"none": 0.8, "more-mini": 0.7, "lr_hvg": 0.9}
    assert sentence("S1", "half", means, found) == (
        "With half (S1), MoRE without a backbone is best (macro-F1 0.80); the next, more-mini, is 0.10 below it (shown,"
        " −0.10 to −0.10 in 3 splits); a logistic regression on the genes is better still (0.90)."
    )


def test_verdicts():
    low, high = interval(np.array([0.0, 0.1, 0.2]))  # by hand: sd 0.1, t of 2 degrees of freedom 4.303
    assert (low, high) == pytest.approx((0.1 - 0.2484, 0.1 + 0.2484), abs=1e-4)
    assert judge(0.1, low, high) == "not shown" and judge(0.1, 0.05, 0.15) == "better"
    assert judge(-0.1, -0.2, -0.05) == "worse" and judge(0.001, 0.0005, 0.002) == "level"
    assert judge(0.3, *interval(np.array([0.3]))) == "not shown"
