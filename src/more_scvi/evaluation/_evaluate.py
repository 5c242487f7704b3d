"""Score what a method returned: all figures of one task, and the public :func:`evaluate` for any embedding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from more_scvi.data import RNA
from more_scvi.metrics import (
    average_precision,
    balanced_accuracy,
    cilisi,
    effective_dimension,
    foscttm,
    imputation,
    knn_novelty,
    knn_predict,
    macro_f1,
    neighbour_novelty,
    novelty_auroc,
    per_type_f1,
    probe_probabilities,
    purity,
    recall_at,
    scib,
    scorable,
    structure,
)
from more_scvi.metrics._check import check_matrix

from ._data import dense, modalities, present
from ._splits import Split, labelled
from ._tasks import Task
from .methods import Result

Scores = dict[str, float | None]
FIRST = ("own", "LR", "kNN", "CiLISI", "structure", "dimension")
"""Order of columns."""


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
    order = _order(split)
    known = labelled(labels, unlabeled_category)[order]
    y, b, hidden = y[order], b[order], split.hidden[order] | ~known
    if hidden.all():
        raise ValueError(f"Split {split.name} leaves no visible label. Are labels the true ones, before split.hide?")
    predictions = {} if predictions is None else predictions
    probabilities = {} if probabilities is None else probabilities
    for kind, given in (("embeddings", embeddings), ("predictions", predictions), ("probabilities", probabilities)):
        if not isinstance(given, Mapping):
            raise TypeError(f"{kind} is a {type(given).__name__}; give a dictionary from names of methods to arrays.")
        for name, value in given.items():
            _check_rows(f"{kind}[{name!r}]", value, order.size, split)
            if kind == "embeddings":
                check_matrix(value, f"embeddings[{name!r}]")
            elif kind == "probabilities" and not isinstance(value, pd.DataFrame):
                found = type(value).__name__
                raise TypeError(f"probabilities[{name!r}] is a {found}; give a DataFrame whose columns are the types.")
            elif kind == "predictions" and np.ndim(value) != 1:
                raise ValueError(f"predictions[{name!r}] has shape {np.shape(value)}; give one label for each cell.")
    names = list(dict.fromkeys([*embeddings, *predictions, *probabilities]))
    if not names:
        raise ValueError("Nothing to evaluate: give embeddings, predictions or probabilities by name.")
    view = None if reference is None else np.asarray(reference)
    if view is not None:
        view = view[order] if len(view) == split.hidden.size else view
        _check_rows("reference", view, order.size, split)
        check_matrix(view, "reference")
    is_type = split.protocol.split("-")[0] in ("S3", "S5", "S5b")
    rows = {}
    for name in names:
        z, probability = embeddings.get(name), probabilities.get(name)
        prediction = np.asarray(predictions[name]) if name in predictions else None
        if prediction is None and probability is not None:
            prediction = np.asarray(probability.columns).astype(str)[probability.to_numpy().argmax(axis=1)]
        result = Result(None if z is None else np.asarray(z), prediction, probability)
        target = (y == split.held_out) & known if is_type else None
        annotation = Annotation.of(result, y, hidden)
        scores = annotation.scores(y, scorable(y, hidden, known))
        scores |= _about_target(annotation, result, y, b, hidden, hidden & known, target)
        if result.z is not None:
            of, z_of = None if view is None else view[known], result.z[known]
            views = {} if of is None else {"rna": (of, np.ones(len(of), dtype=bool))}
            scores |= embedding_scores(z_of, y[known], b[known], b[known], views)
            if with_scib:
                scores |= scib(z_of, y[known], b[known], hidden[known], reference=of)
        rows[name] = scores
    table = pd.DataFrame.from_dict(rows, orient="index").astype(float)
    first = [name for name in FIRST if name in table]
    return table[[*first, *table.columns.difference(first, sort=False)]]


def score_task(task: Task, result: Result, with_scib: bool = False) -> tuple[Scores, dict[str, Any]]:
    """All figures of one result, those that do not exist for it left out or ``None``; and F1 per type."""
    y, keep = task.labels, task.cells
    annotation = Annotation.of(result, y, task.hidden)
    on = scorable(y, task.hidden, task.scored)
    scores = annotation.scores(y, on, task.transfer) | _about_target(
        annotation, result, y, task.batches, task.hidden, task.scored, task.target
    )
    if result.z is not None:
        z, b = np.asarray(result.z, dtype=np.float64), task.batches
        views = {name: (view[keep[of]], of[keep]) for name, (view, of) in task.views().items()}
        scores |= embedding_scores(z[keep], y[keep], b[keep], task.groups[keep], views)
        if with_scib:
            view, of = views[RNA] if RNA in views else next(iter(views.values()))
            scores |= scib(z[keep], y[keep], b[keep], task.hidden[keep], reference=view if of.all() else None)
    if task.full is not None:
        scores |= _hidden_modalities(task, result)
    return scores, annotation.per_type(y, on)


def _about_target(
    annotation: Annotation,
    result: Result,
    labels: NDArray,
    batches: NDArray,
    hidden: NDArray[np.bool_],
    scored: NDArray[np.bool_],
    target: NDArray[np.bool_] | None,
) -> Scores:
    if target is None or not target.any():
        return {}
    if np.any(target & ~hidden):
        return rare_scores(annotation, result.z, target, labels, scorable(labels, hidden, scored))
    return novel_scores(annotation, result, target, batches, hidden, scored & ~target)


@dataclass
class Annotation:
    """Every way to read labels off a result: its own classifier, a linear probe and neighbours.

    Parameters
    ----------
    predictions
        ``"own"``, ``"LR"``, ``"kNN"`` → labels ``(n_cells,)``.
    probabilities
        ``"own"``, ``"LR"`` → cells × types.
    """

    predictions: dict[str, NDArray]
    probabilities: dict[str, pd.DataFrame]

    @classmethod
    def of(cls, result: Result, labels: NDArray, hidden: NDArray[np.bool_]) -> Annotation:
        """Fit the probes on the visible labels."""
        predictions, probabilities = {}, {}
        if result.prediction is not None:
            predictions["own"] = np.asarray(result.prediction).astype(str)
        if result.probability is not None:
            probabilities["own"] = result.probability
        if result.z is not None:
            frame = probabilities["LR"] = probe_probabilities(result.z, labels, hidden)
            predictions["LR"] = frame.columns.to_numpy()[frame.to_numpy().argmax(axis=1)]
            predictions["kNN"] = knn_predict(result.z, labels, hidden)
        return cls(predictions, probabilities)

    def scores(self, task_labels: NDArray, on: NDArray[np.bool_], transfer: bool = False) -> Scores:
        """Macro-F1 of each on the cells ``on``; with ``transfer`` also balanced accuracy."""
        out: Scores = {"own": None, "LR": None, "kNN": None, "n_scored": int(on.sum())}
        for name, prediction in self.predictions.items():
            out[name] = macro_f1(task_labels[on], prediction[on])
            if transfer and name != "kNN":
                out[f"{name}_balanced"] = balanced_accuracy(task_labels[on], prediction[on])
        return out

    def per_type(self, labels: NDArray, on: NDArray[np.bool_]) -> dict[str, dict[str, dict[str, float]]]:
        """F1 and number of cells of every type, by the own classifier and the linear probe."""
        out: dict[str, dict[str, dict[str, float]]] = {}
        for name in ("own", "LR"):
            if name in self.predictions:
                table = per_type_f1(labels[on], self.predictions[name][on])
                rows = table[table["n"] > 0].iterrows()
                out[name] = {str(t): {"n": int(row["n"]), "f1": round(float(row["f1"]), 4)} for t, row in rows}
        return out


def novel_scores(
    annotation: Annotation, result: Result, target: NDArray, batches: NDArray, hidden: NDArray, known: NDArray
) -> Scores:
    """How well a type without any visible label (``target``) is told from ``known`` hidden cells, and kept apart."""
    novelty = {name: 1 - frame.to_numpy().max(axis=1) for name, frame in annotation.probabilities.items()}
    if result.novelty is not None:
        novelty["own"] = result.novelty
    if result.z is not None:
        novelty["kNN"] = knn_novelty(result.z, ~hidden)
        novelty["share"] = neighbour_novelty(result.z, ~hidden, batches)
    out: Scores = {"n_target": int(target.sum())}
    out |= {f"novelty_{name}": novelty_auroc(score, target, target | known) for name, score in novelty.items()}
    if result.z is not None:
        out["purity"] = purity(result.z, target)
    return out


def rare_scores(annotation: Annotation, z: NDArray | None, target: NDArray, labels: NDArray, on: NDArray) -> Scores:
    """How a rare type (``target``) fares: F1, area under its precision-recall curve, kept apart or dissolved."""
    name = str(labels[target][0])
    out: Scores = {"n_target": int((target & on).sum())}
    for classifier, prediction in annotation.predictions.items():
        out[f"target_{classifier}"] = float(per_type_f1(labels[on], prediction[on])["f1"].get(name, np.nan))
    for classifier, frame in annotation.probabilities.items():
        if name in frame:
            out[f"target_AP_{classifier}"] = average_precision(target[on], frame[name].to_numpy()[on])
    if z is not None:
        out["purity"] = purity(z, target)
    return out


def embedding_scores(
    z: NDArray,
    labels: NDArray,
    batches: NDArray,
    groups: NDArray,
    views: Mapping[str, tuple[NDArray, NDArray[np.bool_]]],
) -> Scores:
    """Mixing of ``groups`` within types, structure against each modality's view, dimension."""
    out: Scores = {
        "CiLISI": cilisi(z, labels, groups),
        "dimension": effective_dimension(z, labels, batches),
        "structure": None,
    }
    of_view = {name: structure(z[of], view, labels[of], batches[of]) for name, (view, of) in views.items()}
    if of_view:
        out["structure"] = float(np.mean(list(of_view.values())))
    if len(of_view) > 1:
        out |= {f"structure_{name}": value for name, value in of_view.items()}
    return out


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
    if len(halves) == 2 and unpaired.any():
        out["FOSCTTM"] = foscttm(halves[0][unpaired], halves[1][unpaired])
        out["recall@10"] = recall_at(halves[0][unpaired], halves[1][unpaired])
        out["n_matched"] = int(unpaired.sum())
    return out


def _order(split: Split) -> NDArray[np.intp]:
    """Cells that take part, those that are mapped afterwards last."""
    kept = np.ones(split.hidden.size, dtype=bool) if split.kept is None else split.kept
    absent = np.zeros_like(kept) if split.absent is None else split.absent
    return np.concatenate([np.flatnonzero(kept & ~absent), np.flatnonzero(kept & absent)])


def _check_rows(name: str, value: Any, n_cells: int, split: Split) -> None:
    if len(value) != n_cells:
        raise ValueError(
            f"{name} has {len(value)} rows, but {n_cells} cells take part in split {split.name}; give one row per cell"
            " in the order of the data."
        )
