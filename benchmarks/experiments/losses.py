"""How results answer to the weight of each loss term, and to alignment and contrast together."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
from frame import markdown
from plan import Stage
from records import load
from tables import FIRST, difference, grid, means, page, wide

from more_scvi.module import LOSS_WEIGHTS
from more_scvi.pl import sensitivity

FOLDER = "experiments/losses"
FACTORS = (0.0, 0.1, 1.0, 10.0)
PAIR = ("align_batch", "contrast")
RESEEDED = {f"more:seed-{seed}": {"base": "more", "model_kwargs": {"seed": seed}} for seed in (101, 102)}
"""The default again on the same split: what training by itself moves."""
SHOWN = ("own", "LR", "CiLISI", "structure")
WATCHED = ["CiLISI", "LR", "structure"]
TOLERANCE = 0.02

Weights = tuple[tuple[str, float], ...]
"""Terms whose weight is not its default, and by how much."""

ABOUT = f"""\
MoRE with the weight of one loss term times 0, 0.1 or 10, all else at its defaults, and with the weights of batch
alignment and contrast changed together. Half of the labels are hidden (S1). Batch mixing is CiLISI; biological
conservation is own and LR, macro-F1 of the hidden labels by MoRE's classifier and by a linear probe, and structure,
distances within (type, batch) compared with those of PCA.

Hidden labels are used here to *report* sensitivity. They never choose a default: defaults are chosen on development
sets (`benchmarks/tune.py`).

