"""A card and the files that belong to it, switched from one save to the next by replacing the card alone.

Every file has two names, ``x.y`` and ``x-2.y``. The card says which of them is in use, with its SHA-256. A new save
writes the names that are not in use and replaces the card last: a kill leaves the old save or the new one, and a reader
beside a writer reads one of them, whole.
"""

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from more_scvi._files import read_bytes, read_json, write_files

logger = logging.getLogger("more_scvi")
SUMS = "sha256"


def check_folder(dir_path: str | os.PathLike[str], names: Sequence[str], overwrite: bool) -> Path:
    """The folder, to which ``names`` can be written; a ValueError if it is a file, or holds them already."""
    folder = Path(dir_path)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; give a folder.")
    present = [name for name in names if (folder / name).exists()]
    if present and not overwrite:
        raise ValueError(f"{folder} already holds {', '.join(present)}; give overwrite=True or another folder.")
    return folder


def write_saved(
    card: Path,
    content: Mapping[str, Any],
    files: Mapping[str, bytes | Callable[[Path], object]],
    roles: Sequence[str],
    prefix: str = "",
) -> None:
    """Write ``card`` (JSON) and ``files`` beside it, by the first of their two names that is not in use.

    A file is bytes, or a function that writes to a path (for large ones, which get no digest). The card also says the
    names in use and their digests. ``roles`` are all files that a card of this kind may have:
    those that are not in use any more are removed. The folder is created if needed.
    """
    folder = card.parent
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        used: set[str] = set()
        with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):  # no card, or none that can be read
            used = set(read_json(card).get(SUMS, roles))  # a card without digests goes with the first names
        names = {role: _second(role) if role in used else role for role in files}
        sums = {names[k]: hashlib.sha256(v).hexdigest() if isinstance(v, bytes) else None for k, v in files.items()}
        text = json.dumps({**content, SUMS: sums}, indent=1) + "\n"
        write_files({folder / f"{prefix}{names[role]}": content for role, content in files.items()} | {card: text})
        for name in {name for role in roles for name in (role, _second(role))} - set(sums):
            (folder / f"{prefix}{name}").unlink(missing_ok=True)


def read_saved(
    card: Path, read_card: Callable[[Path], dict[str, Any]], roles: Sequence[str], remedy: str, prefix: str = ""
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The card, read by ``read_card``, and the content of its files, which are those that it was written with."""
    found = read_card(card)
    while True:
        try:
            return found, {role: _content(card, found, role, remedy, prefix) for role in roles}
        except (FileNotFoundError, ValueError):
            again = read_card(card)
            if again.get(SUMS) == found.get(SUMS):  # nobody saved meanwhile: the folder itself is damaged
                raise
            found = again  # somebody saved meanwhile


def file_of(card: Path, content: Mapping[str, Any], role: str, prefix: str = "") -> Path | None:
    """Path of a file of the save, None if it has none."""
    names = [name for name in (role, _second(role)) if name in content.get(SUMS, (role,))]
    return card.with_name(f"{prefix}{names[0]}") if names else None


def unpack(content: bytes, path: Path, remedy: str) -> dict[str, Tensor]:
    """Tensors of the bytes of a safetensors file; a ValueError that ends with ``remedy`` if they are none."""
    try:
        return load(content)
    except (SafetensorError, ValueError, KeyError) as error:  # the last: a type that torch does not know
        raise ValueError(f"{path} is not a complete safetensors file ({error}). {remedy}") from None


def check_tensors(
    tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path, remedy: str, finite: bool = True
) -> None:
    """Raise a ValueError that names what is missing, unexpected, of another shape than expected or not ``finite``."""
    missing, unexpected = sorted(expected.keys() - tensors), sorted(tensors.keys() - expected)
    wrong = []
    if missing or unexpected:
        lost, more = _some(missing), _some(unexpected)
        wrong.append(f"{len(missing)} tensors are missing ({lost}) and {len(unexpected)} unexpected ({more})")
    for name in [name for name in expected if name in tensors]:
        found, wanted = tuple(tensors[name].shape), tuple(expected[name].shape)
        if found != wanted:
            wrong.append(f"tensor {name!r} has shape {found}, the config implies {wanted}")
        elif finite and not torch.isfinite(tensors[name]).all():
            wrong.append(f"tensor {name!r} holds NaN or infinite values")
    if wrong:
        raise ValueError(f"{path}: {'; '.join(wrong[:5])}. {remedy}")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "") if names else "none"


def _content(card: Path, content: Mapping[str, Any], role: str, remedy: str, prefix: str) -> bytes:
    sums = content.get(SUMS, {})
    path = file_of(card, content, role, prefix) if isinstance(sums, dict) else None
    if path is None:
        raise ValueError(f"{card} names no {role} under {SUMS!r}; it was edited. {remedy}")
    if not path.exists():
        raise FileNotFoundError(f"{path} not found. {remedy}")
    found = read_bytes(path)
    if SUMS not in content:
        logger.warning(
            "%s was written by an earlier version, without checksums: that %s belongs to it cannot be verified. Save"
            " again to add them.", card, path.name,
        )  # fmt: skip
    elif hashlib.sha256(found).hexdigest() != sums[path.name.removeprefix(prefix)]:
        raise ValueError(f"{path}: truncated or changed (its SHA-256 is not that of {card.name}). {remedy}")
    return found


def _second(name: str) -> str:
    stem, ending = name.split(".", 1)
    return f"{stem}-2.{ending}"


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One writer at a time, where the system can lock a folder; the lock dies with its owner and leaves no file."""
    try:
        import fcntl  # not there on Windows

        handle = os.open(folder, os.O_RDONLY)  # the folder itself can be locked, no file of ours is needed
    except (ImportError, OSError):
        yield
        return
    try:
        with contextlib.suppress(OSError):  # network folders without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
