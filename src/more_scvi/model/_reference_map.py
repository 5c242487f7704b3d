r"""A map of the reference in the plane, on which its own cells and those of queries are placed.

The embedding of the reference is summed up by landmarks (centres of k-means, no cells), the landmarks are laid out by
UMAP, and a cell stands at the weighted mean of the places of its :math:`k` nearest landmarks. With :math:`d_i` its
distance to the :math:`i`-th, weights are :math:`(1 - (d_i / d_{k+1})^2)^2`: a landmark gains and loses its say
gradually. Where a cell stands depends on itself and the map alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from mudata import MuData
from sklearn.cluster import MiniBatchKMeans
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from more_scvi._saved import check_tensors
from more_scvi.data._arguments import check_indices, check_integer, check_obsm_key
from more_scvi.model._forward import check_trained, registered

if TYPE_CHECKING:
    from more_scvi.model._more import MoRE

CELLS_PER_LANDMARK = 5
"""Mean number of cells that a landmark of the map stands for, at least. Source: plain value, not tuned."""

NEAREST = 5
"""Landmarks among which a cell is placed on the map. Source: plain value, not tuned."""

N_NEIGHBORS = 15
"""Neighbours of a landmark in the graph that UMAP lays out. Source: paper McInnes et al. 2018, the default."""

PREFIX = "map."
"""What the names of the map's tensors begin with in a saved model."""


