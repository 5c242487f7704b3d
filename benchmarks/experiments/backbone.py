"""Frozen, fine-tuned and random-weight backbone, and none, inside the same model on the same splits."""

from __future__ import annotations

from pathlib import Path

from catalogue import COLUMNS, TEXTS, Stage
from gathered import Results
from records import load
from report import detail, matrix
from tables import draw, page

FOLDER = "experiments/backbone"
NAMES = {
    "more": "frozen",
    "more:finetuned-backbone": "fine-tuned",
    "more:random-backbone": "random weights",
    "more:no-backbone": "none",
}
"""Method → what the figure calls it."""
STAGES = [Stage("backbone", ("pbmc_kang", "bm_vangalen", "pbmc_cite"), ("S1",), tuple(NAMES), scib=True)]
QUALITY = ("NMI", "ARI", "own", "LR", "CiLISI", "structure")


def report(folder: Path) -> list[Path]:
    """Write ``backbone.md`` and ``backbone.png``."""
    results = Results(record for record in load(folder / "backbone") if record["method"] in NAMES)
    parts = ["![NMI, ARI, macro-F1, structure and seconds per backbone](backbone.png)", "## Frozen minus the others"]
    columns = [(f"Δ {COLUMNS[name]}", name, lambda *_: True) for name in QUALITY]
    parts += [TEXTS["backbone_rule"], matrix(results, results.variants, columns, True), "## Means"]
    for key in sorted({(r["dataset"], r["protocol"]) for r in results.records}):
        parts += [f"### {', '.join(key)}", detail(results, *key, "own")]
    table = results.table[results.table["method"].isin(list(NAMES))]
    table = table.assign(protocol=table["dataset"], method=table["method"].map(NAMES))
    drawn = [(COLUMNS.get(m, m), table, m) for m in (*QUALITY[:4], "structure", "seconds")]
    title, figure = "Frozen, fine-tuned or random backbone", draw(drawn, 3, folder / "backbone.png")
    return [page(folder, "backbone", title, results, *parts, earlier=TEXTS["first"]), figure]
