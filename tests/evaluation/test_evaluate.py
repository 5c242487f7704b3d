import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csc_array, csr_matrix

from more_scvi.data import simulate_multiomics
from more_scvi.evaluation import Result, evaluate, get_method, make_splits, make_tasks, prepare, run, run_task
from more_scvi.evaluation._evaluate import score_task
from more_scvi.evaluation._splits import order_of


def test_scores_equal_those_of_a_run(prepared):
    labels, batches = prepared.obs["cell_type"], prepared.obs["batch"]
    task = next(make_tasks(prepared, "S3"))
    result, record = run_task(task, get_method("lda"))
    table = evaluate(
        {"mine": result.z},
        task.split,
        labels,
        batches,
        prepared.obsm["view"],
        {"mine": result.prediction},
        {"mine": result.probability},
    )
    for metric, value in record["scores"].items():
        if value is not None:
            assert table.loc["mine", metric] == pytest.approx(value, abs=1e-4), metric


def test_mapped_cells_are_scored_in_the_order_of_a_method(prepared):
    task = next(make_tasks(prepared, "S2b"))
    result, record = run_task(task, get_method("pca"))
    table = evaluate({"pca": result.z}, task.split, prepared.obs["cell_type"], prepared.obs["batch"])
    assert table.loc["pca", "LR"] == pytest.approx(record["scores"]["LR"], abs=1e-4)
    assert table.loc["pca", "CiLISI"] == pytest.approx(record["scores"]["CiLISI"], abs=1e-4)


def test_a_novel_type_is_told_from_the_others_only_by_an_embedding_that_holds_it(cells):
    z, labels, batches = cells
    split = make_splits(labels, batches, "S3")[0]
    others = z.copy()
    novel = labels == split.held_out
    others[novel] = z[~novel][np.random.default_rng(0).integers(0, (~novel).sum(), novel.sum())]
    table = evaluate({"apart": z, "swallowed": others}, split, labels, batches)
    assert table.loc["apart", "purity"] > 0.95
    assert table.loc["swallowed", "purity"] < 0.6
    for score in ("novelty_kNN", "novelty_share"):
        assert table.loc["apart", score] > 0.95
        assert abs(table.loc["swallowed", score] - 0.5) < 0.15


def test_a_method_with_a_novelty_score_of_its_own_is_judged_by_it(prepared):
    task = next(make_tasks(prepared, "S3"))
    result, _ = run_task(task, get_method("lda"))
    by_probability = score_task(task, result)[0]["novelty_own"]
    assert by_probability < 1
    result.novelty = (task.labels == task.split.held_out).astype(float)
    assert score_task(task, result)[0]["novelty_own"] == 1


def test_a_rare_type_is_scored_by_itself(cells):
    z, labels, batches = cells
    split = make_splits(labels, batches, "S5-4")[0]
    kept = split.kept
    blind = np.where(labels[kept] == split.held_out, "b" if split.held_out != "b" else "a", labels[kept])
    predictions = {"right": labels[kept], "blind": blind}
    table = evaluate({}, split, labels, batches, predictions=predictions)
    assert table.loc["right", "target_own"] == 1
    assert table.loc["blind", "target_own"] == 0
    assert table.loc["right", "n_target"] == (split.hidden & (labels == split.held_out)).sum()


@pytest.mark.parametrize("protocol", ["S1", "S2b", "S5-4"])
@pytest.mark.parametrize("convert", [csr_matrix, csc_array, pd.DataFrame, np.ndarray.tolist, np.asfortranarray])
def test_kind_of_matrix_changes_nothing(cells, convert, protocol):
    z, labels, batches = cells
    split = make_splits(labels, batches, protocol)[0]
    part = z[order_of(split)]
    expected = evaluate({"mine": part}, split, labels, batches, z)
    pd.testing.assert_frame_equal(evaluate({"mine": convert(part)}, split, labels, batches, convert(z)), expected)


def test_one_cell_without_the_hidden_modality_has_no_match_to_score():
    mdata = simulate_multiomics(61, 2, 2, modalities=("rna", "protein"), n_genes=30, n_proteins=3)
    for data in (mdata, *mdata.mod.values()):
        data.obs["batch"] = ["many"] * 60 + ["one"]
    tasks = {task.split.held_out: task for task in make_tasks(mdata, "S6-protein")}
    z = np.random.default_rng(0).normal(size=(61, 3))
    halves = Result(None, unimodal={"rna": z, "protein": z})
    assert score_task(tasks["many"], halves)[0]["FOSCTTM"] == 0
    assert "FOSCTTM" not in score_task(tasks["one"], halves)[0]


