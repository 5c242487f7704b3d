"""The records as the pages need them: comparisons on shared splits, and numbers as text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from catalogue import CHOICES, CLASSIFIERS, CONTROLS, DATASETS, METHODS, SHORT, Belongs

from more_scvi.evaluation import tidy
from more_scvi.evaluation._compare import LOWER_IS_BETTER, MIN_ROWS, Comparison, compare_columns, of_rows, split_values
from more_scvi.evaluation._report import choose, with_chosen

OURS = "more"
SOURCES = {name: entry.source for name, entry in DATASETS.items() if entry.source}


class Results:
    """All records, with the chosen figure of every method beside the measured ones."""

    def __init__(self, records: Iterable[Mapping[str, Any]]):
        self.records = list(records)
        if not self.records:
            raise ValueError("No results to report. Run benchmarks/run.py first.")
        table = tidy(self.records)
        self.chosen = {}
        for name, candidates in CHOICES.items():
            self.chosen[name] = choose(table, candidates) if table["metric"].isin(candidates).any() else {}
        for name, candidates in CHOICES.items():
            table = with_chosen(table, name, candidates)
        self.table = table
        newest: dict[str, Mapping[str, Any]] = {}
        for record in sorted(self.records, key=lambda record: record.get("date", "")):
            newest[record["method"]] = record
        older = [r for r in self.records if r.get("fingerprint") != newest[r["method"]].get("fingerprint")]
        self.older = {tuple(record[key] for key in ("dataset", "protocol", "method")) for record in older}
        """(data set, protocol, method) with results of other code than the method's newest."""
        self._values = {metric: split_values(part, metric) for metric, part in table.groupby("metric")}
        self._rows = {
            (metric, *row): part
            for metric, values in self._values.items()
            for row, part in values.groupby(level=["dataset", "protocol"])
        }

    @cached_property
    def methods(self) -> list[str]:
        """All methods, in the order of tables: MoRE, its variants, peers, controls."""
        found = set(self.table["method"])
        mine = sorted(m for m in found if m.split(":")[0] == OURS and m != OURS)
        order = [m for m in METHODS if m in found]
        others = sorted(found - {*order, *mine})
        peers = [m for m in order if m not in CONTROLS and m != OURS]
        return [*(m for m in order if m == OURS), *mine, *peers, *others, *(m for m in order if m in CONTROLS)]

    @property
    def peers(self) -> list[str]:
        """Methods that MoRE is measured against: neither its variants nor controls."""
        return [m for m in self.methods if m.split(":")[0] not in (OURS, *CONTROLS)]

    @property
    def rivals(self) -> list[str]:
        """Peers that may stand for the best of a row: those that were trained as their authors do by default."""
        return [m for m in self.peers if m not in SHORT]

    @property
    def integrating(self) -> list[str]:
        """Rivals that make an embedding; the others only classify."""
        return [m for m in self.rivals if m not in CLASSIFIERS]

    @property
    def controls(self) -> list[str]:
        return [m for m in self.methods if m.split(":")[0] in CONTROLS]

    @property
    def variants(self) -> list[str]:
        return [m for m in self.methods if m.startswith(f"{OURS}:")]

    def compare(self, other: str, metric: str, belongs: Belongs | None = None, ours: str = OURS) -> Comparison | None:
        """On shared splits of the rows that belong; ``None`` if there is none."""
        values = self._of(metric, belongs)
        if ours not in values or other not in values:
            return None
        found = compare_columns(values, ours, other, metric, SOURCES)
        return found if found.n_rows else None

    def _of(self, metric: str, belongs: Belongs | None) -> pd.DataFrame:
        """Splits × methods of the rows that belong."""
        values = self._values.get(metric, pd.DataFrame())
        if belongs is None or values.empty:
            return values
        return values[[belongs(dataset, protocol) for dataset, protocol, *_ in values.index]]

    def compare_all(
        self, others: Iterable[str], metric: str, belongs: Belongs | None = None, ours: str = OURS
    ) -> dict[str, Comparison]:
        """The comparisons that exist."""
        found = {other: self.compare(other, metric, belongs, ours) for other in others}
        return {other: comparison for other, comparison in found.items() if comparison is not None}

    def best_peers(
        self, metric: str, belongs: Belongs | None = None, ours: str = OURS, among: Iterable[str] | None = None
    ) -> pd.DataFrame:
        """Per row the rival that is furthest ahead of ours (or least behind): who wins it against everybody."""
        parts = []
        for other, found in self.compare_all(self.rivals if among is None else among, metric, belongs, ours).items():
            parts.append(found.rows.assign(best=other).reset_index())
        if not parts:
            return pd.DataFrame()
        every = pd.concat(parts, ignore_index=True)
        every["gain"] = every["difference"] * (-1 if metric in LOWER_IS_BETTER else 1)
        return every.loc[every.groupby(["dataset", "protocol"])["gain"].idxmin()].sort_values("gain")

    def against_best(
        self, metric: str, belongs: Belongs | None = None, ours: str = OURS, among: Iterable[str] | None = None
    ) -> Comparison | None:
        """Ours against the best peer of each row, which changes from row to row."""
        rows = self.best_peers(metric, belongs, ours, among)
        if rows.empty:
            return None
        rows = rows.set_index(["dataset", "protocol"])
        return of_rows(rows, rows, ours, "best peer", metric, SOURCES)

    def values(self, method: str, metric: str, belongs: Belongs | None = None) -> pd.Series:
        """Mean per row (data set, protocol) of one method."""
        values = self._of(metric, belongs)
        return values[method].groupby(level=[0, 1]).mean().dropna() if method in values else pd.Series(dtype=float)

    def difference(self, other: str, metric: str, dataset: str, protocol: str) -> float | None:
        """MoRE minus another method in one row, the mean over shared splits."""
        values = self._rows.get((metric, dataset, protocol))
        if values is None or not {OURS, other} <= set(values):
            return None
        mean = float((values[OURS] - values[other]).mean())
        return None if np.isnan(mean) else mean

    def times_longer(self, other: str, belongs: Belongs | None = None) -> float | None:
        """CPU seconds of another method over those of MoRE on shared splits, geometric mean."""
        found = self.compare(other, "seconds", belongs)
        if found is None or (found.splits[["ours", "other"]] <= 0).any(axis=None):
            return None
        return float(np.exp(np.log(found.splits["other"] / found.splits["ours"]).mean()))


