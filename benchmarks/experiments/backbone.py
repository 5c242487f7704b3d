"""Frozen, fine-tuned and random-weight backbone, and none, inside the same model on the same splits."""

from __future__ import annotations

from pathlib import Path

from catalogue import COLUMNS, TEXTS, Stage
from gathered import ALL, Results
from records import load
from report import detail, matrix

FOLDER, TITLE, EARLIER = "experiments/backbone", "Frozen, fine-tuned or random backbone", TEXTS["first"]
METHODS = ("more", "more:finetuned-backbone", "more:random-backbone", "more:no-backbone")
STAGES = [Stage("backbone", ("pbmc_kang", "bm_vangalen", "pbmc_cite"), ("S1",), METHODS, scib=True)]
QUALITY = ("NMI", "ARI", "own", "LR", "CiLISI", "structure")


def report(folder: Path) -> tuple[Results, list[str]]:
    """The records, and the parts of ``backbone.md``."""
    results = Results(record for record in load(folder / "backbone") if record["method"] in METHODS)
    columns = [(f"Δ {COLUMNS[name]}", name, ALL) for name in QUALITY]
    parts = ["## Frozen minus the others", TEXTS["backbone_rule"], matrix(results, results.variants, columns, True)]
    parts.append("## Means")
    for key in sorted({(r["dataset"], r["protocol"]) for r in results.records}):
        parts += [f"### {', '.join(key)}", detail(results, *key, "own")]
    return results, parts
