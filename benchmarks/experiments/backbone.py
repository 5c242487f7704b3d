"""Frozen, fine-tuned and random-weight backbone, and none, inside the same model on the same splits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from frame import markdown
from records import load
from tables import FIRST, SPLIT, difference, draw, page, spread, wide

from more_scvi.evaluation import tidy

FOLDER, SCIB, ROTATIONS = "experiments/backbone", True, 4
DATASETS = ("pbmc_kang", "bm_vangalen", "pbmc_cite")
PROTOCOLS = ("S1",)
SEEDS = (0, 1, 2)
NAMES = {
    "more": "frozen",
    "more:finetuned-backbone": "fine-tuned",
    "more:random-backbone": "random weights",
    "more:no-backbone": "none",
}
"""Method → what the report calls it."""
QUALITY = ("NMI", "ARI", "own", "LR", "CiLISI", "structure")
COST = ("trained", "frozen", "seconds")
MIN_SPLITS = 3
"""Fewer give no idea of the noise."""
DRAWN = ("NMI", "ARI", "own", "LR", "structure", "seconds")

ABOUT = """\
Half of the labels are hidden (S1). `frozen` is MoRE as it is. For `fine-tuned`, all weights of the backbone are first
trained on the visible labels of the split, with early stopping on a tenth of them; then it is frozen and MoRE is
trained on it as always. `random weights` is an untrained transformer of the same size, `none` MoRE on its linear
view of the data alone. NMI and ARI compare Leiden clusters (best of ten resolutions, by scib-metrics' recipe) with the
types of hidden cells; own and LR are macro-F1 of hidden labels by MoRE's classifier and by a linear probe; CiLISI is
batch mixing within types; structure compares distances within (type, batch) with those of PCA. Seconds are CPU
seconds of one thread, fine-tuning and features included, on a machine that did other work too: read them as ratios."""


def has(dataset: str, protocol: str) -> bool:
    return True


def methods(dataset: str) -> tuple[str, ...]:
    return tuple(NAMES)


def report(results: Path) -> list[Path]:
    """Write ``backbone.md`` and ``backbone.png``."""
    records = [record for record in load(results / "backbone") if record["method"] in NAMES]
    shown = [name for name in NAMES if any(record["method"] == name for record in records)]
    runs = Counter(_split(record) for record in records)
    records = [record for record in records if runs[_split(record)] == len(shown)]  # only splits that all have
    frame = wide(records)
    parts = [ABOUT, "![NMI, ARI, macro-F1, structure and seconds per backbone](backbone.png)"]
    parts.append("## Difference to the frozen backbone\n\n" + _differences(frame, shown))
    parts.append("## Means\n\nIn brackets the range over seeds.")
    for (dataset, protocol), group in frame.groupby(level=["dataset", "protocol"]):
        parts.append(f"### {dataset}, {protocol}\n\n" + _means(group, shown))
    table = tidy(records)
    table = table.assign(protocol=table["dataset"], method=table["method"].map(NAMES))
    figure = draw([("", table, metric) for metric in DRAWN], 3, results / "backbone.png")
    return [page(results, "backbone", "Frozen, fine-tuned or random backbone", records, *parts, earlier=FIRST), figure]


def _split(record: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(record[key] for key in SPLIT)


def _differences(frame: pd.DataFrame, shown: Sequence[str]) -> str:
    rows, verdicts = [], []
    for method in shown[1:]:
        change = difference(frame, method, shown[0], (*QUALITY, *COST))
        ratio = frame.xs(method, level="method")["seconds"] / frame.xs(shown[0], level="method")["seconds"]
        row = {"backbone": NAMES[method], "splits": len(change)}
        for metric in QUALITY:
            values = change[metric].dropna()
            row[metric] = f"{values.mean():+.3f} ({(values > 0).sum()} of {len(values)} up)"
        rows.append(row | {"seconds": f"× {ratio.mean():.1f}"})
        clear = {m: v for m in QUALITY if (v := _clear(change[m].dropna()))}
        words = ", ".join(f"{m} {v}" for m, v in clear.items()) or "no clear difference"
        if len(change) < MIN_SPLITS:
            words = f"too few splits to tell ({len(change)} of at least {MIN_SPLITS})"
        verdicts.append(f"- {NAMES[method]}: {words}; {ratio.mean():.1f} times the seconds.")
    rule = (
        "Mean over all splits that were run, paired by split. A difference is called clear if the mean is twice its "
        "standard error away from 0 and at least 0.005:"
    )
    return "\n\n".join([markdown(rows), rule, "\n".join(verdicts)]) if rows else "Nothing to compare yet."


def _clear(change: pd.Series) -> str:
    """``"higher (+0.012)"`` or ``"lower (…)"`` where a paired difference is beyond its noise, else empty."""
    if len(change) < MIN_SPLITS or abs(change.mean()) < max(2 * change.sem(), 0.005):
        return ""
    return f"{'higher' if change.mean() > 0 else 'lower'} ({change.mean():+.3f})"


def _means(group: pd.DataFrame, shown: Sequence[str]) -> str:
    rows = []
    for method in shown:
        if method not in group.index.get_level_values("method"):
            continue
        of = group.xs(method, level="method")
        row = {"backbone": NAMES[method], "seeds": of.index.get_level_values("seed").nunique()}
        row |= {metric: spread(of[metric]) for metric in QUALITY}
        rows.append(row | {metric: f"{of[metric].mean():,.0f}" for metric in COST})
    return markdown(rows)
