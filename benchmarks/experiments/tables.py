"""What the reports of the experiments share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from frame import markdown, write

from more_scvi.evaluation import tidy
from more_scvi.pl import scores

SPLIT = ["dataset", "protocol", "seed", "rotation"]
EARLIER = "Measured with an earlier version of MoRE, whose code the results do not name."
FIRST = (
    "Measured with the first weights of `more-mini`, and before the discriminant analysis took part in the annotation."
)


def wide(records: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """One row per split and method, one column per figure."""
    return tidy(records).pivot_table("value", [*SPLIT, "method"], "metric").rename_axis(columns=None)


def difference(frame: pd.DataFrame, method: str, base: str, metrics: Sequence[str]) -> pd.DataFrame:
    """A method minus another on the splits that both have; one row per split."""
    if not {method, base} <= set(frame.index.get_level_values("method")):
        return pd.DataFrame(columns=list(metrics), dtype=float)
    columns = frame.reindex(columns=list(metrics))
    return (columns.xs(method, level="method") - columns.xs(base, level="method")).dropna(how="all")


def spread(values: pd.Series, digits: int = 3) -> str:
    """Mean and, in brackets, the range."""
    if values.isna().all():
        return "–"
    mean, low, high = (f"{value:,.{digits}f}" for value in (values.mean(), values.min(), values.max()))
    return mean if low == high else f"{mean} ({low}–{high})"


def means(group: pd.DataFrame, names: Mapping[str, str], metrics: Sequence[str], costs: Mapping[str, str]) -> str:
    """A row per method that is there: seeds, figures with their range, costs (column → header)."""
    rows = []
    for method, label in names.items():
        if method in group.index.get_level_values("method"):
            of = group.xs(method, level="method").reindex(columns=[*metrics, *costs])
            row = {"method": label, "seeds": of.index.get_level_values("seed").nunique()}
            row |= {metric: spread(of[metric]) for metric in metrics}
            rows.append(row | {word: "–" if of[c].isna().all() else f"{of[c].mean():,.0f}" for c, word in costs.items()})
    return markdown(rows)


def page(
    folder: Path, name: str, title: str, records: Sequence[Mapping[str, Any]], *parts: str, earlier: str = EARLIER
) -> Path:
    """Write a report with the command that made it, and say if its results name no code."""
    command = f"`python benchmarks/experiments {name} --data $MORE_DATA --cache /tmp/more-cache`."
    said = [] if all(record.get("fingerprint") for record in records) else [earlier]
    return write(folder / f"{name}.md", title, command, *said, *parts)


def grid(n: int, columns: int, width: float, height: float, path: Path, draw: Callable) -> Path:
    """A figure of ``n`` panels, each drawn by ``draw(number, axes)``; one legend for all, below them."""
    rows, shared = -(-n // columns), None
    size = (width * columns, height * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    for number, ax in enumerate(axes.flat):
        if number >= n:
            ax.axis("off")
            continue
        ax.set_title(draw(number, ax), fontsize="medium")
        if legend := ax.get_legend():
            shared = legend.legend_handles, [text.get_text() for text in legend.get_texts()]
            legend.remove()
    if shared:
        figure.legend(*shared, loc="outside lower center", ncols=len(shared[1]), frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return path


def draw(panels: Sequence[tuple[str, pd.DataFrame, str]], columns: int, path: Path) -> Path:
    """A panel per title, tidy table and metric: rows are the methods, colours the protocols."""

    def one(number: int, ax) -> str:
        title, table, metric = panels[number]
        scores(table, metric, ax=ax)
        return title or ax.get_title()

    return grid(len(panels), columns, 3.7, 2.6, path, one)
