"""Frozen, fine-tuned and random-weight backbone, and none, inside the same model on the same splits."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from catalogue import COLUMNS, TEXTS, Stage
from gathered import ALL, Results
from records import load
from report import detail, matrix
from tables import grid, page

from more_scvi.pl import scores

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
    columns = [(f"Δ {COLUMNS[name]}", name, ALL) for name in QUALITY]
    parts += [TEXTS["backbone_rule"], matrix(results, results.variants, columns, True), "## Means"]
    for key in sorted({(r["dataset"], r["protocol"]) for r in results.records}):
        parts += [f"### {', '.join(key)}", detail(results, *key, "own")]
    table = results.table.assign(protocol=results.table["dataset"], method=results.table["method"].map(NAMES))
    panels = [(COLUMNS.get(m, m), partial(scores, table, m)) for m in (*QUALITY[:4], "structure", "seconds")]
    title, figure = "Frozen, fine-tuned or random backbone", grid(panels, 3, 2.6, folder / "backbone.png")
    return [page(folder, "backbone", title, results, *parts, earlier=TEXTS["first"]), figure]
