"""What a teacher says about cells, and the genes that a student reads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp


@dataclass
class Lesson:
    """What a teacher says about some cells."""

    reader: Any  # rows of a matrix, columns in the order of the student's genes; reader[slice] is csr
    rows: np.ndarray  # (cells,) sorted rows that are used
    batch: np.ndarray  # (cells,) codes; every negative code is a batch that the teacher was not trained on
    z: np.ndarray  # (cells, n_latent) its embedding
    log_probs: np.ndarray | None  # (cells, n_labels) log-probabilities of its labels

    def chunks(self, size: int = 2048) -> Iterator[tuple[np.ndarray, sp.csr_matrix]]:
        """(positions among the cells, csr block) of consecutive cells."""
        for start in range(0, self.reader.shape[0], size):
            stop = min(start + size, self.reader.shape[0])
            here = np.arange(*np.searchsorted(self.rows, [start, stop]))
            if len(here):
                yield here, self.reader[start:stop][self.rows[here] - start]


@dataclass(frozen=True)
class Genes:
    """Genes that a student reads, as its teacher standardises them."""

    n_all: int  # genes of the data
    variable: np.ndarray  # positions of those that are read
    mean: np.ndarray  # (variable genes,) of the log-normalised expression
    std: np.ndarray
