"""Checks of labels: rare types."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

from more_scvi.diagnosis._evidence import Evidence
from more_scvi.diagnosis._result import Check, Rule

N_NEIGHBORS, MIN_CELLS = 15, 5

MIN_RECALL = 0.5
"""Of the rarest kind of type: most of its cells lie among cells of other types below it."""


def rare_types_lost(evidence: Evidence) -> Check:
    """Recall of rare types by their neighbours, of the worst one.

    Every labelled cell is named by its 15 nearest labelled cells, itself left out; each vote counts one over the number
    of cells of its type, so that a rare type is not outvoted where it has neighbours at all. Rare: at least 5 labelled
    cells, but fewer than half of an even share.

    Optimistic, if less so than the trained classifier: the embedding was trained with these labels, and long
    training gathers even cells that were labelled at random. :func:`overfitting` watches over that.
    """
    rule = Rule("rare_types_lost", MIN_RECALL, "above")
    labelled = evidence.labels != ""
    types, counts = np.unique(evidence.labels[labelled], return_counts=True)
    rare = (counts >= MIN_CELLS) & (counts < counts.sum() / (2 * max(len(types), 1)))
    if not rare.any():
        return rule.not_checked(
            "No type is rare among the labelled cells." if len(types) else "No cell has a visible label.",
            "" if len(types) else "Give labels_key at setup, or diagnose(labels=...).",
        )
    recall = _recall(evidence.z[labelled], evidence.labels[labelled], types, counts)
    lost = [t for t in np.flatnonzero(rare) if recall[t] < MIN_RECALL]
    worst = np.flatnonzero(rare)[recall[rare].argmin()]
    common = np.flatnonzero(~rare & (counts >= MIN_CELLS))
    others = f"; frequent types {recall[common].mean():.2f}" if len(common) else ""
    also = f"; {len(lost)} of {rare.sum()} rare types are below the limit" if len(lost) > 1 else ""
    return rule.judge(
        float(recall[worst]),
        f"Neighbours recover {recall[worst]:.0%} of the {counts[worst]} cells of {str(types[worst])!r}, the worst rare"
        f" type{also}{others}.",
        "Check these labels first. Then raise MoRE(n_variable=..., n_components=...), so that their genes are read, or"
        " train(loss_weights={'contrast': ..., 'keep': ...}); label more of these cells, or join the type with its"
        " parent.",
    )


def _recall(z: NDArray, labels: NDArray, types: NDArray, counts: NDArray) -> NDArray:
    """Share of the cells of each type that their neighbours name rightly, (types,)."""
    code = np.searchsorted(types, labels)
    k = min(N_NEIGHBORS, len(z) - 1)
    near = code[NearestNeighbors(n_neighbors=k).fit(z).kneighbors(return_distance=False)]
    votes = np.stack([(near == t).sum(1) / counts[t] for t in range(len(types))], 1)
    own = np.arange(len(z)), code
    votes[own] *= counts[code] / np.maximum(counts[code] - 1, 1)  # the cell itself cannot vote
    right = votes.argmax(1) == code
    return np.array([right[code == t].mean() for t in range(len(types))])
