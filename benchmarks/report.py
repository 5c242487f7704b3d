"""Write the results pages from the result files alone; nothing is computed anew. See README.md in this folder."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from answers import answers, capital, say
from catalogue import (
    CLASSIFIERS,
    COLUMNS,
    CONTROLS,
    DATASETS,
    GROUPS,
    METHODS,
    REGIMES,
    SHORT,
    Belongs,
    Group,
    kind_of,
    named,
)
from figures import draw, figures
from frame import RESULTS, markdown, parser
from gathered import OURS, Results, interval, number, probability, ranged, signed, times
from records import load

from more_scvi.evaluation import get_method, list_methods
from more_scvi.evaluation._compare import Comparison
from more_scvi.evaluation._fingerprint import method_fingerprint
from more_scvi.evaluation._report import summarise
from more_scvi.pl._table import natural

DOCS = RESULTS.parents[1] / "docs"
NOTICE = "<!-- Written by benchmarks/report.py from benchmarks/results; do not edit. -->\n\n"
OTHERS = ("cost", "backbone_gates", "pretraining", "distillation", "speed", "atac_memory")
"""Reports of other scripts in the results folder."""
BEST: dict[str, Callable[[Results], list[str]]] = {
    "best peer of each row": lambda results: results.rivals,
    "best that integrates": lambda results: results.integrating,
}

READING = """\
**How to read.** Labels are hidden before a method starts, and scored where they were hidden. *own*, *LR*, *kNN*:
macro-F1 by the method's own classifier, a linear probe on the embedding, and 15 neighbours in it. *CiLISI*: mixing of
batches within types (1: as by chance). *structure*: distances within a type and batch against those of each modality's
own components (1: unchanged). *dimension*: effective dimension within types. *runs*: seeds × rotations, in brackets the
range over all of them. [What each figure is](how/evaluation.md).

**Comparisons** use only splits that both methods have. The figure of a method is the better of *own* and *LR*, chosen
once by the mean over all its rows; likewise its novelty score (of own, LR, kNN and the share of labelled neighbours)
for unseen types, and its F1 of a rare type (of own, LR). A row is a data set × protocol, and all rows count alike. Δ is
MoRE minus the other; a row is level if it is below .005. *time ×*: CPU seconds of the other over those of MoRE. The
best peer of each row is picked with hindsight, which is hard on MoRE. Peers with a number of *steps* in their name were
trained for less than their default epochs: what is said of them is never bold, and they never are the best peer.

