"""From the tidy table to what a report shows: one row per data set, protocol and method; one classifier per method."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from ._compare import ROW

METRICS = ("own", "LR", "kNN", "CiLISI", "structure", "dimension")
"""Figures of every embedding with labels."""


def summarise(table: pd.DataFrame) -> pd.DataFrame:
    """Mean and range of every figure over rotations and seeds.

    Parameters
    ----------
    table
        Tidy table of :func:`~more_scvi.evaluation.run` or :func:`~more_scvi.evaluation.tidy`.

    Returns
    -------
    Indexed by ``dataset``, ``protocol``, ``method`` and ``metric``: ``mean`` (over seeds, then over rotations), ``min``
    and ``max`` over all of them, ``n_seeds``, ``n_rotations``.

    Examples
    --------
    >>> rows = [("d", "S2a", seed, 0, "pca", "LR", value) for seed, value in [(0, 0.8), (1, 0.9)]]
    >>> columns = ["dataset", "protocol", "seed", "rotation", "method", "metric", "value"]
    >>> summarise(pd.DataFrame(rows, columns=columns)).loc[("d", "S2a", "pca", "LR")].round(2).to_dict()
    {'mean': 0.85, 'min': 0.8, 'max': 0.9, 'n_seeds': 2.0, 'n_rotations': 1.0}
    """
    keys = [*ROW, "method", "metric"]
    per_rotation = table.groupby([*keys, "rotation"], observed=True)["value"].mean()
    grouped = table.groupby(keys, observed=True)
    out = grouped["value"].agg(["min", "max"])
    out.insert(0, "mean", per_rotation.groupby(level=keys).mean())
    return out.join(grouped.agg(n_seeds=("seed", "nunique"), n_rotations=("rotation", "nunique")))


def choose(table: pd.DataFrame, candidates: Sequence[str]) -> dict[str, str]:
    """The one of several metrics that represents each method: the highest by the mean over all rows.

    It is chosen once, never row by row, over the rows (data set × protocol) that have every candidate the method has at
    all. Variants (``"<method>:<what changed>"``) take the choice of their method, so that they are compared with it by
    the same figure.

    """
    means = summarise(table[table["metric"].isin(candidates)])["mean"].unstack("metric")
    own = {}
    for method, of in means.groupby(level="method"):
        present = [name for name in candidates if name in of and of[name].notna().any()]
        own[str(method)] = str(of[present].dropna().mean().reindex(present).fillna(-1).idxmax())
    chosen = {}
    for method in own:
        inherited = own.get(method.split(":")[0], own[method])
        has = means.xs(method, level="method").notna().any()
        chosen[method] = inherited if has[inherited] else own[method]
    return chosen


def with_chosen(table: pd.DataFrame, name: str, candidates: Sequence[str]) -> pd.DataFrame:
    """The table with a further metric ``name``: for each method the candidate of :func:`choose`."""
    if not table["metric"].isin(candidates).any():
        return table
    chosen = choose(table, candidates)
    of_method = table["method"].map(chosen)
    return pd.concat([table, table[table["metric"] == of_method].assign(metric=name)], ignore_index=True)
