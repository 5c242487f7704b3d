"""The records as the pages need them: comparisons on shared splits, and numbers as text."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from catalogue import CHOICES, CLASSIFIERS, CONTROLS, DATASETS, METHODS, SHORT, Group

from more_scvi.evaluation import Comparison, summarise, tidy
from more_scvi.evaluation._compare import MIN_ROWS, _sign, choose, compare_columns, of_rows, split_values, with_chosen

OURS = "more"
ALL = Group()
SOURCES = {name: entry.source for name, entry in DATASETS.items() if entry.source}


class Results:
    """All records, with the chosen figure of every method beside the measured ones.

    ``peers`` are what MoRE is measured against, neither its ``variants`` nor ``controls``; ``rivals`` those that may
    stand for the best of a row, as they were trained as their authors do by default; ``integrating`` the rivals that
    make an embedding. ``older`` are (data set, protocol, method) with results of other code than the method's newest.
    """

    def __init__(self, records: Iterable[Mapping[str, Any]]):
        self.records = list(records)
        if not self.records:
            raise ValueError("No results to report. Run benchmarks/run.py first.")
        self.table, self.chosen = tidy(self.records), {}
        for name, candidates in CHOICES.items():
            self.chosen[name] = choose(self.table, candidates) if self.table["metric"].isin(candidates).any() else {}
            self.table = with_chosen(self.table, name, candidates)
        self.summary = summarise(self.table)
        newest = {r["method"]: r.get("fingerprint") for r in sorted(self.records, key=lambda r: r.get("date", ""))}
        older = (r for r in self.records if r.get("fingerprint") != newest[r["method"]])
        self.older = {(r["dataset"], r["protocol"], r["method"]) for r in older}
        self._values = {metric: split_values(part, metric) for metric, part in self.table.groupby("metric")}
        found, head = set(self.table["method"]), {m: m.split(":")[0] for m in self.table["method"]}
        order = [*(m for m in METHODS if m in found), *sorted(found - set(METHODS))]
        self.variants = sorted(m for m in found if head[m] == OURS and m != OURS)
        self.controls = [m for m in order if head[m] in CONTROLS]
        self.peers = [m for m in order if head[m] not in (OURS, *CONTROLS)]
        self.rivals = [m for m in self.peers if m not in SHORT]
        self.integrating = [m for m in self.rivals if m not in CLASSIFIERS]
        self.methods = [*[OURS] * (OURS in found), *self.variants, *self.peers, *self.controls]

    def compare(self, other: str, metric: str, group: Group = ALL, ours: str = OURS) -> Comparison | None:
        """On shared splits of the rows that belong; ``None`` if there is none."""
        values = self._values.get(metric, pd.DataFrame())
        if ours not in values or other not in values:
            return None
        belongs = [group.belongs(dataset, protocol) for dataset, protocol, *_ in values.index]
        found = compare_columns(values[belongs], ours, other, metric, SOURCES)
        return found if found.n_rows else None

    def best_peers(
        self, metric: str, group: Group = ALL, ours: str = OURS, among: Iterable[str] | None = None
    ) -> pd.DataFrame:
        """Per row the rival that is furthest ahead of ours (or least behind): who wins it against everybody."""
        found = {m: self.compare(m, metric, group, ours) for m in (self.rivals if among is None else among)}
        parts = [one.rows.assign(best=other).reset_index() for other, one in found.items() if one is not None]
        if not parts:
            return pd.DataFrame()
        every = pd.concat(parts, ignore_index=True)
        every["gain"] = every["difference"] * _sign(metric)
        return every.loc[every.groupby(["dataset", "protocol"])["gain"].idxmin()].sort_values("gain")

    def against_best(self, metric: str, *where: Any, **how: Any) -> Comparison | None:
        """Ours against the best peer of each row, which changes from row to row; as :meth:`best_peers`."""
        rows = self.best_peers(metric, *where, **how)
        if rows.empty:
            return None
        rows = rows.set_index(["dataset", "protocol"])
        return of_rows(rows, rows, how.get("ours", OURS), "best peer", metric, SOURCES)

    def values(self, method: str, metric: str) -> pd.Series:
        """Mean per row (data set, protocol) of one method."""
        values = self._values.get(metric, {})
        return values[method].groupby(level=[0, 1]).mean().dropna() if method in values else pd.Series(dtype=float)

    def differences(self, metric: str, dataset: str, protocol: str) -> pd.Series:
        """MoRE minus each method in one row, the mean over shared splits."""
        values = self._values.get(metric, {})
        if OURS not in values or (dataset, protocol) not in values.index.droplevel([2, 3]):
            return pd.Series(dtype=float)
        values = values.loc[(dataset, protocol)]
        return -values.sub(values[OURS], axis=0).mean()


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


def marked(found: Comparison | None, digits: int = 3) -> str:
    """The difference, bold where it is shown and the other was not trained short."""
    if found is None:
        return "–"
    text, shown = signed(found.difference, digits), found.verdict() in ("better", "worse") and found.other not in SHORT
    return f"**{text}**" if shown and text != ".0" else text


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
