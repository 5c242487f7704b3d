from typing import Any

import numpy as np
from matplotlib.axes import Axes

from more_scvi.diagnosis._result import Check, Diagnosis

from ._labels import COLORS, MISSING, new_axes, shown, tidy

LOOKS = {"ok": (COLORS[2], "o"), "warning": (COLORS[3], "X")}


def diagnosis(result: Diagnosis | Any, *, ax: Axes | None = None) -> Axes:
    """Draw the checks of a model: how far each value is from its limit, on the healthy side or beyond it.

    The checks have units of their own. Each is drawn on a scale from -1 to 1: 0 is the limit, 1 the best value there
    is, -1 the worst.

    Parameters
    ----------
    result
        What :meth:`more_scvi.model.MoRE.diagnose` returns, or a trained model, which is then diagnosed.
    ax
        Where to draw. Default: a new figure.

    Returns
    -------
    Axes
        A row per check, the first on top, with its value and limit written beside it; what was not checked is grey.

    Raises
    ------
    TypeError
        If ``result`` is neither.

    Examples
    --------
    >>> import more_scvi as more
    >>> ax = more.pl.diagnosis(model.diagnose())  # doctest: +SKIP
    """
    if not isinstance(result, Diagnosis):
        if not hasattr(result, "diagnose"):
            raise TypeError(f"diagnosis draws model.diagnose(), or a model, not a {type(result).__name__}.")
        result = result.diagnose()
    checks = result.checks
    names = shown(check.check.replace("_", " ") for check in checks)
    ax = ax or new_axes(6.5, 0.9 + 0.3 * len(checks), names)
    rows = np.arange(len(checks))
    ax.axvspan(-1, 0, color=COLORS[3], alpha=0.08, linewidth=0)
    ax.axvline(0, color="black", linewidth=0.8)
    for row, check in zip(rows, checks, strict=True):
        if check.value is None:
            ax.annotate("not checked", (0.03, row), va="center", fontsize="small", color="grey")
            continue
        at, (color, marker) = margin(check), LOOKS[check.status]
        ax.hlines(row, 0, at, color=MISSING, linewidth=2, zorder=1)
        ax.scatter(at, row, s=45, color=color, marker=marker, zorder=2)
        sign = "≥" if check.healthy == "above" else "≤"
        ax.text(1.08, float(row), f"{check.value:.2g} ({sign} {check.limit:g})", va="center", fontsize="small")
    ax.set_yticks(rows, names)
    ax.invert_yaxis()
    ax.set(xlim=(-1.05, 1.05))
    ax.set_xticks([-0.5, 0, 0.5], ["warning", "limit", "ok"])
    tidy(ax, "top", "right", "left")
    ax.tick_params(length=0)
    return ax


def margin(check: Check) -> float:
    """Where a value lies between its limit (0), the best value (1) and the worst (-1); all checks live in [0, 1]."""
    assert check.value is not None
    value = min(max(check.value, 0.0), 1.0)
    room = 1.0 - check.limit if value >= check.limit else check.limit
    distance = (value - check.limit) / room if room else 0.0
    return distance if check.healthy == "above" else -distance
