"""How results answer to the weight of each loss term, and to alignment and contrast together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.lines import Line2D
from tables import difference, markdown, wide, write

from more_scvi.evaluation import get_method, load_results, run_benchmark
from more_scvi.evaluation.methods import Method
from more_scvi.module import LOSS_WEIGHTS
from more_scvi.pl._palette import COLORS, MARKERS

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


def run(
    data: str,
    results: Path,
    cache: Path | None,
    datasets: Sequence[str],
    protocols: Sequence[str],
    seeds: Sequence[int],
) -> None:
    """Run what is missing."""
    for seed, dataset in product(seeds, datasets):
        run_benchmark([dataset], methods(dataset), data, results, protocols, [seed], cache, max_rotations=1)


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
    frame = wide(load_results(results / "losses")).reindex(columns=[*SHOWN])
    groups = {key: group for key, group in frame.groupby(level=["dataset", "protocol"]) if _has(group, "more")}
    finished = {key: group for key, group in groups.items() if all(_has(group, name) for name in variants(key[0]))}
    left_out = "; ".join(", ".join(key) for key in groups if finished and key not in finished)
    groups = finished or groups
    summaries = {key: summary(group, key[0]) for key, group in groups.items()}
    allowed = {key: limits(group) for key, group in groups.items()}
    parts = [ABOUT, "![Mixing against conservation per weight; alignment by contrast](losses.png)"]
    if left_out:
        parts.append(f"Not finished and left out: {left_out}.")
    parts.append("## Stable region\n\n" + _regions(summaries, allowed))
    parts.append("## Alignment and contrast together\n\n" + _pairs(summaries))
    parts.append("## What training by itself moves\n\n" + _noise(groups))
    for key, one in summaries.items():
        seeds = groups[key].index.get_level_values("seed").nunique()
        text = (
            f"{seeds} seed{'s' if seeds > 1 else ''}; in brackets the difference to the default; **bold**: not stable."
        )
        parts.append(f"## {', '.join(key)}\n\n{text}\n\n" + _values(one, key[0]))
    _draw(summaries, allowed, results / "losses.png")
    return [write(results / "losses.md", "Weights of the loss terms", parts), results / "losses.png"]


def summary(group: pd.DataFrame, dataset: str) -> pd.DataFrame:
    """Per variant that was run: means over splits, as ``Δ <metric>`` the paired difference to the default, and the
    largest ``change`` as a share of what is allowed, 1 or less where it is stable.
    """
    rows = {}
    for name in variants(dataset):
        change = difference(group, name, "more", SHOWN)
        if len(change):
            of = group.xs(name, level="method").reindex(change.index)
            rows[name] = pd.concat([of.mean(), change.mean().add_prefix("Δ ")])
    frame = pd.DataFrame.from_dict(rows, orient="index")
    frame["change"] = _shares(frame, limits(group)).max(axis=1).round(6)
    return frame


def _shares(frame: pd.DataFrame, allowed: pd.Series) -> pd.DataFrame:
    return pd.DataFrame({metric: frame[f"Δ {metric}"].abs() / allowed[metric] for metric in WATCHED})


def _has(group: pd.DataFrame, name: str) -> bool:
    return name in group.index.get_level_values("method")


def _changes(one: pd.DataFrame, term: str) -> dict[float, float]:
    """Factor → largest change, of the factors that were run."""
    return {f: one["change"][name] for f in FACTORS if f != 1 and (name := name_of(((term, f),))) in one.index}


def _regions(summaries: Mapping[tuple[str, str], pd.DataFrame], allowed: Mapping[tuple[str, str], pd.Series]) -> str:
    rows, found, unfinished = [], {}, []
    for term in LOSS_WEIGHTS:
        row, ends, leaves = {"term": term, "default": f"{LOSS_WEIGHTS[term]:g}"}, [], []
        for key, one in summaries.items():
            data, changes = ", ".join(key), _changes(one, term)
            row[data] = "–"
            if term not in terms_of(key[0]):
                continue
            if len(changes) < len(FACTORS) - 1:
                unfinished.append(f"{term} ({data})")
            if changes:
                ends.append(stable_region(changes))
                row[data] = "{:g}–{:g}".format(*ends[-1])
                moved = [_worst(one, allowed[key], term, factor) for factor, change in changes.items() if change > 1]
                leaves += [f"{data} {', '.join(moved)}"] if moved else []
        if ends:
            found[term] = max(low for low, _ in ends), min(high for _, high in ends)
            rows.append(
                row | {"all": "{:g}–{:g}".format(*found[term]), "what moves most": "; ".join(leaves) or "nothing"}
            )
    if not rows:
        return "Nothing was run yet."
    everywhere = [term for term, ends in found.items() if ends == (min(FACTORS), max(FACTORS))]
    tenfold = [term for term, (low, high) in found.items() if low <= 0.1 and high >= 10 and term not in everywhere]
    rest = [f"{term} {low:g}–{high:g}" for term, (low, high) in found.items() if term not in (*everywhere, *tenfold)]
    lines = [
        f"- at any factor from 0 to 10: {', '.join(everywhere) or 'no term'};",
        f"- from 0.1 to 10, but not at 0: {', '.join(tenfold) or 'no term'};",
        f"- in a narrower region: {', '.join(rest) or 'no term'}.",
    ]
    if unfinished:
        lines.append(
            f"\nNot all factors were run yet, and what was not run counts as not stable: {', '.join(unfinished)}."
        )
    data = "; ".join(", ".join(key) for key in summaries)
    return f"Stable on all data ({data}):\n\n" + "\n".join(lines) + f"\n\n{markdown(rows)}"


def _worst(one: pd.DataFrame, allowed: pd.Series, term: str, factor: float) -> str:
    name = name_of(((term, factor),))
    metric = _shares(one.loc[[name]], allowed).iloc[0].idxmax()
    return f"× {factor:g} {metric} {one.loc[name, f'Δ {metric}']:+.3f}"


def _pairs(summaries: Mapping[tuple[str, str], pd.DataFrame]) -> str:
    grid = list(product(FACTORS[1:], repeat=2))
    rows = []
    for a, b in grid:
        name, row, unstable = name_of(((PAIR[0], a), (PAIR[1], b))), {PAIR[0]: f"{a:g}", PAIR[1]: f"{b:g}"}, False
        for key, one in summaries.items():
            if name in one.index:
                values = ", ".join(f"{metric} {one[f'Δ {metric}'][name]:+.3f}" for metric in WATCHED)
                row[", ".join(key)] = f"**{values}**" if one["change"][name] > 1 else values
                unstable |= one["change"][name] > 1
            else:
                row[", ".join(key)], unstable = "–", True
        rows.append(row | {"stable on all": "no" if unstable else "yes"})
    n = sum(row["stable on all"] == "yes" for row in rows)
    return f"Differences to the default; {n} of {len(grid)} pairs are stable on all data.\n\n{markdown(rows)}"


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
        if name not in one.index:
            continue
        row = {"weights": label if one["change"][name] <= 1 else f"**{label}**"}
        for metric in SHOWN:
            change = f" ({one[f'Δ {metric}'][name]:+.3f})" if name != "more" else ""
            row[metric] = f"{one[metric][name]:.3f}{change}"
        rows.append(row)
    return markdown(rows)


def _draw(
    summaries: Mapping[tuple[str, str], pd.DataFrame], allowed: Mapping[tuple[str, str], pd.Series], path: Path
) -> None:
    figure, axes = plt.subplots(
        len(summaries),
        4,
        figsize=(13, 3.1 * len(summaries) + 0.6),
        layout="constrained",
        squeeze=False,
        width_ratios=(1.25, 1.25, 1, 1),
    )
    for line, (key, one) in zip(axes, summaries.items(), strict=True):
        for ax, metric in zip(line, ("LR", "structure"), strict=False):
            _scatter(ax, one, metric, key[0], allowed[key])
            ax.set_title(", ".join(key), fontsize="medium")
        _grid(line[2], one, "CiLISI")
        _grid(line[3], one, "LR")
        line[3].set(ylabel="", yticks=[])
    used = [term for term in LOSS_WEIGHTS if any(_changes(one, term) for one in summaries.values())]
    handles = [Line2D([], [], color=_color(term), linewidth=2, label=term) for term in used]
    handles += [
        Line2D([], [], linestyle="", color="#555555", marker=_marker(f), label="default" if f == 1 else f"× {f:g}")
        for f in FACTORS
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize="small")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _color(term: str) -> str:
    return COLORS[list(LOSS_WEIGHTS).index(term)]


def _marker(factor: float) -> str:
    return MARKERS[(2, 1, 0, 3)[FACTORS.index(factor)]] if factor != 1 else "*"


def _scatter(ax: Axes, one: pd.DataFrame, metric: str, dataset: str, allowed: pd.Series) -> None:
    """A path per term over its factors; the box around the default is what counts as stable."""
    x, y = one["CiLISI"]["more"], one[metric]["more"]
    width, height = allowed["CiLISI"], allowed[metric]
    ax.add_patch(plt.Rectangle((x - width, y - height), 2 * width, 2 * height, color="#EEEEEE", zorder=0))
    for term in terms_of(dataset):
        run_ = {f: name for f in FACTORS if (name := name_of(((term, f),))) in one.index}
        ax.plot(one["CiLISI"][run_.values()], one[metric][run_.values()], color=_color(term), linewidth=1, alpha=0.6)
        for factor, name in run_.items():
            if factor != 1:
                ax.plot(
                    one["CiLISI"][name], one[metric][name], marker=_marker(factor), color=_color(term), markersize=6
                )
    ax.plot(x, y, marker=_marker(1), color="#222222", markersize=11)
    ax.margins(0.08)
    ax.set(xlabel="batch mixing (CiLISI)", ylabel={"LR": "macro-F1, linear probe"}.get(metric, metric))
    ax.grid(color="#E6E6E6", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)


def _grid(ax: Axes, one: pd.DataFrame, metric: str) -> None:
    """Values of alignment × contrast; colours show the difference to the default, full at 0.05."""
    factors = FACTORS[1:]
    names = [[name_of(((PAIR[0], a), (PAIR[1], b))) for b in factors] for a in factors]
    values = pd.DataFrame([[one[metric].get(name) for name in line] for line in names], dtype=float)
    change = (values - one[metric]["more"]).to_numpy()
    ax.set_facecolor("#E6E6E6")
    ax.imshow(change, cmap=_ORANGE_BLUE, vmin=-0.05, vmax=0.05, aspect="auto")
    for row, column in product(range(len(factors)), repeat=2):
        if (value := values.iloc[row, column]) == value:
            color = "white" if change[row, column] > 0.035 else "black"
            ax.text(column, row, f"{value:.3f}", ha="center", va="center", fontsize="small", color=color)
    ticks = [f"× {factor:g}" for factor in factors]
    ax.set_xticks(range(len(factors)), ticks)
    ax.set_yticks(range(len(factors)), ticks)
    ax.set(xlabel=PAIR[1], ylabel=PAIR[0])
    ax.set_title({"LR": "macro-F1, linear probe"}.get(metric, metric), fontsize="medium")
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)


_ORANGE_BLUE = LinearSegmentedColormap.from_list("more", [COLORS[1], "white", COLORS[0]])
