r"""Shared space before training: every modality says, linearly, where a cell lies on the axes of all modalities.

The axes are the leading principal axes of each modality's base, weighted by how much of it another modality confirms;
as many of each as its variance then earns among all. On its own axes a modality is exact. On those of another it gives
the best linear guess (:mod:`more_scvi.base._bridge`), drawn out to the spread that these axes have, so that cells
with one modality are not drawn to the middle. A cell with all modalities thus starts near the concatenation of their
principal components, one with fewer near where it would be.

With one modality this is the rotation to its principal axes.
"""

from dataclasses import dataclass

import numpy as np

from more_scvi.base._bridge import MIN_PAIRS, PAIRED_PENALTY, Link, link_genes, linked_coordinates, ridge
from more_scvi.modalities._parts import fix_signs

MAX_STRETCH = 3.0
"""Most by which a guess is drawn out: a poor one at full spread would be noise. Source: plain value, not tuned."""

MIN_LINKED = 3
"""Genes that two modalities must both speak of."""

LEAST_CONFIRMED = 0.02
"""Least weight of a modality that nothing confirms. Source: plain value, not tuned."""

Genes = list[tuple[np.ndarray, list[str]] | None]

OWN_TRUST = 2.0
"""Logit of the trust in a modality on its own axes, over the others. Source: plain value, not tuned."""


@dataclass(frozen=True)
class SharedSpace:
    """Result of :func:`fit_shared_space`."""

    rotations: list[np.ndarray]  # per modality (width, n_latent): base to shared space
    trust: np.ndarray  # (modalities, n_latent): logits at which fusion starts
    scales: list[float]  # per modality, the factor on its base in the shared space
    links: dict[tuple[int, int], Link]  # of pairs of modalities (positions) that no cell has both of, if genes allow


def fit_shared_space(bases: list[np.ndarray], present: np.ndarray, n_latent: int, genes: Genes) -> SharedSpace:
    """Axes, guesses and starting trust of a space of ``n_latent`` axes.

    ``bases``: per modality (cells, width), zero where not measured; ``present``: bool (cells, modalities); ``genes``:
    per modality, values (cells that have it, genes) and gene names, or None.
    """
    n = len(bases)
    scales = np.sqrt(_confirmed(bases, present))
    measured = [base[present[:, at]] for at, base in enumerate(bases)]
    axes, variances = zip(*(_principal_axes(rows) for rows in measured), strict=True)
    owner = np.repeat(np.arange(n), [len(v) for v in variances])
    weighted = np.concatenate([s**2 * v for s, v in zip(scales, variances, strict=True)])
    leading = np.sort(np.argsort(-weighted, kind="stable")[:n_latent])  # sorted: each modality's axes stand together
    owner = owner[leading]
    own = [axes[m][:, : int((owner == m).sum())] * scales[m] for m in range(n)]
    trust = np.zeros((n, len(owner)), np.float32)
    rotations = [np.zeros((base.shape[1], len(owner)), np.float32) for base in bases]
    links: dict[tuple[int, int], Link] = {}
    for i in range(n):
        for j in range(i + 1, n):
            link = _link(measured, genes, i, j) if (present[:, i] & present[:, j]).sum() < MIN_PAIRS else None
            if link is not None:
                links[i, j] = link
    for m in range(n):
        rotations[m][:, owner == m] = own[m]
        trust[m, owner == m] = OWN_TRUST if n > 1 else 0.0
        for other in range(n):
            if other == m or not own[other].shape[1]:
                continue
            both, pair = present[:, m] & present[:, other], (min(m, other), max(m, other))
            wanted = measured[other] @ own[other]
            if both.sum() >= MIN_PAIRS:
                guess = ridge(bases[m][both], bases[other][both] @ own[other], PAIRED_PENALTY)
            elif pair in links:
                guess = _through_genes(links[pair], m < other, measured[other], wanted)
            else:
                continue  # this modality knows nothing of these axes
            spread = (measured[m] @ guess).std(0)
            guess = guess * np.minimum(wanted.std(0) / np.maximum(spread, 1e-6), MAX_STRETCH)[None]
            rotations[m][:, owner == other] = guess
    return SharedSpace(rotations, trust, scales.tolist(), links)


def _confirmed(bases: list[np.ndarray], present: np.ndarray) -> np.ndarray:
    """Share of each modality in the joint space: how much of its variance another modality confirms, adding up to 1.

    What two measurements of one cell agree on is not noise. On every second pair a ridge regression is fitted, on the
    others its explained share of variance is taken. Modalities that are paired with none get the mean of the others.
    """
    n = len(bases)
    confirmed = np.full(n, np.nan)
    for m in range(n):
        for other in range(n):
            pairs = np.flatnonzero(present[:, m] & present[:, other])
            if other == m or len(pairs) < 2 * MIN_PAIRS:  # half of the pairs are held out
                continue
            fitted, held = pairs[::2], pairs[1::2]
            residual = bases[m][held] - bases[other][held] @ ridge(
                bases[other][fitted], bases[m][fitted], PAIRED_PENALTY
            )
            explained = 1.0 - (residual**2).sum() / max((bases[m][held] ** 2).sum(), 1e-12)
            confirmed[m] = np.nanmax([confirmed[m], explained, LEAST_CONFIRMED])
    known = ~np.isnan(confirmed)
    confirmed[~known] = confirmed[known].mean() if known.any() else 1.0
    return confirmed / confirmed.sum()


def _principal_axes(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Axes (width, width) and variances, largest first, signs fixed for reproducibility."""
    values, vectors = np.linalg.eigh(rows.T @ rows / max(len(rows), 1))
    return fix_signs(vectors[:, ::-1]), values[::-1]


def _link(measured: list[np.ndarray], genes: Genes, i: int, j: int) -> Link | None:
    """Link of two modalities through the genes both speak of; None where there are too few."""
    first, second = genes[i], genes[j]
    if first is None or second is None:
        return None
    shared, at_first, at_second = np.intersect1d(first[1], second[1], return_indices=True)
    if len(shared) < MIN_LINKED:
        return None
    return link_genes(measured[i], first[0][:, at_first], measured[j], second[0][:, at_second])


def _through_genes(link: Link, is_first: bool, target: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Map from the base of one side of a link to axes of the other, (width, axes), by way of the coordinates."""
    here, there = link if is_first else link[::-1]
    to_axes = ridge(linked_coordinates(target, there), wanted, PAIRED_PENALTY)
    return here @ to_axes / np.sqrt(here.shape[1])  # from coordinates of unit variance to vectors of unit length
