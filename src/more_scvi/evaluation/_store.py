"""Results on disk, one JSON file per (data set, split, method), and the tidy table made of them.

::

    <dataset>/<split>/split.json      what was hidden
    <dataset>/<split>/<method>.json   scores, seconds, memory, parameters, versions

Files are written beside and renamed: a reader never sees half a result, and a run that is killed continues where it
stopped.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd

from ._splits import Split

PACKAGES = (
    *("more-scvi", "scvi-tools", "torch", "scanpy", "anndata", "mudata", "scikit-learn", "numpy", "harmonypy"),
    *("scanorama", "scib-metrics"),
)
KEYS = ("dataset", "protocol", "seed", "rotation", "held_out", "method")


def result_path(results_dir: str | os.PathLike, split: Split, method: str) -> Path:
    """File of one result."""
    name = method.replace(":", "-").replace("/", "-")
    return Path(results_dir) / split.dataset / split.name / f"{name}.json"


def load_results(results_dir: str | os.PathLike) -> list[dict[str, Any]]:
    """All records below a results folder, ordered by data set, split and method."""
    files = sorted(Path(results_dir).glob("*/*/*.json"))
    return [json.loads(file.read_text()) for file in files if file.name != "split.json"]


def load_splits(results_dir: str | os.PathLike) -> list[Split]:
    """All splits below a results folder."""
    files = sorted(Path(results_dir).glob("*/*/split.json"))
    return [Split.from_json(json.loads(file.read_text())) for file in files]


def tidy(records: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """One row per record and figure.

    Parameters
    ----------
    records
        Results, see :func:`load_results`.

    Returns
    -------
    ``dataset``, ``protocol``, ``seed``, ``rotation``, ``held_out``, ``method``, ``metric`` and ``value``. Beside the
    scores, ``metric`` is ``seconds`` (CPU, all stages), ``memory`` (bytes), ``trained`` and ``frozen`` (weights).
    Figures that do not exist for a method have no row.

    Examples
    --------
    >>> record = dict.fromkeys(("dataset", "protocol", "held_out", "method"), "a") | {"seed": 0, "rotation": 0}
    >>> tidy([record | {"scores": {"own": 0.5, "LR": None}}])[["method", "metric", "value"]].values.tolist()
    [['a', 'own', 0.5]]
    """
    rows = []
    for record in records:
        costs = {
            "seconds": sum(record.get("seconds", {}).values()) or None,
            "memory": record.get("peak_memory"),
            **record.get("parameters", {}),
        }
        keys = [record[key] for key in KEYS]
        rows += [[*keys, name, value] for name, value in {**record["scores"], **costs}.items() if value is not None]
    table = pd.DataFrame(rows, columns=[*KEYS, "metric", "value"])
    return table.astype({"value": float, "seed": int, "rotation": int})


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    """Write beside and rename, so that a reader never sees half a file. Makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    beside.write_text(json.dumps(record, indent=1) + "\n")
    os.replace(beside, path)


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table as CSV beside and rename."""
    beside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    table.to_csv(beside, index=False)
    os.replace(beside, path)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
