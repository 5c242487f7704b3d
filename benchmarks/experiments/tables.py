"""What the reports of the experiments share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from more_scvi.evaluation import tidy

SPLIT = ["dataset", "protocol", "seed", "rotation"]


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


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Table of rows that have the same keys."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def write(path: Path, title: str, parts: Sequence[str]) -> Path:
    """Write a report; the command that made it stands below its title."""
    command = f"`python benchmarks/experiments {path.stem} --data $MORE_DATA --cache /tmp/more-cache`."
    path.write_text("\n\n".join([f"# {title}", command, *parts]) + "\n")
    return path
