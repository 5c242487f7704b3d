"""Backbones inside the same model on the same splits, and labels that cross modalities."""

from pathlib import Path

from catalogue import COLUMNS, EXPERIMENTS, TEXTS, Group
from gathered import ALL, Results
from records import load
from report import BEST, detail, matrix

QUALITY = ("NMI", "ARI", "own", "LR", "CiLISI", "structure")
SETTINGS = {
    ("pbmc_mosaic", "rna-to-prot"): "blood, 7 proteins; 47 % of cells paired",
    ("pbmc_mosaic_hao", "rna-to-prot"): "blood, 224 proteins; 50 % of cells paired",
    ("snareseq_multi", "S6-third"): "brain, chromatin; a third paired",
    ("snareseq_multi", "S6-half"): "brain, chromatin; no cell paired",
    ("sln_diagonal", "rna-to-prot"): "spleen, 110 proteins; no cell paired",
}
"""(Data set, protocol) → what it is, and how many cells have both."""


def backbone(folder: Path) -> tuple[Results, list[str]]:
    """The records, and the parts of ``backbone.md``."""
    methods = next(stage.methods for stage in EXPERIMENTS if stage.name == "backbone")
    results = Results(record for record in load(folder / "backbone") if record["method"] in methods)
    columns = [(f"Δ {COLUMNS[name]}", name, ALL) for name in QUALITY]
    parts = ["## Frozen minus the others", TEXTS["backbone_rule"], matrix(results, results.variants, columns, True)]
    parts.append("## Means")
    for key in sorted({(r["dataset"], r["protocol"]) for r in results.records}):
        parts += [f"### {', '.join(key)}", detail(results, *key, "own")]
    return results, parts


def transfer(folder: Path) -> tuple[Results, list[str]]:
    """The records, which stand with those of the benchmark, and the parts of ``transfer.md``."""
    methods = next(stage.methods for stage in EXPERIMENTS if stage.name == "transfer")
    records = [r for r in load(folder.parent) if (r["dataset"], r["protocol"]) in SETTINGS and r["method"] in methods]
    results = Results(r for r in records if r["scores"].get("own") != 0)  # a bridge without paired cells is silent
    parts = [TEXTS["transfer_summary"]]
    for metric in ("annotation", "FOSCTTM"):
        columns = [(what, metric, Group(dataset=d, families=(p,))) for (d, p), what in SETTINGS.items()]
        parts += [f"## {COLUMNS[metric]}", matrix(results, [*list(BEST)[:1], *methods[1:]], columns)]
    return results, parts
