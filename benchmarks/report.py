"""Write the results pages from the result files alone; nothing is computed anew. See README.md in this folder."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from answers import answers, say
from catalogue import BACKBONES, COLUMNS, DATASETS, GROUPS, METHODS, REGIMES, SHORT, TEXTS, Group, family, named
from frame import RESULTS, arguments, markdown
from gathered import OURS, Results, interval, marked, number, probability, ranged, signed
from records import load

from more_scvi import pl
from more_scvi.evaluation import get_method, list_methods
from more_scvi.evaluation._compare import Comparison, split_values
from more_scvi.evaluation._fingerprint import method_fingerprint
from more_scvi.pl._table import natural

DOCS = RESULTS.parents[1] / "docs"
NOTICE = "<!-- Written by benchmarks/report.py from benchmarks/results; do not edit. -->\n\n"
BEST = {"*best peer of each row*": "rivals", "*best that integrates*": "integrating"}
ELSEWHERE = ("S5", "S5b", "S7", "S8", "S8m", "S9", "S10")
ORDINARY = {kind: Group(kind=kind, elsewhere=ELSEWHERE) for kind in ("rna", "multi", "spatial")}
"""All rows of a kind of data but those of rare types and queries, which have figures of their own."""
COSTS = (
    ("seconds", "CPU s", "mean", 1, 1), ("memory", "memory (MB)", "max", 2**20, 0), ("trained", "trained", "mean", 1, 0)
)  # fmt: skip
DRAWN = (OURS, "scanvi", "scvi", "harmony", "scanorama", "pca", "pca_raw", "lr_hvg", "lda", "onehot-LR", "LEAK")
FIGURES = {
    "macro_f1": (DRAWN, ("S1", "S2a"), "Macro-F1 of hidden labels"),
    "tradeoff": ((*DRAWN, "random"), ("S1", "S2a"), "Mixing of batches against structure"),
    "few_labels": (DRAWN, ("S4", "S1"), "Macro-F1 by the number of labels per type"),
    "few_cells": ((OURS, *BACKBONES, "pca", "lr_hvg"), ("S1-n", "S1"), "Macro-F1 by the number of cells"),
}
"""Name → methods, families of protocols, the first of which must be there, caption."""


def pages(results: Results) -> dict[str, str]:
    """Path below ``docs`` → text of every page."""
    drawn = figures(results)
    found = {"results.md": _front(results, drawn), "results/answers.md": answers(results)}
    for group in GROUPS:
        if rows := [r for r in results.records if group.belongs(r["dataset"], r["protocol"])]:
            found[f"results/{group.file}.md"] = _page(results, group, drawn, rows)
    toctree = "\n".join(path.removesuffix(".md") for path in [*found, "results/experiments.md"] if "/" in path)
    found["results.md"] += f"\n```{{toctree}}\n:hidden:\n:maxdepth: 1\n\n{toctree}\n```\n"
    return {path: NOTICE + text for path, text in found.items()}


def _front(results: Results, drawn: dict) -> str:
    sets = [name for name in DATASETS if name in set(results.table["dataset"])]
    rna, all_but_ours = ORDINARY["rna"], [*results.peers, *results.controls]
    figures_beside = ("kNN", "LR", "CiLISI", "structure", "dimension")
    parts = [
        "# Results",
        f"{len(results.records):,} results: {len(results.methods)} methods and variants on {len(sets)} data sets, up "
        f"to {results.table['seed'].nunique()} {TEXTS['front']}",
        _code(results),
        _contents(results),
        "## MoRE against the others, RNA",
        _headline(results, [name for name in sets if DATASETS[name].kind == "rna"]),
        _comparisons(results, "annotation", rna),
        *(_figure(name, drawn, "results/") for name in ("macro_f1", "tradeoff", "few_labels")),
        "## Where they differ",
        TEXTS["regimes"],
        matrix(results, [*BEST, *results.peers], [(one.words, one.metric, one) for one in REGIMES], True),
        "## Mixing, structure and neighbours, RNA",
        matrix(results, all_but_ours, [(f"Δ {COLUMNS[m]}", m, rna) for m in figures_beside]),
    ]
    for kind, title in (("multi", "several modalities"), ("spatial", "spatial sections")):
        if body := _comparisons(results, "annotation", ORDINARY[kind]):
            parts += [f"## MoRE against the others, {title}", body]
    parts += ["## Methods, data and versions", *_about(results, sets)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _contents(results: Results) -> str:
    rows = []
    for group in GROUPS:
        of = [r for r in results.records if group.belongs(r["dataset"], r["protocol"])]
        name = f"[{group.title}](results/{group.file}.md)" if of else f"{group.title}: not measured yet"
        hidden = ", ".join(natural({r["protocol"] for r in of})) or "–"
        rows.append({"page": name, "hidden": hidden, "data sets": len({r["dataset"] for r in of}), "results": len(of)})
    last = dict.fromkeys(rows[0], "–") | {"page": "[Experiments and cost](results/experiments.md)"}
    return markdown([*rows, last])


def _headline(results: Results, sets: list[str]) -> str:
    among = {"of each row": results.rivals, "that integrates": results.integrating}
    among["that only classifies"] = [method for method in results.rivals if method not in results.integrating]
    best = {who: results.against_best("annotation", ORDINARY["rna"], among=names) for who, names in among.items()}
    if not any(best.values()):
        return "Not measured yet."
    said = [say(found, "MoRE", f"the best peer {words}") for words, found in best.items()]
    rows = next(of.n_rows for of in best.values() if of)
    short = ", ".join(named(method) for method in results.peers if method in SHORT and ":" not in method)
    aside = f" Not among these peers, as they were trained for less than their default epochs: {short}." * bool(short)
    return (
        f"Macro-F1 of hidden labels over {rows} rows (data set × protocol) of {', '.join(sets)}:\n\n"
        + "\n".join(f"- {one[0].upper()}{one[1:]}." for one in said)
        + f"\n\nRare types are not in this table: they have a figure of their own.{aside}"
    )


def _compare(results: Results, other: str, metric: str, group: Group) -> Comparison | None:
    """Against a method, or the best of several in each row."""
    if other in BEST:
        return results.against_best(metric, group, among=getattr(results, BEST[other]))
    return results.compare(other, metric, group)


def _comparisons(results: Results, metric: str, group: Group) -> str:
    """MoRE against every peer, the best of them in each row, and the controls."""
    rows = []
    for other in [*BEST, *results.peers, *results.controls]:
        if (found := _compare(results, other, metric, group)) is None:
            continue
        cost = None if other in BEST else results.compare(other, "seconds", group)
        logs = None if cost is None else np.log(cost.splits["other"] / cost.splits["ours"])
        longer = None if logs is None or not np.isfinite(logs).all() else float(np.exp(logs.mean()))
        rows.append({
            "MoRE against": _name(other) + " (control)" * (other in results.controls),
            "Δ": marked(found),
            "95 %": interval(found),
            "won / level / lost": " / ".join(map(str, found.tally())),
            "MoRE": number(found.rows["ours"].mean()),
            "other": number(found.rows["other"].mean()),
            "data sets": found.n_sources,
            "splits": int(found.rows["n_splits"].sum()),
            "p": probability(found),
            "r": number(found.effect, 2),
            "time ×": "–" if longer is None else f"{longer:,.0f}" if longer >= 20 else f"{longer:.2g}",
        })  # fmt: skip
    return markdown(rows) if rows else ""


def _name(method: str) -> str:
    return method if method in BEST else f"`{named(method)}`"


def matrix(
    results: Results, others: Sequence[str], columns: Sequence[tuple[str, str, Group]], rows: bool = False
) -> str:
    """Differences to each of the others, a column per (title, figure, rows); also rows won, level and lost."""
    table = []
    for other in others:
        found = {title: _compare(results, other, metric, group) for title, metric, group in columns}
        row = {t: marked(of, 1 if of.metric == "dimension" else 3) if of else "–" for t, of in found.items()}
        row |= {
            title: f"{row[title]} ({' / '.join(map(str, of.tally()))})" for title, of in found.items() if of and rows
        }
        table += [{"MoRE against": _name(other)} | row] if any(found.values()) else []
    empty = {title for title, *_ in columns if all(row[title] == "–" for row in table)}
    return markdown([{name: text for name, text in row.items() if name not in empty} for row in table])


def _page(results: Results, group: Group, drawn: dict, records: Sequence[Mapping[str, Any]]) -> str:
    keys = {(r["dataset"], r["protocol"]) for r in records}
    parts = [f"# {group.title}", group.words]
    parts += [_figure(group.file, drawn, "")] if group.file in drawn else []
    parts += [f"## MoRE against the others: {COLUMNS[group.metric]}"]
    parts += [_comparisons(results, group.metric, group) or "Not measured yet."]
    parts += ["[How to read](../results.md#methods-data-and-versions); below, everything that was measured."]
    for dataset in [name for name in DATASETS if name in {d for d, _ in keys}]:
        words = DATASETS[dataset].words
        parts += [f"## {dataset}", f"{words[0].upper()}{words[1:]}."]
        for protocol in natural({p for d, p in keys if d == dataset}):
            title = f"{protocol}: {results.summary.loc[(dataset, protocol)].index.unique('method').size} methods"
            body = detail(results, dataset, protocol, group.metric)
            parts.append(_dropdown(title, body, opened=group.file == "rna"))
    return "\n\n".join(parts) + "\n"


def detail(results: Results, dataset: str, protocol: str, metric: str) -> str:
    """Everything measured on one data set and protocol, a row per method."""
    of, rows = results.summary.loc[(dataset, protocol)], []
    have, ahead = of.index.unique("metric"), results.differences(metric, dataset, protocol)
    shown = [name for name in COLUMNS if name in have and name not in ("annotation", "novelty", "rare")]
    for method in (m for m in results.methods if m in of.index.unique("method")):
        values = of.loc[method]
        older = " †" * ((dataset, protocol, method) in results.older)
        runs = f"{values['n_seeds'].max():.0f}"
        if (rotations := values["n_rotations"].max()) > 1:
            runs += f" × {rotations:.0f}"
        row = {"method": f"{_name(method)}{older}", "runs": runs}
        row[f"Δ {COLUMNS[metric]}"] = signed(None if method == OURS else ahead.get(method))
        for name in shown:
            one = values[["mean", "min", "max"]].reindex([name]).iloc[0]
            row[COLUMNS[name]] = ranged(*one, 1 if name == "dimension" else 3)
        for name, header, column, unit, digits in COSTS:
            value = values[column].get(name)
            row[header] = "–" if value is None else f"{value / unit:,.{digits}f}"
        rows.append(row)
    scored = of[of.index.get_level_values("metric") == "n_scored"]
    span = " to ".join(dict.fromkeys(f"{n:,.0f}" for n in (scored["min"].min(), scored["max"].max())))
    return f"{span} scored cells of {DATASETS[dataset].types} types.\n\n{markdown(rows)}"


def _figure(name: str, drawn: dict, folder: str) -> str:
    return f"![{drawn[name][1]}]({folder}{name}.svg)\n\n*{drawn[name][1]}*" if name in drawn else ""


def _dropdown(title: str, body: str, opened: bool = False) -> str:
    flag = ":open:\n" if opened else ""
    return f":::{{dropdown}} {title}\n{flag}\n{body}\n:::"


def _about(results: Results, sets: list[str]) -> list[str]:
    """How to read the tables, and what the methods, data and versions are."""
    chosen, methods, data = results.chosen["annotation"], [], []
    names = {of: [_name(m) for m in results.methods if ":" not in m and chosen.get(m) == of] for of in ("own", "LR")}
    said = f"Chosen for macro-F1: *own* for {', '.join(names['own'])}; *LR* for {', '.join(names['LR'])}."
    for method in results.methods:
        variant = method in results.variants
        role = "control" if method in results.controls else "variant" if variant else "peer" * (method != OURS)
        words = METHODS.get(method, "MoRE, one part changed" if variant else "")
        methods.append({"method": _name(method), "what": words, "role": role})
    for name in sets:
        cells, of = max(r["n_cells"] for r in results.records if r["dataset"] == name), DATASETS[name]
        data.append({"data set": f"`{name}`", "what": of.words, "cells": f"{cells:,}", "types": of.types})
    shared = ", ".join(f"{name} with {entry.source}" for name, entry in DATASETS.items() if entry.source)
    shared = f"These share cells and count as one data set in intervals: {shared}."
    seen = sorted({(package, version) for r in results.records for package, version in r["versions"].items()})
    versions = {package: " and ".join(v for p, v in seen if p == package) for package, _ in seen}
    commits = ", ".join(sorted({r["commit"] for r in results.records if r.get("fingerprint") and r.get("commit")}))
    listed = ", ".join(f"{package} {version}" for package, version in versions.items())
    listed += f"; commits {commits}" * bool(commits)
    return [
        TEXTS["reading"],
        said,
        _dropdown("Methods", markdown(methods)),
        _dropdown("Data sets", f"{markdown(data)}\n\n{shared}"),
        _dropdown("Versions and commands", f"{listed}.\n\n{TEXTS['commands']}"),
    ]


def _code(results: Results) -> str:
    """Which code the results were made with, as far as they say."""
    unnamed = [record["method"].split(":")[0] for record in results.records if not record.get("fingerprint")]
    earlier = (
        f"{len(unnamed):,} of {len(results.records):,} results, {unnamed.count(OURS):,} of them of MoRE and its "
        "variants, were measured with an earlier version, before results named the code they were made with."
    )
    older = "† in the tables: some results there are of other code than the newest of that method."
    return " ".join([*[earlier] * bool(unnamed), *[older] * bool(results.older)])


def figures(results: Results) -> dict[str, tuple[pd.DataFrame, str]]:
    """Name of a figure → the table it is drawn from and its caption; those whose results are there."""
    drawable = {}
    for name, (methods, families, words) in FIGURES.items():
        metrics = ("CiLISI", "structure") if name == "tradeoff" else ("annotation",)
        table = _shared(results.table, methods, Group(kind="rna", families=families), metrics)
        if OURS not in set(table["method"]) or families[0] not in {family(p) for p in table["protocol"]}:
            continue
        splits, sets = table[["dataset", "protocol", "seed", "rotation"]].drop_duplicates(), set(table["dataset"])
        caption = f"{words}: mean over {', '.join(sorted(sets))}; {len(splits)} splits, which all methods drawn share."
        drawable[name] = (table.assign(method=table["method"].map(named)), caption)
    return drawable


def draw(results: Results, folder: Path) -> None:
    """Write every drawable figure as SVG."""
    folder.mkdir(parents=True, exist_ok=True)
    plt.rcParams["svg.hashsalt"] = "more"  # the same figure is the same file
    for name, (table, _) in figures(results).items():
        if name == "tradeoff":
            ax = pl.tradeoff(table)
        elif name == "macro_f1":
            ax = pl.scores(table, "annotation")
            ax.set_xlabel("macro-F1 of hidden labels")
        else:
            ax = pl.regimes(table, "annotation", "S1" if name == "few_cells" else "S4")
            ax.set_ylabel("macro-F1 of hidden labels")
        ax.figure.savefig(folder / f"{name}.svg", metadata={"Date": None}, facecolor="white")
        plt.close(ax.figure)


def _shared(table: pd.DataFrame, methods: Sequence[str], group: Group, metrics: Sequence[str]) -> pd.DataFrame:
    """Results on shared splits, of data sets that have every protocol and of methods that have all of these."""
    table = table[[group.belongs(*key) for key in zip(table["dataset"], table["protocol"], strict=True)]]
    table = table[table["metric"].isin(metrics) & table["method"].isin(methods)]
    mine = table[table["method"] == OURS]
    full = [name for name, of in mine.groupby("dataset") if set(of["protocol"]) == set(mine["protocol"])]
    table = table[table["dataset"].isin(full)]
    rows = {m: set(map(tuple, of[["dataset", "protocol", "metric"]].to_numpy())) for m, of in table.groupby("method")}
    kept = [method for method in methods if OURS in rows and rows.get(method) == rows[OURS]]
    parts = [shared_splits(table, kept, metric) for metric in metrics if metric in set(table["metric"])]
    return pd.concat(parts, ignore_index=True) if parts else table[:0]


def shared_splits(table: pd.DataFrame, methods: list[str], metric: str) -> pd.DataFrame:
    """Rows of ``metric`` of these methods on the splits that all of them have, several runs of a split averaged.

    Tidy again; the ``seed`` is that of the draw, 0 where nothing is drawn.
    """
    values = split_values(table[table["method"].isin(methods)], metric).reindex(columns=methods).dropna()
    long = values.rename_axis(columns="method").stack().rename("value").reset_index()
    return long.rename(columns={"draw": "seed"}).assign(metric=metric)


def stale(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Methods and how many of their results were made by other code than the present; ``run.py`` runs them again."""
    prints = {name: method_fingerprint(get_method(name)) for name in list_methods()}
    found = Counter(r["method"] for r in records if r.get("fingerprint") != prints.get(r["method"], ""))
    return [f"{name} ({n})" for name, n in sorted(found.items())]


if __name__ == "__main__":
    args = arguments(__doc__, data=False, docs=DOCS)
    results = Results(load(args.results))
    written = pages(results)
    for path, text in written.items():
        (args.docs / path).parent.mkdir(parents=True, exist_ok=True)
        (args.docs / path).write_text(text)
    draw(results, args.docs / "results")
    print(f"{len(results.records):,} results, {len(written)} pages in {args.docs}")
    print(f"made by other code or settings than the present: {', '.join(stale(results.records)) or 'none'}")
