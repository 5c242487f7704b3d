"""Results on disk, one JSON file per (data set, split, method), and the tidy table made of them.

::

    <dataset>/<split>/split.json      what was hidden
    <dataset>/<split>/<method>.json   scores, seconds, memory, parameters, and what they were made with

Files are written beside and renamed: a reader never sees half a result, and a run that is killed continues where it
stopped.
"""

import hashlib
import json
import os
import platform
import re
import subprocess
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd

from more_scvi._files import atomic_path

from ._splits import Split

PACKAGES = (
    *("more-scvi", "scvi-tools", "torch", "scanpy", "anndata", "mudata", "scikit-learn", "numpy", "harmonypy"),
    *("scanorama", "scib-metrics", "concord-sc"),
)
KEYS = ("dataset", "protocol", "seed", "rotation", "held_out", "method")


_UNFIT = re.compile(r'[\x00-\x1f\x7f/\\:*?"<>|]|^[.\s~-]|[.\s]$')
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


def check_name(what: str, name: str) -> str:
    """``name`` if it is fit for a file on every system; every name that becomes part of a path passes here."""
    fits = isinstance(name, str) and 0 < len(name.encode()) <= 200
    if not fits or _UNFIT.search(name) or _DEVICES.fullmatch(name):
        raise ValueError(
            f'{what} {name!r} cannot be the name of a file. Give 1 to 200 bytes without / \\ : * ? " < > | and control'
            " characters, that do not begin with a dot, dash, tilde or space, end in a dot or space, or name a device"
            " of Windows."
        )
    return name


def file_name(method: str) -> str:
    """Name of a method's file: ``"more:no-keep"`` is kept as ``"more-no-keep"``."""
    name = check_name("Method", re.sub("[:/]", "-", method) if isinstance(method, str) else method)
    if name.lower() == "split":
        raise ValueError("Method 'split' would take the place of split.json; give the method another name.")
    return name


def split_folder(results_dir: str | os.PathLike, split: Split) -> Path:
    """Folder of a split."""
    return Path(results_dir) / check_name("dataset", split.dataset) / check_name("Split", split.name)


def result_path(results_dir: str | os.PathLike, split: Split, method: str) -> Path:
    """File of one result."""
    return split_folder(results_dir, split) / f"{file_name(method)}.json"


def split_digest(split: Split) -> str:
    """What was hidden, in 16 letters: the split itself follows from data, protocol and seed."""
    return hashlib.sha256(json.dumps(split.to_json(), sort_keys=True).encode()).hexdigest()[:16]


def load_results(results_dir: str | os.PathLike) -> list[dict[str, Any]]:
    """All records below a results folder, ordered by data set, split and method."""
    files = sorted(Path(results_dir).glob("*/*/[!.]*.json"))  # a dot: what a killed process left
    return [read_json(file) for file in files if file.name != "split.json"]


def load_splits(results_dir: str | os.PathLike) -> list[Split]:
    """All splits below a results folder."""
    files = sorted(Path(results_dir).glob("*/*/split.json"))
    return [Split.from_json(read_json(file)) for file in files]


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


def read_json(path: Path) -> dict[str, Any]:
    """The record in a file; empty if there is no file."""
    try:
        return json.loads(path.read_text()) if path.exists() else {}
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}). Delete it; what it held is computed again.") from error


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    """Write beside and rename, so that a reader never sees half a file. Makes the folder."""
    text = json.dumps(record, indent=1) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as beside:
        beside.write_text(text)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on."""
    found = {package: number for package in PACKAGES if (number := installed(package))}
    return {"python": platform.python_version(), **found}


def installed(package: str) -> str | None:
    """Version of a package; ``None`` without it."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@cache
def commit() -> str | None:
    """Commit of the checkout that the package is imported from, ``-dirty`` if ``src`` differs; ``None`` without one."""
    source = Path(__file__).parents[2]
    if not (source.parent / ".git").exists():
        return None
    git = ("git", "-C", str(source))
    try:
        head = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", "."], capture_output=True).returncode
    except (OSError, subprocess.SubprocessError):
        return None
    return head.stdout.strip() + "-dirty" * bool(changed)
