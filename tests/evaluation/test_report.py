import sys
from pathlib import Path

import pandas as pd
import pytest

from more_scvi.evaluation import load_results, run, summarise
from more_scvi.evaluation._compare import choose, with_chosen

ROOT = Path(__file__).parents[2]
COLUMNS = ["dataset", "protocol", "seed", "rotation", "method", "metric", "value"]


def table(rows):
    return pd.DataFrame(rows, columns=COLUMNS)


def record(dataset, protocol, method, own=None, lr=None, seed=0, rotation=0, **scores):
    scores = {"own": own, "LR": lr, "n_scored": 100} | scores
    keys = {"dataset": dataset, "protocol": protocol, "seed": seed, "rotation": rotation, "held_out": None}
    cost = {"seconds": {"training": 1.0 if method == "more" else 10.0}, "peak_memory": 2**20, "parameters": {}}
    return keys | cost | {"method": method, "scores": scores, "n_cells": 200, "versions": {"scvi-tools": "1.4"}}


@pytest.fixture(scope="module")
def scripts():
    """The scripts of the benchmark, which are not part of the package."""
    if not (ROOT / "benchmarks" / "report.py").exists():
        pytest.skip("benchmarks/ is not part of a distribution; needs a checkout")
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import answers
    import gathered
    import records
    import report

    yield {"answers": answers, "gathered": gathered, "records": records, "report": report}
    sys.path.remove(str(ROOT / "benchmarks"))


def test_means_weigh_rotations_alike_and_ranges_are_over_all_runs():
    values = {(0, 0): 0.2, (0, 1): 0.4, (1, 0): 0.6}  # rotation 1 has one seed
    found = summarise(table([("d", "S2a", s, r, "m", "own", v) for (s, r), v in values.items()]))
    row = found.loc[("d", "S2a", "m", "own")]
    assert row.tolist() == pytest.approx([0.4, 0.2, 0.6, 2, 2])


def test_the_classifier_is_chosen_once_by_the_mean_over_rows():
    rows = [("d", "S1", 0, 0, "m", "own", 0.9), ("d", "S1", 0, 0, "m", "LR", 0.7)]
    rows += [("e", "S1", 0, 0, "m", "own", 0.6), ("e", "S1", 0, 0, "m", "LR", 0.75)]
    found = with_chosen(table(rows), "annotation", ("own", "LR"))
    assert found.loc[found["metric"] == "annotation", "value"].tolist() == [0.9, 0.6]  # not .9 and .75


def test_a_row_that_only_one_classifier_has_does_not_decide():
    rows = [("d", "S1", 0, 0, "m", "own", 0.8), ("d", "S1", 0, 0, "m", "LR", 0.7), ("e", "S1", 0, 0, "m", "LR", 0.99)]
    assert choose(table(rows), ("own", "LR")) == {"m": "own"}


def test_a_variant_is_measured_as_its_method_unless_it_cannot_be():
    rows = [("d", "S1", 0, 0, m, c, v) for m, c, v in [("m", "own", 0.9), ("m", "LR", 0.8), ("m:x", "own", 0.5)]]
    rows += [("d", "S1", 0, 0, "m:x", "LR", 0.6), ("d", "S1", 0, 0, "m:y", "LR", 0.6)]
    assert choose(table(rows), ("own", "LR")) == {"m": "own", "m:x": "own", "m:y": "LR"}


SETS = ("bm_vangalen", "pbmc_kang", "pbmc_4batch")


def simulated():
    """MoRE is ahead of ``pca`` everywhere, and behind ``lr_hvg`` on one set."""
    records = []
    for i, name in enumerate(SETS):
        records += [record(name, "S1", "more", 0.80 + i / 100, 0.7, CiLISI=0.8, structure=0.9)]
        records += [record(name, "S1", "pca", None, 0.70, CiLISI=0.5, structure=1.0)]
        records += [record(name, "S1", "lr_hvg", 0.90 if name == "pbmc_kang" else 0.80)]
        records += [record(name, "S1", "more:no-keep", 0.80 + i / 100, 0.7, CiLISI=0.8, structure=0.4)]
        records += [record(name, "S1", "random", None, 0.05, CiLISI=0.9, structure=0.0)]
    return records