The 95 % interval resamples whole data sets, so it respects that splits and protocols of a data set are not independent;
bold: it excludes zero. With few data sets it is too narrow. p (Wilcoxon signed-rank over rows) does not respect it, and
is too small where a data set has several rows; with n < 6 rows none below .05 is possible. r is its effect size, the
rank-biserial correlation (1: every row in favour of MoRE).
"""


BACKBONE_FIGURES = {
    "few_labels": ("backbone_labels",),
    "few_cells": ("backbone_new_batch",),
    "modalities": ("backbone_modalities",),
}
"""Page → figures of what the backbone adds there."""


def pages(results: Results, results_dir: Path = RESULTS) -> dict[str, str]:
    """Path below ``docs`` → text of every page."""
    drawn = figures(results)
    found = {"results.md": _front(results, drawn), "results/answers.md": answers(results)}
    for group in GROUPS:
        if (text := _page(results, group, drawn)) is not None:
            found[f"results/{group.file}.md"] = text
    found["results/experiments.md"] = _included(results_dir)
    names = [Path(path).stem for path in found if path != "results.md"]
    toctree = "\n".join(f"results/{name}" for name in names)
    found["results.md"] += f"\n```{{toctree}}\n:hidden:\n:maxdepth: 1\n\n{toctree}\n```\n"
    return {path: NOTICE + text for path, text in found.items()}


def _front(results: Results, drawn: dict) -> str:
    records, table = results.records, results.table
    sets = [name for name in DATASETS if name in set(table["dataset"])]
    rna = [name for name in sets if kind_of(name) == "rna"]
    n_seeds = table["seed"].nunique()
    parts = [
        "# Results",
        f"{len(records):,} results: {len(results.methods)} methods and variants on {len(sets)} data sets, up to "
        f"{n_seeds} seeds, labels hidden from all of them. [Answers](results/answers.md) says what follows, and "
        "[where MoRE loses](results/answers.md#where-does-more-lose-and-to-whom); the tables are a page each:",
        _contents(results),
        "## MoRE against the others, RNA",
        _headline(results, rna),
        _comparisons(results, "annotation", _ordinary("rna")),
    ]
    parts += [_figure(name, drawn, "results/") for name in ("macro_f1", "tradeoff", "few_labels") if name in drawn]
    parts += [
        "## Where they differ",
        "Δ of macro-F1 per regime; of an unseen type the AUROC of noticing it, of a rare type its F1. In brackets rows "
        "won / level / lost; bold: the interval excludes zero.",
        _by_regime(results),
        "## Mixing, structure and neighbours, RNA",
        _other_figures(results, _ordinary("rna")),
    ]
    for kind, title in (("multi", "Several modalities"), ("spatial", "Spatial sections")):
        if body := _comparisons(results, "annotation", _ordinary(kind)):
            parts += [f"## MoRE against the others, {title.lower()}", body]
    parts += ["## Methods, data and versions", READING.strip(), _chosen(results)]
    parts += [_dropdown("Methods", _methods(results)), _dropdown("Data sets", _datasets(results, sets))]
    parts += [_dropdown("Versions and commands", _versions(results))]
    parts.insert(2, _code(results))
    return "\n\n".join(part for part in parts if part) + "\n"


def _ordinary(kind: str) -> Belongs:
    return lambda dataset, protocol: kind_of(dataset) == kind and not protocol.startswith("S5")


def _contents(results: Results) -> str:
    rows = []
    for group in GROUPS:
        of = [r for r in results.records if group.belongs(r["dataset"], r["protocol"])]
        name = f"[{group.title}](results/{group.file}.md)" if of else f"{group.title}: not measured yet"
        protocols = ", ".join(_short(natural({r["protocol"] for r in of})))
        sets = len({r["dataset"] for r in of})
        rows.append({"page": name, "hidden": protocols or "–", "data sets": sets, "results": len(of)})
    rows.append(
        {"page": "[Experiments and cost](results/experiments.md)", "hidden": "–", "data sets": "–", "results": "–"}
    )
    return markdown(rows)


def _short(protocols: list[str]) -> list[str]:
    """``S4-1, S4-3`` as ``S4-1, 3``."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in protocols:
        head, _, tail = name.partition("-")
        key, value = (head, tail) if tail.replace(".", "").isdigit() else (name, "")
        groups[key].append(value)
    return [key + (f"-{', '.join(v for v in values if v)}" if any(values) else "") for key, values in groups.items()]


def _headline(results: Results, sets: list[str]) -> str:
    found = results.against_best("annotation", _ordinary("rna"))
    if found is None:
        return "Not measured yet."
    best = {"that integrates": results.integrating, "that only classifies": CLASSIFIERS}
    said = [say(found, "MoRE", "the best peer of each row")]
    for words, among in best.items():
        one = results.against_best("annotation", _ordinary("rna"), among=among)
        said.append(say(one, "MoRE", f"the best peer {words}"))
    claims = "\n".join(f"- {capital(sentence)}." for sentence in said)
    short = ", ".join(named(method) for method in results.peers if method in SHORT and ":" not in method)
    return (
        f"Macro-F1 of hidden labels over {found.n_rows} rows (data set × protocol) of {', '.join(sets)}:\n\n"
        f"{claims}\n\nRare types are not in this table: they have a figure of their own."
        + f" Not among these peers, as they were trained for less than their default epochs: {short}."
        * bool(short)
    )


