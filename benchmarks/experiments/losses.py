"""How results answer to the weight of each loss term, and to alignment and contrast together."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from frame import markdown
from records import load
from tables import FIRST, difference, page, wide

from more_scvi.evaluation import get_method
from more_scvi.evaluation.methods import Method
from more_scvi.module import LOSS_WEIGHTS
from more_scvi.pl import sensitivity

FOLDER, SCIB, ROTATIONS = "experiments/losses", False, 1
DATASETS = ("pbmc_kang", "bm_vangalen", "pbmc_cite_multi")
PROTOCOLS = ("S1",)
SEEDS = (0,)
FACTORS = (0.0, 0.1, 1.0, 10.0)
PAIR = ("align_batch", "contrast")
RESEEDED = {f"more:seed-{seed}": seed for seed in (101, 102)}
"""The default again on the same split: what training by itself moves."""
SHOWN = ("own", "LR", "CiLISI", "structure")
WATCHED = ("CiLISI", "LR", "structure")
TOLERANCE = 0.02

Weights = tuple[tuple[str, float], ...]
"""Terms whose weight is not its default, and by how much."""

ABOUT = f"""\
MoRE with the weight of one loss term times 0, 0.1 or 10, all else at its defaults, and with the weights of batch
alignment and contrast changed together. Half of the labels are hidden (S1). Batch mixing is CiLISI; biological
conservation is own and LR, macro-F1 of the hidden labels by MoRE's classifier and by a linear probe, and structure,
distances within (type, batch) compared with those of PCA.

Hidden labels are used here to *report* sensitivity. They never choose a default: defaults are chosen on a validation
slice of visible labels (`benchmarks/tune.py`).

