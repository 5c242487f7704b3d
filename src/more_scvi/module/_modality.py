"""What the module holds per modality before anything is trained: direct path and the linear base of its paths."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import nn

from more_scvi.data import batch_offsets
from more_scvi.module._base import PathBase, batch_means, typed_offsets
from more_scvi.module._clr import ProteinPath
from more_scvi.module._direct import DirectPath
from more_scvi.module._lsi import AccessibilityPath

N_PEAKS, N_WIDE_PEAKS = 25_000, 100
"""Most peaks of the direct path, and components of its wide view. Source: plain value."""


@dataclass(frozen=True)
class ModalitySizes:
    """Sizes of one modality.

    Attributes
    ----------
    name
        ``"rna"``, ``"atac"`` or ``"protein"``.
    n_features
        Genes, peaks or antibodies of the data.
    n_frozen
        Width of the frozen features (0: no gene is known to the backbone, or no backbone).
    n_niche
        Width of the neighbour means of spatial data (0: none).
    likelihood
        Of the decoder: ``"nb"``, ``"gaussian"``, ``"bernoulli"`` or ``"nb_mixture"``.
    n_blocks
        Blocks that the frozen features consist of, one per layer of the backbone.
    """

    name: str
    n_features: int
    n_frozen: int = 0
    n_niche: int = 0
    likelihood: str = "nb"
    n_blocks: int = 1


def direct_path(
    sizes: ModalitySizes, n_variable: int, n_components: int, n_wide: int
) -> DirectPath | AccessibilityPath | ProteinPath:
    """The linear view of a modality: PCA of genes, LSI of peaks, CLR of antibodies."""
    if sizes.name == "atac":
        return AccessibilityPath(sizes.n_features, N_PEAKS, n_components, min(n_wide, N_WIDE_PEAKS))
    if sizes.name == "protein":
        return ProteinPath(sizes.n_features, n_components, n_wide)
    return DirectPath(sizes.n_features, n_variable, n_components, n_wide)


class ModalityBase(nn.Module):
    """Direct path and linear base of one modality; buffers only.

    Parameters
    ----------
    sizes
        Sizes of the modality.
    n_batch, n_covariates
        Number of batches and columns of the covariate design.
    n_variable, n_components, n_wide
        Of the direct path.
    n_feature_axes
        Principal axes kept of frozen features and of niches.
    n_targets
        Features that masked modelling predicts.
    """

    shares: torch.Tensor
    targets: torch.Tensor
    composition: torch.Tensor
    wide_offset: torch.Tensor

    def __init__(
        self,
        sizes: ModalitySizes,
        n_batch: int,
        n_covariates: int,
        n_variable: int,
        n_components: int,
        n_wide: int,
        n_feature_axes: int,
        n_targets: int,
    ):
        super().__init__()
        self.n_batch = n_batch
        self.direct = direct_path(sizes, n_variable, n_components, n_wide)
        widths = {}
        blocks = {"frozen": sizes.n_blocks}
        for name, width in (("frozen", sizes.n_frozen), ("niche", sizes.n_niche)):
            if width:
                widths[name] = (width, min(n_feature_axes, width // blocks.get(name, 1)))
        if self.direct.n_components:
            widths["direct"] = (self.direct.n_components, self.direct.n_components)
        self.paths = nn.ModuleDict(
            {
                name: PathBase(n_in, n_out, n_batch, n_covariates, blocks.get(name, 1))
                for name, (n_in, n_out) in widths.items()
            }
        )
        self.path_widths = [n_out for _, n_out in widths.values()]
        self.width = sum(self.path_widths)
        self.n_wide = self.direct.n_wide
        self.niche_columns: slice | None = None
        if "niche" in widths:
            at = list(widths).index("niche")
            self.niche_columns = slice(sum(self.path_widths[:at]), sum(self.path_widths[: at + 1]))
            self.n_wide += self.path_widths[at]
        self.register_buffer("shares", torch.full((len(widths),), 1.0 / max(len(widths), 1)))
        self.register_buffer("targets", torch.zeros(min(n_targets, sizes.n_features), dtype=torch.long))
        self.register_buffer("wide_offset", torch.zeros(n_batch, self.direct.n_wide))
        self.register_buffer("composition", torch.zeros(n_batch, self.width))

    @property
    def path_names(self) -> list[str]:
        """Names of the paths in the order of the base's columns."""
        return list(self.paths)

    def fit(
        self, features: dict[str, np.ndarray], batch: np.ndarray, covariates: np.ndarray, shares: np.ndarray
    ) -> np.ndarray:
        """Fit centring, rotation and shares on path features; return the base, (cells, width) float32."""
        self.shares.copy_(torch.as_tensor(shares, dtype=torch.float32))
        self.targets.copy_(self.direct.features[: len(self.targets)])
        return self._join([self._path(name).fit(features[name], batch, covariates) for name in self.paths])

    def transform(self, features: dict[str, np.ndarray], batch: np.ndarray, covariates: np.ndarray) -> np.ndarray:
        """Base of cells given their path features, (cells, width) float32; negative batch codes are new batches."""
        return self._join([self._path(name).transform(features[name], batch, covariates) for name in self.paths])

    def frozen_blocks(self, features: np.ndarray, batch: np.ndarray, covariates: np.ndarray) -> np.ndarray:
        """Part of each block in the frozen columns, which are their mean, (cells, blocks, axes) float32."""
        share = float(self.shares[self.path_names.index("frozen")])
        return np.sqrt(share) * self._path("frozen").blocks(features, batch, covariates)

    def frozen_map(self) -> torch.Tensor:
        """Linear map from a change of the last block of the frozen features to its part of the base, (width, axes)."""
        return self.shares[self.path_names.index("frozen")].sqrt() * self._path("frozen").last_map()

    def fit_wide(self, wide: np.ndarray, batch: np.ndarray) -> None:
        """Fit the batch means that :meth:`centre_wide` subtracts from the direct path's wide view."""
        self.wide_offset.copy_(torch.from_numpy(batch_means(wide, batch, self.n_batch)))

    def centre_wide(self, wide: np.ndarray, batch: np.ndarray) -> np.ndarray:
        """Wide view freed of its batch means, (cells, n_wide); new batches are centred on their own.

        Not that of RNA: labels of several batches teach a classifier over hundreds of genes what to ignore, and means
        of batches that hold types in other proportions differ for good reason. A panel of few antibodies has no such
        choice.
        """
        if isinstance(self.direct, DirectPath):
            return wide
        return wide - batch_offsets(wide, batch, self.wide_offset.cpu().numpy())

    def shift(self, base: np.ndarray, batch: np.ndarray) -> np.ndarray:
        """Base of (cells, width) moved to where batches would be at equal composition; new batches stay."""
        return base - np.where((batch >= 0)[:, None], self.composition.cpu().numpy()[np.maximum(batch, 0)], 0.0)

    def fit_composition(self, base: np.ndarray, batch: np.ndarray, types: np.ndarray) -> np.ndarray:
        """Shift of each batch to where its mean would be at equal composition, (batches, width); -1 = unknown type.

        Batches that hold types in other proportions have other means without any batch effect.
        """
        shift = typed_offsets(base, batch, types, self.n_batch)
        self.composition.add_(torch.from_numpy(shift).to(self.composition.device))
        return shift

    def _path(self, name: str) -> PathBase:
        return cast(PathBase, self.paths[name])

    def _join(self, parts: list[np.ndarray]) -> np.ndarray:
        shares = np.sqrt(self.shares.cpu().numpy())
        return np.concatenate([s * part for s, part in zip(shares, parts, strict=True)], 1).astype(np.float32)