def _comparisons(results: Results, metric: str, belongs: Belongs) -> str:
    """MoRE against every peer, the best of them in each row, and the controls."""
    others = results.compare_all([*results.peers, *results.controls], metric, belongs)
    if not others:
        return ""
    rows = []
    for words, among in BEST.items():
        best = results.against_best(metric, belongs, among=among(results))
        if best is not None:
            rows.append(_comparison(f"*{words}*", best, None))
    for other, found in others.items():
        kind = " (control)" if other.split(":")[0] in CONTROLS else ""
        rows.append(_comparison(f"`{named(other)}`{kind}", found, results.times_longer(other, belongs)))
    return markdown(rows)


def _comparison(name: str, found: Comparison, longer: float | None) -> dict[str, str]:
    return {
        "MoRE against": name,
        "Δ": _marked(found, signed(found.difference)),
        "95 %": interval(found),
        "won / level / lost": _score(found),
        "MoRE": number(found.rows["ours"].mean()),
        "other": number(found.rows["other"].mean()),
        "data sets": str(found.n_sources),
        "splits": str(int(found.rows["n_splits"].sum())),
        "p": probability(found),
        "r": number(found.effect, 2),
        "time ×": times(longer),
    }


def _score(found: Comparison) -> str:
    return " / ".join(map(str, found.tally()))


def _marked(found: Comparison, text: str) -> str:
    shown = found.verdict() in ("better", "worse") and found.other not in SHORT
    return f"**{text}**" if shown else text


def _by_regime(results: Results) -> str:
    rows = []
    for other in [*BEST, *results.peers]:
        row = {"MoRE against": f"*{other}*" if other in BEST else f"`{named(other)}`"}
        for words, metric, belongs in REGIMES:
            if other in BEST:
                found = results.against_best(metric, belongs, among=BEST[other](results))
            else:
                found = results.compare(other, metric, belongs)
            text = "–"
            if found is not None:
                text = f"{_marked(found, signed(found.difference))} ({_score(found)})"
            row[words] = text
        if any(value != "–" for value in list(row.values())[1:]):
            rows.append(row)
    shown = [name for name in rows[0] if any(row[name] != "–" for row in rows)]
    return markdown([{name: row[name] for name in shown} for row in rows])


def _other_figures(results: Results, belongs: Belongs) -> str:
    rows = []
    for other in [*results.peers, *results.controls]:
        row, any_found = {"MoRE against": f"`{named(other)}`"}, False
        for metric in ("kNN", "LR", "CiLISI", "structure", "dimension"):
            found = results.compare(other, metric, belongs)
            digits = 1 if metric == "dimension" else 3
            any_found |= found is not None
            text = "–" if found is None else _marked(found, signed(found.difference, digits))
            row[f"Δ {COLUMNS[metric]}"] = text
        if any_found:
            rows.append(row)
    return markdown(rows)


def _page(results: Results, group: Group, drawn: dict) -> str | None:
    table = results.table
    keys = {(d, p) for d, p in zip(table["dataset"], table["protocol"], strict=True) if group.belongs(d, p)}
    if not keys:
        return None
    parts = [f"# {group.title}", group.words]
    of_page = (group.file, *BACKBONE_FIGURES.get(group.file, ()))
    parts += [_figure(name, drawn, "") for name in of_page if name in drawn]
    parts += [f"## MoRE against the others: {COLUMNS[group.metric]}"]
    parts += [_comparisons(results, group.metric, group.belongs) or "Not measured yet."]
    parts += ["[How to read](../results.md#methods-data-and-versions); below, everything that was measured."]
    summary = summarise(table)
    for dataset in [name for name in DATASETS if name in {d for d, _ in keys}]:
        parts.append(f"## {dataset}")
        parts.append(f"{capital(DATASETS[dataset].words)}.")
        for protocol in natural({p for d, p in keys if d == dataset}):
            of = summary.loc[(dataset, protocol)]
            title = f"{protocol}: {of.index.get_level_values('method').nunique()} methods"
            parts.append(_dropdown(title, _detail(results, of, dataset, protocol, group), opened=group.file == "rna"))
    return "\n\n".join(parts) + "\n"