def number(value: float | None, digits: int = 3) -> str:
    """``.754``: no zero before the point, a dash for what does not exist."""
    if value is None or np.isnan(value):
        return "–"
    text = f"{abs(value):.{digits}f}"
    text = text[1:] if text.startswith("0.") else text
    return text if value >= 0 or float(text) == 0 else f"−{text}"


def signed(value: float | None, digits: int = 3) -> str:
    text = number(value, digits)
    return text if text[0] in "–−" or float(text) == 0 else f"+{text}"


def ranged(mean: float, low: float, high: float, digits: int = 3) -> str:
    """Mean, below it in brackets the range where there is one."""
    if np.isnan(mean) or high - low < 0.5 * 10.0**-digits:
        return number(mean, digits)
    between = " to " if low < 0 else "–"
    return f"{number(mean, digits)}<br>({number(low, digits)}{between}{number(high, digits)})"


def interval(found: Comparison) -> str:
    return "–" if found.interval is None else f"{number(found.interval[0])} to {number(found.interval[1])}"


def probability(found: Comparison) -> str:
    """p, with the number of rows where these are too few for a small one."""
    if found.p is None:
        return "–"
    text = "< .001" if found.p < 0.001 else number(found.p)
    return text if found.n_rows >= MIN_ROWS else f"{text} (n = {found.n_rows})"


def times(factor: float | None) -> str:
    if factor is None:
        return "–"
    return f"{factor:,.0f}" if factor >= 20 else f"{factor:.2g}"
