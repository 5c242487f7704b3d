"""Checks of the data: genes that the backbone knows, batches that share types."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from more_scvi.diagnosis._evidence import Evidence
from more_scvi.diagnosis._result import Check, Rule

MIN_OVERLAP = 0.3
"""Of the share of genes that the backbone knows. Ten real data sets have 0.59 to 0.89; all genes of an annotation with
its non-coding ones about 0.35; names of another kind 0 to 0.2."""

MAX_ASSOCIATION = 0.75
"""Of Cramér's V. Four real data sets of 2 to 13 batches have 0.2 to 0.35; two batches of turned-round composition (60 %
against 10 % of a type) 0.6."""

SHARED = 0.95


def low_vocabulary_overlap(evidence: Evidence) -> Check:
    """Share of the genes that the backbone knows, of the modality with the least."""
    rule = Rule("low_vocabulary_overlap", MIN_OVERLAP, "above")
    if not evidence.overlaps:
        return rule.not_checked("The model has no backbone that reads genes.")
    least = min(evidence.overlaps, key=evidence.overlaps.__getitem__)
    listed = ", ".join(f"{role} {value:.0%}" for role, value in evidence.overlaps.items())
    return rule.judge(
        evidence.overlaps[least],
        f"Genes known to the backbone: {listed}.",
        f"Name the column with gene symbols or Ensembl ids of {least!r} at setup (gene_key, for peaks peak_genes); for"
        " other species or panels take MoRE(backbone=None).",
    )


def batch_and_type_confounded(evidence: Evidence) -> Check:
    """Association of batch and type: Cramér's V, bias-corrected.

    Where each type has its own batch, nobody can tell a difference of types from one of batches, and no integration
    can: batch centring alone takes part of the difference away.
    """
    rule = Rule("batch_and_type_confounded", MAX_ASSOCIATION, "below")
    if len(np.unique(evidence.batches)) < 2:
        return rule.not_checked("There is one batch.")
    if evidence.types is None or len(np.unique(evidence.types)) < 2:
        return rule.not_checked("Fewer than two types are known.", "Give labels_key at setup, or diagnose(labels=...).")
    table = pd.crosstab(evidence.types, evidence.batches)
    value = _cramers_v(table.to_numpy(dtype=float))
    alone = table.index[table.max(axis=1) >= SHARED * table.sum(axis=1)]
    share = table.loc[alone].to_numpy().sum() / table.to_numpy().sum()
    return rule.judge(
        value,
        f"Batch and type are associated with V = {value:.2f} ({evidence.source}); {len(alone)} of {len(table)} types,"
        f" {share:.0%} of the cells, occur in one batch only.",
        "Choose a batch_key whose values share types (donor or run instead of sorted population or tissue), or add a"
        " batch that holds several of them. Do not read differences between such types as biology.",
    )


def _cramers_v(counts: NDArray) -> float:
    """Bias-corrected Cramér's V of a table of counts (Bergsma 2013); NaN if it is empty."""
    n = counts.sum()
    expected = counts.sum(1, keepdims=True) * counts.sum(0, keepdims=True) / n
    r, c = counts.shape
    phi = max(0.0, float((np.square(counts - expected) / expected).sum() / n) - (r - 1) * (c - 1) / (n - 1))
    r_free, c_free = (k - (k - 1) ** 2 / (n - 1) for k in (r, c))
    least = min(r_free, c_free) - 1
    return float(np.sqrt(phi / least)) if least > 0 else float("nan")