def _detail(results: Results, of: pd.DataFrame, dataset: str, protocol: str, group: Group) -> str:
    """Everything measured on one data set and protocol, a row per method."""
    have = set(of.index.get_level_values("metric"))
    shown = [name for name in COLUMNS if name in have and name not in ("annotation", "novelty", "rare")]

    rows = []
    for method in (m for m in results.methods if m in of.index.get_level_values("method")):
        values = of.loc[method]
        ahead = None if method == OURS else results.difference(method, group.metric, dataset, protocol)
        older = " †" * ((dataset, protocol, method) in results.older)
        row = {"method": f"`{named(method)}`{older}", "runs": _runs(values)}
        row[f"Δ {COLUMNS[group.metric]}"] = signed(ahead)
        for name in shown:
            one = values.loc[name] if name in values.index else None
            digits = 1 if name == "dimension" else 3
            row[COLUMNS[name]] = "–" if one is None else ranged(one["mean"], one["min"], one["max"], digits)
        rows.append(row | _cost(values))
    seconds = _default_seconds(results, dataset, protocol)
    types = f"{_scored(of)} scored cells of {DATASETS[dataset].types} types" if dataset in DATASETS else ""
    return f"{types}.{seconds}\n\n{markdown(rows)}"


def _runs(values: pd.DataFrame) -> str:
    seeds, rotations = int(values["n_seeds"].max()), int(values["n_rotations"].max())
    return f"{seeds}" if rotations == 1 else f"{seeds} × {rotations}"


def _cost(values: pd.DataFrame) -> dict[str, str]:
    def of(name: str, column: str = "mean") -> float | None:
        return float(values.loc[name, column]) if name in values.index else None

    seconds, memory, trained = of("seconds"), of("memory", "max"), of("trained")
    return {
        "CPU s": "–" if seconds is None else f"{seconds:,.1f}",
        "memory (MB)": "–" if memory is None else f"{memory / 2**20:,.0f}",
        "trained": "–" if trained is None else f"{trained:,.0f}",
    }


def _scored(of: pd.DataFrame) -> str:
    cells = of.xs("n_scored", level="metric")
    low, high = int(cells["min"].min()), int(cells["max"].max())
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _default_seconds(results: Results, dataset: str, protocol: str) -> str:
    """What scvi-tools' default epochs would take, where it was noted."""
    found: dict[str, list[float]] = defaultdict(list)
    for record in results.records:
        seconds = (record.get("notes") or {}).get("default_training_seconds")
        if (record["dataset"], record["protocol"]) == (dataset, protocol) and seconds is not None:
            found[named(record["method"])].append(float(seconds))
    said = [f"`{method}` {np.mean(values):,.0f} s" for method, values in sorted(found.items())]
    return f" Training at the default epochs of scvi-tools would take: {', '.join(said)}." if said else ""


def _included(results_dir: Path) -> str:
    """Reports of other scripts, as they wrote them."""
    experiments = sorted((results_dir / "experiments").glob("*.md"))
    files = [*experiments, *(results_dir / f"{name}.md" for name in OTHERS)]
    parts = ["# Experiments and cost", "Written by further scripts in `benchmarks/`, included as they are."]
    for file in (f for f in files if f.exists()):
        path = f"../../benchmarks/results/{file.relative_to(results_dir).as_posix()}"
        parts.append(f"```{{include}} {path}\n:heading-offset: 1\n:relative-images:\n```")
    return "\n\n".join(parts) + "\n"


def _figure(name: str, drawn: dict, folder: str) -> str:
    caption = drawn[name][1]
    return f"![{caption}]({folder}{name}.svg)\n\n*{caption}*"


def _dropdown(title: str, body: str, opened: bool = False) -> str:
    flag = ":open:\n" if opened else ""
    return f":::{{dropdown}} {title}\n{flag}\n{body}\n:::"


