"""Figures of the results pages, on splits that all drawn methods share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd
from catalogue import BACKBONES, REGIMES, family, named, rows_of
from gathered import OURS, Results

from more_scvi import pl
from more_scvi.evaluation._compare import split_values

DRAWN = (OURS, "scanvi", "scvi", "harmony", "scanorama", "pca", "pca_raw", "lr_hvg", "lda", "onehot-LR", "LEAK")
MINE = (OURS, *BACKBONES)
ACROSS = next(regime.belongs for regime in REGIMES if regime.words == "across modalities")
FIGURES = {
    "macro_f1": (DRAWN, ("S1", "S2a"), "", "Macro-F1 of hidden labels"),
    "tradeoff": ((*DRAWN, "random"), ("S1", "S2a"), "", "Mixing of batches against structure"),
    "few_labels": (DRAWN, ("S4", "S1"), "S4", "Macro-F1 by the number of labels per type"),
    "few_cells": ((*MINE, "pca", "lr_hvg"), ("S1-n", "S1"), "S1-n", "Macro-F1 by the number of cells"),
    "backbone_labels": (MINE, ("S4", "S1"), "S4", "What the backbone adds, by the number of labels per type"),
    "backbone_new_batch": (MINE, ("S2b",), "S2b", "What the backbone adds in a new batch, mapped after training"),
    "backbone_modalities": (MINE, (), "", "What the backbone adds across modalities"),
}
"""Name → methods, families of protocols (none: all across modalities), the family that must be there, caption."""


def figures(results: Results) -> dict[str, tuple[pd.DataFrame, str]]:
    """Name of a figure → the table it is drawn from and its caption; those whose results are there."""
    drawable = {}
    for name, (methods, families, needed, words) in FIGURES.items():
        of = _complete if families else _across
        table = of(results, methods, families, needed if name.startswith("backbone") else "", name == "tradeoff")
        there = set(table["method"])
        if OURS not in there or (needed and needed not in {family(p) for p in table["protocol"]}):
            continue
        if name.startswith("backbone") and not set(BACKBONES) & there:
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
        elif name in ("macro_f1", "backbone_new_batch", "backbone_modalities"):
            ax = pl.scores(table, "annotation")
            ax.set_xlabel("macro-F1 of hidden labels")
        else:
            ax = pl.regimes(table, "annotation", "S1" if name == "few_cells" else "S4")
            ax.set_ylabel("macro-F1 of hidden labels")
        ax.figure.savefig(folder / f"{name}.svg", metadata={"Date": None}, facecolor="white")
        plt.close(ax.figure)


def _across(results: Results, methods: Sequence[str], *_) -> pd.DataFrame:
    """Splits across modalities, of whichever data set, that MoRE and its variants share."""
    table = results.table
    table = table[[ACROSS(*key) for key in zip(table["dataset"], table["protocol"], strict=True)]]
    shown = [method for method in methods if method in set(table["method"])]
    return shared_splits(table, shown, "annotation") if OURS in shown else table[:0]


def _complete(results: Results, methods: Sequence[str], families: Sequence[str], other: str, both: bool):
    """Results on shared splits: of data sets that have every protocol, and of methods that have all of these.

    ``other``: only data sets on which this family was run with another backbone or none; ``both`` are mixing and
    structure.
    """
    table, belongs = results.table, rows_of("rna", families)
    keys = table[["dataset", "protocol", "method"]].drop_duplicates().to_numpy()
    sets = {d for d, p, m in keys if m in BACKBONES and family(p) == other}
    metrics = ("CiLISI", "structure") if both else ("annotation",)
    table = table[table["metric"].isin(metrics) & table["method"].isin(methods)]
    keys = zip(table["dataset"], table["protocol"], strict=True)
    table = table[[belongs(d, p) and (not other or d in sets) for d, p in keys]]
    mine = table[table["method"] == OURS]
    full = [name for name, of in mine.groupby("dataset") if set(of["protocol"]) == set(mine["protocol"])]
    table = table[table["dataset"].isin(full)]
    rows = {m: set(map(tuple, of[["dataset", "protocol", "metric"]].to_numpy())) for m, of in table.groupby("method")}
    kept = [method for method in methods if rows.get(method) == rows.get(OURS, set())]
    parts = [shared_splits(table, kept, metric) for metric in metrics if (table["metric"] == metric).any()]
    return pd.concat(parts, ignore_index=True) if parts else table[:0]


def shared_splits(table: pd.DataFrame, methods: list[str], metric: str) -> pd.DataFrame:
    """Rows of ``metric`` of these methods on the splits that all of them have, several runs of a split averaged.

    Tidy again; the ``seed`` is that of the draw, 0 where nothing is drawn.
    """
    values = split_values(table[table["method"].isin(methods)], metric).reindex(columns=methods).dropna()
    long = values.rename_axis(columns="method").stack().rename("value").reset_index()
    return long.rename(columns={"draw": "seed"}).assign(metric=metric)
