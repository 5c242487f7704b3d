"""What a backbone reads of a matrix: counts of the genes it knows and that are visible."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import DTypeLike
from scipy.sparse import csr_matrix, issparse

from more_scvi.data._genes import GeneMatch

Matrix: TypeAlias = csr_matrix | np.ndarray


def visible_counts(
    name: str,
    x: Matrix,
    match: GeneMatch | None,
    visible: np.ndarray | None,
    normalised: bool,
    dtype: DTypeLike,
) -> tuple[csr_matrix, np.ndarray]:
    """Counts of the genes that are visible and known, csr without stored zeros, and their places in the vocabulary.

    Arguments as in :meth:`Backbone.encode`; log-normalised values are taken back to the scale of counts.
    """
    if match is None:
        raise ValueError(f"{name} reads genes: pass match=match_genes(gene_names, backbone.vocabulary).")
    known = match.vocab_index >= 0
    if x.shape[1] != len(known):
        raise ValueError(f"x has {x.shape[1]} genes, match was made for {len(known)}: match the genes of x.")
    if visible is not None:
        known = known & np.asarray(visible, dtype=bool)
    columns = np.flatnonzero(known)
    counts = csr_matrix(x)[:, columns] if issparse(x) else csr_matrix(np.asarray(x)[:, columns])
    counts = counts.astype(dtype)
    counts.sum_duplicates()
    counts.eliminate_zeros()
    if not np.isfinite(counts.data).all() or (counts.data < 0).any():
        raise ValueError(
            f"x holds negative or non-finite values: {name} reads raw counts, or log1p of counts per 10,000 with "
            "normalised=True."
        )
    if normalised:
        counts.data = np.expm1(counts.data)
    return counts, match.vocab_index[columns]
