"""One method on one task: its result, all figures of it, what it cost; and :func:`evaluate` for any embedding."""

import math
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import ArrayLike, NDArray

from more_scvi.data._fields import RNA
from more_scvi.metrics._annotation import (
    average_precision,
    balanced_accuracy,
    knn_predict,
    macro_f1,
    per_type_f1,
    probe_probabilities,
    scorable,
)
from more_scvi.metrics._check import check_matrix
from more_scvi.metrics._integration import connectivity, graph_scores, neighbours, transfer
from more_scvi.metrics._matching import foscttm, imputation, recall_at
from more_scvi.metrics._mixing import cilisi
from more_scvi.metrics._novelty import knn_novelty, neighbour_novelty, novelty_auroc, purity
from more_scvi.metrics._scib import scib
from more_scvi.metrics._structure import effective_dimension, structure

from ._data import BATCH_KEY, LABELS_KEY, UNLABELED, dense, modalities, present
from ._fingerprint import method_fingerprint, settings
from ._query_scores import query_scores
from ._splits import Split, labelled, order_of
from ._store import commit, split_digest, versions
from ._tasks import Task
from .methods._method import Given, Method, Result, get_method

Scores = dict[str, float | None]
METRICS = ("own", "LR", "kNN", "transfer", "CiLISI", "connectivity", "structure", "dimension")
"""Figures of every embedding with labels, in the order of columns (``transfer``: without any label)."""


def evaluate(
    embeddings: Mapping[str, ArrayLike],
    split: Split,
    labels: ArrayLike,
    batches: ArrayLike,
    reference: ArrayLike | None = None,
    predictions: Mapping[str, ArrayLike] | None = None,
    probabilities: Mapping[str, pd.DataFrame] | None = None,
    with_scib: bool = False,
    unlabeled_category: str = "Unknown",
) -> pd.DataFrame:
    """Score embeddings and predictions on the cells whose labels a split hid.

    Nothing is trained but the probes; whatever made the embeddings must have been given ``split.hide(labels)``.

    Parameters
    ----------
    embeddings
        Name → embedding ``(n_cells, n_latent)`` of the cells that take part in the split, in their order.
    split
        What was hidden, see :func:`~more_scvi.evaluation.make_splits`.
    labels, batches
        True types and batches ``(n_cells,)`` of all cells that the split covers.
    reference
        Untouched low-rank view ``(n_cells, d)`` of the same cells, the yardstick of ``structure``; take 50 PCs.
        ``None``: no ``structure``.
    predictions, probabilities
        Name → predicted labels ``(n_cells,)``, and name → probabilities, cells × types, of methods that have a
        classifier of their own. A name may occur here alone.
    with_scib
        Also the figures of scib-metrics (:func:`~more_scvi.metrics.scib`): minutes, and the extra ``benchmark``.
    unlabeled_category
        Label of cells without one: they, and cells whose label is missing, are neither learned from nor scored.

    Returns
    -------
    One row per method, one column per metric; NaN where a figure does not exist for a method.

    Raises
    ------
    TypeError
        If something is not given by name, or ``split`` is no :class:`~more_scvi.evaluation.Split`.
    ValueError
        If an array does not have one row per cell of the split, or cannot be scored.

    Examples
    --------
    >>> import more_scvi as more
    >>> adata = more.data.simulate_batches()
    >>> labels, batches = adata.obs["cell_type"], adata.obs["batch"]
    >>> split = more.evaluation.make_splits(labels, batches, "S1")[0]
    >>> adata.obs["label"] = split.hide(labels)  # what a method is given
    >>> z = adata.X[:, :50].toarray()  # stands for the embedding of a method
    >>> more.evaluation.evaluate({"genes": z}, split, labels, batches).loc["genes", ["LR", "kNN"]]  # doctest: +SKIP
    """
    if not isinstance(split, Split):
        raise TypeError(f"split is a {type(split).__name__}; give one that evaluation.make_splits returned.")
    y, b = np.asarray(labels).astype(str), np.asarray(batches).astype(str)
    if y.shape != split.hidden.shape or b.shape != y.shape:
        raise ValueError(f"Split {split.name} covers {split.hidden.size} cells; got {y.size} labels, {b.size} batches.")
    order = order_of(split)
    known = labelled(labels, unlabeled_category)[order]
    y, b, hidden = y[order], b[order], split.hidden[order] | ~known
    if hidden.all() and split.protocol != "S7":
        raise ValueError(f"Split {split.name} leaves no visible label. Are labels the true ones, before split.hide?")
    points: dict[str, Any] = {}
    predictions = {} if predictions is None else predictions
    probabilities = {} if probabilities is None else probabilities
    for kind, given in (("embeddings", embeddings), ("predictions", predictions), ("probabilities", probabilities)):
        if not isinstance(given, Mapping):
            raise TypeError(f"{kind} is a {type(given).__name__}; give a dictionary from names of methods to arrays.")
        for name, value in given.items():
            _check_rows(f"{kind}[{name!r}]", value, order.size, split)
            if kind == "embeddings":
                points[name] = check_matrix(value, f"embeddings[{name!r}]")
            elif kind == "probabilities" and not isinstance(value, pd.DataFrame):
                found = type(value).__name__
                raise TypeError(f"probabilities[{name!r}] is a {found}; give a DataFrame whose columns are the types.")
            elif kind == "probabilities":
                check_matrix(value, f"probabilities[{name!r}]")
            elif kind == "predictions" and np.ndim(value) != 1:
                raise ValueError(f"predictions[{name!r}] has shape {np.shape(value)}; give one label for each cell.")
    names = list(dict.fromkeys([*embeddings, *predictions, *probabilities]))
    if not names:
        raise ValueError("Nothing to evaluate: give embeddings, predictions or probabilities by name.")
    view: Any = reference
    if view is not None:
        whole = np.shape(view)[:1] == split.hidden.shape
        _check_rows("reference", view, split.hidden.size if whole else order.size, split)
        view = check_matrix(view, "reference")[order if whole else slice(None)]
    obs = pd.DataFrame({BATCH_KEY: b, LABELS_KEY: np.where(known, y, UNLABELED)}, index=np.arange(y.size).astype(str))
    data = AnnData(obs=obs, obsm={} if view is None else {"view": view})
    task = Task(split, data, hidden, hidden & known, b, known)
    rows = {}
    for name in names:
        z, probability = points.get(name), probabilities.get(name)
        prediction = np.asarray(predictions[name]) if name in predictions else None
        if prediction is None and probability is not None:
            prediction = probability.idxmax(axis=1).to_numpy()
        result = Result(z, prediction, probability)
        rows[name] = score_task(task, result, with_scib)[0]
    table = pd.DataFrame.from_dict(rows, orient="index").astype(float)
    first = [name for name in METRICS if name in table]
    return table[[*first, *table.columns.difference(first, sort=False)]]


