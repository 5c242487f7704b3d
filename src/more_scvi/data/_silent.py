"""Features that are zero in all cells as if they had not been measured: a query that was padded with zeros."""

import logging

import numpy as np

from more_scvi.data._rows import RowReader

logger = logging.getLogger("more_scvi")

COMMON = 0.5
"""Share of the training cells in which a feature must be seen to be expected in cells of any type. Source: plain
value, not tuned."""

SILENT_SHARE, SILENT_CELLS = 0.1, 20
"""Share of common features that may be empty by composition, and cells from which on their absence says something.
Source: plain value, not tuned."""


def count_features(reader: RowReader) -> tuple[np.ndarray, np.ndarray]:
    """Sum of each feature over all cells, and in how many it was seen, (features,) each."""
    total, seen = np.zeros((2, reader.shape[1]))
    for _, x in reader.chunks():
        total += np.asarray(x.sum(0)).ravel()
        seen += np.bincount(x.indices[x.data != 0], minlength=len(seen))  # zeros may be stored
    return total, seen


def silent_features(reader: RowReader, detected: np.ndarray) -> np.ndarray | None:
    """Features that are empty in all cells as if they had not been measured, bool (features,); None: there are none.

    Padding with zeros is told by features that cells of every type show (:data:`COMMON`): if more than
    :data:`SILENT_SHARE` of them are empty in all cells, all features are taken as missing that are empty here and were
    not in training. ``detected``: share of the training cells in which each was seen, (features,); 0: it is not there.
    """
    common = detected >= COMMON
    if len(reader) < SILENT_CELLS or not common.any():
        return None
    seen = count_features(reader)[1]
    return (seen == 0) & (detected > 0) if (seen[common] == 0).mean() > SILENT_SHARE else None


def say_silent(silent: np.ndarray, features: str) -> None:
    """Say that features are taken as missing."""
    logger.warning(
        "%d of %d %s are zero in every cell given, though they are common in the training data: they look as if they"
        " had not been measured, and are taken as missing.", silent.sum(), len(silent), features,
    )  # fmt: skip
