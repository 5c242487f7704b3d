"""How results answer to the weight of each loss term, and to alignment and contrast together."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
from catalogue import TEXTS, Stage
from frame import markdown
from gathered import Results
from records import load
from tables import grid, page

from more_scvi.module import LOSS_WEIGHTS
from more_scvi.pl import sensitivity

FOLDER = "experiments/losses"
FACTORS = (0.0, 0.1, 1.0, 10.0)
PAIR = ("align_batch", "contrast")
RESEEDED = {f"more:seed-{seed}": {"base": "more", "model_kwargs": {"seed": seed}} for seed in (101, 102)}
"""The default again on the same split: what training by itself moves."""
SHOWN, WATCHED = ["own", "CiLISI", "LR", "structure"], ["CiLISI", "LR", "structure"]
TOLERANCE = 0.02


def terms_of(dataset: str) -> list[str]:
    """Terms that the data set has a use for."""
    return [term for term in LOSS_WEIGHTS if term != "align_modality" or dataset.endswith("_multi")]


def name_of(*weights: tuple[str, float]) -> str:
    """Name of a variant, e.g. ``more:keep-x10``; factors of 1 are left out."""
    changed = [f"{term}-x{factor:g}" for term, factor in weights if factor != 1]
    return "more:" + "+".join(changed) if changed else "more"


def variants(dataset: str) -> dict[str, dict[str, float]]:
    """Method name → factors on the weights, one term at a time and then the pair; ``more`` is the default."""
    single = [{term: factor} for term in terms_of(dataset) for factor in FACTORS if factor != 1]
    pairs = [dict(zip(PAIR, factors, strict=True)) for factors in product((0.1, 10.0), repeat=2)]
    return {name_of(*weights.items()): weights for weights in [{}, *single, *pairs]}


def options(dataset: str) -> dict[str, dict[str, Any]]:
    """Method name → its options, of all but the default."""
    made = dict(RESEEDED)
    for name, weights in variants(dataset).items():
        given = {term: factor * LOSS_WEIGHTS[term] for term, factor in weights.items()}
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
        stable = [f for i, f in enumerate(side) if all(changes.get(g, float("inf")) <= 1 for g in side[: i + 1])]
        ends.append([1.0, *stable][-1])
    return ends[0], ends[1]


def changes(results: Results, dataset: str, names: Mapping[str, Any]) -> pd.DataFrame:
    """Per variant that was run: its mean difference to the default on shared splits."""
    rows = {}
    for name in names:
        found = {m: results.compare(name, m, lambda of, _: of == dataset) for m in SHOWN}
        if any(found.values()):
            rows[name] = {m: float("nan") if of is None else 0.0 - of.difference for m, of in found.items()}
    return pd.DataFrame.from_dict(rows, "index", float, SHOWN)


def summary(results: Results, dataset: str, noise: pd.DataFrame) -> pd.DataFrame:
    """:func:`changes`, with the largest ``change`` as a share of what is allowed, 1 or less where it is stable, and the
    figure that is ``moved`` by it.
    """
    frame = changes(results, dataset, variants(dataset))
    shares = frame[WATCHED].abs() / noise[WATCHED].abs().max().clip(lower=TOLERANCE).fillna(TOLERANCE)
    return frame.assign(change=shares.max(axis=1).round(6), moved=shares.fillna(0).idxmax(axis=1))


def report(folder: Path) -> list[Path]:
    """Write ``losses.md`` and ``losses.png``."""
    results = Results(load(folder / "losses"))
    noise = {key: changes(results, key, RESEEDED) for key in sorted({r["dataset"] for r in results.records})}
    found = {key: summary(results, key, of) for key, of in noise.items()}
    rows = [{"data": key} | {m: f"{of[m].abs().max():.3f}" for m in SHOWN} for key, of in noise.items() if len(of)]
    parts = ["![Mixing and conservation per term and factor on its weight](losses.png)"]
    parts += ["## Stable region", *_regions(found), "## Alignment and contrast together", *_pairs(found)]
    parts += ["## What training by itself moves", TEXTS["losses_noise"], markdown(rows) if rows else "Not run yet."]

    def one(number: int, ax: Any) -> str:
        (dataset, metric), of = list(product(found, WATCHED))[number], {}
        level = results.values("more", metric)[dataset].mean()
        for term in terms_of(dataset):
            of[term] = [level + found[dataset][metric].get(name_of((term, f)), float("nan")) for f in FACTORS]
        sensitivity(pd.DataFrame.from_dict(of, "index", float, FACTORS), metric, ax=ax)
        return f"{dataset}: {metric}"

    figure = grid(len(found) * len(WATCHED), len(WATCHED), 3.7, 3, folder / "losses.png", one)
    return [page(folder, "losses", "Weights of the loss terms", results, *parts, earlier=TEXTS["first"]), figure]


def _regions(found: Mapping[str, pd.DataFrame]) -> list[str]:
    rows, ends, missing = [], {}, []
    for term in LOSS_WEIGHTS:
        row, moved, of_term = {"term": term, "default": f"{LOSS_WEIGHTS[term]:g}"} | dict.fromkeys(found, "–"), [], []
        for key in [key for key in found if term in terms_of(key)]:
            run = {f: name_of((term, f)) for f in FACTORS if f != 1}
            run = {f: found[key].loc[name] for f, name in run.items() if name in found[key].index}
            missing += [f"{term} ({key})"] * (len(run) < len(FACTORS) - 1)
            of_term.append(stable_region({f: of["change"] for f, of in run.items()}))
            row[key] = "{:g}–{:g}".format(*of_term[-1])
            left = [f"× {f:g} {of['moved']} {of[of['moved']]:+.3f}" for f, of in run.items() if of["change"] > 1]
            moved += [f"{key} {', '.join(left)}"] if left else []
        if of_term:
            ends[term] = max(low for low, _ in of_term), min(high for _, high in of_term)
            row |= {"all": "{:g}–{:g}".format(*ends[term]), "what moves most": "; ".join(moved) or "nothing"}
            rows.append(row)
    whole = [term for term, of in ends.items() if of == (min(FACTORS), max(FACTORS))]
    rest = [f"{term} {low:g}–{high:g}" for term, (low, high) in ends.items() if term not in whole]
    said = f"Stable on all data ({', '.join(found)}) at any factor from 0 to 10: {', '.join(whole) or 'no term'}; in a "
    said += f"narrower region: {', '.join(rest) or 'no term'}."
    return [said, *[f"Not run yet, which counts as not stable: {', '.join(missing)}."] * bool(missing), markdown(rows)]


def _pairs(found: Mapping[str, pd.DataFrame]) -> list[str]:
    rows = []
    for pair in product(FACTORS[1:], repeat=2):
        row: dict[str, str] = dict(zip(PAIR, map("{:g}".format, pair), strict=True))
        name, stable = name_of(*zip(PAIR, pair, strict=True)), []
        for key, one in found.items():
            there = name in one.index
            stable.append(there and bool(one["change"][name] <= 1))
            text = ", ".join(f"{m} {one[m][name]:+.3f}" for m in WATCHED) if there else "–"
            row[key] = f"**{text}**" if there and not stable[-1] else text
        rows.append(row | {"stable on all": "yes" if all(stable) else "no"})
    n = sum(row["stable on all"] == "yes" for row in rows)
    return [f"Differences to the default; {n} of {len(rows)} pairs are stable on all data.", markdown(rows)]
