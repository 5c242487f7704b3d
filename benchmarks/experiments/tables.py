"""What the reports of the experiments share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from catalogue import TEXTS
from frame import write
from gathered import Results

from more_scvi.pl import scores

EARLIER = "Measured with an earlier version of MoRE, whose code the results do not name."


def page(folder: Path, name: str, title: str, results: Results, *parts: str, earlier: str = EARLIER) -> Path:
    """Write a report with the command that made it, and say if its results name no code."""
    said = [f"`python benchmarks/experiments {name} --data $MORE_DATA --cache /tmp/more-cache`."]
    said += [] if all(record.get("fingerprint") for record in results.records) else [earlier]
    return write(folder / f"{name}.md", title, *said, TEXTS[name], *parts)


def grid(n: int, columns: int, width: float, height: float, path: Path, draw: Callable) -> Path:
    """A figure of ``n`` panels, each drawn by ``draw(number, axes)``, which returns its title; one legend for all."""
    rows, shared = -(-n // columns), None
    size = (width * columns, height * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    for number, ax in enumerate(axes.flat):
        if number >= n:
            ax.axis("off")
            continue
        ax.set_title(draw(number, ax), fontsize="medium")
        if legend := ax.get_legend():
            shared = legend.legend_handles, [text.get_text() for text in legend.get_texts()]
            legend.remove()
    if shared:
        figure.legend(*shared, loc="outside lower center", ncols=len(shared[1]), frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return path


def draw(panels: Sequence[tuple[str, pd.DataFrame, str]], columns: int, path: Path) -> Path:
    """A panel per title, tidy table and metric: rows are the methods, colours the protocols."""

    def one(number: int, ax: plt.Axes) -> str:
        scores(panels[number][1], panels[number][2], ax=ax)
        return panels[number][0]

    return grid(len(panels), columns, 3.7, 2.6, path, one)
