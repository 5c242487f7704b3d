"""What the reports of the experiments share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from frame import write

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
    present = frame.index.get_level_values("method")
    if not {method, base} <= set(present):
        return pd.DataFrame(columns=list(metrics), dtype=float)
    columns = frame.reindex(columns=list(metrics))
    return (columns.xs(method, level="method") - columns.xs(base, level="method")).dropna(how="all")


def spread(values: pd.Series, digits: int = 3) -> str:
    """Mean and, in brackets, the range."""
    values = values.dropna()
    if values.empty:
        return "–"
    mean, low, high = (f"{value:,.{digits}f}" for value in (values.mean(), values.min(), values.max()))
    return mean if low == high else f"{mean} ({low}–{high})"


def page(
    folder: Path, name: str, title: str, records: Sequence[Mapping[str, Any]], *parts: str, earlier: str = EARLIER
) -> Path:
    """Write a report with the command that made it, and say if its results name no code."""
    command = f"`python benchmarks/experiments {name} --data $MORE_DATA --cache /tmp/more-cache`."
    said = [] if all(record.get("fingerprint") for record in records) else [earlier]
    return write(folder / f"{name}.md", title, command, *said, *parts)


def draw(panels: Sequence[tuple[str, pd.DataFrame, str]], columns: int, path: Path) -> Path:
    """A panel per title, tidy table and metric: rows are the methods, colours the protocols; one legend for all."""
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(3.7 * columns, 2.6 * rows), layout="constrained", squeeze=False)
    shared = None
    for ax, (title, table, metric) in zip(axes.flat, panels, strict=False):
        scores(table, metric, ax=ax)
        ax.set_title(title, fontsize="medium")
        if legend := ax.get_legend():
            shared = legend.legend_handles, [text.get_text() for text in legend.get_texts()]
            legend.remove()
    for ax in axes.flat[len(panels) :]:
        ax.axis("off")
    if shared:
        figure.legend(*shared, loc="outside lower center", ncols=len(shared[1]), frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return path