def test_every_sentence_follows_from_the_numbers(scripts):
    page = scripts["answers"].answers(scripts["gathered"].Results(simulated()))
    assert "| `more:no-keep` | 3 | 3 | .000 | .000 | .000 | **+.500** | – |" in page
    assert "| .090 | pbmc_kang | S1 | macro-F1 | .810 | .900 | `lr_hvg` | 1 |" in page
    assert "ahead by more than .01 in 1, within it in 1, behind in 1" in page
    assert "- Not measured yet: half of the labels (S1); an unlabelled batch (S2a)" in page
    assert "`random`: macro-F1 .050" in page and "as it must be" in page
    assert "`LEAK`: not measured yet." in page


def test_a_reversed_result_reverses_the_sentence(scripts):
    records = simulated()
    for one in records:
        if one["method"] == "more:no-keep":
            one["scores"]["structure"] = 0.99
    page = scripts["answers"].answers(scripts["gathered"].Results(records))
    assert "| `more:no-keep` | 3 | 3 | .000 | .000 | .000 | **−.090** | – |" in page


def test_pages_compare_on_shared_splits_and_name_cost_and_versions(scripts):
    extra = record("pbmc_kang", "S1", "more", 0.10, 0.10, seed=1)  # no peer has this split
    pages = scripts["report"].pages(scripts["gathered"].Results([*simulated(), extra]))
    front, rna = pages["results.md"], pages["results/rna.md"]
    assert "| `pca` | **+.110** | .100 to .120 | 3 / 0 / 0 | .810 | .700 | 3 | 3 | .250 (n = 3) | 1.00 | 10 |" in front
    assert "scvi-tools 1.4" in front
    assert "| `more` | 2 | – | .455<br>(.100–.810)" in rna
    assert "results/spatial.md" not in pages  # nothing measured, no page


def test_peers_that_were_trained_short_say_so_and_are_neither_bold_nor_the_best(scripts):
    short = [record(name, "S1", "scanvi", 0.1, 0.1, CiLISI=0.1, structure=0.1) for name in SETS]
    short += [record(name, "S1", "scvi", None, 0.99, CiLISI=0.9, structure=0.95) for name in SETS]
    plain, pages = (scripts["report"].pages(scripts["gathered"].Results([*simulated(), *more])) for more in ([], short))
    rows = [line for text in pages.values() for line in text.splitlines() if "scVI" in line or "scANVI" in line]
    assert sum(line.startswith("| `scANVI (2,500 steps)` | +.710 |") for line in rows) == 2
    assert not [line for line in rows if "**" in line]
    assert "`scvi`" not in "".join(pages.values())
    for page in ("results.md", "results/answers.md", "results/rna.md"):  # what is said of the best peer is the same
        of_best = [line for line in plain[page].splitlines() if "best peer" in line and "|" in line or "ahead" in line]
        assert of_best and not set(of_best) - set(pages[page].splitlines())


def test_pages_say_which_results_are_of_which_code(scripts):
    front = scripts["report"].pages(scripts["gathered"].Results(simulated()))["results.md"]
    assert "15 of 15 results, 6 of them of MoRE and its variants, were measured with an earlier version" in front
    new = {"fingerprint": "b", "commit": "abc", "date": "2030-01-01"}
    records = [one | new for one in simulated()]
    pages = scripts["report"].pages(scripts["gathered"].Results(records))
    assert "earlier version" not in pages["results.md"] and "†" not in "".join(pages.values())
    assert "commits abc" in pages["results.md"]
    records[0] |= {"fingerprint": "a", "date": "2029-01-01"}
    pages = scripts["report"].pages(scripts["gathered"].Results(records))
    assert pages["results/rna.md"].count("| `more` † |") == 1 and "| `more` |" in pages["results/rna.md"]
    assert scripts["report"].stale(records)[-1] == "random (3)"


def full(**changes):
    return record("pbmc_kang", "S1", "more:no-keep", 0.81234, None, CiLISI=0.5) | {
        "held_out": "a, \"b\"", "split": "S1_r0_s0", "seeded": True, "notes": {"minibatches": 3}, "date": "2026-01-02",
        "per_type": {"own": {"T, \u03b2": {"n": 3, "f1": 0.5}}}, "fingerprint": "f", "settings": {}, **changes,
    }  # fmt: skip


