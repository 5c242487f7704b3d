"""How results answer to the weight of each loss term, and to alignment and contrast together."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from catalogue import TEXTS, Stage
from frame import markdown
from gathered import Results
from records import load

from more_scvi.module import LOSS_WEIGHTS
from more_scvi.pl import sensitivity

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
    """Method name → weights, one term at a time and then the pair; ``more`` is the default."""
    single = [((term, factor),) for term in terms_of(dataset) for factor in FACTORS]
    pairs = [tuple(zip(PAIR, factors, strict=True)) for factors in product((0.1, 10.0), repeat=2)]
    return {name_of(*of): {term: factor * LOSS_WEIGHTS[term] for term, factor in of} for of in [*single, *pairs]}


def options(dataset: str) -> dict[str, dict[str, Any]]:
    """Method name → its options, of all but the default."""
    of = {name: {"base": "more", "train_kwargs": {"loss_weights": given}} for name, given in variants(dataset).items()}
    return RESEEDED | {name: given for name, given in of.items() if name != "more"}


DATASETS = ("pbmc_kang", "bm_vangalen", "pbmc_cite_multi")
STAGES = [Stage("losses", (d,), ("S1",), ("more", *options(d)), (0,), 1, options(d)) for d in DATASETS]


def stable_region(changes: Mapping[float, float]) -> tuple[float, float]:
    """Lowest and highest factor that are reached from 1 over stable factors, whose change is at most 1, only.

    Factors that were not run are missing and end the region.
    """
    ends = []
    for side in (sorted((f for f in FACTORS if f < 1), reverse=True), sorted(f for f in FACTORS if f > 1)):
        stable = [f for i, f in enumerate(side) if all(changes.get(g, float("inf")) <= 1 for g in side[: i + 1])]
        ends.append([1.0, *stable][-1])
    return ends[0], ends[1]


def changes(results: Results, names: Iterable[str]) -> pd.DataFrame:
    """Per variant that was run: its mean difference to the default on shared splits."""
    rows = {}
    for name in names:
        found = {m: results.compare(name, m) for m in SHOWN}
        if any(found.values()):
            rows[name] = {m: float("nan") if of is None else 0.0 - of.difference for m, of in found.items()}
    return pd.DataFrame.from_dict(rows, "index", float, SHOWN)


def report(folder: Path) -> tuple[Results, list[str]]:
    """The records, and the parts of ``losses.md``; draws ``losses.png``."""
    results, found, rows, panels = Results(load(folder / "losses")), {}, [], []
    for key in sorted({r["dataset"] for r in results.records}):
        of_set = Results(r for r in results.records if r["dataset"] == key)
        noise, frame = changes(of_set, RESEEDED).abs(), changes(of_set, variants(key))
        rows += [{"data": key} | {m: f"{noise[m].max():.3f}" for m in SHOWN}] if len(noise) else []
        shares = frame[WATCHED].abs() / noise[WATCHED].max().clip(lower=TOLERANCE).fillna(TOLERANCE)
        # as a share of what is allowed the largest change, 1 or less where it is stable, and the figure it is of
        found[key] = frame.assign(change=shares.max(axis=1).round(6), moved=shares.fillna(0).idxmax(axis=1))
        for metric in WATCHED:
            level = of_set.values("more", metric).mean()
            names = {term: [name_of((term, factor)) for factor in FACTORS] for term in terms_of(key)}
            levels = {term: level + frame[metric].reindex(of).to_numpy() for term, of in names.items()}
            table = pd.DataFrame.from_dict(levels, "index", float, FACTORS)
            panels.append((f"{key}: {metric}", partial(sensitivity, table, metric)))
    parts = ["![Mixing and conservation per term and factor on its weight](losses.png)"]
    parts += ["## Stable region", *_regions(found), "## Alignment and contrast together", *_pairs(found)]
    parts += ["## What training by itself moves", TEXTS["losses_noise"], markdown(rows) if rows else "Not run yet."]
    draw(panels, folder / "losses.png")
    return results, parts


def draw(panels: Sequence[tuple[str, Callable]], path: Path) -> None:
    """Titles and functions that draw on ``ax``: a row per data set, a column per figure; one legend for all."""
    shape, shared = (len(panels) // len(WATCHED), len(WATCHED)), None
    figure, axes = plt.subplots(*shape, figsize=(3.7 * shape[1], 3 * shape[0]), layout="constrained", squeeze=False)
    for (title, one), ax in zip(panels, axes.flat, strict=True):
        one(ax=ax)
        ax.set_title(title, fontsize="medium")
        if legend := ax.get_legend():
            shared = legend.legend_handles, [text.get_text() for text in legend.get_texts()]
            legend.remove()
    if shared:
        figure.legend(*shared, loc="outside lower center", ncols=len(shared[1]), frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


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
    said = [
        f"Stable on all data ({', '.join(found)}) at any factor from 0 to 10: {', '.join(whole) or 'no term'}; in a "
        f"narrower region: {', '.join(rest) or 'no term'}."
    ]
    said += [f"Not run yet, which counts as not stable: {', '.join(missing)}."] if missing else []
    return [*said, markdown(rows)]


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
