"""Figures of the results pages, on splits that all drawn methods share."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd
from catalogue import BACKBONES, TRANSFER, Belongs, family, named, rows_of
from gathered import OURS, Results

from more_scvi import pl
from more_scvi.evaluation._compare import shared_splits

DRAWN = (OURS, "scanvi", "scvi", "harmony", "scanorama", "pca", "pca_raw", "lr_hvg", "lda", "onehot-LR", "LEAK")


def figures(results: Results) -> dict[str, tuple[pd.DataFrame, str]]:
    """Name of a figure → the table it is drawn from and its caption; those whose results are there."""
    rna = rows_of("rna", "S1", "S2a")
    few = rows_of("rna", "S4", "S1")
    cells = rows_of("rna", "S1-n", "S1")
    wanted = {
        "macro_f1": (_complete(results, DRAWN, ("annotation",), rna), "Macro-F1 of hidden labels"),
        "tradeoff": (
            _complete(results, (*DRAWN, "random"), ("CiLISI", "structure"), rna),
            "Mixing of batches against structure",
        ),
        "few_labels": (_complete(results, DRAWN, ("annotation",), few), "Macro-F1 by the number of labels per type"),
        "few_cells": (
            _complete(results, (OURS, *BACKBONES, "pca", "lr_hvg"), ("annotation",), cells),
            "Macro-F1 by the number of cells",
        ),
        "backbone_labels": (
            _complete(results, (OURS, *BACKBONES), ("annotation",), _measured(results, "S4", few)),
            "What the backbone adds, by the number of labels per type",
        ),
        "backbone_new_batch": (
            _complete(results, (OURS, *BACKBONES), ("annotation",), _measured(results, "S2b", rows_of("rna", "S2b"))),
            "What the backbone adds in a new batch, mapped after training",
        ),
        "backbone_modalities": (_across_modalities(results), "What the backbone adds across modalities"),
    }
    needs = {"few_labels": "S4", "few_cells": "S1-n", "backbone_labels": "S4", "backbone_new_batch": "S2b"}
    drawable = {}
    for name, (table, words) in wanted.items():
        families = {family(p) for p in table["protocol"]}
        if table.empty or OURS not in set(table["method"]) or (name in needs and needs[name] not in families):
            continue
        if name.startswith("backbone") and not set(BACKBONES) & set(table["method"]):
            continue
        sets = sorted(set(table["dataset"]))
        n_splits = len(table[["dataset", "protocol", "seed", "rotation"]].drop_duplicates())
        caption = f"{words}: mean over {', '.join(sets)}; {n_splits} splits, which all methods drawn share."
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


def _measured(results: Results, wanted: str, belongs: Belongs) -> Belongs:
    """Only data sets on which the family of protocols was run with another backbone or none."""
    rows = results.table[results.table["method"].isin(list(BACKBONES))]
    sets = {of for of, protocol in zip(rows["dataset"], rows["protocol"], strict=True) if family(protocol) == wanted}
    return lambda dataset, protocol: dataset in sets and belongs(dataset, protocol)


def _across_modalities(results: Results) -> pd.DataFrame:
    """Splits of all protocols across modalities, of whichever data set, that MoRE and its variants share."""
    table, across = results.table, rows_of("multi", *TRANSFER)
    table = table[[across(*key) for key in zip(table["dataset"], table["protocol"], strict=True)]]
    shown = [method for method in (OURS, *BACKBONES) if method in set(table["method"])]
    return shared_splits(table, shown, "annotation") if OURS in shown else table[:0]


def _complete(results: Results, methods: tuple[str, ...], metrics: tuple[str, ...], belongs: Belongs) -> pd.DataFrame:
    """Results on shared splits: of data sets that have every protocol, and of methods that have all of these."""
    table = results.table
    table = table[table["metric"].isin(metrics) & table["method"].isin(methods)]
    if table.empty:
        return table
    table = table[[belongs(*key) for key in zip(table["dataset"], table["protocol"], strict=True)]]
    mine = table[table["method"] == OURS]
    protocols = set(mine["protocol"])
    full = [name for name, of in mine.groupby("dataset") if set(of["protocol"]) == protocols]
    table = table[table["dataset"].isin(full)]
    rows = {method: set(map(tuple, of[["dataset", "protocol", "metric"]].to_numpy())) for method, of in _by(table)}
    wanted = rows.get(OURS, set())
    kept = [method for method in methods if rows.get(method) == wanted]
    parts = [shared_splits(table, kept, metric) for metric in metrics if (table["metric"] == metric).any()]
    return pd.concat(parts, ignore_index=True) if parts else table


def _by(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    return [(str(method), of) for method, of in table.groupby("method")]
