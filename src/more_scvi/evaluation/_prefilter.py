"""Removal of doublets before any method sees the data: the same cells for all, chosen without labels."""

import warnings
from typing import Any

import numpy as np
import pandas as pd
import scanpy as sc
from anndata import AnnData
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_matrix

from more_scvi.data._fields import RNA

from ._data import BATCH_KEY, Data, column_of, counts_of, modalities, present

KINDS = ("scrublet",)
MIN_CELLS = 100
"""Batches with fewer cells are left whole: Scrublet's threshold is read off a histogram of twice as many scores."""
RARE_SHARE, RARE_CELLS = 0.01, 50
"""A type is rare if it has less than this share of the labelled cells, or fewer cells than this."""


def prefilter(
    data: Data, batch_key: str = BATCH_KEY, labels: ArrayLike | None = None, kind: str = "scrublet", seed: int = 0
) -> tuple[NDArray[np.bool_], dict[str, Any]]:
    """Which cells to keep, and what the filter removed.

    Scrublet (Wolock et al. 2019, :func:`scanpy.pp.scrublet` at its defaults) runs on the RNA counts of each batch. A
    batch is left whole, and named in the report, if it has fewer than 100 cells, if Scrublet finds no threshold between
    the two modes of its simulated doublets, or if it cannot run (e.g. too few variable genes). Cells without RNA are
    kept.

    Parameters
    ----------
    data
        AnnData with raw counts in ``X``, or MuData with a modality ``rna``; not changed.
    batch_key
        Column of ``data.obs``; a doublet is made of two cells of one batch.
    labels
        True types ``(n_cells,)``, for the report only: the filter never sees them.
    kind
        ``"scrublet"``.
    seed
        Seed of the simulated doublets.

    Returns
    -------
    kept
        ``(n_cells,)`` bool.
    report
        JSON-serialisable: ``kind``, ``seed``, ``n_cells``, ``n_removed``, ``n_without_rna``; ``batches``: batch →
        ``{"n", "removed", "threshold"}``; ``untouched``: batch → why it was left whole; and, with labels, ``types``:
        type → ``{"n", "removed", "rare"}`` and ``rare``: ``{"types", "n", "removed", "rule"}``, where a rare type has
        fewer than 50 cells or less than 1 % of all.

    Raises
    ------
    KeyError
        If there is no such column.
    ValueError
        For an unknown kind, labels of another length, no RNA, or values that are no counts.
    ImportError
        If scikit-image, which finds the threshold, is not installed.

    Examples
    --------
    >>> kept, report = prefilter(adata, "batch", adata.obs["cell_type"])  # doctest: +SKIP
    >>> report["n_removed"], report["rare"]["removed"]  # doctest: +SKIP
    (112, 3)
    """
    if kind not in KINDS:
        raise ValueError(f"prefilter: kind={kind!r} is unknown; choose one of {', '.join(map(repr, KINDS))}.")
    batches = column_of(data, batch_key, "prefilter").to_numpy().astype(str)
    types = None if labels is None else np.asarray(labels).astype(str)
    if types is not None and types.shape != (data.n_obs,):
        raise ValueError(f"prefilter: labels have shape {types.shape}, the data {data.n_obs} cells; give one per cell.")
    try:
        import skimage  # noqa: F401 - scanpy asks for it too late and without saying how to get it
    except ImportError as error:
        raise ImportError('Scrublet needs scikit-image: pip install "more-scvi[benchmark]".') from error
    counts, rows = _counts(data)
    kept = np.ones(data.n_obs, dtype=bool)
    table: dict[str, dict[str, Any]] = {}
    untouched: dict[str, str] = {}
    for name in map(str, np.unique(batches[rows])):
        inside = np.flatnonzero(batches[rows] == name)
        doublet, threshold, reason = _scrublet(counts[inside], seed)
        kept[rows[inside[doublet]]] = False
        table[name] = {"n": len(inside), "removed": int(doublet.sum()), "threshold": threshold}
        if reason:
            untouched[name] = reason
    report: dict[str, Any] = {
        "kind": kind,
        "seed": seed,
        "n_cells": data.n_obs,
        "n_removed": int((~kept).sum()),
        "n_without_rna": data.n_obs - len(rows),
        "batches": table,
        "untouched": untouched,
    }
    return kept, report if types is None else report | _by_type(types, kept)


def _counts(data: Data) -> tuple[csr_matrix, NDArray[np.int64]]:
    """RNA counts and the rows of ``data`` they belong to."""
    if RNA not in modalities(data):
        raise ValueError(f"prefilter: the data have no modality 'rna', only {', '.join(modalities(data))}.")
    adata = modalities(data)[RNA]
    rows = np.flatnonzero(present(data, RNA))
    counts = counts_of(adata, None, "data")
    if adata.n_obs and not np.array_equal(adata.obs_names, data.obs_names[rows]):
        counts = counts[adata.obs_names.get_indexer(data.obs_names[rows])]
    return counts, rows


def _scrublet(counts: csr_matrix, seed: int) -> tuple[NDArray[np.bool_], float | None, str]:
    """Doublets of one batch, the threshold of their scores, and why there is none."""
    nothing = np.zeros(counts.shape[0], dtype=bool)
    if counts.shape[0] < MIN_CELLS:
        return nothing, None, f"fewer than {MIN_CELLS} cells"
    # cells that Scrublet drops itself for want of genes come back without a call: they are kept
    batch = AnnData(counts.astype(np.float32))
    batch.obs_names = np.arange(counts.shape[0]).astype(str)
    with warnings.catch_warnings(action="ignore"):
        try:
            sc.pp.scrublet(batch, random_state=seed, verbose=False)
        except ValueError as error:
            return nothing, None, f"Scrublet cannot run: {error}"
    threshold = batch.uns["scrublet"].get("threshold")
    if threshold is None:
        return nothing, None, "no threshold between two modes of the simulated doublets"
    return (batch.obs["predicted_doublet"] == True).to_numpy(dtype=bool), float(threshold), ""  # noqa: E712


def _by_type(types: NDArray[np.str_], kept: NDArray[np.bool_]) -> dict[str, Any]:
    table = pd.DataFrame({"n": 1, "removed": (~kept).astype(int)}).groupby(types).sum()
    table["rare"] = (table["n"] < RARE_CELLS) | (table["n"] < RARE_SHARE * len(types))
    rare = table[table["rare"]]
    return {
        "types": table.to_dict("index"),
        "rare": {
            "types": rare.index.tolist(),
            "n": int(rare["n"].sum()),
            "removed": int(rare["removed"].sum()),
            "rule": f"fewer than {RARE_CELLS} cells or less than {RARE_SHARE:.0%} of all",
        },
    }
