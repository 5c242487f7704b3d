r"""Bridges: linear maps from the base of one modality to what another modality would say about the same cell.

Where enough cells were measured in both, the map is a ridge regression on these pairs. Where no cell was, genes are the
bridge: both modalities speak of genes (antibodies of the gene behind their antigen, peaks of the gene they lie at). Let
:math:`X_a, X_b` be the bases and :math:`G_a, G_b` the standardised values of the genes both speak of. What the base
explains of them, :math:`\hat G = X W` with :math:`W` from a ridge regression, is free of most of their noise; with the
singular value decomposition :math:`\hat G_a \hat G_b^\top = U S V^\top` (Butler et al. 2018 take it of the genes
themselves), rows of :math:`U` and :math:`V` are coordinates in one space. As they are linear in the bases, no
cells × cells matrix is needed.

Nothing here sees labels.
"""

from typing import NamedTuple

import numpy as np

MIN_PAIRS = 50
"""With fewer cells measured in both modalities, genes are the bridge. Source: plain value, not tuned."""

PAIRED_PENALTY, LINK_PENALTY = 0.01, 0.05
"""Ridge penalties between modalities, by paired cells and by linked genes. Source: plain value, not tuned."""
N_CANONICAL = 20
"""Canonical directions that link two modalities without paired cells. Source: plain value, not tuned."""


def ridge(x: np.ndarray, y: np.ndarray, penalty: float) -> np.ndarray:
    """Coefficients of y on x, (columns of x, columns of y); the penalty is in units of the mean variance of x."""
    gram = x.T @ x
    gram = gram + penalty * max(np.trace(gram) / len(gram), 1e-12) * np.eye(len(gram))  # x may be all zero
    return np.linalg.solve(gram, x.T @ y).astype(np.float32)


class Link(NamedTuple):
    """Coordinates of unit variance in a space that two modalities share, linear in the base of each."""

    first: np.ndarray  # (width of the base, coordinates): coordinates are ``base @ first``
    second: np.ndarray


def link_genes(first: np.ndarray, first_genes: np.ndarray, second: np.ndarray, second_genes: np.ndarray) -> Link:
    """Canonical directions of two sets of different cells, at most :data:`N_CANONICAL`.

    ``first`` and ``second``: centred bases, (cells, width) each; ``first_genes`` and ``second_genes``: values of the
    same genes in the same order, (cells, genes) each.
    """
    maps, factors = [], []
    for base, genes in ((first, first_genes), (second, second_genes)):
        standard = (genes - genes.mean(0)) / np.maximum(genes.std(0), 1e-6)
        weight = ridge(base, standard, LINK_PENALTY)
        fitted = base @ weight
        weight = weight / np.maximum(fitted.std(0), 1e-6)
        maps.append(weight)
        # fitted' fitted = R'R: the singular vectors of G_a G_b' are those of R_a R_b', brought back to the cells
        factors.append(  # the ridge: genes outnumber axes, so that the product alone is singular
            np.linalg.cholesky(weight.T @ (base.T @ base) @ weight + 1e-3 * len(base) * np.eye(genes.shape[1])).T
        )
    u, s, vt = np.linalg.svd(factors[0] @ factors[1].T)
    n = min(N_CANONICAL, int((s > 1e-6 * s[0]).sum()))
    out = []
    for base, weight, factor, vectors in zip((first, second), maps, factors, (u[:, :n], vt[:n].T), strict=True):
        directions = weight @ np.linalg.solve(factor, vectors)
        out.append((directions / np.maximum((base @ directions).std(0), 1e-12)).astype(np.float32))
    return Link(*out)


def linked_coordinates(base: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Coordinates of unit length, (cells, coordinates): the direction of a cell is comparable, its length is not."""
    coordinates = base @ directions
    return (coordinates / np.maximum(np.linalg.norm(coordinates, axis=1, keepdims=True), 1e-6)).astype(np.float32)
