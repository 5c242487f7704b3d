import json

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from more_scvi.data import simulate_multiomics
from more_scvi.evaluation import Given, Method, Result, Split, load_results, load_splits, run, tidy
from more_scvi.evaluation._store import write_json

KEYS = {"batch_key": "batch", "labels_key": "cell_type", "progress": False}


class Counting(Method):
    """Embeds by counts and notes every call."""

    name = "counting"

    def run(self, given: Given, calls: list) -> Result:
        calls.append(given.data.n_obs)
        return Result(np.asarray(given.data.X[:, :5].todense(), dtype=np.float32))


class Broken(Method):
    name = "broken"

    def run(self, given: Given) -> Result:
        raise RuntimeError("no convergence")


def test_the_table_is_tidy_and_holds_every_split(raw):
    table = run(raw, **KEYS, methods=["pca", "lr_hvg"], seeds=[0, 1], max_rotations=2, dataset="toy")
    assert list(table) == ["dataset", "protocol", "seed", "rotation", "held_out", "method", "metric", "value"]
    assert set(table["dataset"]) == {"toy"}
    counts = table[(table["metric"] == "LR") & (table["method"] == "pca")].groupby("protocol").size()
    assert counts.to_dict() == {"S1": 2, "S2a": 2}  # PCA has no randomness: once for both seeds of S2a
    assert table["value"].notna().all()
    assert {"own", "seconds", "trained"} <= set(table.loc[table["method"] == "lr_hvg", "metric"])
    assert not {"LR", "structure"} & set(table.loc[table["method"] == "lr_hvg", "metric"])


def test_finished_results_are_never_computed_again(raw, tmp_path):
    calls = []
    options = KEYS | {"methods": [Counting(calls=calls)], "seeds": [0], "results_dir": tmp_path}
    first = run(raw, **options)
    assert len(calls) == 4
    (tmp_path / "data/S2a_r1_s0/counting.json").unlink()
    second = run(raw, **options)
    assert len(calls) == 5
    same = first["metric"].ne("seconds") & first["metric"].ne("memory")
    kept = second["metric"].ne("seconds") & second["metric"].ne("memory")
    pd.testing.assert_frame_equal(first[same].reset_index(drop=True), second[kept].reset_index(drop=True))
    stored = pd.read_csv(tmp_path / "data.csv")
    assert len(stored) == len(second)
    assert list(stored) == list(second)
    assert {r["split"] for r in load_results(tmp_path)} == {"S1_r0_s0", "S2a_r0_s0", "S2a_r1_s0", "S2a_r2_s0"}
    held_out = {s.name: s.held_out for s in load_splits(tmp_path)}
    stored = Split.from_json(json.loads((tmp_path / "data/S2a_r0_s0/split.json").read_text()))
    assert stored.held_out == held_out["S2a_r0_s0"]


def test_what_a_killed_run_left_is_never_read(raw, tmp_path):
    folder = tmp_path / "data/S1_r0_s0"
    folder.mkdir(parents=True)
    (folder / "pca.json.77.tmp").write_text('{"dataset": "da')
    table = run(raw, **KEYS, methods=["pca"], protocols=["S1"], seeds=[0], results_dir=tmp_path)
    assert len(table)
    assert len(load_results(tmp_path)) == 1


def test_writing_a_result_leaves_the_old_one_until_it_is_whole(tmp_path):
    path = tmp_path / "a/result.json"
    write_json(path, {"value": 1})
    with pytest.raises(TypeError):
        write_json(path, {"value": object()})
    assert json.loads(path.read_text()) == {"value": 1}


def test_a_failing_method_is_named_and_does_not_stop_the_others(raw, caplog):
    table = run(raw, **KEYS, methods=[Broken(), "pca"], seeds=[0], protocols=["S1"])
    assert set(table["method"]) == {"pca"}
    assert "broken failed on data, S1_r0_s0" in caplog.text
    assert "no convergence" in caplog.text


def test_results_of_other_data_are_not_mistaken_for_these(raw, tmp_path):
    run(raw, **KEYS, methods=["pca"], protocols=["S1"], seeds=[0], results_dir=tmp_path)
    with pytest.raises(ValueError, match="holds results of other data.*Name another results_dir or dataset"):
        run(raw[:200].copy(), **KEYS, methods=["pca"], protocols=["S1"], seeds=[0], results_dir=tmp_path)


def test_cells_without_a_label_take_part_and_are_never_scored(raw):
    adata = raw.copy()
    adata.obs["cell_type"] = adata.obs["cell_type"].astype(object)
    adata.obs.loc[adata.obs_names[:40], "cell_type"] = np.nan
    adata.obs.loc[adata.obs_names[40:80], "cell_type"] = "unassigned"
    calls = []
    options = {"protocols": ["S1"], "seeds": [0], "unlabeled_category": "unassigned"}
    table = run(adata, **KEYS, methods=[Counting(calls=calls)], **options)
    assert calls == [adata.n_obs]
    n_scored = table.loc[table["metric"] == "n_scored", "value"].item()
    assert 0 < n_scored < 0.6 * (adata.n_obs - 80)