Rule: a factor is stable if {", ".join(WATCHED[:-1])} and {WATCHED[-1]} all stay within {TOLERANCE} of the default, in
either direction, or within what another seed of training moves on the same split, where that is more. The stable
region of a term reaches from 1 down and up to the last factor before one that is not stable."""


def variants(dataset: str) -> dict[str, Weights]:
    """Method name → factors on the weights, one term at a time and then the pair; ``more`` is the default."""
    single: list[Weights] = [((term, factor),) for term in terms_of(dataset) for factor in FACTORS if factor != 1]
    pairs: list[Weights] = [((PAIR[0], a), (PAIR[1], b)) for a, b in product((0.1, 10.0), repeat=2)]
    return {"more": ()} | {name_of(weights): weights for weights in [*single, *pairs]}


def terms_of(dataset: str) -> list[str]:
    """Terms that the data set has a use for."""
    return [term for term in LOSS_WEIGHTS if term != "align_modality" or dataset.endswith("_multi")]


def name_of(weights: Weights) -> str:
    """Name of a variant, e.g. ``more:keep-x10``; factors of 1 are left out."""
    changed = [f"{term}-x{factor:g}" for term, factor in weights if factor != 1]
    return "more:" + "+".join(changed) if changed else "more"


def methods(dataset: str) -> list[Method]:
    """MoRE at its defaults, with other seeds, and with other weights."""
    made = [get_method("more")]
    made += [get_method(name, "more", model_kwargs={"seed": seed}) for name, seed in RESEEDED.items()]
    for name, weights in variants(dataset).items():
        if weights:
            given = {term: factor * LOSS_WEIGHTS[term] for term, factor in weights}
            made.append(get_method(name, "more", train_kwargs={"loss_weights": given}))
    return made


def has(dataset: str, protocol: str) -> bool:
    return True


def stable_region(changes: Mapping[float, float]) -> tuple[float, float]:
    """Lowest and highest factor that are reached from 1 over stable factors only.

    ``changes`` are, per factor, the largest change of any watched figure as a share of what is allowed; factors that
    were not run are missing and end the region.
    """
    below = [factor for factor in sorted(FACTORS, reverse=True) if factor < 1]
    above = [factor for factor in sorted(FACTORS) if factor > 1]
    ends = []
    for side in (below, above):
        end = 1.0
        for factor in side:
            if not changes.get(factor, float("inf")) <= 1:
                break
            end = factor
        ends.append(end)
    return ends[0], ends[1]


def reseeded(group: pd.DataFrame) -> pd.DataFrame:
    """The default with other seeds minus the default, one row per run."""
    return pd.concat([difference(group, name, "more", SHOWN) for name in RESEEDED])


def limits(group: pd.DataFrame) -> pd.Series:
    """Change of each figure that still counts as stable."""
    return reseeded(group).abs().max().clip(lower=TOLERANCE).fillna(TOLERANCE)


def report(results: Path) -> list[Path]:
    """Write ``losses.md`` and ``losses.png``."""
    records = load(results / "losses")
    frame = wide(records).reindex(columns=[*SHOWN])
    groups = {key: group for key, group in frame.groupby(level=["dataset", "protocol"]) if _has(group, "more")}
    finished = {key: group for key, group in groups.items() if all(_has(group, name) for name in variants(key[0]))}
    left_out = "; ".join(", ".join(key) for key in groups if finished and key not in finished)
    groups = finished or groups
    summaries = {key: summary(group, key[0]) for key, group in groups.items()}
    parts = [ABOUT, "![Mixing and conservation per term and factor on its weight](losses.png)"]
    if left_out:
        parts.append(f"Not finished and left out: {left_out}.")
    parts.append("## Stable region\n\n" + _regions(summaries))
    parts.append("## Alignment and contrast together\n\n" + _pairs(summaries))
    parts.append("## What training by itself moves\n\n" + _noise(groups))
    for key, one in summaries.items():
        seeds = groups[key].index.get_level_values("seed").nunique()
        text = (
            f"{seeds} seed{'s' if seeds > 1 else ''}; in brackets the difference to the default; **bold**: not stable."
        )
        parts.append(f"## {', '.join(key)}\n\n{text}\n\n" + _values(one, key[0]))
    figure = _draw(summaries, results / "losses.png")
    return [page(results, "losses", "Weights of the loss terms", records, *parts, earlier=FIRST), figure]


def summary(group: pd.DataFrame, dataset: str) -> pd.DataFrame:
    """Per variant that was run: means over splits, as ``Δ <metric>`` the paired difference to the default, and the
    largest ``change`` as a share of what is allowed, 1 or less where it is stable, with the metric that is ``moved``.
    """
    rows = {}
    for name in variants(dataset):
        change = difference(group, name, "more", SHOWN)
        if len(change):
            of = group.xs(name, level="method").reindex(change.index)
            rows[name] = pd.concat([of.mean(), change.mean().add_prefix("Δ ")])
    frame = pd.DataFrame.from_dict(rows, orient="index")
    shares = frame[[f"Δ {metric}" for metric in WATCHED]].abs().set_axis(WATCHED, axis=1) / limits(group)[[*WATCHED]]
    return frame.assign(change=shares.max(axis=1).round(6), moved=shares.fillna(0).idxmax(axis=1))


def _has(group: pd.DataFrame, name: str) -> bool:
    return name in group.index.get_level_values("method")


def _regions(summaries: Mapping[tuple[str, str], pd.DataFrame]) -> str:
    rows, found, unfinished = [], {}, []
    for term in LOSS_WEIGHTS:
        row, ends, leaves = {"term": term, "default": f"{LOSS_WEIGHTS[term]:g}"}, [], []
        for key, one in summaries.items():
            data, names = ", ".join(key), {f: name_of(((term, f),)) for f in FACTORS if f != 1}
            row[data] = "–"
            if term not in terms_of(key[0]):
                continue
            run = {factor: one.loc[name] for factor, name in names.items() if name in one.index}
            unfinished += [f"{term} ({data})"] * (len(run) < len(names))
            if run:
                ends.append(stable_region({factor: of["change"] for factor, of in run.items()}))
                row[data] = "{:g}–{:g}".format(*ends[-1])
                moved = [
                    f"× {f:g} {of['moved']} {of['Δ ' + of['moved']]:+.3f}" for f, of in run.items() if of["change"] > 1
                ]
                leaves += [f"{data} {', '.join(moved)}"] if moved else []
        if ends:
            low, high = found[term] = max(low for low, _ in ends), min(high for _, high in ends)
            rows.append(row | {"all": f"{low:g}–{high:g}", "what moves most": "; ".join(leaves) or "nothing"})
    if not rows:
        return "Nothing was run yet."
    everywhere = [term for term, ends in found.items() if ends == (min(FACTORS), max(FACTORS))]
    tenfold = [term for term, (low, high) in found.items() if low <= 0.1 and high >= 10 and term not in everywhere]
    rest = [f"{term} {low:g}–{high:g}" for term, (low, high) in found.items() if term not in (*everywhere, *tenfold)]
    lines = [
        f"Stable on all data ({'; '.join(', '.join(key) for key in summaries)}):\n",
        f"- at any factor from 0 to 10: {', '.join(everywhere) or 'no term'};",
        f"- from 0.1 to 10, but not at 0: {', '.join(tenfold) or 'no term'};",
        f"- in a narrower region: {', '.join(rest) or 'no term'}.",
    ]
    if unfinished:
        text = "\nNot all factors were run yet, and what was not run counts as not stable: "
        lines.append(f"{text}{', '.join(unfinished)}.")
    return "\n".join(lines) + f"\n\n{markdown(rows)}"


def _pairs(summaries: Mapping[tuple[str, str], pd.DataFrame]) -> str:
    rows = []
    for pair in product(FACTORS[1:], repeat=2):
        row: dict[str, str] = dict(zip(PAIR, map("{:g}".format, pair), strict=True))
        name, stable = name_of(tuple(zip(PAIR, pair, strict=True))), True
        for key, one in summaries.items():
            fine = name in one.index and one["change"][name] <= 1
            changes = [f"{metric} {one[f'Δ {metric}'][name]:+.3f}" for metric in WATCHED] if name in one.index else []
            row[", ".join(key)] = ", ".join(changes) if fine else f"**{', '.join(changes)}**" if changes else "–"
            stable &= bool(fine)
        rows.append(row | {"stable on all": "yes" if stable else "no"})
    n = sum(row["stable on all"] == "yes" for row in rows)
    return f"Differences to the default; {n} of {len(rows)} pairs are stable on all data.\n\n{markdown(rows)}"


def _noise(groups: Mapping[tuple[str, str], pd.DataFrame]) -> str:
    rows = []
    for key, group in groups.items():
        change = reseeded(group)
        if len(change):
            largest = change.abs().max()
            rows.append({"data": ", ".join(key), "runs": len(change)} | {m: f"{largest[m]:.3f}" for m in SHOWN})
    text = (
        f"The default with other seeds on the same split, largest difference to the default; where above {TOLERANCE}, "
        "it is what counts as stable: a smaller effect of a weight cannot be told from chance here."
    )
    return f"{text}\n\n{markdown(rows)}" if rows else "Not run yet."


def _values(one: pd.DataFrame, dataset: str) -> str:
    names = {"default": "more"}
    names |= {f"{term} × {f:g}": name_of(((term, f),)) for term in terms_of(dataset) for f in FACTORS if f != 1}
    rows = []
    for label, name in names.items():
        if name in one.index:
            row = {"weights": label if one["change"][name] <= 1 else f"**{label}**"}
            for metric in SHOWN:
                change = f" ({one[f'Δ {metric}'][name]:+.3f})" if name != "more" else ""
                row[metric] = f"{one[metric][name]:.3f}{change}"
            rows.append(row)
    return markdown(rows)


def _draw(summaries: Mapping[tuple[str, str], pd.DataFrame], path: Path) -> Path:
    figure, axes = plt.subplots(
        len(summaries), len(WATCHED), figsize=(11, 3 * len(summaries)), layout="constrained", squeeze=False
    )
    for line, (key, one) in zip(axes, summaries.items(), strict=True):
        for ax, metric in zip(line, WATCHED, strict=True):
            of = {term: [one[metric].get(name_of(((term, f),))) for f in FACTORS] for term in terms_of(key[0])}
            sensitivity(pd.DataFrame.from_dict(of, "index", float, FACTORS), metric, ax=ax)
            ax.set_title(f"{', '.join(key)}: {metric}", fontsize="medium")
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return path
