"""Run methods on splits of data sets, one JSON file per result; whatever is there already is not run again.

Layout of a results folder::

    <dataset>/<split>/split.json      the hidden cells
    <dataset>/<split>/<method>.json   scores, seconds, memory, parameters, versions

Files are written beside and renamed, so a run that is killed leaves only whole results and continues where it stopped.
"""

from __future__ import annotations

import json
import logging
import math
import os
import platform
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from anndata import AnnData
from numpy.typing import NDArray

from ._datasets import load_dataset, prepare, with_labels
from ._methods import Method, MethodResult
from ._metrics import score
from ._splits import Split, make_splits

logger = logging.getLogger(__name__)

BATCH_KEY, LABELS_KEY, UNLABELED = "batch", "cell_type", "Unknown"
_PACKAGES = ("more-scvi", "scvi-tools", "torch", "scanpy", "anndata", "scikit-learn", "numpy", "harmonypy")


def run_split(
    adata: AnnData,
    split: Split,
    method: Method,
    cache_dir: str | os.PathLike | None = None,
    scored: NDArray[np.bool_] | None = None,
    cells: NDArray[np.bool_] | None = None,
) -> tuple[MethodResult, dict[str, Any]]:
    """Run one method on one split and score it.

    Parameters
    ----------
    adata
        Prepared data set (:func:`~more_scvi.evaluation.prepare`) with the true labels in ``obs["cell_type"]``.
    split
        The cells whose labels are hidden. The method receives a copy of ``obs`` without them.
    method
        The method; only one that declares ``sees_hidden`` is given all labels.
    cache_dir
        Folder for label-free work that splits share (trained scVI models).
    scored, cells
        Restrict the cells that annotation, and that mixing and structure, are scored on (default: all).

    Returns
    -------
    The method's result and a JSON-serialisable record of its scores and cost.

    Examples
    --------
    >>> split = make_splits(adata.obs["cell_type"], adata.obs["batch"], "S1")[0]  # doctest: +SKIP
    >>> result, record = run_split(adata, split, get_method("pca"))  # doctest: +SKIP
    """
    true, batches = adata.obs[LABELS_KEY].astype(str).to_numpy(), adata.obs[BATCH_KEY].astype(str).to_numpy()
    given = with_labels(adata, true if method.sees_hidden else split.hide(true, UNLABELED), LABELS_KEY)
    folder = None if cache_dir is None else Path(cache_dir)
    with _memory() as memory:
        result = method(given, BATCH_KEY, LABELS_KEY, UNLABELED, split.seed, folder)
    result.peak_memory = memory[0]
    scores = score(result.z, result.prediction, true, batches, split.hidden, adata.obsm["X_pca"], scored, cells)
    record = {
        "dataset": split.dataset,
        "split": split.name,
        "protocol": split.protocol,
        "seed": split.seed,
        "rotation": split.rotation,
        "held_out": split.held_out,
        "method": method.name,
        "seeded": method.seeded,
        "scores": {key: _number(value) for key, value in scores.items()},
        "seconds": {key: round(value, 3) for key, value in result.seconds.items()},
        "wall_seconds": {key: round(value, 3) for key, value in result.wall_seconds.items()},
        "peak_memory": result.peak_memory,
        "parameters": result.parameters,
        "n_latent": None if result.z is None else int(result.z.shape[1]),
        "n_cells": int(adata.n_obs),
        "versions": _versions(),
    }
    return result, record


def run_benchmark(
    datasets: Sequence[str],
    methods: Sequence[Method],
    data_dir: str | os.PathLike,
    results_dir: str | os.PathLike,
    protocols: Sequence[str] = ("S1", "S2a"),
    seeds: Sequence[int] = (0, 1, 2),
    max_rotations: int = 4,
    cache_dir: str | os.PathLike | None = None,
) -> int:
    """Run every missing (data set, split, method).

    Parameters
    ----------
    datasets
        Names as in :func:`~more_scvi.evaluation.load_dataset`.
    methods
        Methods to run, see :func:`~more_scvi.evaluation.get_method`. On ``S2a``, whose splits do not depend on the
        seed, a method without randomness runs for the first seed only.
    data_dir, results_dir
        Where the data are, and where results go (created).
    protocols, seeds, max_rotations
        Which splits, see :func:`~more_scvi.evaluation.make_splits`.
    cache_dir
        Trained scVI models and, as ``embeddings/*.npz``, every embedding and prediction. ``None``
        keeps none of them.

    Returns
    -------
    Number of results that were computed; a method that fails is logged and does not stop the others.
    """
    done = 0
    for dataset in datasets:
        adata: AnnData | None = None
        for split, method in _missing(dataset, methods, data_dir, results_dir, protocols, seeds, max_rotations):
            if adata is None:
                adata = prepare(load_dataset(dataset, data_dir), BATCH_KEY)
            logger.info("%s %s %s", dataset, split.name, method.name)
            try:
                result, record = run_split(adata, split, method, cache_dir)
            except Exception:  # one failing peer must not end hours of work
                logger.exception("%s %s %s failed", dataset, split.name, method.name)
                continue
            if cache_dir is not None:
                _save_embedding(Path(cache_dir) / "embeddings", dataset, split, method, result)
            folder = Path(results_dir) / dataset / split.name
            write_json(folder / "split.json", split.to_json())
            write_json(folder / f"{_file(method.name)}.json", record)
            logger.info("  %s", {key: value for key, value in record["scores"].items() if value is not None})
            done += 1
    return done


def load_results(results_dir: str | os.PathLike) -> list[dict[str, Any]]:
    """All records below a results folder, ordered by data set, split and method."""
    files = sorted(Path(results_dir).glob("*/*/*.json"))
    return [json.loads(file.read_text()) for file in files if file.name != "split.json"]


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Write beside and rename, so that a reader never sees half a file. Makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    beside.write_text(json.dumps(record, indent=1) + "\n")
    os.replace(beside, path)


def _missing(
    dataset: str,
    methods: Sequence[Method],
    data_dir: str | os.PathLike,
    results_dir: str | os.PathLike,
    protocols: Sequence[str],
    seeds: Sequence[int],
    max_rotations: int,
) -> Iterable[tuple[Split, Method]]:
    obs = load_dataset(dataset, data_dir).obs
    for seed in seeds:
        for protocol in protocols:
            for split in make_splits(obs[LABELS_KEY], obs[BATCH_KEY], protocol, seed, max_rotations, dataset):
                for method in methods:
                    repeats = protocol == "S2a" and seed != seeds[0] and not method.seeded
                    path = Path(results_dir) / dataset / split.name / f"{_file(method.name)}.json"
                    if not repeats and not path.exists():
                        yield split, method


def _save_embedding(folder: Path, dataset: str, split: Split, method: Method, result: MethodResult) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{dataset}__{split.name}__{_file(method.name)}.npz"
    beside = path.with_name(f"{path.stem}.{os.getpid()}.tmp.npz")
    arrays = {"z": result.z, "prediction": result.prediction}
    np.savez(beside, **{key: np.asarray(value) for key, value in arrays.items() if value is not None})  # type: ignore[arg-type]
    os.replace(beside, path)


def _file(name: str) -> str:
    return name.replace(":", "-").replace("/", "-")


def _number(value: float | None) -> float | None:
    return None if value is None or (isinstance(value, float) and math.isnan(value)) else round(value, 4)


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


@contextmanager
def _memory(interval: float = 0.05):
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
        while not stop.is_set():
            growth[0] = max(growth[0], process.memory_info().rss - before)
            time.sleep(interval)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield growth
    finally:
        stop.set()
        thread.join()
