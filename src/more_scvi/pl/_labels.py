"""What figures share: colours; names that can be read, with room for them, placed so that none hides another."""

from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

COLORS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#F0E442", "#000000")
"""Okabe & Ito (2008): they stay apart under colour blindness; further categories change the marker."""
MARKERS = ("o", "^", "s", "X", "D", "v", "P", "*")
MISSING = "#D3D3D3"

NEAR, DISTANCES, ANGLES = 16, (8, 16, 26, 38, 52, 70), (0, 180, 90, 270, 45, 135, 315, 225)
"""Where a label may stand: points from what it names, in the order of preference; beyond ``NEAR`` with a line."""
OFFSETS = [(far * np.cos(angle), far * np.sin(angle)) for far in DISTANCES for angle in np.radians(ANGLES)]

LEGEND_ROWS = 18
"""Entries that a legend has below each other before a further column begins."""

MANY = 20
"""Labels in a plot that are so many that they are written smaller."""

LONGEST = 32
"""Characters of a name in a figure; of longer ones the middle is left out."""


def style(position: int) -> tuple[str, str]:
    """Return colour and marker of the category at a position; they repeat after 64."""
    return COLORS[position % len(COLORS)], MARKERS[position // len(COLORS) % len(MARKERS)]


def shown(names: Iterable[Any]) -> list[str]:
    """Names as a figure shows them: short, none alike that differ, none read as mathematics or left out of a legend."""
    names = [str(name) for name in names]
    out: dict[str, str] = {}
    for name in dict.fromkeys(names):
        short = text = " ".join(name.split()) or "''"
        if len(text) > LONGEST:
            short = text = f"{text[: LONGEST // 2]}…{text[1 - LONGEST // 2 :]}"
        number = 1
        while text in out.values():
            number += 1
            text = f"{short} ({number})"
        out[name] = text
    # matplotlib sets what stands between dollars as a formula and hides what begins with an underscore
    return [(" " * out[name].startswith("_") + out[name]).replace("$", r"\$") for name in names]


def new_axes(width: float, height: float, *beside: Sequence[str], below: Sequence[str] = ()) -> Axes:
    """Axes of a new figure (inches) that grows by what the longest name beside and below the plot needs beyond 12."""

    def room(names: Sequence[str]) -> float:
        return 0.075 * max(0, max(map(len, names), default=0) - 12)

    size = (width + sum(map(room, beside)), height + room(below))
    return plt.subplots(figsize=size, layout="constrained")[1]


def columns_width(names: Sequence[str]) -> float:
    """Inches that the second and further columns of a legend of these names need."""
    return (legend_columns(len(names)) - 1) * (0.5 + 0.075 * max(map(len, names), default=0))


def legend_columns(n: int) -> int:
    """Columns of a legend with ``n`` entries."""
    return max(1, -(-n // LEGEND_ROWS))


def tidy(ax: Axes, *sides: str, grid: str | None = None) -> None:
    """Axes without these sides of their frame, with a light grid along ``grid`` behind what is drawn."""
    ax.spines[list(sides)].set_visible(False)
    if grid is not None:
        ax.grid(axis=grid, color="#E6E6E6", linewidth=0.8)  # type: ignore[arg-type]
        ax.set_axisbelow(True)


def legend_beside(ax: Axes, **kwargs: Any) -> None:
    """Legend to the right of the plot."""
    n = len(kwargs.get("handles") or ax.get_legend_handles_labels()[0])
    kwargs |= {"frameon": False, "fontsize": "small", "ncols": legend_columns(n)}
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), **kwargs)


def label_points(
    ax: Axes, x: Sequence[float], y: Sequence[float], texts: Sequence[str], colors: Sequence[str]
) -> list[Annotation]:
    """Write each text beside its point: the nearest of 48 places that is free; far ones get a thin line.

    Many texts are written smaller.
    """
    ax.figure.canvas.figure.draw_without_rendering()  # settles the layout, which decides what overlaps
    pixels = ax.transData.transform(np.column_stack([x, y]))
    scale = ax.figure.dpi / 72
    taken = [Bbox.from_bounds(px - 5 * scale, py - 5 * scale, 10 * scale, 10 * scale) for px, py in pixels]
    labels, font = [], "small" if len(texts) <= MANY else "x-small"
    for i, (text, color) in enumerate(zip(texts, colors, strict=True)):
        tried = []
        for offset in OFFSETS:
            label = _write(ax, (x[i], y[i]), text, color, offset, font)
            box = label.get_window_extent()  # only a text that is on a figure has a size
            label.remove()
            hidden = sum(box.overlaps(other) for j, other in enumerate(taken) if j != i)
            tried.append((hidden + 10 * (ax.bbox.count_contains(box.corners()) < 4), offset, box))  # outside is worst
            if tried[-1][0] == 0:
                break
        _, offset, box = min(tried, key=lambda place: place[0])
        labels.append(_write(ax, (x[i], y[i]), text, color, offset, font))
        taken.append(box)
    return labels


def _write(
    ax: Axes, at: tuple[float, float], text: str, color: str, offset: tuple[float, float], font: str
) -> Annotation:
    """A label on the side of the point that ``offset`` (points) leads to."""
    right, up = (0 if abs(value) < 1 else int(np.sign(value)) for value in offset)
    line = {"arrowstyle": "-", "color": color, "linewidth": 0.5, "shrinkB": 4}
    return ax.annotate(
        text, at, xytext=offset, textcoords="offset points", fontsize=font, color=color,
        ha={1: "left", 0: "center", -1: "right"}[right], va={1: "bottom", 0: "center", -1: "top"}[up],
        arrowprops=line if np.hypot(*offset) > NEAR else None,
        path_effects=[withStroke(linewidth=2, foreground="white")],  # what is drawn may lie below it
    )  # fmt: skip
