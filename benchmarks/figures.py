"""Figures of the results pages, on splits that all drawn methods share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd
from catalogue import BACKBONES, REGIMES, Group, family, named
from gathered import OURS, Results

from more_scvi import pl
from more_scvi.evaluation._compare import shared_splits

DRAWN = (OURS, "scanvi", "scvi", "harmony", "scanorama", "pca", "pca_raw", "lr_hvg", "lda", "onehot-LR", "LEAK")
MINE = (OURS, *BACKBONES)
ACROSS = next(regime for regime in REGIMES if regime.words == "across modalities")
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
        metrics = ("CiLISI", "structure") if name == "tradeoff" else ("annotation",)
        others = BACKBONES if name.startswith("backbone") else ()
        table = _shared(results.table, methods, families, metrics, needed if others else "")
        there = set(table["method"])
        if OURS not in there or (others and not there & set(others)):
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
        elif name in ("macro_f1", "backbone_new_batch", "backbone_modalities"):
            ax = pl.scores(table, "annotation")
            ax.set_xlabel("macro-F1 of hidden labels")
        else:
            ax = pl.regimes(table, "annotation", "S1" if name == "few_cells" else "S4")
            ax.set_ylabel("macro-F1 of hidden labels")
        ax.figure.savefig(folder / f"{name}.svg", metadata={"Date": None}, facecolor="white")
        plt.close(ax.figure)


def _shared(
    table: pd.DataFrame, methods: Sequence[str], families: Sequence[str], metrics: Sequence[str], needed: str
) -> pd.DataFrame:
    """Results on splits that all drawn methods share: of RNA, data sets that have every protocol and methods that have
    all of these; across modalities every split. ``needed``: only sets with another backbone, or none, in that family.
    """
    group = Group(kind="rna", families=families) if families else ACROSS
    table = table[[group.belongs(*key) for key in zip(table["dataset"], table["protocol"], strict=True)]]
    if needed:
        other = table["method"].isin(BACKBONES) & (table["protocol"].map(family) == needed)
        table = table[table["dataset"].isin(table.loc[other, "dataset"])]
    table = table[table["metric"].isin(metrics) & table["method"].isin(methods)]
    kept = [method for method in methods if method in set(table["method"])]
    if families:
        mine = table[table["method"] == OURS]
        full = [name for name, of in mine.groupby("dataset") if set(of["protocol"]) == set(mine["protocol"])]
        table = table[table["dataset"].isin(full)]
        rows = table.groupby("method")[["dataset", "protocol", "metric"]].apply(lambda of: set(map(tuple, of.values)))
        kept = [method for method in methods if OURS in rows and rows.get(method) == rows[OURS]]
    parts = [shared_splits(table, kept, m) for m in metrics if OURS in kept and m in set(table["metric"])]
    return pd.concat(parts, ignore_index=True) if parts else table[:0]
