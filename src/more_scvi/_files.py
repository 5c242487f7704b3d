"""Files that are whole or not there: written beside their place, then renamed onto it."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

PREFIX = ".more-partial-"
STALE = 3600.0
"""Seconds after which a partial file that nobody wrote to is what a killed process left."""


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
        mode = stat.S_IMODE(partial.stat().st_mode) if old is None else old
        yield partial
        partial.chmod(mode)  # some writers make a file of their own that only the owner can read
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def write_files(files: Mapping[Path, bytes | str | Callable[[Path], object]]) -> None:
    """Write all files in the order given, from content or by a function of a path; then rename them in that order."""
    with contextlib.ExitStack() as stack:  # what enters last is renamed first
        beside = {
            path: stack.enter_context(atomic_path(path)) for path in reversed(list(files))
        }  # last in, first renamed
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
            raise PermissionError("the file is read-only")
        probe = target.with_name(f"{PREFIX}{secrets.token_hex(8)}")
        os.close(os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        probe.unlink()
    except OSError as error:
        raise PermissionError(f"{name} cannot be written: {error}. Choose another place.") from error


def sweep(folder: str | os.PathLike[str]) -> None:
    """Remove the partial files in ``folder`` that killed processes left."""
    for left in Path(folder).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # somebody else's, or swept by another process
            if time.time() - left.lstat().st_mtime > STALE:
                left.unlink()
