"""From results to a markdown report: per data set and protocol, over all of them, and the decision rule."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

METRICS = ("own", "LR", "kNN", "CiLISI", "structure", "dimension")
PEERS = ("pca_raw", "pca", "harmony", "scvi", "scanvi", "scvi_long", "scanvi_long")
CLASSIFIERS = ("lr_hvg", "lda")
CONTROLS = ("random", "onehot-LR", "LEAK")


@dataclass(frozen=True)
class Decision:
    """Outcome of the decision rule, see :func:`decide`.

    Parameters
    ----------
    classifier
        ``"own"`` or ``"LR"`` per method.
    scores
        Macro-F1 of that classifier, rows ``"<dataset> <protocol>"``, one column per method.
    best_peer
        Name of the best peer per row.
    difference
        Per row: ours minus the best peer of that row, one column per method of ours.
    n_splits
        Splits that every compared method has, per row; only these are averaged.
    """

    classifier: dict[str, str]
    scores: pd.DataFrame
    best_peer: pd.Series
    difference: pd.DataFrame
    n_splits: pd.Series


def flatten(records: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """One row per record: keys, metrics, total CPU ``seconds``, ``trained`` and ``frozen`` parameters, ``memory`` (MB).

    A method without randomness runs on ``S2a`` for one seed only; its results are repeated for the seeds of the others,
    so that every method is averaged over the same splits.
    """
    rows = [
        {key: record[key] for key in ("dataset", "protocol", "seed", "rotation", "method")}
        | {"seeded": record.get("seeded", True)}
        | {metric: record["scores"].get(metric) for metric in METRICS}
        | {"seconds": sum(record["seconds"].values()) or None}
        | {key: record["parameters"].get(key) for key in ("trained", "frozen")}
        | {"memory": None if record.get("peak_memory") is None else record["peak_memory"] / 2**20}
        for record in records
    ]
    if not rows:
        raise ValueError("No results to report. Run the benchmark first.")
    table = pd.DataFrame(rows)
    copies = []
    for (_, protocol), group in table.groupby(["dataset", "protocol"]):
        once = group[~group["seeded"]]
        if protocol == "S2a":
            for seed in sorted(set(group["seed"])):
                have = set(once.loc[once["seed"] == seed, "method"])
                copies.append(once[~once["method"].isin(have)].assign(seed=seed))
    table = pd.concat([table, *copies], ignore_index=True)
    columns = [*METRICS, "seconds", "trained", "frozen", "memory"]
    return table.astype(dict.fromkeys(columns, float))


def summarise(records: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """Mean over rotations, then mean and range over seeds.

    Returns
    -------
    Indexed by (dataset, protocol, method): each metric, ``<metric>_min``, ``<metric>_max`` (over seeds), ``seconds``,
    ``ratio`` (to ``scanvi``, which includes its scVI), ``trained``, ``frozen``, ``memory``, ``n_seeds``.
    """
    table = flatten(records)
    cost = ["seconds", "trained", "frozen", "memory"]
    keys = ["dataset", "protocol", "method"]
    per_seed = table.groupby([*keys, "seed"])[[*METRICS, *cost]].mean()
    groups = per_seed.groupby(keys)
    out = groups.mean()
    for metric in METRICS:
        out[f"{metric}_min"], out[f"{metric}_max"] = groups[metric].min(), groups[metric].max()
    out["n_seeds"] = groups.size()
    if "scanvi" in out.index.get_level_values("method"):
        out["ratio"] = (
            out["seconds"] / out["seconds"].xs("scanvi", level="method").reindex(out.index.droplevel(2)).array
        )
    else:
        out["ratio"] = np.nan
    return out


def decide(
    records: Iterable[dict[str, Any]], ours: Sequence[str] = ("more",), peers: Sequence[str] = PEERS
) -> Decision:
    """Compare by one rule, the same for every method.

    A method is represented by the better of its own classifier and the linear probe on its embedding, chosen once by
    the mean over all rows (data set × protocol), never row by row. Methods that miss a row are left out, and each row
    is averaged over the splits that all compared methods have. Ours is compared with the best peer of each row, so the
    peer may change from row to row.

    Parameters
    ----------
    records
        Results, see :func:`~more_scvi.evaluation.load_results`.
    ours, peers
        Names of methods; those without results are ignored.

    Raises
    ------
    ValueError
        If no peer, or none of ours, has results for every row of ours.
    """
    table = flatten(records)
    table["row"] = table["dataset"] + " " + table["protocol"]
    table["split"] = table["seed"].astype(str) + "/" + table["rotation"].astype(str)
    table = table[table["method"].isin([*ours, *peers])]
    wanted = set(table.loc[table["method"].isin(ours), "row"])
    table = table[table["row"].isin(wanted)]
    complete = [name for name, group in table.groupby("method") if set(group["row"]) == wanted]
    mine, others = [m for m in ours if m in complete], [m for m in peers if m in complete]
    if not mine or not others:
        raise ValueError(f"Nothing to compare: of {list(ours)} complete are {mine}, of the peers {others}.")
    table = table[table["method"].isin([*mine, *others])]
    counts = table.groupby(["row", "split"])["method"].transform("nunique")
    table = table[counts == len(mine) + len(others)]
    means = table.groupby(["row", "method"])[["own", "LR"]].mean()
    overall = means.groupby("method").mean()
    classifier = {str(name): str(row.dropna().idxmax()) for name, row in overall.iterrows()}
    scores = pd.DataFrame({name: means.xs(name, level="method")[classifier[name]] for name in [*mine, *others]})
    best = scores[others].max(axis=1)
    return Decision(
        classifier,
        scores,
        scores[others].idxmax(axis=1),
        scores[mine].sub(best, axis=0),
        table.groupby("row")["split"].nunique(),
    )


def report(records: Sequence[dict[str, Any]], ours: Sequence[str] | None = None) -> str:
    """Markdown report of all results.

    Parameters
    ----------
    records
        Results, see :func:`~more_scvi.evaluation.load_results`.
    ours
        Methods to compare with the peers; by default all that are neither peer, control nor variant. A variant is
        called ``<method>:<what changed>`` and is compared with that method.

    Returns
    -------
    Markdown text: the decision rule (if ours has results), once against methods that integrate and once against plain
    classifiers; means over all rows; one table per data set and protocol.
    """
    summary = summarise(records)
    methods = list(dict.fromkeys(summary.index.get_level_values("method")))
    if ours is None:
        others = {*PEERS, *CLASSIFIERS, *CONTROLS}
        ours = [m for m in methods if m not in others and not m.startswith("LEAK")]
        complete = [m for m in ours if ":" not in m]
        ours = complete or ours
    named = sorted(m for m in methods if m in ours or m.split(":")[0] in ours)
    order = [*named, *reversed(PEERS), *CLASSIFIERS, *CONTROLS]
    order = [m for m in order if m in methods] + [m for m in methods if m not in order]
    versions = {f"{k} {v}" for record in records for k, v in record["versions"].items() if k != "python"}
    parts = [
        "Macro-F1 of hidden labels by the method's own classifier (own), a linear probe (LR) and 15 neighbours (kNN); "
        "CiLISI is batch mixing within types (1 = perfect); structure compares distances within (type, batch) with "
        "those of PCA (1 = untouched); dimension is the effective dimension within types. S1 hides half of the labels, "
        "S2a all labels of one batch (mean over held-out batches). Mean, in brackets the range over seeds. Seconds are "
        "CPU seconds on one thread; ratio is to scVI + scANVI.",
    ]
    if any(m in methods for m in ours):
        parts.append(
            "## Decision rule\n\nEach method by the better of its own classifier and the linear probe, chosen once "
            "by the mean over all rows. Δ is the difference to the best of the others in that row."
        )
        parts.append("Against methods that integrate:\n\n" + _decision(decide(records, ours, PEERS)))
        if any(m in methods for m in CLASSIFIERS):
            parts.append("Against plain classifiers:\n\n" + _decision(decide(records, ours, CLASSIFIERS)))
    variants = [m for m in order if ":" in m and m.split(":")[0] in ours]
    if variants:
        parts.append(
            "## Variants\n\nDifference to the method before the colon, mean over the splits that both have; one part "
            "changed at a time.\n\n" + _variants(flatten(records), variants)
        )
    parts.append("## Means over data sets and protocols\n\n" + _overall(summary, order))
    parts.append("## Per data set and protocol")
    for (dataset, protocol), group in summary.groupby(level=["dataset", "protocol"]):
        parts.append(f"### {dataset}, {protocol}\n\n" + _detail(group.droplevel([0, 1]), order))
    parts.append("Versions: " + ", ".join(sorted(versions)) + ".")
    return "\n\n".join(parts) + "\n"


def _decision(decision: Decision) -> str:
    rows = []
    for row, scores in decision.scores.iterrows():
        cells = {"row": row, "splits": decision.n_splits[row]} | {m: f"{v:.3f}" for m, v in scores.items()}
        cells["best"] = decision.best_peer[row]
        rows.append(cells | {f"Δ {m}": f"{v:+.3f}" for m, v in decision.difference.loc[row].items()})
    last = {"row": "**mean**", "splits": "", "best": ""}
    last |= {m: f"**{v:.3f}**" for m, v in decision.scores.mean().items()}
    rows.append(last | {f"Δ {m}": f"**{v:+.3f}**" for m, v in decision.difference.mean().items()})
    chosen = ", ".join(f"{method}: {name}" for method, name in decision.classifier.items())
    return f"{_markdown(pd.DataFrame(rows))}\n\nChosen: {chosen}."


def _variants(table: pd.DataFrame, variants: Sequence[str]) -> str:
    splits = table.groupby(["method", "dataset", "protocol", "seed", "rotation"])[list(METRICS)].mean()
    rows = []
    for name in variants:
        changed, base = splits.loc[name], splits.loc[name.split(":")[0]]
        both = changed.index.intersection(base.index)
        delta = (changed.loc[both] - base.loc[both]).groupby(level=["dataset", "protocol"]).mean().mean()
        cells = {"variant": name, "splits": len(both)}
        rows.append(cells | {m: "–" if np.isnan(delta[m]) else f"{delta[m]:+.3f}" for m in METRICS})
    return _markdown(pd.DataFrame(rows))


def _overall(summary: pd.DataFrame, order: Sequence[str]) -> str:
    rows = []
    n_rows = summary.groupby(level=["dataset", "protocol"]).ngroups
    for name in order:
        group = summary.xs(name, level="method")
        cells = {"method": name, "rows": f"{len(group)}/{n_rows}"}
        rows.append(cells | {metric: _value(group[metric].mean()) for metric in METRICS} | _cost(group.mean()))
    return _markdown(pd.DataFrame(rows))


def _detail(group: pd.DataFrame, order: Sequence[str]) -> str:
    rows = []
    for name in (m for m in order if m in group.index):
        values = group.loc[name]
        cells = {"method": name, "seeds": int(values["n_seeds"])}
        for metric in METRICS:
            cells[metric] = _value(values[metric], values[f"{metric}_min"], values[f"{metric}_max"])
        rows.append(cells | _cost(values))
    return _markdown(pd.DataFrame(rows))


def _cost(values: pd.Series) -> dict[str, str]:
    return {
        "seconds": "–" if np.isnan(values["seconds"]) else f"{values['seconds']:.1f}",
        "ratio": "–" if np.isnan(values["ratio"]) else f"{values['ratio']:.3f}",
        "trained": "–" if np.isnan(values["trained"]) else f"{values['trained']:,.0f}",
        "frozen": "–" if np.isnan(values["frozen"]) else f"{values['frozen']:,.0f}",
    }


def _value(mean: float, low: float | None = None, high: float | None = None) -> str:
    if np.isnan(mean):
        return "–"
    if low is None or high is None or high - low < 5e-4:
        return f"{mean:.3f}"
    return f"{mean:.3f} ({low:.3f}–{high:.3f})"


def _markdown(table: pd.DataFrame) -> str:
    lines = [table.columns, ["---"] * table.shape[1], *table.astype(str).to_numpy()]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
