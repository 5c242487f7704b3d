import json
import subprocess
import sys
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from more_scvi._files import PREFIX
from more_scvi.data import simulate_multiomics
from more_scvi.evaluation import (
    Given,
    Method,
    Result,
    Split,
    _fingerprint,
    get_method,
    load_results,
    load_splits,
    make_splits,
    run,
    tidy,
)
from more_scvi.evaluation._fingerprint import method_fingerprint
from more_scvi.evaluation._store import result_path, write_json

KEYS = {"batch_key": "batch", "labels_key": "cell_type", "progress": False}


class Counting(Method):
    """Embeds by counts and notes every call."""

    name = "counting"
    calls: ClassVar[list[int]] = []

    def run(self, given: Given, n_latent: int = 5) -> Result:
        self.calls.append(given.data.n_obs)
        return Result(np.asarray(given.data.X[:, :n_latent].todense(), dtype=np.float32))


@pytest.fixture
def calls():
    Counting.calls.clear()
    return Counting.calls


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


def test_finished_results_are_never_computed_again(raw, tmp_path, calls):
    options = KEYS | {"methods": [Counting()], "seeds": [0], "results_dir": tmp_path}
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
    (folder / f"{PREFIX}77.json").write_text('{"dataset": "da')
    table = run(raw, **KEYS, methods=["pca"], protocols=["S1"], seeds=[0], results_dir=tmp_path)
    assert len(table)
    assert len(load_results(tmp_path)) == 1


def test_a_damaged_result_is_named_with_the_way_out(raw, tmp_path):
    options = KEYS | {"methods": ["random"], "protocols": ["S1"], "seeds": [0], "results_dir": tmp_path}
    run(raw, **options)
    path = tmp_path / "data/S1_r0_s0/random.json"
    path.write_text(path.read_text()[:100])
    with pytest.raises(ValueError, match=r"random\.json is damaged .*Delete it; what it held is computed again"):
        run(raw, **options)
    path.unlink()
    assert len(run(raw, **options))


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


def _fewer(adata):
    return adata[:200].copy()


def _noise(adata):
    adata.X = sparse.csr_matrix(np.random.default_rng(0).poisson(1.0, adata.shape))
    return adata


def _renamed(adata):
    adata.var_names = [f"g{i}" for i in range(adata.n_vars)]
    return adata


@pytest.mark.parametrize("change", [_fewer, _noise, _renamed])
def test_results_of_other_data_are_not_mistaken_for_these(raw, tmp_path, change):
    options = KEYS | {"methods": ["pca"], "protocols": ["S1"], "seeds": [0], "results_dir": tmp_path}
    run(raw, **options)
    with pytest.raises(ValueError, match="holds results of other data.*Name another results_dir or dataset"):
        run(change(raw.copy()), **options)


def test_the_same_counts_in_another_form_are_the_same_data(raw, tmp_path, calls):
    options = KEYS | {"methods": [Counting()], "protocols": ["S1"], "seeds": [0], "results_dir": tmp_path}
    run(raw, **options)
    adata = raw.copy()
    x = sparse.coo_matrix(raw.X)
    halves = np.concatenate([x.data - 1, np.ones_like(x.data)])  # repeated entries add up
    adata.X = sparse.csr_matrix((halves, (np.tile(x.row, 2), np.tile(x.col, 2))), x.shape).astype(np.float64)
    run(adata, **options)
    adata.X = raw.X.toarray().astype(int)
    run(adata, **options)
    assert len(calls) == 1


def test_results_of_a_changed_method_are_computed_again(raw, tmp_path, calls, monkeypatch, caplog):
    options = KEYS | {"protocols": ["S1"], "seeds": [0], "results_dir": tmp_path}
    run(raw, **options, methods=[Counting()])
    with caplog.at_level("INFO", "more_scvi.evaluation"):
        run(raw, **options, methods=[Counting(n_latent=4)])
    assert len(calls) == 2 and "1 results of data were made by other code or settings" in caplog.text
    (record,) = load_results(tmp_path)
    assert record["settings"] == {"n_latent": 4} and record["n_latent"] == 4
    assert record["versions"]["scvi-tools"] and "commit" in record and len(record["split_digest"]) == 16
    monkeypatch.setattr(_fingerprint, "_source", lambda cls: "changed = True")
    run(raw, **options, methods=[Counting(n_latent=4)])
    assert len(calls) == 3


def test_a_changed_embedding_is_scored_again_and_other_methods_are_not(raw, tmp_path, calls):
    adata = raw.copy()
    adata.obsm["X_mine"] = np.asarray(raw.X[:, :8].todense())
    options = KEYS | {"methods": ["obsm:X_mine", Counting()], "protocols": ["S1"], "seeds": [0]}
    before = run(adata, **options, results_dir=tmp_path).set_index(["method", "metric"])["value"]
    adata.obsm["X_mine"] = np.random.default_rng(0).standard_normal((raw.n_obs, 8))
    after = run(adata, **options, results_dir=tmp_path).set_index(["method", "metric"])["value"]
    assert after["obsm:X_mine", "LR"] < before["obsm:X_mine", "LR"] - 0.2
    assert len(calls) == 1


