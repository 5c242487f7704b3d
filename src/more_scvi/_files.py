"""Files that are whole or not there, and files that somebody else may have written.

They are written beside their place and then renamed onto it. Only regular ones are read, never more than is fitting.
"""

import contextlib
import json
import os
import secrets
import stat
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

PREFIX = ".more-partial-"
STALE = 3600.0
"""Seconds after which a partial file that nobody wrote to is what a killed process left."""

MOST_BYTES = 1 << 33
"""Bytes of any file that is read at once. Source: plain value."""

MOST_TEXT = 1 << 27
"""Bytes of JSON and of tables, unpacked: ten times what the largest ones need."""


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A path to write to, beside ``path``, which takes the place of ``path`` when the block ends without an error.

    A reader sees the old file or the new one. The new file has the mode of the old, and where ``path`` is a link, what
    it points to is replaced. The name cannot be foreseen and the file is this process's own, so that no link planted
    in the folder is followed; it ends as ``path`` does, for writers that choose a format by the ending.
    """
    target = Path(os.path.realpath(path))
    sweep(target.parent)
    old = stat.S_IMODE(target.stat().st_mode) if target.exists() else None
    partial = target.with_name(f"{PREFIX}{secrets.token_hex(8)}{target.suffix}")
    os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666 if old is None else old | stat.S_IWUSR))
    try:
        mode = stat.S_IMODE(partial.stat().st_mode) if old is None else old  # asking for the umask would change it
        yield partial
        partial.chmod(mode)  # some writers make a file of their own that only the owner can read
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def write_files(files: Mapping[Path, bytes | str | Callable[[Path], object]]) -> None:
    """Write all files in the order given, from content or by a function of a path; then rename them in that order."""
    with contextlib.ExitStack() as stack:  # what enters last is renamed first
        beside = {path: stack.enter_context(atomic_path(path)) for path in reversed(list(files))}
        for path, content in files.items():
            if callable(content):
                content(beside[path])
            else:
                beside[path].write_bytes(content.encode() if isinstance(content, str) else content)


def check_writable(path: str | os.PathLike[str], name: str = "") -> None:
    """Raise an OSError that says why ``path`` (called ``name``) cannot become a file; before the work, not after it."""
    path, name = Path(path), name or str(path)
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise FileNotFoundError(f"The folder of {name} does not exist. Create {target.parent} first.")
    if target.exists() and not target.is_file():
        raise IsADirectoryError(f"{name} is a folder or a device. Give the path of a file.")
    try:
        if target.exists() and not os.access(target, os.W_OK):
            raise PermissionError("the file is read-only")  # renaming would replace it all the same
        probe = target.with_name(f"{PREFIX}{secrets.token_hex(8)}")
        os.close(os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        probe.unlink()
    except OSError as error:
        raise PermissionError(f"{name} cannot be written: {error}. Choose another place.") from error


def sweep(folder: str | os.PathLike[str]) -> None:
    """Remove the partial files in ``folder`` that killed processes left."""
    for left in Path(folder).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # somebody else's, or swept by another process
            if time.time() - left.lstat().st_mtime > STALE:  # of a link itself, not of what it points to
                left.unlink()


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
        return handle.read(size)  # not more: the file may grow meanwhile


def read_json(path: str | os.PathLike[str], remedy: str = "", hook: Callable[[dict], Any] | None = None) -> Any:
    """Content of a JSON file, objects by ``hook``; FileNotFoundError, or a ValueError that ends with ``remedy``."""
    content = read_bytes(path, MOST_TEXT)
    try:
        return json.loads(content, object_hook=hook)
    except (ValueError, RecursionError) as error:  # the second: nested too deeply for the parser
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
    unpacking = zlib.decompressobj(wbits=31)  # 31: with the header of gzip, which is checked, too
    try:
        text = unpacking.decompress(content, MOST_TEXT)  # stops there, so that a bomb cannot fill the memory
        if not unpacking.eof:
            left = "unpacks to too much" if len(text) == MOST_TEXT else "ends too early"
            raise ValueError(f"{source} {left}.")
        return text.decode()
    except (zlib.error, UnicodeDecodeError) as error:
        raise ValueError(f"{source} is not gzipped text ({error}).") from None
