"""Train on RNA alone, annotate cells of which another modality is seen: labels that cross modalities."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from tables import markdown, spread, wide, write

from more_scvi.evaluation import load_results, run_benchmark
from more_scvi.pl._palette import COLORS

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
DOTS = {"own": ("o", COLORS[0]), "LR": ("s", COLORS[1]), "FOSCTTM": ("D", COLORS[2])}
"""Marker and colour of a figure."""
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


def run(
    data: str,
    results: Path,
    cache: Path | None,
    datasets: Sequence[str],
    protocols: Sequence[str],
    seeds: Sequence[int],
) -> None:
    """Run what is missing; the results stand with those of the benchmark, which has the same tasks."""
    for seed in seeds:
        for dataset, protocol in SETTINGS:
            if dataset in datasets and protocol in protocols:
                methods = [method for method in METHODS if method not in UNTRIED.get(dataset, ())]
                run_benchmark([dataset], methods, data, results.parent.parent, [protocol], [seed], cache)


def report(results: Path) -> list[Path]:
    """Write ``transfer.md`` and ``transfer.png``."""
    records = load_results(results.parent)
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
    _draw(settings, results / "transfer.png")
    return [write(results / "transfer.md", "Labels across modalities", parts), results / "transfer.png"]


def best(group: pd.DataFrame) -> pd.Series:
    """Better of own classifier and linear probe, per method, by the mean over seeds."""
    return group[["own", "LR"]].groupby(level="method").mean().max(axis=1).dropna()


def _summary(settings: dict[tuple[str, str], pd.DataFrame]) -> str:
    rows = []
    for key, group in settings.items():
        score = best(group)
        peers = score.drop(["more", *REFERENCES], errors="ignore")
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
        others = matched.drop("more", errors="ignore")
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
        row = {"method": method, "seeds": of["seed"].nunique()} | {metric: spread(of[metric]) for metric in METRICS}
        rows.append(row | {"CPU seconds": f"{of['seconds'].mean():,.0f}" if of["seconds"].notna().any() else "–"})
    return markdown(rows)


def _draw(settings: dict[tuple[str, str], pd.DataFrame], path: Path) -> None:
    matched = [key for key, group in settings.items() if group["FOSCTTM"].notna().any()]
    n = len(settings) + len(matched) + 1  # the last place is for the legend
    figure, axes = plt.subplots(-(-n // 4), 4, figsize=(11, 2.7 * -(-n // 4)), layout="constrained", sharey=True)
    places = [(key, False) for key in settings] + [(key, True) for key in matched]
    for ax, (key, is_match) in zip(axes.flat, places, strict=False):
        group = settings[key]
        of = {method: group.loc[[method]] for method in METHODS if method in group.index}
        _dots(ax, of, {"FOSCTTM": DOTS["FOSCTTM"]} if is_match else {name: DOTS[name] for name in ("own", "LR")})
        ax.set_title(SETTINGS[key][0], fontsize="medium")
        ax.set(xlabel="FOSCTTM (0 is best)" if is_match else "macro-F1", xlim=(-0.02, 0.62 if is_match else 1.03))
        if is_match:
            ax.axvline(0.5, color="#BBBBBB", linewidth=0.8, linestyle=":")
    for ax in axes.flat[n - 1 :]:
        ax.axis("off")
    axes.flat[0].set_yticks(range(len(METHODS)), METHODS)
    axes.flat[0].set_ylim(len(METHODS) - 0.5, -0.5)
    words = {"own": "own classifier", "LR": "linear probe", "FOSCTTM": "matching of halves\n(dotted: chance)"}
    handles = [
        Line2D([], [], linestyle="", marker=marker, color=color, label=words[name])
        for name, (marker, color) in DOTS.items()
    ]
    axes.flat[n - 1].legend(handles=handles, loc="center", frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _dots(ax: Axes, of: dict[str, pd.DataFrame], metrics: dict[str, tuple[str, str]]) -> None:
    """A row per method: a marker per metric at the mean over seeds, a line over their range; references are pale."""
    for metric, (marker, color) in metrics.items():
        shift = 0.0 if len(metrics) == 1 else (-0.14 if metric == "own" else 0.14)
        for method, group in of.items():
            values = group[metric].dropna()
            if values.empty:
                continue
            row, alpha = METHODS.index(method) + shift, 0.45 if method in REFERENCES else 1.0
            ax.plot([values.min(), values.max()], [row, row], color=color, alpha=alpha, linewidth=1.5)
            ax.plot(values.mean(), row, linestyle="", marker=marker, color=color, markersize=6, alpha=alpha)
    ax.grid(axis="x", color="#E6E6E6", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.tick_params(axis="y", length=0)
    ax.spines[["top", "right", "left"]].set_visible(False)