def run_task(
    task: Task, method: Method, cache_dir: str | os.PathLike | None = None, with_scib: bool = False
) -> tuple[Result, dict[str, Any]]:
    """Run one method on one task and score it.

    Parameters
    ----------
    task
        See :func:`~more_scvi.evaluation.make_tasks`. The method receives it without hidden labels.
    method
        The method; only one that declares ``sees_hidden`` is given all labels.
    cache_dir, with_scib
        As for :func:`run`.

    Returns
    -------
    The method's result and a JSON-serialisable record of its scores and cost.

    Examples
    --------
    >>> task = next(make_tasks(adata, "S1"))  # doctest: +SKIP
    >>> result, record = run_task(task, get_method("pca"))  # doctest: +SKIP
    """
    if isinstance(method, str):
        method = get_method(method)
    if not isinstance(task, Task) or not isinstance(method, Method):
        wrong, wanted = (method, "method") if isinstance(task, Task) else (task, "task")
        how = {"task": "one of evaluation.make_tasks(data, protocol)", "method": "evaluation.get_method(name)"}[wanted]
        raise TypeError(f"{wanted} is a {type(wrong).__name__}; give {how}.")
    task.prepare()
    split = task.split
    given = Given(
        task.given(method.sees_hidden),
        split.seed,
        None if cache_dir is None else Path(cache_dir),
        task.given_query(),
        task.counterparts(),
        task.rounds,
    )
    with _memory() as memory:
        result = method(given)
    scores, types = score_task(task, result, with_scib)
    record = {
        **{key: getattr(split, key) for key in ("dataset", "protocol", "seed", "rotation", "held_out")},
        "split": split.name,
        "split_digest": split_digest(split),
        "method": method.name,
        "settings": settings(method),
        "fingerprint": method_fingerprint(method, task.data),
        "seeded": method.seeded,
        "scores": {key: _number(value) for key, value in scores.items()},
        "per_type": types,
        "seconds": {key: round(value, 3) for key, value in result.seconds.items()},
        "wall_seconds": {key: round(value, 3) for key, value in result.wall_seconds.items()},
        "peak_memory": memory[0],
        "parameters": result.parameters,
        "n_latent": None if result.z is None else int(result.z.shape[1]),
        "n_cells": int(task.hidden.size),
        "notes": result.notes,
        "versions": versions(),
        "commit": commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return result, record


def score_task(task: Task, result: Result, with_scib: bool = False) -> tuple[Scores, dict[str, Any]]:
    """All figures of one result, those that do not exist for it left out or ``None``; and F1 per type.

    Labels by the own classifier, a linear probe and neighbours, the type that is held out, the embedding.
    """
    if task.unlabelled:
        return {"n_scored": int(task.cells.sum()), **_unlabelled(task, result, with_scib)}, {}
    y, target, on = task.labels, task.target, scorable(task.labels, task.hidden, task.scored)
    predictions, probabilities = _annotate(result, y, task.hidden)
    scores: Scores = {"own": None, "LR": None, "kNN": None, "n_scored": int(on.sum())}
    for name, prediction in predictions.items():
        scores[name] = macro_f1(y[on], prediction[on])
        if task.transfer and name != "kNN":
            scores[f"{name}_balanced"] = balanced_accuracy(y[on], prediction[on])
    if target is not None and target.any():
        if np.any(target & ~task.hidden):
            scores |= _rare(predictions, probabilities, target, y, on)
        else:
            scores |= _novel(task, result, probabilities, target)
        if result.z is not None:
            scores["purity"] = purity(result.z, target)
    if result.z is not None:
        scores |= _embedding(task, np.asarray(result.z), with_scib)
    scores |= query_scores(task, result, predictions, probabilities, on)
    if task.full is not None:
        scores |= _hidden_modalities(task, result)
    named: list[str] = [name for name in ("own", "LR") if name in predictions]
    types = {name: per_type_f1(y[on], predictions[name][on])[["n", "f1"]].round(4).to_dict("index") for name in named}
    return scores, types


def _unlabelled(task: Task, result: Result, with_scib: bool) -> Scores:
    """Of an embedding that saw no label: what neighbours in other batches say of a cell, clusters, connected types."""
    if result.z is None:
        return {}
    keep, z = task.cells, np.asarray(result.z)
    z, y, b = z[keep], task.labels[keep], task.batches[keep]
    return {"transfer": transfer(z, y, b), **_embedding(task, result.z, with_scib), **graph_scores(z, y)}


def _novel(task: Task, result: Result, probabilities: dict[str, pd.DataFrame], target: NDArray[np.bool_]) -> Scores:
    """How well a type without any visible label is told from the other hidden cells."""
    novelty = {name: 1 - frame.to_numpy().max(axis=1) for name, frame in probabilities.items()}
    if result.novelty is not None:
        novelty["own"] = result.novelty
    if result.z is not None:
        novelty["kNN"] = knn_novelty(result.z, ~task.hidden)
        novelty["share"] = neighbour_novelty(result.z, ~task.hidden, task.batches)
    scores = {f"novelty_{name}": novelty_auroc(score, target, target | task.scored) for name, score in novelty.items()}
    return {"n_target": int(target.sum()), **scores}


def _embedding(task: Task, z: NDArray, with_scib: bool) -> Scores:
    """Mixing of groups within types, structure against each modality's view, dimension."""
    keep = task.cells
    z, y, b = z[keep], task.labels[keep], task.batches[keep]
    views = {name: (view[keep[of]], of[keep]) for name, (view, of) in task.views().items() if of[keep].any()}
    of_view = {name: structure(z[of], view, y[of], b[of]) for name, (view, of) in views.items()}
    scores: Scores = {
        "CiLISI": cilisi(z, y, task.groups[keep]),
        "connectivity": connectivity(neighbours(z)[0], y) if len(z) > 2 else None,
        "dimension": effective_dimension(z, y, b),
        "structure": float(np.mean(list(of_view.values()))) if of_view else None,
    }
    if len(of_view) > 1:
        scores |= {f"structure_{name}": value for name, value in of_view.items()}
    if with_scib:
        view, of = views.get(RNA, next(iter(views.values()), (None, np.zeros(0))))
        scores |= scib(z, y, b, task.hidden[keep], reference=view if of.all() else None)
    return scores


def _annotate(result: Result, labels: NDArray, hidden: NDArray[np.bool_]) -> tuple[dict[str, NDArray], dict[str, Any]]:
    """Predicted labels, and probabilities, by the own classifier and by probes fitted on the visible labels."""
    predictions, probabilities = {}, {}
    if result.prediction is not None:
        predictions["own"] = np.asarray(result.prediction).astype(str)
    if result.probability is not None:
        probabilities["own"] = result.probability
    if result.z is not None:
        probabilities["LR"] = probe_probabilities(result.z, labels, hidden)
        predictions["LR"] = probabilities["LR"].idxmax(axis=1).to_numpy()
        predictions["kNN"] = knn_predict(result.z, labels, hidden)
    return predictions, probabilities


def _rare(
    predictions: dict[str, NDArray], probabilities: dict[str, Any], target: NDArray, labels: NDArray, on: NDArray
) -> Scores:
    """How a rare type (``target``) fares: F1, and area under its precision-recall curve."""
    name = str(labels[target][0])
    scores: Scores = {"n_target": int((target & on).sum())}
    for classifier, prediction in predictions.items():
        scores[f"target_{classifier}"] = float(per_type_f1(labels[on], prediction[on])["f1"].get(name, np.nan))
    for classifier, frame in probabilities.items():
        if name in frame:
            scores[f"target_AP_{classifier}"] = average_precision(target[on], frame[name].to_numpy()[on])
    return scores


def _hidden_modalities(task: Task, result: Result) -> dict[str, Any]:
    """Scores against what the task hid: imputed values, and the two halves of the cells that were not paired."""
    out: dict[str, Any] = {}
    assert task.full is not None
    unpaired = np.zeros(task.data.n_obs, dtype=bool)
    for name, adata in task.full.mod.items():
        lost = present(task.full, name)
        lost &= ~present(task.data, name) if name in modalities(task.data) else True
        unpaired |= lost
        if name in result.imputed and lost.any():
            observed = np.log1p(dense(adata[task.data.obs_names[lost]].X))
            out |= imputation(result.imputed[name][lost], observed) | {"n_imputed": int(lost.sum())}
    halves = list(result.unimodal.values())
    if len(halves) == 2 and unpaired.sum() > 1:
        out["FOSCTTM"] = foscttm(halves[0][unpaired], halves[1][unpaired])
        out["recall@10"] = recall_at(halves[0][unpaired], halves[1][unpaired])
        out["n_matched"] = int(unpaired.sum())
    return out


def _check_rows(name: str, value: Any, n_cells: int, split: Split) -> None:
    shape = np.shape(value)
    if not shape or shape[0] != n_cells:
        raise ValueError(
            f"{name} has {shape[0] if shape else 'no'} rows, but {n_cells} cells take part in split {split.name}; give"
            " one row per cell in the order of the data."
        )


def _number(value: float | None) -> float | None:
    return None if value is None or (isinstance(value, float) and math.isnan(value)) else round(value, 4)


@contextmanager
def _memory(interval: float = 0.05) -> Iterator[list]:
    """Growth of the resident memory of this process in bytes, sampled in a thread; ``None`` without psutil."""
    try:
        import psutil
    except ImportError:
        yield [None]
        return
    process = psutil.Process()
    before = process.memory_info().rss
    growth, stop = [0], threading.Event()

    def sample() -> None:
        while not stop.wait(interval):
            growth[0] = max(growth[0], process.memory_info().rss - before)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield growth
    finally:
        stop.set()
        thread.join()
