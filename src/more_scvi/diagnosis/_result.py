"""The answer of a diagnosis."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from html import escape
from typing import Any, Literal

import pandas as pd

COLUMNS = ["check", "status", "value", "limit", "message", "remedy"]


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes
    ----------
    check
        Its name.
    status
        ``"ok"``, ``"warning"`` or ``"not checked"``.
    value, limit
        What was measured, and where it becomes a warning; ``value`` is ``None`` if not checked.
    healthy
        ``"above"`` or ``"below"``: the side of the limit on which nothing is wrong.
    message
        What the value means, in a sentence.
    remedy
        What to change; empty if all is well.
    """

    check: str
    status: Literal["ok", "warning", "not checked"]
    value: float | None
    limit: float
    healthy: Literal["above", "below"]
    message: str
    remedy: str = ""


def judge(
    check: str, value: float, limit: float, healthy: Literal["above", "below"], message: str, remedy: str
) -> Check:
    """A check with a value: a warning on the wrong side of the limit. Values that are not finite were not checked."""
    if not math.isfinite(value):
        return not_checked(check, limit, healthy, message, remedy)
    ok = value >= limit if healthy == "above" else value <= limit
    return Check(check, "ok" if ok else "warning", float(value), limit, healthy, message, "" if ok else remedy)


def not_checked(check: str, limit: float, healthy: Literal["above", "below"], message: str, remedy: str = "") -> Check:
    """A check that these data do not allow; the remedy says what it needs."""
    return Check(check, "not checked", None, limit, healthy, message, remedy)


@dataclass(frozen=True)
class Diagnosis:
    """What :meth:`more_scvi.model.MoRE.diagnose` found.

    Attributes
    ----------
    checks
        One :class:`Check` each, always in the same order.
    n_cells, n_sampled
        Cells of the data, and how many of them were looked at.

    Examples
    --------
    >>> result = model.diagnose()
    >>> result.ok
    >>> result.warnings[["check", "remedy"]]
    """

    checks: tuple[Check, ...]
    n_cells: int
    n_sampled: int

    @property
    def table(self) -> pd.DataFrame:
        """DataFrame, a row per check: check, status, value, limit, message, remedy; value is NaN if not checked."""
        table = pd.DataFrame([asdict(check) for check in self.checks])[COLUMNS]
        return table.astype({"value": float})

    @property
    def ok(self) -> bool:
        """Whether no check fired; checks that these data do not allow do not count."""
        return all(check.status != "warning" for check in self.checks)

    @property
    def warnings(self) -> pd.DataFrame:
        """The rows of :attr:`table` that fired."""
        return self.table[self.table["status"] == "warning"].reset_index(drop=True)

    def to_dict(self) -> dict[str, Any]:
        """All of it as dicts, lists, text and numbers, ready for ``json.dumps``."""
        return {
            "ok": self.ok,
            "n_cells": self.n_cells,
            "n_sampled": self.n_sampled,
            "checks": [asdict(check) for check in self.checks],
        }

    def __repr__(self) -> str:
        width = max(len(check.check) for check in self.checks)
        lines = [self._title()]
        for check in self.checks:
            lines.append(f"{check.status:>11}  {check.check:<{width}}  {_numbers(check):<17}  {check.message}")
            if check.status == "warning":
                lines.append(f"{'':>{11 + 2 + width + 2 + 17}}  → {check.remedy}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows = "".join(
            "<tr>"
            + "".join(
                f'<td style="text-align:left">{escape(text)}</td>'
                for text in (check.check, check.status, _numbers(check), check.message, check.remedy)
            )
            + "</tr>"
            for check in self.checks
        )
        head = "".join(
            f'<th style="text-align:left">{name}</th>' for name in ("check", "status", "value", "message", "remedy")
        )
        return f"<p>{escape(self._title())}</p><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"

    def _title(self) -> str:
        count = {status: sum(c.status == status for c in self.checks) for status in ("warning", "ok", "not checked")}
        cells = (
            f"{self.n_cells:,} cells"
            if self.n_sampled == self.n_cells
            else (f"{self.n_sampled:,} of {self.n_cells:,} cells")
        )
        return (
            f"Diagnosis of {cells}: {count['warning']} warning{'' if count['warning'] == 1 else 's'},"
            f" {count['ok']} ok, {count['not checked']} not checked"
        )


def _numbers(check: Check) -> str:
    """Value and limit, e.g. ``0.95 (≥ 0.40)``."""
    if check.value is None:
        return ""
    return f"{check.value:.3g} ({'≥' if check.healthy == 'above' else '≤'} {check.limit:g})"
