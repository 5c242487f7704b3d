"""Train on RNA alone, annotate cells of which another modality is seen: labels that cross modalities."""

from __future__ import annotations

from pathlib import Path

from catalogue import TEXTS, Group, Stage
from gathered import Results
from records import load
from report import BEST, matrix

FOLDER, TITLE = "", "Labels across modalities"  # the results stand with those of the benchmark, which has these tasks
EARLIER = "Measured with an earlier version of MoRE, whose code the results do not name."
SETTINGS = {
    ("pbmc_mosaic", "rna-to-prot"): "blood, 7 proteins; 47 % of cells paired",
    ("pbmc_mosaic_hao", "rna-to-prot"): "blood, 224 proteins; 50 % of cells paired",
    ("snareseq_multi", "S6-third"): "brain, chromatin; a third paired",
    ("snareseq_multi", "S6-half"): "brain, chromatin; no cell paired",
    ("sln_diagonal", "rna-to-prot"): "spleen, 110 proteins; no cell paired",
}
"""(Data set, protocol) → what it is, and how many cells have both."""
METHODS = ("more", "cca", "lr_bridge", "totalvi", "multivi", "ceiling", "random")
UNTRIED = {"sln_diagonal": ("totalvi", "multivi")}
"""Not run: nothing links the modalities for them where no cell has both (see ``S6-half``), and they are slow."""
STAGES = [
    Stage("transfer", (d,), (p,), tuple(m for m in METHODS if m not in UNTRIED.get(d, ())), (0, 1)) for d, p in SETTINGS
]


def report(folder: Path) -> tuple[Results, list[str]]:
    """The records, and the parts of ``transfer.md``."""
    records = [r for r in load(folder.parent) if (r["dataset"], r["protocol"]) in SETTINGS and r["method"] in METHODS]
    results = Results(r for r in records if r["scores"].get("own") != 0)  # a bridge without paired cells is silent
    parts = [TEXTS["transfer_summary"]]
    for metric in ("annotation", "FOSCTTM"):
        columns = [(what, metric, Group(dataset=d, families=(p,))) for (d, p), what in SETTINGS.items()]
        parts += [f"## {metric}", matrix(results, [*list(BEST)[:1], *METHODS[1:]], columns)]
    return results, parts
