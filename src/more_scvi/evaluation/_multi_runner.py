"""Run methods on tasks with several modalities; whatever is there already is not run again.

The folder is laid out as that of :func:`~more_scvi.evaluation.run_benchmark`, so that ``load_results`` reads it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ._multi_data import prepare_views
from ._multi_methods import METHODS_OF, MULTI_METHODS, MultiMethod
from ._multi_metrics import score_task
from ._multi_tasks import TASKS, Task
from ._report import _markdown, _value
from ._runner import _file, _memory, _number, _versions, write_json

logger = logging.getLogger(__name__)

_COLUMNS = (
    *("own", "LR", "kNN", "own_balanced", "LR_balanced", "CiLISI", "structure", "structure_rna", "dimension"),
    *("pearson", "spearman", "FOSCTTM", "recall@10"),
)


def run_task(task: Task, method: MultiMethod, cache_dir: str | os.PathLike | None = None) -> dict[str, Any]:
    """Run one method on one task; a JSON-serialisable record of its scores and cost."""
    prepare_views(task.data)
    split = task.split
    with _memory() as memory:
        result = method(
            task.given(method.sees_hidden),
            split.seed,
            None if cache_dir is None else Path(cache_dir),
            task.counterparts(),
        )
    return {
        **{key: getattr(split, key) for key in ("dataset", "protocol", "seed", "rotation", "held_out")},
        "split": split.name,
        "method": method.name,
        "seeded": method.seeded,
        "scores": {key: _number(value) for key, value in score_task(task, result).items()},
        "seconds": {key: round(value, 3) for key, value in result.seconds.items()},
        "wall_seconds": {key: round(value, 3) for key, value in result.wall_seconds.items()},
        "peak_memory": memory[0],
        "parameters": result.parameters,
        "n_latent": None if result.z is None else int(result.z.shape[1]),
        "n_cells": int(task.data.n_obs),
        "notes": result.notes,
        "versions": _versions(),
    }


def run_multi(
    data_dir: str | os.PathLike,
    results_dir: str | os.PathLike,
    tasks: Sequence[str] | None = None,
    methods: Sequence[str] | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    cache_dir: str | os.PathLike | None = None,
    extra: Mapping[str, MultiMethod] | None = None,
) -> int:
    """Run every missing (task, method).

    Parameters
    ----------
    data_dir, results_dir
        Where the data are, and where results go (created).
    tasks
        Names of :data:`TASKS` or how they begin, e.g. ``"pbmc_cite"`` (default: all).
    methods
        Names of methods (default: those of :data:`METHODS_OF` for each task). A task runs those of them that it lists;
        variants that no task lists (``more:...``) run wherever their method does.
    seeds
        Seeds of ``S1``; the other protocols use the first.
    cache_dir
        Fits of totalVI and MultiVI, which all label splits of a data set share.
    extra
        Further methods by name, e.g. variants of MoRE; run when named in ``methods``.

    Returns
    -------
    Number of results computed; a method that fails is logged and does not stop the others.
    """
    known = {**MULTI_METHODS, **(extra or {})}
    chosen = [name for name in TASKS if tasks is None or name.startswith(tuple(tasks))]
    if not chosen or (unknown := sorted(set(methods or ()) - set(known))):
        wrong = f"Methods {unknown} are" if chosen else f"Tasks {list(tasks or ())} are"
        raise ValueError(f"{wrong} unknown. Tasks: {', '.join(TASKS)}. Methods: {', '.join(known)}.")
    done = 0
    for name in chosen:
        listed = METHODS_OF[name]
        for task in TASKS[name](data_dir, seeds):
            for method in (known[key] for key in methods or listed if _suits(key, listed)):
                folder = Path(results_dir) / task.split.dataset / task.split.name
                path = folder / f"{_file(method.name)}.json"
                if path.exists():
                    continue
                logger.info("%s %s %s", task.split.dataset, task.split.name, method.name)
                try:
                    record = run_task(task, method, cache_dir)
                except Exception:  # one failing method must not end hours of work
                    logger.exception("%s %s %s failed", task.split.dataset, task.split.name, method.name)
                    continue
                write_json(folder / "split.json", task.split.to_json())
                write_json(path, record)
                logger.info("  %s", {key: value for key, value in record["scores"].items() if value is not None})
                done += 1
    return done


def _suits(method: str, listed: Sequence[str]) -> bool:
    everywhere = {name for names in METHODS_OF.values() for name in names}
    return method in listed or (method not in everywhere and method.split(":")[0] in listed)


def report_multi(records: Iterable[Mapping[str, Any]]) -> str:
    """Markdown: one table per data set and protocol; mean over rotations and seeds, in brackets the range over both."""
    rows = [
        {key: record[key] for key in ("dataset", "protocol", "method")}
        | {column: record["scores"].get(column) for column in _COLUMNS}
        | {"seconds": sum(record["seconds"].values()) or None, "trained": record["parameters"].get("trained")}
        | {"notes": record["notes"]}
        for record in records
    ]
    if not rows:
        raise ValueError("No results to report. Run the benchmark first.")
    table = pd.DataFrame(rows).astype(dict.fromkeys([*_COLUMNS, "seconds", "trained"], float))
    order = {name: i for i, name in enumerate(MULTI_METHODS)}
    parts = [_INTRODUCTION]
    for (dataset, protocol), group in table.groupby(["dataset", "protocol"]):
        shown = [column for column in _COLUMNS if group[column].notna().any()]
        lines = []
        for method in sorted(group["method"].unique(), key=lambda name: order.get(name, len(order)), reverse=True):
            of = group[group["method"] == method]
            values = {c: _value(of[c].mean(), of[c].min(), of[c].max()) for c in shown}
            lines.append({"method": method, "splits": len(of), **values, **_cost(of)})
        parts.append(f"## {dataset}, {protocol}\n\n{_markdown(pd.DataFrame(lines))}")
    return "\n\n".join(parts) + "\n"


def _cost(of: pd.DataFrame) -> dict[str, str]:
    seconds, trained = of["seconds"].mean(), of["trained"].mean()
    notes = of["notes"].iloc[0]
    default = f"{notes['default_training_seconds']:,.0f}" if "default_training_seconds" in notes else "–"
    return {
        "seconds": "–" if np.isnan(seconds) else f"{seconds:.1f}",
        "default s": default,
        "trained": "–" if np.isnan(trained) else f"{trained:,.0f}",
    }


_INTRODUCTION = (
    "Macro-F1 of hidden labels by the method's own classifier (own), a linear probe (LR) and 15 neighbours (kNN); "
    "`balanced`: mean recall. CiLISI: mixing within types, of batches (S1, S2a) or of cells with different modalities "
    "(the rest). structure: distances within (type, batch) against each modality's own view (PCA, LSI, CLR), mean over "
    "modalities. pearson, spearman: imputed against log1p observed proteins of the batch whose proteins were hidden, "
    "mean over proteins. FOSCTTM (0 best, 0.5 chance) and recall@10: the two halves of cells that were not paired in "
    "training. `ceiling` is trained on half of the target labels. Mean and range over splits. seconds: CPU seconds on "
    "one thread for views, training and embedding. totalVI and MultiVI are fitted once for all label splits, with at "
    "least 2,500 minibatches of 128; `default s` is what scvi-tools' default epochs would take in training, "
    "extrapolated from the CPU seconds per cell seen."
)