def test_the_data_of_a_user_are_not_changed(raw):
    adata = raw.copy()
    adata.obs["other"] = adata.obs["cell_type"]
    before = adata.copy()
    run(adata, **KEYS, methods=["pca", "lr_hvg"], protocols=["S1"], seeds=[0])
    pd.testing.assert_frame_equal(adata.obs, before.obs)
    assert list(adata.var) == list(before.var)
    assert not adata.obsm
    assert not adata.layers
    assert (adata.X != before.X).nnz == 0


def test_modalities_are_found_by_common_names_and_can_be_hidden():
    mdata = simulate_multiomics(n_cells=240, seed=0)
    names = dict.fromkeys(mdata.mod)
    table = run(
        mdata, **KEYS, methods=["blocks", "lr_features", "ridge_impute"], protocols=["S1", "S6-prot"], seeds=[0]
    )
    assert set(names) >= {"rna"}
    s1, s6 = (table[table["protocol"] == p] for p in ("S1", "S6-prot"))
    assert {"structure_rna", "structure_prot"} <= set(s1["metric"])
    assert "pearson" in set(s6.loc[s6["method"] == "ridge_impute", "metric"])
    assert "lr_features" not in set(s6["method"])  # it needs every modality in every cell


def bad(change):
    """Arguments of a run on data changed by ``change``."""
    return lambda adata: KEYS | {"methods": ["pca"], "protocols": ["S1"]} | change(adata)


def _set(adata, **columns):
    for name, value in columns.items():
        adata.obs[name] = value
    return {}


def _negative(adata):
    adata.X = sparse.csr_matrix(adata.X.toarray() - 0.5)
    return {}


def _twice(adata):
    adata.var_names = ["A", *adata.var_names[:-1][:0], "A", *adata.var_names[2:]]
    return {}


BAD = {
    "no such batch column": (
        bad(lambda a: {"batch_key": "donor"}),
        KeyError,
        "batch_key: obs has no column 'donor'; it",
    ),
    "no such label column": (bad(lambda a: {"labels_key": "type"}), KeyError, "labels_key: obs has no column 'type'"),
    "one label": (bad(lambda a: _set(a, cell_type="T")), ValueError, r"has 1 label\(s\) beside 'Unknown': T"),
    "no label": (bad(lambda a: _set(a, cell_type=np.nan)), ValueError, r"has 0 label\(s\)"),
    "missing batch": (bad(lambda a: _set(a, batch=[None, *a.obs["batch"][1:]])), ValueError, "is missing for 1 cells"),
    "no counts": (bad(_negative), ValueError, "X of data holds values that are not counts, e.g. .*; name the layer"),
    "genes twice": (bad(_twice), ValueError, "'A' occurs twice"),
    "no such layer": (bad(lambda a: {"layer": "raw"}), KeyError, "has no layer 'raw'; it has none"),
    "no such method": (bad(lambda a: {"methods": ["scvii"]}), KeyError, "'scvii' is unknown"),
    "no such protocol": (bad(lambda a: {"protocols": ["S7"]}), ValueError, "'S7' is unknown; use one of S1"),
    "no such embedding": (bad(lambda a: {"methods": ["obsm:X_a"]}), KeyError, "obsm has no array 'X_a'; it has none"),
    "one batch": (bad(lambda a: _set(a, batch="x") | {"protocols": ["S2a"]}), ValueError, "there is only one"),
    "no modality": (bad(lambda a: {"protocols": ["S6-prot"]}), ValueError, "these data have rna"),
    "no such filter": (bad(lambda a: {"prefilter": "magic"}), ValueError, "magic"),
    "placeholder is a label": (
        bad(lambda a: _set(a, cell_type=np.resize(["Unknown", "a", "b"], a.n_obs)) | {"unlabeled_category": "none"}),
        ValueError,
        "holds the label 'Unknown'",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_and_nothing_is_written(raw, tmp_path, case):
    arguments, error, message = BAD[case]
    adata = raw.copy()
    kwargs = arguments(adata)
    with pytest.raises(error, match=message):
        run(adata, **kwargs, results_dir=tmp_path / "results")
    assert not list(tmp_path.rglob("*.json"))


def test_what_is_not_data_is_refused(raw):
    with pytest.raises(TypeError, match="data is a DataFrame; give an AnnData with RNA counts or a MuData"):
        run(raw.to_df(), **KEYS)


def test_a_tidy_table_of_nothing_is_empty():
    assert tidy([]).empty


def test_duplicate_cell_names_do_no_harm(raw):
    adata = AnnData(raw.X, obs=raw.obs.set_axis(["c"] * raw.n_obs), var=raw.var)
    assert len(run(adata, **KEYS, methods=["pca"], protocols=["S1"], seeds=[0]))
