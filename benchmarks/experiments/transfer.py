"""Train on RNA alone, annotate cells of which another modality is seen: labels that cross modalities."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pandas as pd
from catalogue import SHORT, TEXTS, Stage, named
from frame import markdown
from gathered import Results
from records import load
from tables import grid, page

from more_scvi.pl import scores

FOLDER = ""  # the results stand with those of the benchmark, which has the same tasks
SETTINGS = {
    ("pbmc_mosaic", "rna-to-prot"): ("blood, 7 proteins", "47 % of cells paired"),
    ("pbmc_mosaic_hao", "rna-to-prot"): ("blood, 224 proteins", "50 % of cells paired"),
    ("snareseq_multi", "S6-third"): ("brain, chromatin", "a third paired"),
    ("snareseq_multi", "S6-half"): ("brain, chromatin", "no cell paired"),
    ("sln_diagonal", "rna-to-prot"): ("spleen, 110 proteins", "no cell paired"),
}
"""(Data set, protocol) → what it is, and how many cells have both."""
METHODS = ("more", "cca", "lr_bridge", "totalvi", "multivi", "ceiling", "random")
REFERENCES = ["ceiling", "random"]
UNTRIED = {"sln_diagonal": ("totalvi", "multivi")}
"""Not run: nothing links the modalities for them where no cell has both (see ``S6-half``), and they are slow."""
STAGES = [
    Stage("transfer", (d,), (p,), tuple(m for m in METHODS if m not in UNTRIED.get(d, ())), (0, 1)) for d, p in SETTINGS
]


def report(folder: Path) -> list[Path]:
    """Write ``transfer.md`` and ``transfer.png``."""
    records = [r for r in load(folder.parent) if (r["dataset"], r["protocol"]) in SETTINGS and r["method"] in METHODS]
    results, rows, panels = Results(records), [], []
    silent = results.table["metric"].isin(["own", "own_balanced"]) & (results.table["value"] == 0)
    table = results.table[~silent]  # a bridge without paired cells answers nothing
    for (dataset, protocol), (words, paired) in SETTINGS.items():
        of = table[(table["dataset"] == dataset) & (table["protocol"] == protocol)]
        if of.empty:
            continue
        mean = of.pivot_table("value", "method", "metric").reindex(columns=["own", "LR", "FOSCTTM", "n_scored"])
        row = {"data, protocol": f"{dataset}, {protocol}", "what": words, "paired": paired}
        rows.append(row | {"scored cells": f"{mean['n_scored'].mean():,.0f}"} | _row(mean))
        of = of.assign(method=of["method"].map(named), protocol=of["metric"])
        both = (of[of["metric"].isin(["own", "LR"])].assign(metric="macro-F1"), of[of["metric"] == "FOSCTTM"])
        for part, metric in zip(both, ("macro-F1", "FOSCTTM"), strict=True):
            panels += [(metric, f"{words}\n{paired}", partial(scores, part, metric))] if len(part) else []
    panels.sort(key=lambda one: one[0] == "FOSCTTM")
    figure = grid([one[1:] for one in panels], 4, 2.6, folder / "transfer.png")
    parts = ["![Macro-F1 per setting and method, and FOSCTTM](transfer.png)", TEXTS["transfer_summary"], markdown(rows)]
    return [page(folder, "transfer", "Labels across modalities", results, *parts), figure]


def _row(mean: pd.DataFrame) -> dict[str, str]:
    score, matched = mean[["own", "LR"]].max(axis=1).dropna(), mean["FOSCTTM"].dropna()
    aside = ["more", *REFERENCES, *SHORT]  # a short training is no claim
    peers, others = score.drop(aside, errors="ignore"), matched.drop(aside, errors="ignore")
    row = {"more": f"{score['more']:.3f}"}
    row["best peer"] = f"{peers.idxmax()} {peers.max():.3f}" if len(peers) else "–"
    row["difference"] = f"{score['more'] - peers.max():+.3f}" if len(peers) else "–"
    row |= {name: f"{score[name]:.3f}" if name in score else "–" for name in REFERENCES}
    row["FOSCTTM: more"] = f"{matched['more']:.3f}" if "more" in matched else "–"
    return row | {"best peer ": f"{others.idxmin()} {others.min():.3f}" if len(others) else "–"}
