"""The answer of a diagnosis."""

import math
from dataclasses import asdict, dataclass
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


@dataclass(frozen=True)
class Rule:
    """Name and limit of a check that is yet to be made, and the side of the limit on which nothing is wrong."""

    check: str
    limit: float
    healthy: Literal["above", "below"]

    def judge(self, value: float, message: str, remedy: str) -> Check:
        """A warning on the wrong side of the limit. A value that is not finite was not checked."""
        if not math.isfinite(value):
            return self.not_checked(message, remedy)
        ok = value >= self.limit if self.healthy == "above" else value <= self.limit
        status: Literal["ok", "warning"] = "ok" if ok else "warning"
        return Check(self.check, status, float(value), self.limit, self.healthy, message, "" if ok else remedy)

    def not_checked(self, message: str, remedy: str = "") -> Check:
        """What these data do not allow; the remedy says what it needs."""
        return Check(self.check, "not checked", None, self.limit, self.healthy, message, remedy)


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
        return pd.DataFrame([asdict(check) for check in self.checks])[COLUMNS].astype({"value": float})

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
        return {"ok": self.ok, **asdict(self), "checks": [asdict(check) for check in self.checks]}

    def __repr__(self) -> str:
        width = max(len(check.check) for check in self.checks)
        lines = [self._title()]
        for check in self.checks:
            lines.append(f"{check.status:>11}  {check.check:<{width}}  {_numbers(check):<17}  {check.message}")
            if check.status == "warning":
                lines.append(f"{'':>{11 + 2 + width + 2 + 17}}  → {check.remedy}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        columns = ["check", "status", "value", "message", "remedy"]
        table = self.table.assign(value=[_numbers(check) for check in self.checks])[columns]
        with pd.option_context("display.max_colwidth", None):
            return f"<p>{self._title()}</p>{table.to_html(index=False, justify='left')}"

    def _title(self) -> str:
        warning, ok, rest = (
            sum(c.status == status for c in self.checks) for status in ("warning", "ok", "not checked")
        )
        sampled = "" if self.n_sampled == self.n_cells else f"{self.n_sampled:,} of "
        return (
            f"Diagnosis of {sampled}{self.n_cells:,} cells: {warning} warning{'' if warning == 1 else 's'}, {ok} ok,"
            f" {rest} not checked"
        )


def _numbers(check: Check) -> str:
    """Value and limit, e.g. ``0.95 (≥ 0.40)``."""
    if check.value is None:
        return ""
    return f"{check.value:.3g} ({'≥' if check.healthy == 'above' else '≤'} {check.limit:g})"
