"""Checks of single arguments: each refusal names the argument, the value, what is legal and the next step."""

import difflib
import sys
import warnings
from collections.abc import Collection, Iterable, Mapping
from numbers import Integral, Real
from types import UnionType
from typing import Any

import numpy as np
import pandas as pd


def listing(values: Iterable[Any], limit: int = 12) -> str:
    """Return the first `limit` values as text, with how many more there are."""
    values = list(values)
    text = ", ".join(repr(v) for v in values[:limit]) or "none"
    return text + (f" and {len(values) - limit} more" if len(values) > limit else "")


def nearest(value: Any, legal: Iterable[Any]) -> str:
    """``" Did you mean 'x'?"`` for the closest of `legal`, or an empty string."""
    by_text = {str(v).lower(): v for v in legal}
    match = difflib.get_close_matches(str(value).lower(), by_text, n=1)
    return f" Did you mean {by_text[match[0]]!r}?" if match else ""


def warn(text: str, category: type[Warning] = UserWarning) -> None:
    """Warn, pointing at the first caller outside this package."""
    frame, level = sys._getframe(1), 2  # skip_file_prefixes of warnings.warn needs Python 3.12
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("more_scvi."):
        frame, level = frame.f_back, level + 1
    warnings.warn(text, category, stacklevel=level)


def check_option(name: str, value: Any, legal: Collection[str]) -> str:
    """`value` if it is one of `legal`; ValueError otherwise."""
    if not isinstance(value, str) or value not in legal:
        raise ValueError(f"{name}={value!r} is not supported; choose one of {listing(legal)}.{nearest(value, legal)}")
    return value


def check_integer(name: str, value: Any, minimum: int = 1, maximum: float = np.inf) -> int:
    """`value` as int if it is a whole number in [`minimum`, `maximum`]; TypeError or ValueError otherwise."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, Integral):  # True is an Integral
        raise TypeError(f"{name}={value!r} is a {type(value).__name__}; expected an integer of at least {minimum}.")
    if value < minimum:
        raise ValueError(f"{name}={value!r} is too small; expected an integer of at least {minimum}.")
    if int(value) > maximum:
        raise ValueError(f"{name}={value!r} is too large; expected an integer from {minimum} to {maximum}.")
    return int(value)


def check_number(name: str, value: Any, minimum: float = -np.inf, maximum: float = np.inf) -> float:
    """`value` as float if it is a finite number in [`minimum`, `maximum`]; TypeError or ValueError otherwise."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, Real):  # True is a Real
        raise TypeError(f"{name}={value!r} is a {type(value).__name__}; expected a number from {minimum} to {maximum}.")
    number = float(value)
    if not (np.isfinite(number) and minimum <= number <= maximum):
        raise ValueError(f"{name}={value!r} is out of range; expected a finite number from {minimum} to {maximum}.")
    return number


def check_type(name: str, value: Any, kind: type | UnionType, give: str) -> None:
    """TypeError that ends with what to ``give`` unless `value` is a `kind`."""
    if not isinstance(value, kind):
        raise TypeError(f"{name} is a {type(value).__name__} ({value!r:.60}); give {give}.")


def check_unique(where: str, names: pd.Index, step: str) -> None:
    """ValueError that ends with `step` if names repeat."""
    if not names.is_unique:
        twice = names[names.duplicated()].unique()
        raise ValueError(f"{where} holds {len(twice)} names more than once: {listing(twice, 5)}. {step}")


def check_mapping(name: str, given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return a copy of the dictionary `given`, an empty one for None; TypeError for anything else."""
    if given is not None and not isinstance(given, Mapping):
        raise TypeError(f"{name}={given!r} is a {type(given).__name__}; expected a dict of argument names and values.")
    return dict(given or {})


def check_obsm_key(obsm_key: Any) -> None:
    """TypeError unless `obsm_key` is text or None."""
    if obsm_key is not None and not isinstance(obsm_key, str):
        raise TypeError(f"obsm_key is {obsm_key!r}; give a key of adata.obsm as text, or None to write nothing.")


def check_indices(indices: Any, n: int) -> np.ndarray:
    """Positions in [0, `n`), int64, from what selects cells; TypeError or ValueError for what does not.

    `indices`: None (all cells), a slice, integers (negative ones count from the end; order and repeats are kept) or a
    boolean mask of length `n`; list, array or pandas object.
    """
    if indices is None or isinstance(indices, slice):
        return np.arange(n, dtype=np.int64)[slice(None) if indices is None else indices]
    array = np.asarray(indices)
    if array.size == 0 and array.ndim == 1 and array.dtype != bool:  # [] becomes floats, refused below
        return np.empty(0, dtype=np.int64)
    if array.ndim != 1:
        raise ValueError(
            f"indices has {array.ndim} dimensions; expected one, e.g. [0, 3, 5] or a boolean mask of {n} cells."
        )
    if array.dtype == bool:
        if len(array) != n:
            raise ValueError(
                f"indices is a boolean mask of length {len(array)}, but there are {n} cells; give one value per cell."
            )
        return np.flatnonzero(array)
    if array.dtype.kind not in "iu":
        raise TypeError(
            f"indices holds {array.dtype} values; expected integers, booleans or a slice. For cell names use"
            " adata.obs_names.get_indexer(names)."
        )
    outside = (array < -n) | (array >= n)  # before the cast, in which uint64 may wrap round
    if outside.any():
        raise ValueError(
            f"indices holds {array[outside][0]}, but there are only {n} cells; legal positions are {-n} to {n - 1}."
        )
    array = array.astype(np.int64)
    return np.where(array < 0, array + n, array)
