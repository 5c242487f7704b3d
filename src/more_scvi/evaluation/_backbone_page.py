"""The page of a comparison of backbones: sentences first, then the figure and the tables they come from."""

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import numpy as np
import pandas as pd

from more_scvi._page import number
from more_scvi._page import render as fill

WIDTH, LEFT, RIGHT, ROW, GAP = 720, 190, 20, 20, 34
"""Sizes of the figure in pixels: in all, room for names and at the right, a backbone, a regime's heading."""
LEAST = 0.05
"""Smallest half range of the axis, so that differences of no importance do not look large."""
STEPS = (0.02, 0.05, 0.1, 0.2, 0.5)
WORDS = {
    "none": "MoRE without a backbone: a linear view of the data themselves.",
    "more-mini": "The bundled backbone: a linear front of gene programs, and a transformer that adds to it.",
    "zeroed": "The front of more-mini with its network off. What more-mini is above it is the network's worth.",
    "random": "The same front, and a transformer of random weights: what any network of this size would add.",
    "shuffled": "more-mini reading every count under another gene's name: what features add that know no gene.",
    "lr_hvg": "No backbone: a logistic regression on 2,000 variable genes. Does the task need any of these?",
}


def render(summary: dict[str, Any], command: str) -> str:
    """The page of what ``BackboneComparison.to_json`` returns."""
    template = (files(__package__) / "backbones.html").read_text(encoding="utf-8")
    return fill(
        template,
        {"signed": signed, "interval": interval_text},
        **summary,
        best={regime: max(_own(of).values(), default=None) for regime, of in summary["means"].items()},
        over={against: _over(summary, against) for against in ("none", "zeroed")},
        figure=_figure(summary),
        words={name: _words(name) for name in (*summary["backbones"], "lr_hvg")},
        command=command,
    )


def _words(name: str) -> str:
    """What a backbone is, in a sentence."""
    if name.startswith("obsm:"):
        return f"Features that lie in the data as obsm[{name.removeprefix('obsm:')!r}]; they may have seen labels."
    return WORDS.get(name, "Weights in a folder, or a backbone that was registered under this name.")


def _own(means: dict[str, float]) -> dict[str, float]:
    """Means of backbones, as far as the digits shown tell; the regression is no backbone."""
    return {name: round(value, 2) for name, value in means.items() if name != "lr_hvg"}


def _over(summary: dict[str, Any], against: str) -> dict[str, dict[str, dict[str, Any]]]:
    """Regime → backbone → its difference to ``against``."""
    out: dict[str, dict[str, dict[str, Any]]] = {}
    for row in summary["differences"]:
        if row["against"] == against:
            out.setdefault(row["regime"], {})[row["backbone"]] = row
    return out


def _figure(summary: dict[str, Any]) -> dict[str, Any]:
    """Places of everything in the picture of differences to ``none``, one block of rows per regime."""
    over = _over(summary, "none")
    shown = [row for of in over.values() for row in of.values()]
    if not shown:
        return {}
    reach = max([LEAST, *(abs(row["difference"]) for row in shown)])
    ends = [abs(row[end]) for row in shown for end in ("low", "high") if row[end] is not None]
    reach = min(max([reach, *ends]), 2 * reach)  # an interval of few splits may be wider than all that is of interest
    step = next((step for step in STEPS if reach / step <= 4), 1.0)
    middle, scale = (LEFT + WIDTH - RIGHT) / 2, (WIDTH - RIGHT - LEFT) / 2 / (1.05 * reach)

    def x(value: float) -> float:
        return round(float(np.clip(middle + scale * value, LEFT, WIDTH - RIGHT)), 1)

    y, blocks = 8, []
    for regime, of in over.items():
        y += GAP
        block: dict[str, Any] = {"regime": regime, "words": summary["regimes"][regime], "y": y - 12, "rows": []}
        for name, row in of.items():
            line = None if row["low"] is None else (x(row["low"]), x(row["high"]))
            text = name if len(name) <= 22 else f"{name[:10]}…{name[-11:]}"
            said = f"{name}: {signed(row['difference'])} {interval_text(row)}, {row['verdict']}"
            block["rows"].append({"name": text, "y": y + 8, "x": x(row["difference"]), "line": line, "said": said} | {
                "kind": row["verdict"].replace(" ", "-") if name != "lr_hvg" else "reference"
            })  # fmt: skip
            y += ROW
        blocks.append(block)
    ticks = [(x(k * step), signed(k * step)) for k in range(-int(reach / step), int(reach / step) + 1)]
    return {
        "blocks": blocks,
        "ticks": ticks,
        "zero": x(0),
        "bottom": y + 6,
        "height": y + 52,
        "width": WIDTH,
        "left": LEFT,
    }


def signed(value: float | None, digits: int = 2) -> str:
    """A difference with its sign, none for what is zero in these digits."""
    if value is None:
        return "–"
    text = number(value, digits)
    return number(0, digits) if round(value, digits) == 0 else text if value < 0 else f"+{text}"


def interval_text(row: Mapping[str, Any] | pd.Series) -> str:
    """Both ends of an interval; empty where there is none."""
    return "" if row["low"] is None else f"{signed(row['low'])} to {signed(row['high'])}"
