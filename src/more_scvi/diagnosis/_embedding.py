"""Checks of the embedding: batches apart, types collapsed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

from more_scvi.diagnosis._evidence import Evidence
from more_scvi.diagnosis._result import Check, Rule
from more_scvi.metrics._mixing import cilisi
from more_scvi.metrics._structure import effective_dimension, structure

MIN_MIXING = 0.35
"""Of mixing within types. 0.29 is PCA of four PBMC batches without any integration; trained models reach 0.5 to 1."""

MIN_MIXING_UNTYPED = 0.25
"""Of the best-mixed quarter of the cells, where no types are known; batches of partly other types stay above 0.5."""

MIN_STRUCTURE = 0.6
"""Of the rank correlation of distances within types. Trained models keep 0.8 to 1; collapsed types reach 0.2 to 0.4."""


def batches_separate(evidence: Evidence) -> Check:
    """Mixing of batches where they share a type (:func:`more_scvi.metrics.cilisi`).

    Without types: mixing of the best-mixed quarter of the cells. Batches may hold different types, but hardly none in
    common.
    """
    rule = Rule("batches_separate", MIN_MIXING, "above")
    z, batches, types = evidence.z, evidence.batches, evidence.types
    if len(np.unique(batches)) < 2:
        return rule.not_checked("There is one batch.", "If not, give batch_key at setup.")
    if types is None:
        value = _best_mixed(z, batches)
        return Rule(rule.check, MIN_MIXING_UNTYPED, "above").judge(
            value,
            f"The best-mixed quarter of the cells reaches {value:.2f} of the mixing that batch sizes allow.",
            "Batches stay apart, or share no type. Batches are aligned type by type: give labels_key at setup, labels"
            " of a few cells are enough.",
        )
    per_type = {str(t): cilisi(z[types == t], types[types == t], batches[types == t]) for t in np.unique(types)}
    per_type = {t: value for t, value in per_type.items() if np.isfinite(value)}
    if not per_type:
        return rule.not_checked(
            "No type has ten cells in each of two batches, so there is nothing to mix.",
            "See batch_and_type_confounded.",
        )
    value, worst = float(np.mean(list(per_type.values()))), min(per_type, key=per_type.__getitem__)
    return rule.judge(
        value,
        f"Within types, batches reach {value:.2f} of the mixing that their sizes allow ({evidence.source}); least"
        f" {str(worst)!r}: {per_type[worst]:.2f}.",
        "Train longer, or raise train(loss_weights={'align_batch': ...}) (default 10) and MoRE(n_refinement_steps=...)"
        " (default 2; 0 switches refinement off). Further nuisance columns go into categorical_covariate_keys.",
    )


def types_collapse(evidence: Evidence) -> Check:
    """Agreement of distances within types and batches with those of the data (:func:`more_scvi.metrics.structure`).

    Those of the data are taken in the direct view. Without types: within batches.
    """
    rule = Rule("types_collapse", MIN_STRUCTURE, "above")
    types = np.full(len(evidence.z), "all cells") if evidence.types is None else evidence.types
    value = structure(evidence.z, evidence.direct, types, evidence.domains)
    if not np.isfinite(value):
        return rule.not_checked("No type has ten cells in a batch.")
    used, given = (effective_dimension(x, types, evidence.domains) for x in (evidence.z, evidence.direct))
    directions = f"; they use {used:.0f} directions of {given:.0f}" if np.isfinite(used) else ""
    return rule.judge(
        value,
        f"Distances within types and batches correlate {value:.2f} with those of the data{directions}.",
        "Raise train(loss_weights={'keep': ...}) (default 20); lower 'variance', 'contrast' (0.1 each) and 'classify'"
        " (1), plan_kwargs={'lr': ...} or max_epochs.",
    )


def _best_mixed(z: NDArray, batches: NDArray, n_neighbors: int = 30) -> float:
    """Upper quartile over cells of LISI, scaled as in :func:`more_scvi.metrics.cilisi` with all cells as one type."""
    codes = np.unique(batches, return_inverse=True)[1]
    k = min(n_neighbors, len(z) - 1)
    near = codes[NearestNeighbors(n_neighbors=k).fit(z).kneighbors(return_distance=False)]
    shares = np.stack([(near == code).mean(1) for code in range(codes.max() + 1)], 1)
    expected = 1.0 / np.square(np.bincount(codes) / len(codes)).sum()
    return float(np.quantile((1.0 / np.square(shares).sum(1) - 1.0) / (expected - 1.0), 0.75))