def test_records_survive_the_table_and_the_same_records_are_the_same_bytes(scripts, tmp_path):
    records, one = scripts["records"], full()
    others = [record("pbmc_kang", "S1", "pca", None, 0.5, seed=seed) for seed in range(12)]
    assert records.merge(tmp_path, [one, *others]) == 13
    (path,) = tmp_path.iterdir()
    before = path.read_bytes()
    back = records.load(tmp_path)
    assert [r["seed"] for r in back if r["method"] == "pca"] == list(range(12))
    (found,) = [r for r in back if r["method"] == "more:no-keep"]
    kept = {key: value for key, value in found.items() if value not in (None, {})}
    assert kept == {
        key: {k: v for k, v in value.items() if v is not None} if key == "scores" else value
        for key, value in one.items()
        if value not in (None, {})
    }
    assert records.merge(tmp_path, [one, *others[::-1]]) == 0 and path.read_bytes() == before
    path.unlink()
    records.merge(tmp_path, [*others[::-1], one])
    assert path.read_bytes() == before


def test_a_later_result_replaces_an_earlier_one_and_never_the_other_way(scripts, tmp_path):
    records = scripts["records"]
    records.merge(tmp_path, [full()])
    assert records.merge(tmp_path, [full(date="2026-01-01", fingerprint="old")]) == 0
    assert records.merge(tmp_path, [full(date="2026-01-03", fingerprint="new")]) == 1
    assert [r["fingerprint"] for r in records.load(tmp_path)] == ["new"]
    with pytest.raises(ValueError, match="dataset '../x' cannot be the name of a file"):
        records.merge(tmp_path, [full(dataset="../x")])


def test_a_run_goes_on_from_the_tables(scripts, raw, tmp_path):
    records = scripts["records"]
    options = {"batch_key": "batch", "labels_key": "cell_type", "seeds": [0], "protocols": ["S1"], "progress": False}
    run(raw, **options, methods=["pca", "random"], results_dir=tmp_path / "one", dataset="toy")
    done = [r | ({"fingerprint": "other code"} if r["method"] == "pca" else {}) for r in load_results(tmp_path / "one")]
    records.merge(tmp_path / "tables", done)
    records.unpack(tmp_path / "tables", tmp_path / "two", ["toy", "not there"])
    run(raw, **options, methods=["pca", "random"], results_dir=tmp_path / "two", dataset="toy")
    assert records.merge(tmp_path / "tables", load_results(tmp_path / "two")) == 1
    pca, random = records.load(tmp_path / "tables")
    assert pca["fingerprint"] != "other code" and random["date"] == done[1]["date"]  # one is new, one is not


def test_nothing_to_report_is_an_error(scripts):
    with pytest.raises(ValueError, match="No results to report"):
        scripts["gathered"].Results([])


@pytest.mark.skipif(int(pd.__version__[0]) > 2, reason="pages are written with pandas 2")
def test_committed_pages_are_what_the_records_say(scripts):
    pytest.importorskip("scipy", "1.15", reason="older ones give p-values of few rows with ties otherwise")
    written = scripts["report"].pages(
        scripts["gathered"].Results(scripts["records"].load(ROOT / "benchmarks" / "results"))
    )
    stale = [path for path, text in written.items() if not (ROOT / "docs" / path).exists()]
    stale += [
        path for path, text in written.items() if path not in stale and (ROOT / "docs" / path).read_text() != text
    ]
    assert not stale, f"run python benchmarks/report.py; it would change {', '.join(stale)}"
    missing = [name for name in ("macro_f1", "tradeoff") if not (ROOT / "docs" / "results" / f"{name}.svg").exists()]
    assert not missing


def test_what_is_drawn_together_has_the_same_splits(scripts):
    rows = [("d", "S1", seed, 0, "a", "own", 0.5) for seed in (0, 1)] + [("d", "S1", 1, 0, "b", "own", 0.7)]
    table = pd.DataFrame(rows, columns=["dataset", "protocol", "seed", "rotation", "method", "metric", "value"])
    import report

    shared = report.shared_splits(table, ["a", "b"], "own")
    assert shared[["seed", "method", "value"]].values.tolist() == [[1, "a", 0.5], [1, "b", 0.7]]
