"""Where features lie while they are computed and afterwards: an array in memory, or a file that survives a kill.

On disk a cache is a folder ``<backbone>-<fingerprint>`` with ``features.npy`` (cells, 1 + views, features) and
``progress.json``: the checksum of every block of rows that is finished. Rows are flushed before ``progress.json`` is
replaced, so after a kill the file never claims more than is there; whatever fails its checksum is computed again.
"""

import errno
import json
import logging
import os
import zlib
from pathlib import Path

import numpy as np

from more_scvi._files import check_regular, read_json, write_files

logger = logging.getLogger("more_scvi")


class FeatureStore:
    """Rows of features, (cells, 1 + views, features), that are filled in order: in memory, or in a folder.

    A store on disk is to be opened first: with :meth:`read`, which only reads, or with :meth:`open`. What was computed
    from anything else, which is what the fingerprint says, is started afresh.
    """

    def __init__(self, shape: tuple[int, int, int], dtype: np.dtype, folder: Path | None, fingerprint: str) -> None:
        self.folder, self.fingerprint, self.shape, self.dtype = folder, fingerprint, shape, np.dtype(dtype)
        self._file, self._progress = (Path(folder or "") / name for name in ("features.npy", "progress.json"))
        self.blocks: list[tuple[int, int, int]] = []  # start, stop, checksum
        self.array: np.ndarray = np.empty(shape if folder is None else (0, *shape[1:]), dtype)

    @property
    def n_done(self) -> int:
        """Number of leading rows that are finished."""
        return self.blocks[-1][1] if self.blocks else 0

    def write(self, start: int, rows: np.ndarray) -> None:
        """Store finished rows that begin at ``start``."""
        stop = start + len(rows)
        self.array[start:stop] = rows
        self.blocks.append((start, stop, zlib.crc32(self.array[start:stop].tobytes())))  # as stored, not as given
        if isinstance(self.array, np.memmap):
            self.array.flush()
            progress = json.dumps({"fingerprint": self.fingerprint, "blocks": self.blocks})
            write_files({self._progress: progress})

    def finish(self) -> np.ndarray:
        """The filled array; read-only if it is a file."""
        if isinstance(self.array, np.memmap):
            self.array = np.lib.format.open_memmap(self._file, mode="r")
        return self.array

    def read(self) -> bool:
        """Take up the blocks of the folder that pass their checksum, for reading only; whether all are there."""
        self.blocks = []
        try:
            progress = read_json(self._progress)
            array = np.lib.format.open_memmap(check_regular(self._file), mode="r")
            blocks = [(int(start), int(stop), int(checksum)) for start, stop, checksum in progress["blocks"]]
            usable = progress["fingerprint"] == self.fingerprint
        except FileNotFoundError:
            return False
        except (OSError, EOFError, ValueError, KeyError, TypeError, OverflowError) as error:
            logger.warning("Feature cache %s cannot be read (%s): computing it again.", self.folder, error)
            return False
        if not usable or array.shape != self.shape or array.dtype != self.dtype:
            logger.warning("Feature cache %s was made from other data: computing it again.", self.folder)
            return False
        for start, stop, checksum in blocks:
            if not self.n_done == start < stop <= self.shape[0] or zlib.crc32(array[start:stop].tobytes()) != checksum:
                logger.warning("Feature cache %s is damaged from cell %d on: computing these.", self.folder, start)
                break
            self.blocks.append((start, stop, checksum))
        self.array = array
        return self.n_done == self.shape[0]

    def open(self) -> None:
        """Make the folder's file writable from the first row that is not finished, or start a new one."""
        if self.folder is None or not self.shape[0] or self.read():  # an empty file cannot be mapped
            return
        if self.blocks:
            self.array = np.lib.format.open_memmap(self._file, mode="r+")
        else:
            self._progress.unlink(missing_ok=True)  # before the rows it describes go
            self._file.unlink(missing_ok=True)
            self.array = np.lib.format.open_memmap(self._file, mode="w+", dtype=self.dtype, shape=self.shape)
        if hasattr(os, "posix_fallocate"):  # a map that grows into a full disk ends the process without a word
            size = self._file.stat().st_size
            try:
                with self._file.open("rb+") as handle:
                    os.posix_fallocate(handle.fileno(), 0, size)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                    return  # a file system that cannot claim space
                self.array = np.empty((0, *self.shape[1:]), self.dtype)
                if not self.blocks:
                    self._file.unlink()
                raise OSError(
                    error.errno,
                    f"{self.folder} has no room for the {size:,} bytes of the feature cache ({error.strerror}). Free"
                    " some space, name another cache_dir, or give cache_dir=None to keep features in memory.",
                ) from None