def test_refusals_name_the_array_and_the_rows_it_needs(cells):
    z, labels, batches = cells
    split = make_splits(labels, batches, "S1")[0]
    with pytest.raises(ValueError, match=r"embeddings\['mine'\] has 599 rows, but 600 cells take part"):
        evaluate({"mine": z[1:]}, split, labels, batches)
    with pytest.raises(ValueError, match=r"predictions\['mine'\] has 10 rows"):
        evaluate({}, split, labels, batches, predictions={"mine": labels[:10]})
    with pytest.raises(ValueError, match=r"probabilities\['mine'\] has 2 rows"):
        evaluate({}, split, labels, batches, probabilities={"mine": pd.DataFrame({"a": [1, 1]})})
    with pytest.raises(ValueError, match="got 599 labels"):
        evaluate({"mine": z}, split, labels[1:], batches)
    with pytest.raises(ValueError, match="Nothing to evaluate"):
        evaluate({}, split, labels, batches)
    with pytest.raises(ValueError, match="not finite"):
        evaluate({"mine": np.full_like(z, np.nan)}, split, labels, batches)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"split": "S1"}, TypeError, "split is a str; give one that evaluation.make_splits returned"),
        ({"embeddings": np.ones((600, 2))}, TypeError, "embeddings is a ndarray; give a dictionary"),
        ({"embeddings": {"m": np.ones(600)}}, ValueError, r"embeddings\['m'\] \(600,\) must be"),
        ({"embeddings": {"m": np.full((600, 2), np.inf)}}, ValueError, r"embeddings\['m'\] holds 1200 values"),
        ({"predictions": ["a"] * 600}, TypeError, "predictions is a list; give a dictionary"),
        ({"predictions": {"m": np.full((600, 1), "a")}}, ValueError, r"predictions\['m'\] has shape \(600, 1\)"),
        (
            {"probabilities": {"m": np.ones((600, 3))}},
            TypeError,
            r"probabilities\['m'\] is a ndarray; give a DataFrame",
        ),
        ({"reference": np.full((600, 2), np.nan)}, ValueError, "reference holds 1200 values that are not finite"),
        ({"labels": ["Unknown"] * 600}, ValueError, "leaves no visible label. Are labels the true ones"),
    ],
)
def test_bad_arguments_are_refused_by_name_with_what_is_legal(cells, changed, error, message):
    z, labels, batches = cells
    split = make_splits(labels, batches, "S1")[0]
    given = {"embeddings": {"m": z}, "split": split, "labels": labels, "batches": batches} | changed
    with pytest.raises(error, match=message):
        evaluate(**given)


@pytest.mark.parametrize("missing", ["Unknown", np.nan, "not sure"])
@pytest.mark.parametrize("protocol", ["S1", "S3", "S5-4"])
def test_cells_without_a_label_are_never_scored(cells, missing, protocol):
    z, labels, batches = cells
    split = make_splits(labels, batches, protocol)[0]
    unlabelled = np.random.default_rng(1).random(600) < 0.3
    given = labels.astype(object)
    given[unlabelled] = missing
    options = {"unlabeled_category": "not sure"} if missing == "not sure" else {}
    kept = np.ones(600, bool) if split.kept is None else split.kept
    one, other = z.copy(), z.copy()
    other[unlabelled] = 5 + 40 * np.random.default_rng(2).standard_normal((unlabelled.sum(), 10))
    tables = []
    for each in (one, other):
        predicted = np.where(unlabelled, "anything", labels)[kept]
        tables.append(evaluate({"m": each[kept]}, split, given, batches, each[kept], {"m": predicted}, **options))
    scored = split.hidden & ~unlabelled & (labels != split.held_out if protocol == "S3" else True)
    assert tables[0].loc["m", "n_scored"] == scored.sum()
    assert tables[0].loc["m", "own"] == 1
    for column in ("own", "LR", "CiLISI", "structure", "dimension", "n_scored"):
        assert tables[0].loc["m", column] == pytest.approx(tables[1].loc["m", column], abs=1e-9), column


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda a: next(make_tasks(a.obs, "S1")), TypeError, "data is a DataFrame; give an AnnData"),
        (lambda a: next(make_tasks(a[:, :5], "S9")), ValueError, "protocol 'S9' is unknown; use one of"),
        (lambda a: next(make_tasks(a, "S1", known=[True])), ValueError, "known .* each of the 240 cells"),
        (lambda a: next(make_tasks(renamed(a), "S1")), KeyError, "obs has no column 'cell_type'; it has batch, type"),
        (
            lambda a: next(make_tasks(a, "S1", splits=make_splits([*"ab"], [*"xx"], "S1"))),
            ValueError,
            "covers 2",
        ),
        (lambda a: run_task(a, get_method("pca")), TypeError, "task is a AnnData; give one of evaluation.make_tasks"),
        (lambda a: run_task(next(make_tasks(a, "S1")), 3), TypeError, "method is a int; give evaluation.get_method"),
        (lambda a: run_task(next(make_tasks(a, "S1")), "pcaa"), KeyError, "'pcaa' is unknown. Known are"),
    ],
)
def test_bad_tasks_and_methods_are_refused(prepared, call, error, message):
    with pytest.raises(error, match=message):
        call(prepared)


