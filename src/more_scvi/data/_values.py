"""One pass over all measured values of a matrix: what a count or log-normalised matrix may not hold.

The pass reads stored values in blocks of a fixed size, so a sparse matrix is never made dense, a backed matrix is
never read whole, and the answer never depends on a random draw.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import scipy.sparse as sp

from ._rows import Lines

BLOCK_VALUES = 1 << 21
"""Values held in memory at a time (16 MB as float64)."""


@dataclass
class ValueScan:
    """What :func:`scan_values` found in a (cells, genes) matrix."""

    has_counts: np.ndarray  # bool (cells,): the cell holds at least one value other than zero
    n_nonfinite: int = 0
    n_negative: int = 0
    n_fractional: int = 0
    n_nonzero: int = 0
    maximum: float = 0.0  # 0.0 where nothing is stored
    first: dict[str, tuple[int, int, float]] = field(default_factory=dict)  # kind -> cell, gene, value of the first met
    said: str = ""  # what the values were found to be, in words

    @property
    def is_integer(self) -> bool:
        """All values are whole numbers."""
        return self.n_fractional == 0

    @property
    def empty_cells(self) -> np.ndarray:
        """Positions of the cells without a single non-zero value, int64."""
        return np.flatnonzero(~self.has_counts)


def scan_values(x) -> ValueScan:
    """Look at every value of a (cells, genes) matrix once, dense, sparse or backed; TypeError for anything else.

    Parts that a sparse matrix stores for one place count as their sum.
    """
    lines = Lines(x)
    scan = ValueScan(np.zeros(lines.shape[0], dtype=bool))
    for start, piece in lines.pieces(BLOCK_VALUES):
        stored = sp.coo_matrix(piece)
        values, cells, genes = stored.data, stored.row, stored.col
        cells, genes = (cells + start, genes) if lines.by_row else (cells, genes + start)
        if not values.size:
            continue
        finite = np.isfinite(values)
        whole = np.where(finite, values, 0)
        scan.has_counts[cells[values != 0]] = True
        scan.n_nonzero += int(np.count_nonzero(values))
        scan.maximum = max(scan.maximum, float(whole.max()))
        for name, bad in {"nonfinite": ~finite, "fractional": np.rint(whole) != whole, "negative": whole < 0}.items():
            at = np.flatnonzero(bad)
            if len(at) and name not in scan.first:
                scan.first[name] = int(cells[at[0]]), int(genes[at[0]]), float(values[at[0]])
            setattr(scan, f"n_{name}", getattr(scan, f"n_{name}") + len(at))
    return scan