def _chosen(results: Results) -> str:
    names = {"own": [], "LR": []}
    for method in results.methods:
        if ":" not in method and method in results.chosen["annotation"]:
            names[results.chosen["annotation"][method]].append(f"`{named(method)}`")
    return f"Chosen for macro-F1: *own* for {', '.join(names['own'])}; *LR* for {', '.join(names['LR'])}."


def _methods(results: Results) -> str:
    rows = []
    for method in results.methods:
        role = "control" if method.split(":")[0] in CONTROLS else ("variant" if method in results.variants else "")
        words = METHODS.get(method, "MoRE, one part changed" if role == "variant" else "")
        rows.append({"method": f"`{named(method)}`", "what": words, "role": role or ("" if method == OURS else "peer")})
    return markdown(rows)


def _datasets(results: Results, sets: list[str]) -> str:
    rows = []
    for name in sets:
        entry = DATASETS[name]
        cells = max(r["n_cells"] for r in results.records if r["dataset"] == name)
        rows.append({"data set": f"`{name}`", "what": entry.words, "cells": f"{cells:,}", "types": entry.types})
    shared = ", ".join(f"{name} with {entry.source}" for name, entry in DATASETS.items() if entry.source)
    table = markdown(rows)
    return f"{table}\n\nThese share cells and count as one data set in intervals: {shared}."


def _code(results: Results) -> str:
    """Which code the results were made with, as far as they say."""
    records = results.records
    unnamed = [record for record in records if not record.get("fingerprint")]
    said = []
    if unnamed:
        mine = sum(record["method"].split(":")[0] == OURS for record in unnamed)
        said.append(
            f"{len(unnamed):,} of {len(records):,} results, {mine:,} of them of MoRE and its variants, were measured "
            "with an earlier version, before results named the code they were made with."
        )
    if results.older:
        said.append("† in the tables: some results there are of other code than the newest of that method.")
    return " ".join(said)


def _versions(results: Results) -> str:
    seen: dict[str, set[str]] = defaultdict(set)
    for record in results.records:
        for package, version in record["versions"].items():
            seen[package].add(version)
    listed = ", ".join(f"{package} {' and '.join(sorted(versions))}" for package, versions in sorted(seen.items()))
    commits = {record["commit"] for record in results.records if record.get("fingerprint") and record.get("commit")}
    listed += f"; commits {', '.join(sorted(commits))}" * bool(commits)
    return (
        f"{listed}.\n\nCPU seconds are of one thread; memory is the growth of the process, the largest over runs, and "
        "without the training where a trained scVI, totalVI or MultiVI was taken from the cache.\n\n"
        "```bash\n"
        "python benchmarks/run.py --data /path/to/data --cache /tmp/more-cache   # what is missing\n"
        "python benchmarks/report.py                                             # these pages; what is stale\n"
        "```"
    )


def stale(records: Iterable[Mapping[str, Any]]) -> list[str]:
    """Methods and how many of their results were made by other code than the present; ``run.py`` runs them again."""
    found = Counter()
    prints: dict[str, str | None] = {}
    for record in records:
        name = record["method"]
        if name not in prints:
            known = name in list_methods()
            prints[name] = method_fingerprint(get_method(name)) if known else None
        found[name] += prints[name] is None or record.get("fingerprint") != prints[name]
    return [f"{name} ({n})" for name, n in sorted(found.items()) if n]


def main() -> None:
    """Write pages and figures."""
    options = parser(__doc__, data=False)
    options.add_argument("--results", type=Path, default=RESULTS, help="default: results beside this file")
    options.add_argument("--docs", type=Path, default=DOCS, help="folder of the pages (default: docs)")
    arguments = options.parse_args()
    results = Results(load(arguments.results))
    written = pages(results, arguments.results)
    for path, text in written.items():
        (arguments.docs / path).parent.mkdir(parents=True, exist_ok=True)
        (arguments.docs / path).write_text(text)
    draw(results, arguments.docs / "results")
    print(f"{len(results.records):,} results, {len(written)} pages in {arguments.docs}")
    print(f"made by other code or settings than the present: {', '.join(stale(results.records)) or 'none'}")


if __name__ == "__main__":
    main()