def renamed(adata):
    other = adata.copy()
    other.obs = other.obs.rename(columns={"cell_type": "type"})
    return other


def test_without_any_label_an_embedding_is_scored_and_nothing_is_given_away(prepared):
    task = next(make_tasks(prepared, "S7"))
    assert set(task.given().obs["cell_type"]) == {"Unknown"}
    for name in ("pca", "more-free"):
        base = {} if name == "pca" else {"base": "more", "model_kwargs": {"backbone": None}}
        result, record = run_task(
            task, get_method(name, **base, **({"train_kwargs": {"max_epochs": 2}} if base else {}))
        )
        table = evaluate({name: result.z}, task.split, prepared.obs["cell_type"], prepared.obs["batch"])
        for metric in ("transfer", "CiLISI", "NMI", "connectivity"):
            assert table.loc[name, metric] == pytest.approx(record["scores"][metric], abs=1e-4)
        assert not {"own", "LR", "kNN"} & {key for key, value in record["scores"].items() if value is not None}
        assert result.prediction is None
    free = run(prepared, batch_key="batch", labels_key="cell_type", protocols=["S7"], seeds=[0], progress=False,
               methods=["lr_hvg", "lda", "scanvi", "pca", "LEAK:lda"])  # fmt: skip
    assert set(free["method"]) == {"pca", "LEAK:lda"}  # the others have nothing to learn from


def test_the_same_cells_are_scored_in_every_company(prepared):
    scores = {}
    for protocol in ("S8-all", "S8-1", "S8-2", "S8m-all", "S8m-1"):
        task = next(make_tasks(prepared, protocol))
        scores[protocol] = run_task(task, get_method("lr_hvg"))[1]["scores"]
        right = score_task(task, Result(None, task.labels))[0]
        assert {value for key, value in right.items() if key.startswith("right_") and value is not None} == {1.0}
    assert [key for key in scores["S8-1"] if key.startswith("right")] == ["right_1"]
    assert {"right_1", "right_2", "right_half", "right_reversed"} <= set(scores["S8m-all"])
    assert scores["S8m-1"]["right_1"] == scores["S8m-all"]["right_1"]  # a mapped cell is looked at by itself
    task = next(make_tasks(prepared, "S8-all"))
    said = np.where(np.isin(task.labels, pd.Series(task.labels[task.hidden]).mode()[:1]), task.labels, "wrong")
    assert score_task(task, Result(None, said))[0]["right_1"] == 1
    assert score_task(task, Result(None, said))[0]["right_2"] < 1


def test_a_query_has_the_genes_it_is_given_and_peers_learn_on_these(prepared):
    task = next(make_tasks(prepared, "S9-50", seed=1))
    assert task.query.n_vars == 60
    assert task.data.n_vars == 120
    assert list(task.query.var_names) != list(next(make_tasks(prepared, "S9-50", seed=2)).query.var_names)
    result, record = run_task(task, get_method("lr_hvg"))
    assert record["scores"]["genes"] == 0.5
    cut = prepare(prepared[:, task.query.var_names].copy())
    again, _ = run_task(next(make_tasks(cut, "S2b")), get_method("lr_hvg"))
    np.testing.assert_array_equal(result.prediction, again.prediction)
    sure = result.probability.max(axis=1).to_numpy()[task.hidden]
    right = (result.prediction == task.labels)[task.hidden]
    by_hand = sum(abs((right - sure)[np.digitize(sure, np.arange(0.1, 1, 0.1)) == i].sum()) for i in range(10))
    assert record["scores"]["ECE"] == pytest.approx(by_hand / right.size, abs=1e-4)
    assert record["scores"]["confidence"] == pytest.approx(sure.mean(), abs=1e-4)
