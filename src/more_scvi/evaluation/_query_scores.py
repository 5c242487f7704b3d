"""Figures of queries and growing references: the same cells in other company, other genes, nothing forgotten."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from more_scvi.metrics._annotation import macro_f1, per_type_f1

from ._splits import COMPOSITIONS, composed
from ._tasks import Task
from .methods._method import Result

N_BINS = 10


def query_scores(
    task: Task,
    result: Result,
    predictions: Mapping[str, NDArray],
    probabilities: Mapping[str, pd.DataFrame],
    on: NDArray[np.bool_],
) -> dict[str, float | None]:
    """Figures of ``S2b``, ``S8``, ``S9`` and ``S10``; none for the other protocols.

    ``right_how``: share of the cells annotated right (own classifier, else 15 neighbours) that are in the query under
    composition ``how``, for ``S8-all`` under every one: the same cells, with and without the others. ``ECE``: expected
    calibration error of the own probabilities; ``confidence``: their mean. ``genes``: share of the genes that the query
    has. ``drift``: largest change of the embedding of the reference's cells, over its spread; ``old_before`` and
    ``old``: macro-F1 of the reference's hidden labels before anything was added, and at the end; ``added``: of those of
    the added batches; ``new_type``: F1 of the type that was added; ``grow_seconds``: CPU seconds of the additions.
    """
    kind, _, rest = task.split.protocol.partition("-")
    y, said = task.labels, predictions.get("own", predictions.get("kNN"))
    scores: dict[str, float | None] = {}
    if kind in ("S8", "S8m") and said is not None:
        query = task.batches == task.split.held_out
        for how in COMPOSITIONS if rest == "all" else [rest]:
            cells = composed(y, query, task.cells, how) if rest == "all" else on
            scores[f"right_{how}"] = float(np.mean(said[cells] == y[cells])) if cells.any() else None
    if kind in ("S2b", "S9") and "own" in probabilities and on.any():
        scores["ECE"] = calibration_error(probabilities["own"][on], y[on])
        scores["confidence"] = float(probabilities["own"][on].to_numpy().max(axis=1).mean())
    if kind == "S9" and task.query is not None:
        scores["genes"] = task.query.n_vars / task.data.n_vars
    if kind == "S10" and task.split.absent is not None:
        n, name = y.size - int(task.split.absent.sum()), task.split.held_out
        scores["grow_seconds"] = result.seconds.get("growing")
        old = on & (np.arange(y.size) < n)
        if said is not None:
            scores |= {"old": macro_f1(y[old], said[old]), "added": macro_f1(y[on & ~old], said[on & ~old])}
            scores["new_type"] = float(per_type_f1(y[on & ~old], said[on & ~old])["f1"].get(name, np.nan))
        if result.before is not None and result.z is not None:
            z, first = result.before
            scores["drift"] = float(np.abs(result.z[:n] - z).max() / z.std())
            scores["old_before"] = macro_f1(y[old], np.asarray(first).astype(str)[old[:n]])
    return scores


def calibration_error(probability: pd.DataFrame, labels: NDArray[Any]) -> float | None:
    """Expected calibration error: gap between confidence and share right, over ten bins of confidence, by cells."""
    if not len(labels):
        return None
    confidence = probability.to_numpy().max(axis=1)
    right = probability.idxmax(axis=1).to_numpy().astype(str) == labels
    bins = np.minimum((confidence * N_BINS).astype(int), N_BINS - 1)
    gaps = np.bincount(bins, right - confidence, N_BINS)
    return float(np.abs(gaps).sum() / len(labels))