Rule: a factor is stable if {", ".join(WATCHED[:-1])} and {WATCHED[-1]} all stay within {TOLERANCE} of the default, in
either direction, or within what another seed of training moves on the same split, where that is more. The stable
region of a term reaches from 1 down and up to the last factor before one that is not stable."""


def terms_of(dataset: str) -> list[str]:
    """Terms that the data set has a use for."""
    return [term for term in LOSS_WEIGHTS if term != "align_modality" or dataset.endswith("_multi")]


def name_of(*weights: tuple[str, float]) -> str:
    """Name of a variant, e.g. ``more:keep-x10``; factors of 1 are left out."""
    changed = [f"{term}-x{factor:g}" for term, factor in weights if factor != 1]
    return "more:" + "+".join(changed) if changed else "more"


def variants(dataset: str) -> dict[str, Weights]:
    """Method name → factors on the weights, one term at a time and then the pair; ``more`` is the default."""
    single = [((term, factor),) for term in terms_of(dataset) for factor in FACTORS if factor != 1]
    pairs = [tuple(zip(PAIR, factors, strict=True)) for factors in product((0.1, 10.0), repeat=2)]
    return {"more": ()} | {name_of(*weights): weights for weights in [*single, *pairs]}


def options(dataset: str) -> dict[str, dict[str, Any]]:
    """Method name → its options, of all but the default."""
    made = dict(RESEEDED)
    for name, weights in variants(dataset).items():
        given = {term: factor * LOSS_WEIGHTS[term] for term, factor in weights}
        made |= {name: {"base": "more", "train_kwargs": {"loss_weights": given}}} if given else {}
    return made


DATASETS = ("pbmc_kang", "bm_vangalen", "pbmc_cite_multi")
STAGES = [Stage("losses", (d,), ("S1",), ("more", *options(d)), (0,), 1, options(d)) for d in DATASETS]


def stable_region(changes: Mapping[float, float]) -> tuple[float, float]:
    """Lowest and highest factor that are reached from 1 over stable factors only.

    ``changes`` are, per factor, the largest change of any watched figure as a share of what is allowed; factors that
    were not run are missing and end the region.
    """
    ends = []
    for side in (sorted((f for f in FACTORS if f < 1), reverse=True), sorted(f for f in FACTORS if f > 1)):
        stable = [all(changes.get(f, float("inf")) <= 1 for f in side[: i + 1]) for i in range(len(side))]
        ends.append(([1.0] + [f for f, fine in zip(side, stable, strict=True) if fine])[-1])
    return ends[0], ends[1]


def reseeded(group: pd.DataFrame) -> pd.DataFrame:
    """The default with other seeds minus the default, one row per run."""
    return pd.concat([difference(group, name, "more", SHOWN) for name in RESEEDED])


def summary(group: pd.DataFrame, dataset: str) -> pd.DataFrame:
    """Per variant that was run: means over splits, as ``Δ <metric>`` the paired difference to the default, and the
    largest ``change`` as a share of what is allowed, 1 or less where it is stable, with the metric that is ``moved``.
    """
    rows, limits = {}, reseeded(group).abs().max().clip(lower=TOLERANCE).fillna(TOLERANCE)[WATCHED]
    for name in variants(dataset):
        change = difference(group, name, "more", SHOWN)
        if len(change):
            of = group.xs(name, level="method").reindex(change.index)
            rows[name] = pd.concat([of.mean(), change.mean().add_prefix("Δ ")])
    frame = pd.DataFrame.from_dict(rows, orient="index")
    shares = frame[[f"Δ {metric}" for metric in WATCHED]].abs().set_axis(WATCHED, axis=1) / limits
    return frame.assign(change=shares.max(axis=1).round(6), moved=shares.fillna(0).idxmax(axis=1))


def report(results: Path) -> list[Path]:
    """Write ``losses.md`` and ``losses.png``."""
    records = load(results / "losses")
    groups = {key[0]: of for key, of in wide(records).reindex(columns=[*SHOWN]).groupby(level=["dataset"])}
    groups = {key: of for key, of in groups.items() if "more" in of.index.get_level_values("method")}
    found = {key: summary(group, key) for key, group in groups.items()}
    noise = {key: reseeded(group) for key, group in groups.items()}
    noise = [
        {"data": key, "runs": len(of)} | {m: f"{of[m].abs().max():.3f}" for m in SHOWN} for key, of in noise.items() if len(of)
    ]
    parts = [ABOUT, "![Mixing and conservation per term and factor on its weight](losses.png)"]
    parts += ["## Stable region", _regions(found), "## Alignment and contrast together", _pairs(found)]
    parts += [
        "## What training by itself moves",
        f"The default with other seeds on the same split, largest difference to the default; where above {TOLERANCE}, "
        "it is what counts as stable: a smaller effect of a weight cannot be told from chance here.",
        markdown(noise) if noise else "Not run yet.",
    ]
    for key, one in found.items():
        names = {"more": "default"} | {n: " ".join(f"{t} × {f:g}" for t, f in w) for n, w in variants(key).items() if w}
        names = {n: f"**{words}**" if n in one.index and one["change"][n] > 1 else words for n, words in names.items()}
        parts += [f"## {key}", "**Bold**: not stable.", means(groups[key], names, SHOWN, {})]

    def one(number: int, ax) -> str:
        (dataset, metric), of = list(product(found, WATCHED))[number], {}
        for term in terms_of(dataset):
            of[term] = [found[dataset][metric].get(name_of((term, factor))) for factor in FACTORS]
        sensitivity(pd.DataFrame.from_dict(of, "index", float, FACTORS), metric, ax=ax)
        return f"{dataset}: {metric}"

    figure = grid(len(found) * len(WATCHED), len(WATCHED), 3.7, 3, results / "losses.png", one)
    return [page(results, "losses", "Weights of the loss terms", records, *parts, earlier=FIRST), figure]


def _regions(found: Mapping[str, pd.DataFrame]) -> str:
    rows, ends, missing = [], {}, []
    for term in LOSS_WEIGHTS:
        row, moved, of_term = {"term": term, "default": f"{LOSS_WEIGHTS[term]:g}"} | dict.fromkeys(found, "–"), [], []
        for key in [key for key in found if term in terms_of(key)]:
            names = {f: name_of((term, f)) for f in FACTORS if f != 1}
            run = {f: found[key].loc[name] for f, name in names.items() if name in found[key].index}
            missing += [f"{term} ({key})"] * (len(run) < len(names))
            of_term.append(stable_region({f: of["change"] for f, of in run.items()}))
            row[key] = "{:g}–{:g}".format(*of_term[-1])
            left = [f"× {f:g} {of['moved']} {of['Δ ' + of['moved']]:+.3f}" for f, of in run.items() if of["change"] > 1]
            moved += [f"{key} {', '.join(left)}"] if left else []
        if of_term:
            ends[term] = max(low for low, _ in of_term), min(high for _, high in of_term)
            rows.append(row | {"all": "{:g}–{:g}".format(*ends[term]), "what moves most": "; ".join(moved) or "nothing"})
    whole = [term for term, of in ends.items() if of == (min(FACTORS), max(FACTORS))]
    tenfold = [term for term, (low, high) in ends.items() if low <= 0.1 and high >= 10 and term not in whole]
    rest = [f"{t} {low:g}–{high:g}" for t, (low, high) in ends.items() if t not in (*whole, *tenfold)]
    lines = [
        f"Stable on all data ({', '.join(found)}):\n",
        f"- at any factor from 0 to 10: {', '.join(whole) or 'no term'};",
        f"- from 0.1 to 10, but not at 0: {', '.join(tenfold) or 'no term'};",
        f"- in a narrower region: {', '.join(rest) or 'no term'}.",
    ]
    lines += [f"\nNot run yet, which counts as not stable: {', '.join(missing)}."] * bool(missing)
    return "\n".join(lines) + f"\n\n{markdown(rows)}"


def _pairs(found: Mapping[str, pd.DataFrame]) -> str:
    rows = []
    for pair in product(FACTORS[1:], repeat=2):
        row: dict[str, str] = dict(zip(PAIR, map("{:g}".format, pair), strict=True))
        name, stable = name_of(*zip(PAIR, pair, strict=True)), []
        for key, one in found.items():
            there = name in one.index
            stable.append(there and bool(one["change"][name] <= 1))
            text = ", ".join(f"{m} {one[f'Δ {m}'][name]:+.3f}" for m in WATCHED) if there else "–"
            row[key] = f"**{text}**" if there and not stable[-1] else text
        rows.append(row | {"stable on all": "yes" if all(stable) else "no"})
    n = sum(row["stable on all"] == "yes" for row in rows)
    return f"Differences to the default; {n} of {len(rows)} pairs are stable on all data.\n\n{markdown(rows)}"
