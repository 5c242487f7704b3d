"""What the reports of the experiments share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
from catalogue import TEXTS
from frame import write
from gathered import Results

EARLIER = "Measured with an earlier version of MoRE, whose code the results do not name."


def page(folder: Path, name: str, title: str, results: Results, *parts: str, earlier: str = EARLIER) -> Path:
    """Write a report with the command that made it, and say if its results name no code."""
    said = [f"`python benchmarks/experiments {name} --data $MORE_DATA --cache /tmp/more-cache`."]
    said += [] if all(record.get("fingerprint") for record in results.records) else [earlier]
    return write(folder / f"{name}.md", title, *said, TEXTS[name], *parts)


def grid(panels: Sequence[tuple[str, Callable]], columns: int, height: float, path: Path) -> Path:
    """A figure of titles and functions that draw on ``ax``; one legend for all."""
    rows, shared = -(-len(panels) // columns), None
    size = (3.7 * columns, height * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    for ax in axes.flat[len(panels) :]:
        ax.axis("off")
    for (title, draw), ax in zip(panels, axes.flat, strict=False):
        draw(ax=ax)
        ax.set_title(title, fontsize="medium")
        if legend := ax.get_legend():
            shared = legend.legend_handles, [text.get_text() for text in legend.get_texts()]
            legend.remove()
    if shared:
        figure.legend(*shared, loc="outside lower center", ncols=len(shared[1]), frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return path
