r"""Shared space before training: every modality says, linearly, where a cell lies on the axes of all modalities.

The axes are the leading principal axes of each modality's base; as many of each as its variance earns among all. On its
own axes a modality is exact. On those of another it gives the best linear guess
(:mod:`more_scvi.module._bridge`), drawn out to the spread that these axes have, so that cells with one modality are not
drawn to the middle. A cell with all modalities thus starts at the concatenation of their principal components, one with
fewer near where it would be.

With one modality this is the rotation to its principal axes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from more_scvi.module._bridge import MIN_PAIRS, PAIRED_PENALTY, link_genes, linked_coordinates, ridge

OWN_TRUST = 2.0
"""Logit of the trust in a modality on its own axes, over the others."""


@dataclass(frozen=True)
class SharedSpace:
    """Result of :func:`fit_shared_space`.

    Attributes
    ----------
    rotations
        Per modality (width, n_latent): base to shared space.
    trust
        (modalities, n_latent): logits at which fusion starts.
    scales
        Per modality, the factor on its base in the shared space.
    """

    rotations: list[np.ndarray]
    trust: np.ndarray
    scales: list[float]


def fit_shared_space(
    bases: list[np.ndarray],
    present: np.ndarray,
    n_latent: int,
    genes: list[tuple[np.ndarray, list[str]] | None],
) -> SharedSpace:
    """Axes, guesses and starting trust.

    Parameters
    ----------
    bases
        Per modality (cells, width), zero where not measured.
    present
        bool (cells, modalities).
    n_latent
        Axes of the shared space.
    genes
        Per modality, values (cells that have it, genes) and gene names, or None.
    """
    n = len(bases)
    scale = 1.0 / np.sqrt(n)  # the same total variance from every modality, and of one modality its own
    axes, variances = [], []
    for at, base in enumerate(bases):
        rows = base[present[:, at]]
        values, vectors = np.linalg.eigh(rows.T @ rows / max(len(rows), 1))
        vectors = vectors[:, ::-1]
        axes.append(vectors * np.sign(vectors[np.abs(vectors).argmax(0), np.arange(vectors.shape[1])]))
        variances.append(values[::-1])
    owner = np.repeat(np.arange(n), [len(v) for v in variances])
    leading = np.sort(np.argsort(-np.concatenate(variances), kind="stable")[:n_latent])
    owner = owner[leading]
    counts = [int((owner == m).sum()) for m in range(n)]
    own = [axes[m][:, : counts[m]] * scale for m in range(n)]
    trust = np.zeros((n, len(owner)), np.float32)
    rotations = [np.zeros((bases[m].shape[1], len(owner)), np.float32) for m in range(n)]
    for m in range(n):
        rotations[m][:, owner == m] = own[m]
        trust[m, owner == m] = OWN_TRUST if n > 1 else 0.0
        for other in range(n):
            if other != m and counts[other]:
                rotations[m][:, owner == other] = _guess(bases, present, genes, m, other, own[other])
    return SharedSpace(rotations, trust, [scale] * n)


def _guess(bases, present, genes, source: int, target: int, axes: np.ndarray) -> np.ndarray:
    """Linear map from the base of ``source`` to the axes of ``target``, (width, axes)."""
    both = present[:, source] & present[:, target]
    wanted = bases[target][present[:, target]] @ axes
    if both.sum() >= MIN_PAIRS:
        guess = ridge(bases[source][both], bases[target][both] @ axes, PAIRED_PENALTY)
    else:
        guess = _through_genes(bases, present, genes, source, target, axes)
    spread = (bases[source][present[:, source]] @ guess).std(0)
    return guess * np.minimum(wanted.std(0) / np.maximum(spread, 1e-6), MAX_STRETCH)[None]


MAX_STRETCH = 3.0
"""A guess that explains little is not blown up to full spread: that would be noise."""


def _through_genes(bases, present, genes, source: int, target: int, axes: np.ndarray) -> np.ndarray:
    width = bases[source].shape[1]
    if genes[source] is None or genes[target] is None:
        return np.zeros((width, axes.shape[1]), np.float32)
    (x, x_names), (y, y_names) = genes[source], genes[target]
    shared = [name for name in x_names if name in set(y_names)]
    if len(shared) < 3:
        return np.zeros((width, axes.shape[1]), np.float32)
    x_at, y_at = ([{g: i for i, g in enumerate(names)}[g] for g in shared] for names in (x_names, y_names))
    a, b = bases[source][present[:, source]], bases[target][present[:, target]]
    link = link_genes(a, x[:, x_at], b, y[:, y_at])
    coordinates = linked_coordinates(b, link.second)
    to_axes = ridge(coordinates, b @ axes, PAIRED_PENALTY)
    return link.first @ to_axes / np.sqrt(link.first.shape[1])
