"""The check of groups of cells that integration dissolves."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.neighbors import NearestNeighbors

from more_scvi.diagnosis._evidence import Evidence
from more_scvi.diagnosis._result import Check, Rule

N_NEIGHBORS, SHARED = 15, 0.95
CELLS_PER_GROUP, MOST_GROUPS, MIN_GROUP = 50, 15, 20

MIN_DISTINCT = 0.8
"""Share of neighbours of its own that makes a group. Source: plain value, not tuned."""

MIN_KEPT = 0.75
"""Of the neighbours of its own that a group keeps. In `python docs/pictures.py strength` the worst group keeps 0.91 at
strength 1, 0.77 at 4 and 0.56 at 16."""


def groups_dissolve(evidence: Evidence) -> Check:
    """Share of its neighbours of its own that a group of cells keeps in the embedding, of the worst one.

    Groups are clusters of the cells of one batch in the data as they were measured, so nothing that integration does
    has a part in them. Integration may bring cells of other batches near a group, but among the cells of its own batch
    a group has the neighbours it had. A group that only one batch has and that is drawn onto another type has not.
    Visible labels of types that one batch has nearly alone are groups, too, among the labelled cells of all batches.
    """
    rule = Rule("groups_dissolve", MIN_KEPT, "above")
    if len(np.unique(evidence.batches)) < 2:
        return rule.not_checked("There is one batch.")
    x, kept = evidence.uncorrected, {}
    if x is None:
        return rule.not_checked("The data as they were measured are not known.")
    for domain in np.unique(evidence.domains):
        rows = np.flatnonzero(evidence.domains == domain)
        n = int(np.clip(len(rows) // CELLS_PER_GROUP, 2, MOST_GROUPS))
        if len(rows) >= 2 * MIN_GROUP:
            groups = KMeans(n, n_init=3, random_state=0).fit_predict(x[rows])
            for code, value in _kept(x[rows], evidence.z[rows], groups).items():
                among = rows[groups == code]
                kept[f"{len(among)} cells of batch {str(evidence.batches[among[0]])!r}{_named(evidence, among)}"] = (
                    value
                )
    rows = np.flatnonzero(evidence.labels != "")
    table = pd.crosstab(evidence.labels[rows], evidence.batches[rows])
    for name, value in _kept(x[rows], evidence.z[rows], evidence.labels[rows]).items() if len(rows) else ():
        if table.loc[name].max() >= SHARED * table.loc[name].sum():
            kept[
                f"{table.loc[name].sum()} cells of {str(name)!r}, which only {str(table.loc[name].idxmax())!r} has"
            ] = value
    if not kept:
        return rule.not_checked("No batch has groups of cells that are distinct in the data.")
    worst = min(kept, key=kept.__getitem__)
    return rule.judge(
        kept[worst],
        f"Of {len(kept)} distinct groups, the worst keeps {kept[worst]:.2f} of its neighbours of its own: {worst}.",
        "Integration is too strong: it draws this group onto others. Lower MoRE(strength=...) (default 1; of several"
        " batch keys the one that tells these cells apart), see model.strength_curve(), or raise"
        " train(loss_weights={'keep': ...}) (default 20). If labels are given, check those of this group.",
    )


def _kept(x: NDArray, z: NDArray, groups: NDArray) -> dict[Any, float]:
    """Share of neighbours of its own in ``z`` over that in ``x``, of each group that is distinct in ``x``."""
    names, codes, counts = np.unique(groups, return_inverse=True, return_counts=True)
    k, own = min(N_NEIGHBORS, len(codes) - 1), []
    for points in (x, z):
        near = NearestNeighbors(n_neighbors=k).fit(points).kneighbors(return_distance=False)
        same = (codes[near] == codes[:, None]).mean(1)
        own.append(np.bincount(codes, same) / counts)
    distinct = (counts >= MIN_GROUP) & (own[0] >= MIN_DISTINCT)
    return {names[g]: min(1.0, float(own[1][g] / own[0][g])) for g in np.flatnonzero(distinct)}


def _named(evidence: Evidence, rows: NDArray) -> str:
    """The type of most of these cells, for messages."""
    if evidence.types is None:
        return ""
    names, counts = np.unique(evidence.types[rows], return_counts=True)
    return f", mostly {str(names[counts.argmax()])!r}"
