"""Modalities linked through genes, and Seurat's CCA label transfer on the linked features.

Where no cell has both modalities this is what there is: an antibody measures the product of a gene, a peak lies at a
gene. :func:`linked_features` brings both sides to the same genes; :func:`cca` finds the directions they share.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from anndata import AnnData
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

from more_scvi.evaluation._data import PROTEIN, RNA

_CLIP = 10.0


def linked_features(mods: Mapping[str, AnnData]) -> tuple[NDArray, NDArray]:
    """RNA and the other modality over the same genes, z-scored within each, ``(cells of it, n_linked)`` each.

    Log-normalised genes against CLR proteins, or against the log-normalised sum of a gene's peaks (``var["gene"]``).
    Genes that are constant on either side are left out; z-scores are clipped at 10, as Seurat does.
    """
    rna = mods[RNA]
    name = next(other for other in mods if other != RNA)
    other = mods[name]
    of_gene = other.var["gene"].astype(str).to_numpy()
    genes = sorted(set(of_gene) & set(rna.var_names))
    left = rna.layers["lognorm"][:, rna.var_names.get_indexer(genes)].toarray()
    members = sparse.csr_matrix((of_gene[:, None] == np.array(genes)[None, :]).astype(np.float32))
    if name == PROTEIN:  # several antibodies against one protein are averaged
        right = other.obsm["view"] @ (members / np.maximum(members.sum(axis=0), 1)).toarray()
    else:
        activity = (sparse.csr_matrix(other.X) @ members).toarray()
        depth = np.asarray(other.X.sum(axis=1)).reshape(-1, 1)
        right = np.log1p(1e4 * activity / np.maximum(depth, 1))
    varies = (left.std(axis=0) > 0) & (right.std(axis=0) > 0)
    left, right = (StandardScaler().fit_transform(x[:, varies]) for x in (left, right))
    return np.clip(left, -_CLIP, _CLIP), np.clip(right, -_CLIP, _CLIP)


def cca(left: NDArray, right: NDArray, n_components: int = 30) -> tuple[NDArray, NDArray]:
    """Canonical correlation as in Seurat: SVD of the cells × cells cross-product of linked, z-scored features.

    Cells are standardised over features first; scores are the singular vectors, scaled to unit length per cell. The
    small SVD of the triangular factors gives the same vectors without the cells × cells matrix.
    """
    (q1, r1), (q2, r2) = (np.linalg.qr(_standard_rows(x)) for x in (left, right))
    u, _, v = np.linalg.svd(r1 @ r2.T, full_matrices=False)
    k = min(n_components, u.shape[1] - 1)
    return _unit_rows(q1 @ u[:, :k]).astype(np.float32), _unit_rows(q2 @ v[:k].T).astype(np.float32)


def transfer_by_anchors(
    reference: NDArray, labels: ArrayLike, query: NDArray, k_anchor: int = 5, k_score: int = 30, k_weight: int = 50
) -> NDArray[np.object_]:
    """Labels ``(n_query,)`` by votes of anchors (mutual nearest neighbours), weighted as in Seurat.

    An anchor's score is the overlap of the neighbourhoods of its two cells; a query cell's weights fall off with the
    distance to the ``k_weight`` nearest anchors. Defaults are those of Seurat v3 (Stuart et al. 2019).
    """
    y = np.asarray(labels).astype(str)
    k = min(k_score, len(reference) - 1, len(query) - 1)
    to_query, to_reference = _neighbours(query, reference, k), _neighbours(reference, query, k)
    within_reference, within_query = _neighbours(reference, reference, k), _neighbours(query, query, k)
    mutual = [(i, j) for i in range(len(reference)) for j in to_query[i, :k_anchor] if i in to_reference[j, :k_anchor]]
    anchors = np.array(mutual).reshape(-1, 2)
    if len(anchors) == 0:
        return y[to_reference[:, 0]].astype(object)
    shared = np.array(
        [
            np.isin(within_reference[i], to_reference[j]).sum() + np.isin(to_query[i], within_query[j]).sum()
            for i, j in anchors
        ],
        dtype=float,
    )
    low, high = np.quantile(shared, [0.01, 0.90])
    scores = np.clip((shared - low) / max(high - low, 1e-12), 0, 1)
    search = NearestNeighbors(n_neighbors=min(k_weight, len(anchors))).fit(query[anchors[:, 1]])
    distance, nearest = search.kneighbors(query)
    weight = (1 - distance / np.maximum(distance[:, -1:], 1e-12)) * scores[nearest]
    weight = 1 - np.exp(-weight / 4) + 1e-12  # Gaussian kernel of bandwidth 1: exp(-w / (2 / sd)²)
    types, code = np.unique(y[anchors[:, 0]], return_inverse=True)
    votes = np.stack([(weight * (code[nearest] == t)).sum(axis=1) for t in range(types.size)], axis=1)
    return types[votes.argmax(axis=1)].astype(object)


def _neighbours(of: NDArray, among: NDArray, k: int) -> NDArray[np.int64]:
    """Positions in ``of`` of the ``k`` nearest to every row of ``among``, nearest first."""
    return NearestNeighbors(n_neighbors=k).fit(of).kneighbors(among, return_distance=False)


def _standard_rows(x: NDArray) -> NDArray:
    x = x - x.mean(axis=1, keepdims=True)
    return x / np.maximum(x.std(axis=1, keepdims=True), 1e-12)


def _unit_rows(x: NDArray) -> NDArray:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
