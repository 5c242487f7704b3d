"""The names that a student knows its genes by."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from more_scvi.data._genes import COLUMNS, GeneVocabulary, match_genes


def student_vocabulary(
    names: Sequence[str], var_names: Sequence[str], vocabulary: GeneVocabulary | None
) -> GeneVocabulary:
    """Every name of each gene: those of the training data, and those that the teacher's backbone knows for it.

    ``names`` are what the backbone was told (``gene_key``), ``vocabulary`` is that of the backbone, if it has one.
    """
    own = [str(name) for name in names]
    index = np.full(len(own), -1) if vocabulary is None else match_genes(own, vocabulary).vocab_index
    columns: dict[str, list[str]] = {column: [] for column in COLUMNS}
    for name, other, at in zip(own, map(str, var_names), index, strict=True):
        for column in COLUMNS:
            entry = "" if at < 0 or vocabulary is None else getattr(vocabulary, column)[at]
            if column.endswith("alias"):
                entry = "|".join(dict.fromkeys(part for part in (*entry.split("|"), name, other) if part))
            elif at < 0 and column.endswith("symbol"):
                entry = name
            columns[column].append(entry)
    made = GeneVocabulary(*(tuple(columns[column]) for column in COLUMNS))
    if np.array_equal(match_genes(own, made).vocab_index, np.arange(len(own))):
        return made
    # names that the rules of matching cannot tell apart
    return GeneVocabulary(tuple(own), ("",) * len(own), tuple(own))