def test_a_fingerprint_follows_code_and_settings_and_not_words(monkeypatch):
    def prints():
        for function in (_fingerprint._dependencies, _fingerprint.package_fingerprint):
            function.cache_clear()
        return {name: method_fingerprint(get_method(name)) for name in ("more", "pca", "scvi", "LEAK")}

    before = prints()
    assert len(set(before.values())) == 4
    assert prints() == before
    package = _fingerprint.package_fingerprint
    monkeypatch.setattr(_fingerprint, "package_fingerprint", lambda: "another MoRE")
    _fingerprint._dependencies.cache_clear()
    after = {name: method_fingerprint(get_method(name)) for name in before}
    assert [name for name in before if before[name] != after[name]] == ["more"]
    monkeypatch.setattr(_fingerprint, "package_fingerprint", package)
    monkeypatch.setattr(_fingerprint, "installed", lambda name: "99")
    after = prints()
    assert after["scvi"] != before["scvi"] and after["pca"] != before["pca"] and after["more"] == before["more"]
    assert method_fingerprint(get_method("x", "scvi", minibatches=3)) != method_fingerprint(get_method("x", "scvi"))
    assert _fingerprint._code('def f():\n    """Words."""\n    return 1  # why') == _fingerprint._code(
        "def f():\n  return 1"
    )
    assert _fingerprint._code("def f():\n    return 1") != _fingerprint._code("def f():\n    return 2")


def test_cells_without_a_label_take_part_and_are_never_scored(raw, calls):
    adata = raw.copy()
    adata.obs["cell_type"] = adata.obs["cell_type"].astype(object)
    adata.obs.loc[adata.obs_names[:40], "cell_type"] = np.nan
    adata.obs.loc[adata.obs_names[40:80], "cell_type"] = "unassigned"
    options = {"protocols": ["S1"], "seeds": [0], "unlabeled_category": "unassigned"}
    table = run(adata, **KEYS, methods=[Counting()], **options)
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


def _raw(adata):
    adata.raw = adata.copy()
    return {"layer": "raw"}


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
    "counts in raw": (bad(_raw), KeyError, r"has no layer 'raw'; it has none\. .*adata = adata.raw.to_adata\(\)"),
    "no such method": (bad(lambda a: {"methods": ["scvii"]}), KeyError, "'scvii' is unknown"),
    "no such protocol": (bad(lambda a: {"protocols": ["S11"]}), ValueError, "'S11' is unknown; use one of S1"),
    "no such embedding": (bad(lambda a: {"methods": ["obsm:X_a"]}), KeyError, "obsm has no array 'X_a'; it has none"),
    "one batch": (bad(lambda a: _set(a, batch="x") | {"protocols": ["S2a"]}), ValueError, "there is only one"),
    "no modality": (bad(lambda a: {"protocols": ["S6-prot"]}), ValueError, "these data have rna"),
    "no such filter": (bad(lambda a: {"prefilter": "magic"}), ValueError, "magic"),
    "a name for methods": (
        bad(lambda a: {"methods": "pca"}),
        TypeError,
        r"methods is 'pca'; give a list, e.g. .*\['pca'\]",
    ),
    "a name for protocols": (bad(lambda a: {"protocols": "S1"}), TypeError, "protocols is 'S1'; give a list"),
    "a number for seeds": (bad(lambda a: {"seeds": 0}), TypeError, "seeds is 0; give a list"),
    "a number for a protocol": (
        bad(lambda a: {"protocols": [1]}),
        TypeError,
        "protocols holds 1; give names such as S1",
    ),
    "no protocol": (bad(lambda a: {"protocols": []}), ValueError, "protocols is empty, so nothing would be run"),
    "no seed": (bad(lambda a: {"seeds": ()}), ValueError, "seeds is empty"),
    "negative seed": (bad(lambda a: {"seeds": [0, -1]}), ValueError, "seeds holds -1; give whole numbers from 0"),
    "half a seed": (bad(lambda a: {"seeds": [0.5]}), ValueError, "seeds holds 0.5"),
    "no method": (bad(lambda a: {"methods": [None]}), TypeError, "methods holds None; give names"),
    "a class of methods": (
        bad(lambda a: {"methods": [Counting]}),
        TypeError,
        "methods holds .*Counting.*Method objects",
    ),
    "no rotation": (bad(lambda a: {"max_rotations": 0}), ValueError, "max_rotations is 0; give a whole number from 1"),
    "methods of one file": (
        bad(lambda a: {"methods": ["pca", Counting("PCA")]}),
        ValueError,
        "'pca' and 'PCA' would share a file",
    ),
    "a method called split": (
        bad(lambda a: {"methods": [Counting("split")]}),
        ValueError,
        "take the place of split.json",
    ),
    "a modality that is a path": (bad(lambda a: {"protocols": ["S6-../../x"]}), ValueError, "Split 'S6-../../x_r0_s0'"),
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


