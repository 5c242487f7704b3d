"""Dictionaries of published checkpoints: JSON, or pickles from which nothing but plain values can come."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np

_LFS_POINTER = b"version https://git-lfs"
_NUMBERS = frozenset(f"{kind}{size}" for kind, sizes in (("i", "1248"), ("u", "1248"), ("f", "248")) for size in sizes)


class _NumberType:
    """Stands in for ``numpy.dtype`` while reading: knows the types of single numbers and nothing else."""

    def __init__(self, code: object, align: object = False, copy: object = True) -> None:
        if code not in _NUMBERS:
            raise pickle.UnpicklingError(f"the numpy type {code!r} is not a number")
        self.code, self.order = str(code), "<"

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError("a numpy type has an unknown byte order")
        self.order = state[1]


def _number(kind: object, raw: object = b"") -> int | float:
    """Stands in for numpy's scalar constructor: a Python number from its bytes."""
    if not isinstance(kind, _NumberType) or not isinstance(raw, bytes):
        raise pickle.UnpicklingError("a numpy value is not a single number")
    values = np.frombuffer(raw, dtype=np.dtype(kind.order + kind.code))
    if len(values) != 1:
        raise pickle.UnpicklingError("a numpy value is not a single number")
    return values[0].item()


class _PlainUnpickler(pickle.Unpickler):
    """Builds dictionaries, strings and numbers; whatever else a file asks for is refused, never imported or called."""

    _STAND_INS: dict[tuple[str, str], Any] = {
        ("numpy.core.multiarray", "scalar"): _number,
        ("numpy._core.multiarray", "scalar"): _number,
        ("numpy", "dtype"): _NumberType,
    }

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._STAND_INS[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no dictionary needs") from None


def check_file(path: Path) -> None:
    """Raise a ValueError if ``path`` is no file, or only the pointer that git leaves where git-lfs is missing."""
    if not path.is_file():
        held = sorted(p.name for p in path.parent.iterdir())[:10] if path.parent.is_dir() else "no such folder"
        raise ValueError(f"{path}: missing ({held}). Give the folder as it was published.")
    with path.open("rb") as handle:
        start = handle.read(len(_LFS_POINTER))
    if start == _LFS_POINTER:
        raise ValueError(
            f"{path}: a git-lfs pointer of a few bytes, not the file itself. Run `git lfs pull` in the clone, or"
            " download the file with huggingface_hub."
        )


def read_dictionary(path: Path) -> dict[str, Any]:
    """Read a dictionary from names to numbers or strings.

    Parameters
    ----------
    path
        A ``.json`` file, or a pickle of a plain dictionary whose values may be numpy numbers.

    Raises
    ------
    ValueError
        If the file is missing, a git-lfs pointer, truncated, asks for code, or holds something else.
    """
    check_file(path)
    try:
        if path.suffix == ".json":
            found = json.loads(path.read_text(encoding="utf-8"))
        else:
            with path.open("rb") as handle:
                found = _PlainUnpickler(handle).load()
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path}: not a plain dictionary ({error}). It was not loaded; take the file from its original source, or"
            " give a JSON copy."
        ) from None
    except (ValueError, EOFError, KeyError, IndexError, TypeError, AttributeError, MemoryError) as error:
        raise ValueError(f"{path}: truncated or damaged ({error!r}). Download it again.") from None
    if not isinstance(found, dict) or not found:
        raise ValueError(f"{path}: holds a {type(found).__name__}, expected a dictionary that is not empty.")
    bad = next(((k, v) for k, v in found.items() if not _plain(k, v)), None)
    if bad is not None:
        raise ValueError(f"{path}: entry {bad[0]!r} is {bad[1]!r}, expected a name and a number or a name.")
    return found


def _plain(key: object, value: object) -> bool:
    return isinstance(key, str) and isinstance(value, int | float | str) and not isinstance(value, bool)
