"""Choosing settings on your own data without touching hidden labels: a nested split of the visible cells."""

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from more_scvi.evaluation.methods._method import Method

from ._data import BATCH_KEY, LABELS_KEY, Data, batches_of, standardise
from ._datasets import DATASETS, load_dataset
from ._evaluate import METRICS, run_task
from ._inner import split_visible
from ._splits import MIN_TYPE, Split, make_splits, order_of
from ._tasks import make_tasks

logger = logging.getLogger(__name__)


def tune(
    datasets: Sequence[str] | Mapping[str, Data],
    methods: Sequence[Method],
    data_dir: str | os.PathLike | None = None,
    protocols: Sequence[str] = ("S1", "S2a"),
    seeds: Sequence[int] = (0,),
    max_rotations: int = 1,
    cache_dir: str | os.PathLike | None = None,
) -> pd.DataFrame:
    """Inner scores of methods on your own data, for choosing between variants before anything is reported.

    Every outer split is split once more: a further batch (``S2a``) or a random half (``S1``) of the *visible* cells is
    hidden. The method sees neither these labels nor those of the outer split; annotation is scored on the inner cells,
    mixing and structure on the cells with outer-visible labels. Inner cells are cells that no outer split of this call
    hides, so that with the same protocols, seeds and rotations :func:`~more_scvi.evaluation.run` reports on other
    cells; where too few are left (every batch takes its turn, many seeds), a warning says so and visible cells are
    taken. Where ``S2a`` leaves one visible batch, a random half of it is hidden instead.

    Sets of the benchmark are refused: they are reported, and may choose nothing.

    Parameters
    ----------
    datasets
        Name → your data, AnnData or MuData with counts, ``obs["batch"]`` and ``obs["cell_type"]``; or names of
        development sets (:func:`~more_scvi.evaluation.load_dataset`).
    methods
        Variants to compare.
    data_dir
        Folder of the development sets.
    protocols, seeds, max_rotations
        The outer splits.
    cache_dir
        As for :func:`~more_scvi.evaluation.run`.

    Returns
    -------
    One row per (dataset, split, method): ``own``, ``LR``, ``kNN``, ``CiLISI``, ``structure``, ``dimension``,
    ``n_scored`` and CPU ``seconds``.

    Raises
    ------
    ValueError
        For a method that is given hidden labels, or a set of the benchmark.

    Examples
    --------
    >>> variants = [get_method("k5", "more", train_kwargs={"loss_weights": {"keep": 5}})]  # doctest: +SKIP
    >>> tune({"mine": adata}, variants).groupby("method").mean(numeric_only=True)  # doctest: +SKIP
    """
    for method in methods:
        if method.sees_hidden:
            raise ValueError(f"{method.name} is given hidden labels; its scores must not choose anything.")
    if reported := [name for name in datasets if name in DATASETS and DATASETS[name].reported]:
        allowed = ", ".join(name for name, entry in DATASETS.items() if not entry.reported)
        raise ValueError(
            f"{reported[0]!r} is a set of the benchmark, which is only reported and may choose nothing; give your own"
            f" data by name, or one of {allowed}."
        )
    rows = []
    for dataset in datasets:
        if isinstance(datasets, Mapping):
            data, known = standardise(datasets[dataset], BATCH_KEY, LABELS_KEY)
        elif data_dir is None:
            raise ValueError(f"data_dir is None; give the folder that holds {dataset!r}, or your data by name.")
        else:
            data, known = load_dataset(dataset, data_dir)
        labels, batches = data.obs[LABELS_KEY].to_numpy(), batches_of(data)
        outers = [
            outer
            for seed in seeds
            for protocol in protocols
            for outer in make_splits(labels, batches, protocol, seed, max_rotations, dataset, known)
        ]
        # what any outer split hides is reported, so that no inner split may be scored on it
        elsewhere = np.any([outer.hidden for outer in outers], axis=0)
        for outer in outers:
            inner, scored = _inner(outer, batches, elsewhere)
            task = next(make_tasks(data, outer.protocol, known=known, splits=[inner]))
            order = order_of(inner)
            task.scored, task.cells = scored[order], ~outer.hidden[order]
            for method in methods:
                _, record = run_task(task, method, cache_dir)
                row = {"dataset": dataset, "protocol": outer.protocol, "split": outer.name, "method": method.name}
                row |= {key: record["scores"].get(key) for key in (*METRICS, "n_scored")}
                rows.append(row | {"seconds": sum(record["seconds"].values())})
                logger.info("%s", rows[-1])
    return pd.DataFrame(rows).astype(dict.fromkeys(METRICS, float))


def _inner(outer: Split, batches: NDArray[np.str_], elsewhere: NDArray[np.bool_]) -> tuple[Split, NDArray[np.bool_]]:
    visible = ~outer.hidden if outer.kept is None else ~outer.hidden & outer.kept
    free = visible & ~elsewhere
    if free.sum() < min(MIN_TYPE, visible.sum()):
        logger.warning(
            "%s, %s: the inner cells are scored by another split, too; ask for fewer seeds or rotations.",
            *(outer.dataset, outer.name),
        )
        free = visible
    if outer.protocol == "S2a" and len(set(batches[visible])) < 2:
        outer = replace(outer, protocol="S1")
    return split_visible(outer, batches, outer.seed, free)
