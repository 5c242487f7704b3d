"""Figures of the results pages, on splits that all drawn methods share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd
from catalogue import BACKBONES, Group, family, named
from gathered import OURS, Results

from more_scvi import pl
from more_scvi.evaluation._compare import shared_splits

DRAWN = (OURS, "scanvi", "scvi", "harmony", "scanorama", "pca", "pca_raw", "lr_hvg", "lda", "onehot-LR", "LEAK")
FIGURES = {
    "macro_f1": (DRAWN, ("S1", "S2a"), "", "Macro-F1 of hidden labels"),
    "tradeoff": ((*DRAWN, "random"), ("S1", "S2a"), "", "Mixing of batches against structure"),
    "few_labels": (DRAWN, ("S4", "S1"), "S4", "Macro-F1 by the number of labels per type"),
    "few_cells": ((OURS, *BACKBONES, "pca", "lr_hvg"), ("S1-n", "S1"), "S1-n", "Macro-F1 by the number of cells"),
}
"""Name → methods, families of protocols, the family that must be there, caption."""


def figures(results: Results) -> dict[str, tuple[pd.DataFrame, str]]:
    """Name of a figure → the table it is drawn from and its caption; those whose results are there."""
    drawable = {}
    for name, (methods, families, needed, words) in FIGURES.items():
        metrics = ("CiLISI", "structure") if name == "tradeoff" else ("annotation",)
        table = _shared(results.table, methods, Group(kind="rna", families=families), metrics)
        if OURS not in set(table["method"]):
            continue
        if needed and needed not in {family(p) for p in table["protocol"]}:
            continue
        n_splits = len(table[["dataset", "protocol", "seed", "rotation"]].drop_duplicates())
        sets = ", ".join(sorted(set(table["dataset"])))
        caption = f"{words}: mean over {sets}; {n_splits} splits, which all methods drawn share."
        drawable[name] = (table.assign(method=table["method"].map(named)), caption)
    return drawable


def draw(results: Results, folder: Path) -> None:
    """Write every drawable figure as SVG."""
    folder.mkdir(parents=True, exist_ok=True)
    plt.rcParams["svg.hashsalt"] = "more"  # the same figure is the same file
    for name, (table, _) in figures(results).items():
        if name == "tradeoff":
            ax = pl.tradeoff(table)
        elif name == "macro_f1":
            ax = pl.scores(table, "annotation")
            ax.set_xlabel("macro-F1 of hidden labels")
        else:
            ax = pl.regimes(table, "annotation", "S1" if name == "few_cells" else "S4")
            ax.set_ylabel("macro-F1 of hidden labels")
        ax.figure.savefig(folder / f"{name}.svg", metadata={"Date": None}, facecolor="white")
        plt.close(ax.figure)


def _shared(table: pd.DataFrame, methods: Sequence[str], group: Group, metrics: Sequence[str]) -> pd.DataFrame:
    """Results on shared splits, of data sets that have every protocol and of methods that have all of these."""
    table = table[[group.belongs(*key) for key in zip(table["dataset"], table["protocol"], strict=True)]]
    table = table[table["metric"].isin(metrics) & table["method"].isin(methods)]
    mine = table[table["method"] == OURS]
    full = [name for name, of in mine.groupby("dataset") if set(of["protocol"]) == set(mine["protocol"])]
    table = table[table["dataset"].isin(full)]
    rows = {m: set(map(tuple, of[["dataset", "protocol", "metric"]].to_numpy())) for m, of in table.groupby("method")}
    kept = [method for method in methods if OURS in rows and rows.get(method) == rows[OURS]]
    parts = [shared_splits(table, kept, metric) for metric in metrics if metric in set(table["metric"])]
    return pd.concat(parts, ignore_index=True) if parts else table[:0]
