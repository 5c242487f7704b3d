"""Scores of tasks with several modalities, on top of the single-modality ones.

===================  ==========================================================================  ====================
metric               question                                                                    what chance scores
===================  ==========================================================================  ====================
:func:`foscttm`      is a cell's other half nearer than other cells?                             0.5 (0 is perfect)
:func:`recall_at`    is it among the nearest?                                                    ``k / n_cells``
:func:`imputation`   do imputed values follow the observed ones, feature by feature?             0
``structure``        mean over modalities of the correlation with the modality's own view        ~0
===================  ==========================================================================  ====================
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ._metrics import MIN_SCORED, cilisi, effective_dimension, knn_probe, linear_probe, macro_f1, scorable, structure
from ._multi_data import batches_of, dense, modalities, present

if TYPE_CHECKING:
    from ._multi_methods import MultiResult
    from ._multi_tasks import Task

_CHUNK = 1000


def foscttm(a: NDArray, b: NDArray) -> float:
    """Fraction of cells closer than the true match, mean over cells and both directions; ``a[i]`` matches ``b[i]``.

    Cells at exactly the distance of the match count half, so that a collapsed embedding scores 0.5.
    """
    return float(np.mean([_ranks(a, b).mean(), _ranks(b, a).mean()]) / max(len(a) - 1, 1))


def recall_at(a: NDArray, b: NDArray, k: int = 10) -> float:
    """Share of cells whose match is among the ``k`` nearest cells of the other modality, mean of both directions."""
    return float(np.mean([(_ranks(a, b) < k).mean(), (_ranks(b, a) < k).mean()]))


def imputation(imputed: NDArray, observed: NDArray) -> dict[str, float]:
    """Mean over features of Pearson's and Spearman's correlation between columns ``(n_cells, n_features)``.

    A feature that is constant in ``observed`` is left out; one that is constant in ``imputed`` only scores 0.
    """
    varies = np.ptp(observed, axis=0) > 0
    x, y = np.asarray(imputed, dtype=np.float64)[:, varies], np.asarray(observed, dtype=np.float64)[:, varies]
    ranks = _correlation(rankdata(x, axis=0), rankdata(y, axis=0))
    return {"pearson": float(_correlation(x, y).mean()), "spearman": float(ranks.mean())}


def balanced_accuracy(true: ArrayLike, predicted: ArrayLike, min_cells: int = MIN_SCORED) -> float:
    """Mean recall over the types with at least ``min_cells`` cells."""
    y, p = np.asarray(true).astype(str), np.asarray(predicted).astype(str)
    types, counts = np.unique(y, return_counts=True)
    recalls = [np.mean(p[y == name] == name) for name in types[counts >= min_cells]]
    return float(np.mean(recalls)) if recalls else float("nan")


def score_task(task: Task, result: MultiResult) -> dict[str, float | None]:
    """All figures of one result; those that do not exist for it are left out."""
    out: dict[str, float | None] = {}
    y, hidden = task.labels, task.split.hidden
    on = scorable(y, hidden, task.scored)
    out["n_scored"] = int(on.sum())
    if result.prediction is not None:
        prediction = np.asarray(result.prediction)[on]
        out |= {"own": macro_f1(y[on], prediction), "own_balanced": balanced_accuracy(y[on], prediction)}
    if result.z is not None:
        z, keep, b = np.asarray(result.z, dtype=np.float64), task.cells, batches_of(task.data)
        out["LR"], out["kNN"] = linear_probe(z, y, hidden, task.scored), knn_probe(z, y, hidden, task.scored)
        if task.transfer:
            probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(z[~hidden], y[~hidden])
            out["LR_balanced"] = balanced_accuracy(y[on], probe.predict(z[on]))
        out["CiLISI"] = cilisi(z[keep], y[keep], task.groups[keep])
        out["dimension"] = effective_dimension(z[keep], y[keep], b[keep])
        for name, adata in modalities(task.data).items():
            of = present(task.data, name)
            rows, inside = keep & of, keep[of]
            out[f"structure_{name}"] = structure(z[rows], adata.obsm["view"][inside], y[rows], b[rows])
        own_views = [out[f"structure_{name}"] for name in modalities(task.data)]
        out["structure"] = float(np.mean([value for value in own_views if value is not None]))
    if task.full is not None:
        out |= _hidden_values(task, result)
    return out


def _hidden_values(task: Task, result: MultiResult) -> dict[str, Any]:
    """Scores against what the task hid: imputed values, and the two halves of the cells that were not paired."""
    out: dict[str, Any] = {}
    assert task.full is not None
    unpaired = np.zeros(task.data.n_obs, dtype=bool)
    for name, adata in task.full.mod.items():
        lost = present(task.full, name) & ~present(task.data, name)
        unpaired |= lost
        if name in result.imputed and lost.any():
            observed = np.log1p(dense(adata[task.data.obs_names[lost]].X))
            out |= imputation(result.imputed[name][lost], observed) | {"n_imputed": int(lost.sum())}
    halves = list(result.unimodal.values())
    if len(halves) == 2:
        out["FOSCTTM"] = foscttm(halves[0][unpaired], halves[1][unpaired])
        out["recall@10"] = recall_at(halves[0][unpaired], halves[1][unpaired])
        out["n_matched"] = int(unpaired.sum())
    return out


def _ranks(a: NDArray, b: NDArray) -> NDArray[np.float64]:
    """For every row of ``a``, how many rows of ``b`` are nearer than its match (ties count half)."""
    a, b, ranks = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64), np.empty(len(a))
    square = np.square(b).sum(axis=1)
    for start in range(0, len(a), _CHUNK):
        rows = np.arange(start, min(start + _CHUNK, len(a)))
        distance = square - 2 * a[rows] @ b.T  # squared, less what all columns share
        match = distance[np.arange(rows.size), rows][:, None]
        ranks[rows] = (distance < match).sum(axis=1) + 0.5 * ((distance == match).sum(axis=1) - 1)
    return ranks


def _correlation(x: NDArray, y: NDArray) -> NDArray[np.float64]:
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    norm = np.sqrt(np.square(x).sum(axis=0) * np.square(y).sum(axis=0))
    return np.where(norm > 1e-12, (x * y).sum(axis=0) / np.maximum(norm, 1e-12), 0.0)
