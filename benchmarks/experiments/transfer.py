"""Train on RNA alone, annotate cells of which another modality is seen: labels that cross modalities."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from catalogue import SHORT, named
from frame import markdown
from plan import Stage
from records import load
from tables import draw, means, page, wide

from more_scvi.evaluation import tidy

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
METRICS = ("own", "LR", "own_balanced", "LR_balanced", "FOSCTTM", "recall@10", "CiLISI")

ABOUT = """\
Labels are visible on cells with RNA alone, everything else is unlabelled; scored are cells of which only the other
modality is seen. Paired cells, where there are any, take part without labels. own is the macro-F1 of a method's own
classifier, LR that of a linear probe on its embedding (fitted on the RNA cells), balanced their balanced accuracy.
FOSCTTM (0 is best, 0.5 chance) and recall@10 match the two halves of cells that were measured together but shown
apart; they exist for the brain only. CiLISI is the mixing of the kinds of cells within types. `lr_bridge` labels paired
cells by their RNA and learns the other modality from these; `cca` is Seurat's anchor transfer on genes linked to
proteins or peaks; `ceiling` is a linear classifier that learns from the labels of half of the scored modality itself:
it is a ceiling for that modality read linearly, not for a method that also reads its genes. totalVI and MultiVI see no
label and were trained for 2,500 minibatches. Methods without randomness run once where the split has none."""
SUMMARY = """\
Macro-F1, each method by the better of own and LR (the mean over seeds decides), and FOSCTTM where cells can be \
matched:"""


def report(results: Path) -> list[Path]:
    """Write ``transfer.md`` and ``transfer.png``."""
    records = load(results.parent)
    records = [r for r in records if (r["dataset"], r["protocol"]) in SETTINGS and r["method"] in METHODS]
    frame = wide(records).reindex(columns=[*METRICS, "n_scored", "seconds"])
    frame.loc[frame["own"] == 0, ["own", "own_balanced"]] = np.nan  # a bridge without paired cells answers nothing
    groups = {key: group for key, group in frame.groupby(level=["dataset", "protocol"])}
    rows, parts, panels = [], [], []
    for key in [key for key in SETTINGS if key in groups]:
        group, (words, paired) = groups[key], SETTINGS[key]
        rows.append({"data, protocol": ", ".join(key), "paired": paired} | _row(group.groupby(level="method").mean()))
        table = means(group, {m: named(m) for m in METHODS}, METRICS, {"seconds": "CPU seconds"})
        parts.append(f"## {', '.join(key)}\n\n{words}; {paired}; {group['n_scored'].mean():,.0f} scored cells.\n\n{table}")
        of = tidy(r for r in records if (r["dataset"], r["protocol"]) == key).query("metric != 'own' or value > 0")
        of = of.assign(method=of["method"].map(named), protocol=of["metric"])
        own = of[of["metric"].isin(["own", "LR"])].assign(metric="macro-F1")
        both = [(own, "macro-F1"), (of[of["metric"] == "FOSCTTM"], "FOSCTTM")]
        panels += [(f"{words}\n{paired}", of, metric) for of, metric in both if len(of)]
    figure = draw(sorted(panels, key=lambda one: one[2] == "FOSCTTM"), 4, results / "transfer.png")
    shown = [ABOUT, "![Macro-F1 per setting and method, and FOSCTTM](transfer.png)", SUMMARY, markdown(rows), *parts]
    return [page(results, "transfer", "Labels across modalities", records, *shown), figure]


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
