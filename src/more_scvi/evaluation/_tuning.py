"""Choosing defaults without touching hidden labels: score methods on a nested split of the visible cells."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ._data import LABELS_KEY, batches_of
from ._datasets import load_dataset
from ._report import METRICS
from ._runner import run_task
from ._splits import Split, inner_split, make_splits
from ._tasks import make_tasks
from .methods import Method

logger = logging.getLogger(__name__)


def tune(
    datasets: Sequence[str],
    methods: Sequence[Method],
    data_dir: str | os.PathLike,
    protocols: Sequence[str] = ("S1", "S2a"),
    seeds: Sequence[int] = (0,),
    max_rotations: int = 1,
    cache_dir: str | os.PathLike | None = None,
) -> pd.DataFrame:
    """Inner scores of methods, for comparing variants of one method.

    Every outer split is split once more (:func:`~more_scvi.evaluation.inner_split`): a further batch (``S2a``) or a
    random half (``S1``) of the visible cells is hidden. The method sees neither these labels nor those of the outer
    split; annotation is scored on the inner cells, mixing and structure on the cells with outer-visible labels. Where
    ``S2a`` leaves one visible batch (data sets of two batches), a random half of it is hidden instead.

    Parameters
    ----------
    datasets, methods, data_dir, cache_dir
        As in :func:`~more_scvi.evaluation.run_benchmark`.
    protocols, seeds, max_rotations
        The outer splits.

    Returns
    -------
    One row per (dataset, split, method): ``own``, ``LR``, ``kNN``, ``CiLISI``, ``structure``, ``dimension``,
    ``n_scored`` and CPU ``seconds``.

    Raises
    ------
    ValueError
        For a method that is given hidden labels.

    Examples
    --------
    >>> variants = [get_method("k5", "more", train_kwargs={"loss_weights": {"keep": 5}})]  # doctest: +SKIP
    >>> tune(["pbmc_kang"], variants, "data").groupby("method").mean(numeric_only=True)  # doctest: +SKIP
    """
    for method in methods:
        if method.sees_hidden:
            raise ValueError(f"{method.name} is given hidden labels; its scores must not choose anything.")
    rows = []
    for dataset in datasets:
        data, _ = load_dataset(dataset, data_dir)
        labels, batches = data.obs[LABELS_KEY].to_numpy(), batches_of(data)
        for seed in seeds:
            for protocol in protocols:
                for outer in make_splits(labels, batches, protocol, seed, max_rotations, dataset):
                    inner, scored = _inner(outer, labels, batches, seed)
                    task = next(make_tasks(data, protocol, splits=[inner]))
                    kept = slice(None) if inner.kept is None else inner.kept
                    task.scored, task.cells = scored[kept], ~outer.hidden[kept]
                    for method in methods:
                        _, record = run_task(task, method, cache_dir)
                        row = {"dataset": dataset, "protocol": protocol, "split": outer.name, "method": method.name}
                        row |= {key: record["scores"].get(key) for key in (*METRICS, "n_scored")}
                        rows.append(row | {"seconds": sum(record["seconds"].values())})
                        logger.info("%s", rows[-1])
    return pd.DataFrame(rows).astype(dict.fromkeys(METRICS, float))


def _inner(outer: Split, labels: NDArray, batches: NDArray, seed: int) -> tuple[Split, NDArray[np.bool_]]:
    if outer.protocol == "S2a" and len(set(batches[~outer.hidden])) < 2:
        outer = replace(outer, protocol="S1")
    return inner_split(outer, labels, batches, seed)
