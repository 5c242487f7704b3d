"""A query that comes batch by batch, and its cells in their order again."""

from collections.abc import Iterator

import numpy as np
from anndata import AnnData
from numpy.typing import NDArray

from more_scvi.evaluation._data import batches_of

from ._method import Given


def rounds_of(given: Given) -> Iterator[AnnData]:
    """The query's batches in the order in which they come; the query itself where there are no rounds."""
    assert given.query is not None
    for rows in _rows(given):
        yield AnnData(given.query.X[rows], given.query.obs.iloc[rows].copy(), given.query.var[[]].copy())


def in_order(given: Given, parts: list) -> NDArray:
    """What was found for the reference and for every round, with the query's cells in their order."""
    first, *rest = (np.asarray(part) for part in parts)
    if not rest:
        return first
    return np.concatenate([first, np.concatenate(rest)[np.argsort(np.concatenate(_rows(given)))]])


def _rows(given: Given) -> list[NDArray[np.intp]]:
    assert given.query is not None
    batches = batches_of(given.query)
    return [np.flatnonzero(batches == name) for name in given.rounds] or [np.arange(batches.size)]