@dataclass(frozen=True, eq=False)
class ReferenceMap:
    """Landmarks of a reference."""

    centres: Tensor  # (landmarks, n_latent) float32, in the embedding
    places: Tensor  # (landmarks, 2) float32, on the map
    counts: Tensor  # (landmarks,) int64: cells of the reference that each stands for
    types: Tensor  # (landmarks,) int64: the label that most of these got; -1: the model has none

    @classmethod
    def fit(cls, z: np.ndarray, types: np.ndarray, n_landmarks: int, seed: int) -> Self:
        """Map of an embedding (cells, n_latent), with the label codes of its cells."""
        n = min(n_landmarks, -(-len(z) // CELLS_PER_LANDMARK))
        with warnings.catch_warnings(action="ignore"):  # of fewer distinct cells than landmarks
            means = MiniBatchKMeans(n, n_init=1, batch_size=4096, random_state=seed).fit(z)
        _, member, counts = np.unique(means.labels_, return_inverse=True, return_counts=True)
        centres = np.stack([np.bincount(member, column) for column in z.T], 1) / counts[:, None]
        votes = np.zeros((len(counts), types.max() + 2), dtype=np.int64)
        np.add.at(votes, (member, types), 1)  # -1 is the last column, which no label has
        commonest = np.where(types.max() < 0, -1, votes.argmax(1))
        arrays = centres.astype(np.float32), _lay_out(centres, seed).astype(np.float32), counts, commonest
        return cls(*map(torch.from_numpy, arrays))

    def place(self, z: np.ndarray) -> np.ndarray:
        """Embedding (cells, n_latent) to places on the map, (cells, 2) float32."""
        n = len(self.counts)
        if len(z) == 0:
            return np.empty((0, 2), np.float32)
        search = NearestNeighbors(n_neighbors=min(NEAREST + 1, n)).fit(self.centres.numpy())
        distance, nearest = search.kneighbors(z)
        far = distance[:, -1:] if n > NEAREST else 2 * distance[:, -1:]
        weight = (1 - (distance / np.maximum(far, 1e-12)) ** 2) ** 2 + 1e-9  # all as far as each other: their mean
        weight /= weight.sum(1, keepdims=True)
        return np.einsum("nk,nkd->nd", weight, self.places.numpy()[nearest]).astype(np.float32)

    def tensors(self) -> dict[str, Tensor]:
        """What is saved."""
        return {PREFIX + field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def take(cls, tensors: dict[str, Tensor], n_latent: int, n_labels: int, path: Path, remedy: str) -> Self | None:
        """Take the map out of what was read from ``path``; None if there is none."""
        found = {name.removeprefix(PREFIX): tensors.pop(name) for name in list(tensors) if name.startswith(PREFIX)}
        if not found:
            return None
        n = max(map(len, found.values()), default=0) if all(tensor.ndim for tensor in found.values()) else 0
        shapes = {"centres": (n, n_latent), "places": (n, 2), "counts": (n,), "types": (n,)}
        kinds = {name: torch.float32 if len(shape) == 2 else torch.int64 for name, shape in shapes.items()}
        expected = {name: torch.empty(shape, dtype=kinds[name]) for name, shape in shapes.items()}
        check_tensors(found, expected, path, remedy)
        least = 0 if n_labels else -1
        wrong = [name for name, kind in kinds.items() if found[name].dtype != kind]
        wrong = wrong or ["counts"] * bool(n == 0 or found["counts"].min() < 1)
        wrong = wrong or ["types"] * bool(found["types"].min() < least or found["types"].max() >= n_labels)
        if wrong:
            raise ValueError(f"{path}: {', '.join(wrong)} of the map of the reference cannot be. {remedy}")
        return cls(**found)


def _lay_out(centres: np.ndarray, seed: int) -> np.ndarray:
    """Places of landmarks, (landmarks, 2): UMAP that starts at their principal components."""
    start = np.zeros((len(centres), 2), np.float32)
    width = min(2, len(centres) - 1, centres.shape[1])
    if width:
        start[:, :width] = PCA(width, random_state=seed).fit_transform(centres)
    if len(centres) <= N_NEIGHBORS:  # too few for a graph of neighbours
        return start
    import scanpy as sc

    start *= 10 / max(np.abs(start).max(), 1e-12)  # the scale that UMAP's own starts have
    landmarks = AnnData(obsm={"X_z": centres.astype(np.float32)}, shape=(len(centres), 0))
    with warnings.catch_warnings(action="ignore"):  # umap: a seed means one thread
        sc.pp.neighbors(landmarks, n_neighbors=N_NEIGHBORS, use_rep="X_z", random_state=seed)
        sc.tl.umap(landmarks, init_pos=start, random_state=seed)
    return landmarks.obsm["X_umap"]


def fit_map(self: MoRE, n_landmarks: int = 2000, seed: int | None = None) -> None:
    """Lay the registered cells out in the plane, so that queries can be placed among them.

    The map is a part of the model: :meth:`save` writes it (0.4 MB, no cells), and a reference that was loaded without
    data can be drawn with it (:func:`more_scvi.pl.query`). Training again drops it, as the embedding changes.

    Parameters
    ----------
    n_landmarks
        Points in the embedding that stand for the cells; fewer where there are not five cells for each.
    seed
        Seed of the layout; ``None``: the model's.

    Raises
    ------
    ValueError
        If the model has no data (``load(..., adata=False)``).

    Examples
    --------
    >>> model.fit_map()
    >>> model.save("reference/")
    >>> ax = more.pl.query(model, query, color="more_prediction")
    """
    n_landmarks = check_integer("n_landmarks", n_landmarks, 2)
    seed = self.seed if seed is None else check_integer("seed", seed, 0, 2**32 - 1)
    registered(self, "fit_map")
    z = self.get_latent_representation(obsm_key=None)
    types = np.full(len(z), -1)
    if len(self.labels):
        types = pd.Index(self.labels).get_indexer(self.predict())
    self._map = ReferenceMap.fit(z, types, n_landmarks, seed)


def get_map(self: MoRE) -> pd.DataFrame:
    """Landmarks of the map of the reference.

    Returns
    -------
    A row per landmark: ``x`` and ``y``, ``n_cells`` of the reference that it stands for and, of a model with labels,
    the ``label`` that most of these got.

    Raises
    ------
    ValueError
        If there is no map; :meth:`fit_map` makes one.

    Examples
    --------
    >>> model.get_map().groupby("label")["n_cells"].sum()
    """
    found = _map_of(self)
    table = pd.DataFrame(found.places.numpy(), columns=["x", "y"]).assign(n_cells=found.counts.numpy())
    return table.assign(label=self.labels[found.types.numpy()]) if len(self.labels) else table


def get_map_coordinates(
    self: MoRE,
    adata: AnnData | MuData | None = None,
    indices: Sequence[int] | Sequence[bool] | slice | None = None,
    batch_size: int | None = None,
    obsm_key: str | None = "X_more_map",
) -> np.ndarray:
    """Where cells stand on the map of the reference; a cell's place does not depend on the others.

    Parameters
    ----------
    adata, indices, batch_size
        As in :meth:`get_latent_representation`.
    obsm_key
        Where to write the places when all cells are asked for; ``None`` writes nothing.

    Returns
    -------
    (cells, 2) float32.

    Raises
    ------
    ValueError
        If there is no map; :meth:`fit_map` makes one.

    Examples
    --------
    >>> model.get_map_coordinates(query)
    >>> sc.pl.embedding(query, "X_more_map", color="more_prediction")  # doctest: +SKIP
    """
    check_obsm_key(obsm_key)
    check_trained(self)
    found, target = _map_of(self), registered(self, "get_map_coordinates") if adata is None else adata
    check_indices(indices, target.n_obs)
    places = found.place(self.get_latent_representation(adata, indices, batch_size, obsm_key=None))
    if indices is None and obsm_key is not None and not target.is_view:  # writing would turn a view into a copy
        target.obsm[obsm_key] = places
    return places


def _map_of(model: MoRE) -> ReferenceMap:
    if model._map is None:
        step = "load the model with its data, then call model.fit_map()" if model.adata is None else "call fit_map()"
        raise ValueError(f"The model has no map of its cells; {step}, once after training. It is saved with the model.")
    return model._map
