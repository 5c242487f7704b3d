"""Files that somebody else may have written: only regular files are opened, and never more is read than is fitting."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

MOST_BYTES = 1 << 33
"""Bytes of any file that is read at once. Source: plain value."""

MOST_TEXT = 1 << 27
"""Bytes of JSON and of tables, unpacked: ten times what the largest ones need."""


def check_regular(path: str | os.PathLike[str]) -> Path:
    """``path``, if it is a regular file; a pipe would wait for ever, a device never ends."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} not found.")
    if not path.is_file():
        raise ValueError(f"{path} is a folder, a pipe or a device; a file is expected there.")
    return path


def read_bytes(path: str | os.PathLike[str], most: int = MOST_BYTES) -> bytes:
    """Content of a regular file of at most ``most`` bytes; FileNotFoundError or ValueError otherwise."""
    with check_regular(path).open("rb") as handle:
        size = os.fstat(handle.fileno()).st_size  # of the file that is open: another may take its place meanwhile
        if size > most:
            raise ValueError(f"{path} has {size:,} bytes; at most {most:,} are expected there. It was not read.")
        return handle.read(size)


def read_json(path: str | os.PathLike[str], remedy: str = "", hook: Callable[[dict], Any] | None = None) -> Any:
    """Content of a JSON file, objects by ``hook``; FileNotFoundError, or a ValueError that ends with ``remedy``."""
    content = read_bytes(path, MOST_TEXT)
    try:
        return json.loads(content, object_hook=hook)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not readable JSON ({error}). {remedy}".rstrip()) from None


def json_object(path: Path) -> dict[str, Any]:
    """Content of a JSON file that holds an object; an empty one for any other file, and for none."""
    try:
        found = read_json(path)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def unzip_text(content: bytes, source: str | os.PathLike[str]) -> str:
    """Text of gzipped ``content``; a ValueError that names ``source`` where it is damaged or unpacks to too much."""
    unpacking = zlib.decompressobj(wbits=31)
    try:
        text = unpacking.decompress(content, MOST_TEXT)
        if not unpacking.eof:
            left = "unpacks to too much" if len(text) == MOST_TEXT else "ends too early"
            raise ValueError(f"{source} {left}.")
        return text.decode()
    except (zlib.error, UnicodeDecodeError) as error:
        raise ValueError(f"{source} is not gzipped text ({error}).") from None
