"""The reports of the experiments say what the records say; nothing is trained here."""

from importlib import import_module
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks" / "experiments"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="the benchmarks are in the repository only")

SCORES = {"own": 0.8, "LR": 0.8, "CiLISI": 0.7, "structure": 0.9, "NMI": 0.7, "ARI": 0.6}


@pytest.fixture
def experiment(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER.parent))
    monkeypatch.syspath_prepend(str(FOLDER))
    return import_module


def page(report, folder: Path) -> str:
    return "\n\n".join(report(folder)[1])


def store(folder: Path, dataset: str, protocol: str, seed: int, method: str, **scores: float | None) -> None:
    """Write a record; figures that are not given are those of every other record."""
    record = {
        **{"dataset": dataset, "protocol": protocol, "seed": seed, "rotation": 0, "held_out": None, "method": method},
        "scores": SCORES | scores,
        "seconds": {"training": 40.0 if "finetuned" in method else 10.0},
        "parameters": {"trained": 100, "frozen": 1000},
    }
    import_module("records").merge(folder, [record])


@pytest.mark.parametrize(
    ("changes", "region"),
    [
        ({0.0: 0.0, 0.1: 0.5, 10.0: 1.0}, (0.0, 10.0)),
        ({0.0: 0.5, 0.1: 1.5, 10.0: 0.5}, (1.0, 10.0)),  # 0 is stable, but not reached over stable factors
        ({0.0: 15.0, 0.1: 1.0, 10.0: 25.0}, (0.1, 1.0)),
        ({0.0: 0.0, 10.0: float("nan")}, (1.0, 1.0)),  # what was not run, or has no value, is not stable
    ],
)
def test_the_stable_region_ends_at_the_first_factor_that_moves_something(experiment, changes, region):
    assert experiment("losses").stable_region(changes) == region


def test_the_region_of_the_report_holds_on_all_data(experiment, tmp_path):
    losses = experiment("losses")
    for dataset in ("pbmc_kang", "pbmc_cite_multi"):
        for name in losses.variants(dataset):
            store(tmp_path / "losses", dataset, "S1", 0, name)
    store(tmp_path / "losses", "pbmc_kang", "S1", 0, "more:keep-x0", structure=0.8)
    store(tmp_path / "losses", "pbmc_cite_multi", "S1", 0, "more:keep-x10", CiLISI=0.65)
    text = page(losses.report, tmp_path)
    rows = {line.split(" | ")[0].strip("| "): line for line in text.splitlines() if line.startswith("|")}
    assert "| 0–1 | 0.1–10 | 0.1–1 |" in rows["keep"]  # RNA + protein, RNA, both
    assert "pbmc_kang × 0 structure -0.100" in rows["keep"]
    assert "pbmc_cite_multi × 10 CiLISI -0.050" in rows["keep"]
    assert "| 0–10 | – | 0–10 |" in rows["align_modality"]  # RNA alone has no use for it
    assert "9 of 9 pairs are stable" in text
    assert "Not run yet, which" not in text
    assert (tmp_path / "losses.png").stat().st_size > 0


def test_what_another_seed_moves_too_is_not_held_against_a_weight(experiment, tmp_path):
    losses = experiment("losses")
    for name in losses.variants("pbmc_kang"):
        store(tmp_path / "losses", "pbmc_kang", "S1", 0, name)
    store(tmp_path / "losses", "pbmc_kang", "S1", 0, "more:seed-101", CiLISI=0.65)
    store(tmp_path / "losses", "pbmc_kang", "S1", 0, "more:contrast-x10", CiLISI=0.74)
    store(tmp_path / "losses", "pbmc_kang", "S1", 0, "more:variance-x10", CiLISI=0.77)
    store(tmp_path / "losses", "pbmc_kang", "S1", 0, "more:masked-x10", LR=0.75)
    text = page(losses.report, tmp_path)
    assert "narrower region: masked 0–1, variance 0–1." in text


def test_what_was_not_run_is_not_called_stable(experiment, tmp_path):
    losses = experiment("losses")
    for name in losses.variants("pbmc_kang"):
        if "+" not in name and name != "more:keep-x10":
            store(tmp_path / "losses", "pbmc_kang", "S1", 0, name)
    text = page(losses.report, tmp_path)
    assert "5 of 9 pairs are stable" in text
    assert "counts as not stable: keep (pbmc_kang)." in text


def test_variants_change_the_weights_they_are_named_after(experiment):
    losses = experiment("losses")
    made = losses.options("pbmc_kang")
    given = made["more:align_batch-x10+contrast-x0.1"]["train_kwargs"]["loss_weights"]
    default = losses.LOSS_WEIGHTS
    assert given == {"align_batch": 10 * default["align_batch"], "contrast": 0.1 * default["contrast"]}
    assert made["more:keep-x0"]["train_kwargs"]["loss_weights"] == {"keep": 0}
    assert "more" not in made
    (stage,) = [stage for stage in losses.STAGES if stage.datasets == ("pbmc_kang",)]
    assert stage.methods == ("more", *made) and stage.variants == made


def test_a_difference_between_backbones_is_bold_only_beyond_its_noise(experiment, tmp_path):
    backbone = experiment("comparisons").backbone
    for dataset, wobble in (("pbmc_kang", -0.03), ("bm_vangalen", 0.0), ("pbmc_cite", 0.031)):
        store(tmp_path / "backbone", dataset, "S1", 0, "more", n_scored=50)
        changed = {"NMI": 0.75 + wobble / 10, "LR": 0.8 + wobble, "n_scored": 50}
        store(tmp_path / "backbone", dataset, "S1", 0, "more:finetuned-backbone", **changed)
    store(tmp_path / "backbone", "pbmc_kang", "S1", 0, "more:no-backbone", NMI=0.9, n_scored=50)
    text = page(backbone, tmp_path)
    tuned, none = [line for line in text.splitlines() if line.startswith("| `more:") and "/" in line]
    assert "| **−.050** (0 / 0 / 3) |" in tuned and tuned.count("**") == 2
    assert "−.200 (0 / 0 / 1)" in none and "**" not in none  # one data set is no evidence


def test_transfer_compares_each_method_where_it_answers(experiment, tmp_path):
    transfer = experiment("comparisons").transfer
    folder = tmp_path / "results"
    (folder / "experiments").mkdir(parents=True)
    for name, own, matched in (("more", 0.6, 0.2), ("cca", 0.5, 0.1), ("multivi", None, 0.3), ("ceiling", 0.9, None)):
        store(folder, "snareseq_multi", "S6-half", 0, name, own=own, LR=0.3, FOSCTTM=matched, n_scored=50)
    store(folder, "snareseq_multi", "S6-half", 0, "lr_bridge", own=0.0, LR=None, FOSCTTM=None, n_scored=50)
    text = page(transfer, folder / "experiments")
    scores, matches = text.split("## FOSCTTM")
    assert "| *best peer of each row* | +.100 |" in scores and "| `cca` | +.100 |" in scores
    assert "| `ceiling` | −.300 |" in scores and "lr_bridge" not in scores  # without paired cells it is silent
    assert "| `cca` | +.100 |" in matches and "| `MultiVI (2,500 steps)` | −.100 |" in matches
