"""Frozen, fine-tuned and random-weight backbone, and none, inside the same model on the same splits."""

from __future__ import annotations

from pathlib import Path

from frame import markdown
from plan import Stage
from records import load
from tables import FIRST, SPLIT, difference, draw, means, page, wide

from more_scvi.evaluation import tidy

FOLDER = "experiments/backbone"
NAMES = {
    "more": "frozen",
    "more:finetuned-backbone": "fine-tuned",
    "more:random-backbone": "random weights",
    "more:no-backbone": "none",
}
"""Method → what the report calls it."""
STAGES = [Stage("backbone", ("pbmc_kang", "bm_vangalen", "pbmc_cite"), ("S1",), tuple(NAMES), scib=True)]
QUALITY = ("NMI", "ARI", "own", "LR", "CiLISI", "structure")
COST = {name: name for name in ("trained", "frozen", "seconds")}
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
RULE = """\
Mean over all splits that were run, paired by split; in brackets how many went up, **bold** where the difference is \
clear: the mean is twice its standard error away from 0 and at least 0.005."""


def report(results: Path) -> list[Path]:
    """Write ``backbone.md`` and ``backbone.png``."""
    records = [record for record in load(results / "backbone") if record["method"] in NAMES]
    frame = wide(records)
    shown = [name for name in NAMES if name in frame.index.get_level_values("method")]
    frame = frame[frame.groupby(level=SPLIT)["own"].transform("size") == len(shown)]  # only splits that all have
    rows = []
    for method in shown[1:]:
        change, values = difference(frame, method, shown[0], QUALITY), frame["seconds"].unstack("method")
        few = len(change) < MIN_SPLITS
        row = {"backbone": NAMES[method], "splits": f"{len(change)}, too few to tell" if few else len(change)}
        for metric, of in change.items():
            of = of.dropna()
            text = f"{of.mean():+.3f} ({(of > 0).sum()} of {len(of)} up)"
            clear = len(of) >= MIN_SPLITS and abs(of.mean()) >= max(2 * of.sem(), 0.005)
            row[metric] = f"**{text}**" if clear else text
        rows.append(row | {"seconds": f"× {(values[method] / values[shown[0]]).mean():.1f}"})
    parts = [ABOUT, "![NMI, ARI, macro-F1, structure and seconds per backbone](backbone.png)"]
    parts += ["## Difference to the frozen backbone", markdown(rows) if rows else "Nothing to compare yet.", RULE]
    parts += ["## Means", "In brackets the range over seeds."]
    for key, group in frame.groupby(level=["dataset", "protocol"]):
        parts += [f"### {', '.join(key)}", means(group, NAMES, QUALITY, COST)]
    table = tidy(r for r in records if r["dataset"] in frame.index.get_level_values("dataset"))
    table = table.assign(protocol=table["dataset"], method=table["method"].map(NAMES))
    figure = draw([("", table, metric) for metric in DRAWN], 3, results / "backbone.png")
    return [page(results, "backbone", "Frozen, fine-tuned or random backbone", records, *parts, earlier=FIRST), figure]
