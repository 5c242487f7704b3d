"""Where features lie while they are computed and afterwards: an array in memory, or a file that survives a kill.

On disk a cache is a folder ``<backbone>-<fingerprint>`` with ``features.npy`` (cells, 1 + views, features) and
``progress.json``: the checksum of every block of rows that is finished. Rows are flushed before ``progress.json`` is
replaced, so after a kill the file never claims more than is there; whatever fails its checksum is computed again.
"""

from __future__ import annotations

import json
import logging
import os
import zlib
from pathlib import Path

import numpy as np

logger = logging.getLogger("more_scvi")


class FeatureStore:
    """Rows of features that are filled in order.

    Parameters
    ----------
    shape
        (cells, 1 + views, features)
    dtype
        Storage type.
    folder
        Where to keep them; None: in memory.
    fingerprint
        What the features were computed from; another value in the folder's file means that it is started afresh.
    """

    def __init__(self, shape: tuple[int, int, int], dtype: np.dtype, folder: Path | None, fingerprint: str) -> None:
        self.folder, self.fingerprint, self.shape, self.dtype = folder, fingerprint, shape, np.dtype(dtype)
        self.blocks: list[tuple[int, int, int]] = []  # start, stop, checksum
        if folder is None:
            self.array: np.ndarray = np.empty(shape, dtype)
        else:
            self.array = self._resume() if shape[0] else np.empty(shape, dtype)

    @property
    def n_done(self) -> int:
        """Number of leading rows that are finished."""
        return self.blocks[-1][1] if self.blocks else 0

    def write(self, start: int, rows: np.ndarray) -> None:
        """Store finished rows that begin at ``start``."""
        stop = start + len(rows)
        self.array[start:stop] = rows
        self.blocks.append((start, stop, zlib.crc32(self.array[start:stop].tobytes())))
        if isinstance(self.array, np.memmap):
            self.array.flush()
            self._write_progress()

    def finish(self) -> np.ndarray:
        """The filled array; read-only if it is a file."""
        if isinstance(self.array, np.memmap):
            self.array = np.load(self._file, mmap_mode="r")
        return self.array

    @property
    def _file(self) -> Path:
        assert self.folder is not None
        return self.folder / "features.npy"

    @property
    def _progress(self) -> Path:
        assert self.folder is not None
        return self.folder / "progress.json"

    def _write_progress(self) -> None:
        temporary = self._progress.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(json.dumps({"fingerprint": self.fingerprint, "blocks": self.blocks}))
        os.replace(temporary, self._progress)

    def _resume(self) -> np.ndarray:
        """The file of an earlier run with the blocks that pass their checksum, or a new file."""
        try:
            progress = json.loads(self._progress.read_text())
            array = np.load(self._file, mmap_mode="r+", allow_pickle=False)
            blocks = [tuple(map(int, b)) for b in progress["blocks"]]
            usable = progress["fingerprint"] == self.fingerprint
        except FileNotFoundError:
            return self._create()
        except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
            logger.warning("Feature cache %s cannot be read (%s): computing it again.", self.folder, error)
            return self._create()
        if not usable or array.shape != self.shape or array.dtype != self.dtype:
            logger.warning("Feature cache %s was made from other data: computing it again.", self.folder)
            return self._create()
        for start, stop, checksum in blocks:
            if start != self.n_done or zlib.crc32(array[start:stop].tobytes()) != checksum:
                logger.warning("Feature cache %s is damaged from cell %d on: computing these.", self.folder, start)
                break
            self.blocks.append((start, stop, checksum))
        return array

    def _create(self) -> np.ndarray:
        self._progress.unlink(missing_ok=True)  # before the rows it describes go
        return np.lib.format.open_memmap(self._file, mode="w+", dtype=self.dtype, shape=self.shape)
