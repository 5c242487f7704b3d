import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd

from more_scvi._files import check_writable, write_files
from more_scvi._page import number
from more_scvi._page import render as fill
from more_scvi.evaluation._compare import LOWER_IS_BETTER

from ._figures import Picture, pictures
from ._inputs import ReportInputs
from ._summary import summarise
from ._words import METRICS


def write_report(inputs: ReportInputs, path: str | Path) -> tuple[Path, Path]:
    """Write the report: an HTML page that needs no other file and no network, and its numbers as JSON beside it.

    Both are written under another name and renamed, so that a reader never sees half of one.

    Parameters
    ----------
    inputs
        What to show.
    path
        Where the page goes, e.g. ``"report.html"``; its twin is ``"report.json"``. Both are replaced if they exist.

    Returns
    -------
    Paths of the page and of its twin.

    Raises
    ------
    ValueError
        If ``path`` does not end in ``.html``.
    OSError
        If its folder does not exist or cannot be written.

    Examples
    --------
    >>> import more_scvi as more
    >>> more.report.write_report(inputs, "report.html")  # doctest: +SKIP
    """
    page = Path(path)
    twin = page.with_suffix(".json")
    if page.suffix != ".html":
        raise ValueError(f"The report is a page: give a path that ends in .html, not {str(path)!r}.")
    for file in (page, twin):
        check_writable(file)
    summary = summarise(inputs)
    html = _render(summary, pictures(inputs, summary), None if inputs.diagnosis is None else inputs.diagnosis.table)
    write_files({page: html, twin: json.dumps(summary, indent=2) + "\n"})
    return page, twin


def _render(summary: dict[str, Any], images: dict[str, Picture], diagnosis: pd.DataFrame | None) -> str:
    """The page. Whatever comes from the data is escaped."""
    template = (files(__package__) / "page.html").read_text(encoding="utf-8")
    used = {metric for protocol in summary["protocols"].values() for metric in protocol["metrics"]}
    return fill(
        template,
        {"score": _score, "range": _range, "cell": _cell, "features": _features},
        **{**summary, "diagnosis": [] if diagnosis is None else diagnosis.to_dict("records")},
        images=images,
        metrics={name: words for name, words in METRICS.items() if name in used},
        lower_is_better=[METRICS[name][0] for name in LOWER_IS_BETTER if name in used],
        stages=_stages(summary["cost"]),
    )


def _stages(cost: list[dict[str, Any]]) -> list[str]:
    """Stages of all methods, the usual ones first and in their order."""
    found = {name.removeprefix("seconds_") for row in cost for name in row if name.startswith("seconds_")}
    usual = [stage for stage in ("setup", "features", "training", "embedding") if stage in found]
    return [*usual, *sorted(found.difference(usual))]


def _cell(value: Any) -> str:
    """A value of the diagnosis: short numbers, and a dash where there is none."""
    if value is None or value != value:  # NaN
        return "–"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _features(modality: str) -> str:
    return {"rna": "genes", "atac": "peaks", "prot": "proteins"}.get(modality, f"features of {modality}")


def _score(point: dict[str, float] | None) -> str:
    return "–" if point is None else number(point["mean"], 2)


def _range(point: dict[str, float] | None) -> str:
    """Lowest and highest seed; empty where they are the same."""
    if point is None or point["max"] - point["min"] < 0.005:  # both ends would read alike
        return ""
    return f"{number(point['min'], 2)} to {number(point['max'], 2)}"
