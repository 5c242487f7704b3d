"""Train on RNA alone, annotate cells of which another modality is seen: labels that cross modalities."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from catalogue import SHORT, named
from frame import markdown
from records import load
from tables import draw, page, spread, wide

from more_scvi.evaluation import tidy

FOLDER, SCIB, ROTATIONS = "", False, 4  # the results stand with those of the benchmark, which has the same tasks
SETTINGS = {
    ("pbmc_mosaic", "rna-to-prot"): ("blood, protein\n47 % of cells paired", "blood, 7 proteins; 47 % of cells paired"),
    ("pbmc_mosaic_hao", "rna-to-prot"): (
        "blood, protein\n50 % of cells paired",
        "blood, 500 genes, 224 antibodies; 50 % of cells paired",
    ),
    ("snareseq_multi", "S6-third"): (
        "brain, chromatin\na third paired",
        "brain, chromatin; RNA hidden in a third of the libraries, chromatin in another, a third paired",
    ),
    ("snareseq_multi", "S6-half"): (
        "brain, chromatin\nno cell paired",
        "brain, chromatin; RNA hidden in half of the libraries, chromatin in the others, no cell paired",
    ),
    ("sln_diagonal", "rna-to-prot"): (
        "spleen, protein\nno cell paired",
        "spleen and nodes, 110 proteins; no cell paired",
    ),
}
"""(Data set, protocol) → its title in the figure, and what it is."""
DATASETS = tuple(dict.fromkeys(dataset for dataset, _ in SETTINGS))
PROTOCOLS = tuple(dict.fromkeys(protocol for _, protocol in SETTINGS))
SEEDS = (0, 1)
METHODS = ("more", "cca", "lr_bridge", "totalvi", "multivi", "ceiling", "random")
REFERENCES = ("ceiling", "random")
UNTRIED = {"sln_diagonal": ("totalvi", "multivi")}
"""Not run: nothing links the modalities for them where no cell has both (see ``S6-half``), and they are slow."""
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


def has(dataset: str, protocol: str) -> bool:
    return (dataset, protocol) in SETTINGS


def methods(dataset: str) -> list[str]:
    return [method for method in METHODS if method not in UNTRIED.get(dataset, ())]


def report(results: Path) -> list[Path]:
    """Write ``transfer.md`` and ``transfer.png``."""
    records = load(results.parent)
    records = [r for r in records if (r["dataset"], r["protocol"]) in SETTINGS and r["method"] in METHODS]
    frame = wide(records).reset_index(["seed", "rotation"])
    frame.loc[frame["own"] == 0, ["own", "own_balanced"]] = np.nan  # a bridge without paired cells answers nothing
    settings = {
        key: frame.loc[key].reindex(columns=["seed", *METRICS, "n_scored", "seconds"])
        for key in SETTINGS
        if key in frame.index.droplevel("method")
    }
    parts = [ABOUT, "![Macro-F1 per setting and method, and FOSCTTM](transfer.png)", _summary(settings)]
    for key, group in settings.items():
        n = f"{group['n_scored'].mean():,.0f}"
        parts.append(f"## {', '.join(key)}\n\n{SETTINGS[key][1]}; {n} scored cells.\n\n" + _means(group))
    table = tidy(records).query("metric != 'own' or value > 0").assign(method=lambda t: t["method"].map(named))
    panels = []
    for (dataset, protocol), (title, _) in SETTINGS.items():
        of = table[(table["dataset"] == dataset) & (table["protocol"] == protocol)]
        own, match = of[of["metric"].isin(["own", "LR"])], of[of["metric"] == "FOSCTTM"]
        panels.append((title, own.assign(protocol=own["metric"], metric="macro-F1"), "macro-F1"))
        panels += [(title, match.assign(protocol="FOSCTTM"), "FOSCTTM")] if len(match) else []
    panels = [one for one in panels if len(one[1])]
    figure = draw(sorted(panels, key=lambda one: one[2] == "FOSCTTM"), 4, results / "transfer.png")
    return [page(results, "transfer", "Labels across modalities", records, *parts), figure]


def best(group: pd.DataFrame) -> pd.Series:
    """Better of own classifier and linear probe, per method, by the mean over seeds."""
    return group[["own", "LR"]].groupby(level="method").mean().max(axis=1).dropna()


def _summary(settings: dict[tuple[str, str], pd.DataFrame]) -> str:
    rows = []
    for key, group in settings.items():
        score = best(group)
        peers = score.drop(["more", *REFERENCES, *SHORT], errors="ignore")  # a short training is no claim
        row = {
            "data, protocol": ", ".join(key),
            "paired": SETTINGS[key][0].split("\n")[1],
            "more": f"{score['more']:.3f}",
        }
        row["best peer"] = f"{peers.idxmax()} {peers.max():.3f}" if len(peers) else "–"
        row["difference"] = f"{score['more'] - peers.max():+.3f}" if len(peers) else "–"
        row |= {name: f"{score[name]:.3f}" if name in score else "–" for name in REFERENCES}
        matched = group["FOSCTTM"].groupby(level="method").mean().dropna().drop(list(REFERENCES), errors="ignore")
        row["FOSCTTM: more"] = f"{matched['more']:.3f}" if "more" in matched else "–"
        others = matched.drop(["more", *SHORT], errors="ignore")
        row["best peer "] = f"{others.idxmin()} {others.min():.3f}" if len(others) else "–"
        rows.append(row)
    text = (
        "Macro-F1, each method by the better of own and LR (the mean over seeds decides), and FOSCTTM where cells can "
        "be matched:"
    )
    return f"{text}\n\n{markdown(rows)}"


def _means(group: pd.DataFrame) -> str:
    rows = []
    for method in METHODS:
        if method not in group.index:
            continue
        of = group.loc[[method]]
        row = {"method": named(method), "seeds": of["seed"].nunique()} | {
            metric: spread(of[metric]) for metric in METRICS
        }
        rows.append(row | {"CPU seconds": f"{of['seconds'].mean():,.0f}" if of["seconds"].notna().any() else "–"})
    return markdown(rows)
