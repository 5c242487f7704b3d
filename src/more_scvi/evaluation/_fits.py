"""Fits of peers that splits share: kept as arrays and a JSON record, so that reading one runs no code."""

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from more_scvi._files import atomic_path

Fit = tuple[dict[str, NDArray], dict[str, Any]]
"""Arrays, and what JSON holds."""
T = TypeVar("T")


def fit_path(
    cache_dir: Path | None, counts: Mapping[str, sparse.csr_matrix], batches: NDArray, settings: Mapping[str, Any]
) -> Path | None:
    """File of a fit, named by what went in: counts of every modality, batches, settings, version of scvi-tools."""
    if cache_dir is None:
        return None
    digest = hashlib.sha256(json.dumps([settings, version("scvi-tools")], sort_keys=True).encode())
    digest.update("\0".join(np.asarray(batches).astype(str)).encode())
    for name in sorted(counts):
        digest.update(f"{name} {counts[name].shape}".encode())
        for axis in (0, 1):
            digest.update(np.asarray(counts[name].sum(axis=axis), dtype=np.float64).tobytes())
    return Path(cache_dir) / f"{settings['model']}_{digest.hexdigest()[:16]}.npz"


def cached(path: Path | None, fit: Callable[[], Fit], use: Callable[[dict[str, NDArray], dict[str, Any]], T]) -> T:
    """``use`` of what ``path`` holds, else of what ``fit`` returns, which is then kept there."""
    if path is not None and path.is_file():
        try:
            with np.load(path, allow_pickle=False) as stored:
                record = json.loads(str(stored["record"]))
                return use({name: stored[name] for name in stored.files if name != "record"}, record)
        except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, BadZipFile) as error:
            raise ValueError(f"{path}: holds no fit of this model ({error}); delete it.") from error
    with warnings.catch_warnings(action="ignore"):
        arrays, record = fit()
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as beside:
            np.savez(beside, record=json.dumps(record), **arrays)  # type: ignore[arg-type]
    return use(arrays, record)