UNFIT = ("../../x", "a/b", "", ".", "..", ".hidden", "/etc/x", "a\\b", "C:x", "a\n", "a\0", "nul", "COM1.txt", "a.",
         "a ", " a", "~x", "-x", "a?", "a*", "x" * 201, None, 3)  # fmt: skip


@pytest.mark.parametrize("name", UNFIT)
def test_names_that_are_no_file_names_are_refused_wherever_they_become_one(raw, tmp_path, name):
    options = KEYS | {"methods": ["pca"], "protocols": ["S1"], "seeds": [0]}
    with pytest.raises(ValueError, match=r"dataset .* cannot be the name of a file\. Give 1 to 200 bytes"):
        run(raw, **options, results_dir=tmp_path / "results", dataset=name)
    (split,) = make_splits(raw.obs["cell_type"], raw.obs["batch"], "S1", dataset="data")
    with pytest.raises(ValueError, match="dataset .* cannot be"):
        result_path(tmp_path, replace(split, dataset=name), "pca")
    if isinstance(name, str) and name not in ("a/b", "C:x"):  # of methods / and : are written -
        with pytest.raises(ValueError, match="Method .* cannot be"):
            result_path(tmp_path, split, name)
    with pytest.raises(ValueError, match="Split .* cannot be"):
        result_path(tmp_path, replace(split, protocol=f"../{name}"), "pca")
    assert not list(tmp_path.rglob("*"))


@pytest.mark.parametrize("name", ["pbmc 10k (v3)", "Zellen-ü", "a.b", "x" * 200])
def test_ordinary_names_are_taken(raw, tmp_path, name):
    table = run(raw, **KEYS, methods=["random"], protocols=["S1"], seeds=[0], results_dir=tmp_path, dataset=name)
    assert set(table["dataset"]) == {name} and (tmp_path / f"{name}.csv").exists()


def test_a_results_dir_that_is_a_file_is_refused(raw, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="file is a file; give a folder"):
        run(raw, **KEYS, methods=["pca"], results_dir=tmp_path / "file")


KILLED = """
import os, random, signal, sys, time
from pathlib import Path
from more_scvi.data import simulate_batches
from more_scvi.evaluation import run

adata = simulate_batches(n_cells=120, n_genes=60, n_types=3, n_batches=3, seed=0)

def start(folder):
    if pid := os.fork():
        return pid
    run(adata, batch_key="batch", labels_key="cell_type", methods=["pca", "lr_hvg", "random"], seeds=[0, 1],
        results_dir=folder, progress=False)
    os._exit(0)

folder, rng = Path(sys.argv[1]), random.Random(0)
for kill in range(4):
    pid, before = start(folder / "killed"), len(list(folder.rglob("*.json")))
    while len(list(folder.rglob("*.json"))) < before + 2 and not os.waitpid(pid, os.WNOHANG)[0]:
        time.sleep(0.001)
    time.sleep(0.05 * rng.random())
    try:
        os.kill(pid, signal.SIGKILL)
        print(os.waitpid(pid, 0)[1])
    except ProcessLookupError:
        print("finished")
assert os.waitpid(start(folder / "killed"), 0)[1] == 0
assert os.waitpid(start(folder / "whole"), 0)[1] == 0
"""


def test_a_run_that_is_killed_again_and_again_ends_with_the_same_table(tmp_path):
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines().count("9") >= 2  # killed while it ran
    keys = ["protocol", "seed", "rotation", "method", "metric"]
    killed, whole = (pd.read_csv(tmp_path / name / "data.csv").set_index(keys)["value"] for name in ("killed", "whole"))
    assert killed.index.is_unique and set(killed.index) == set(whole.index)
    cost = whole.index.get_level_values("metric").isin(["seconds", "memory"])
    pd.testing.assert_series_equal(killed.reindex(whole.index)[~cost], whole[~cost])


def test_what_is_not_data_is_refused(raw):
    with pytest.raises(TypeError, match="data is a DataFrame; give an AnnData with RNA counts or a MuData"):
        run(raw.to_df(), **KEYS)


def test_a_tidy_table_of_nothing_is_empty():
    assert tidy([]).empty


def test_duplicate_cell_names_do_no_harm(raw):
    adata = AnnData(raw.X, obs=raw.obs.set_axis(["c"] * raw.n_obs), var=raw.var)
    assert len(run(adata, **KEYS, methods=["pca"], protocols=["S1"], seeds=[0]))
