"""What is fitted before anything is trained: the direct path of each modality, its linear base, links between them.

Buffers only, in closed form, without gradients. :func:`more_scvi.base.fit_base` fits them; everything else only reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from more_scvi.base._bridge import N_CANONICAL, Link, linked_coordinates, ridge
from more_scvi.base._layout import Layout
from more_scvi.base._missing import GUESS_PENALTY, N_GUESS
from more_scvi.base._offsets import TYPE_PRIOR, typed_offsets
from more_scvi.base._path import PathBase, batch_means
from more_scvi.base._strength import Strength
from more_scvi.data._batches import batch_offsets
from more_scvi.modalities._modality import get_modality
from more_scvi.modalities._parts import array, fill


@dataclass(frozen=True)
class ModalitySizes:
    """Sizes of one modality.

    Attributes
    ----------
    name
        Name of a registered modality.
    n_features
        Features of the data: genes, peaks, antibodies.
    n_frozen
        Width of the frozen features (0: no gene is known to the backbone, or no backbone).
    n_niche
        Width of the neighbour means of spatial data (0: none).
    data_type
        Type of the values, such as ``"counts"``.
    n_blocks
        Blocks that the frozen features consist of, one per layer of the backbone.
    """

    name: str
    n_features: int
    n_frozen: int = 0
    n_niche: int = 0
    data_type: str = "counts"
    n_blocks: int = 1


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
    frozen_mean: torch.Tensor
    guess_mean: torch.Tensor
    frozen_guess: torch.Tensor
    level: torch.Tensor
    detected: torch.Tensor
    shallow: torch.Tensor

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
        self.n_batch, self.n_covariates = n_batch, n_covariates
        modality = get_modality(sizes.name)
        self.centres_wide = modality.centres_wide
        self.direct: Any = modality.path(sizes.n_features, sizes.data_type, n_variable, n_components, n_wide)
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
        self.register_buffer("level", torch.zeros(sizes.n_features))
        self.register_buffer("detected", torch.zeros(sizes.n_features))
        self.register_buffer("shallow", torch.zeros(n_batch, dtype=torch.bool))
        self.register_buffer("composition", torch.zeros(n_batch, self.width))
        n_guess, n_frozen = min(N_GUESS, self.direct.n_wide), sizes.n_frozen if "frozen" in widths else 0
        self.register_buffer("frozen_mean", torch.zeros(n_frozen))
        self.register_buffer("guess_mean", torch.zeros(n_guess))
        self.register_buffer("frozen_guess", torch.zeros(n_guess, n_frozen, dtype=torch.float16))

    @property
    def n_blocks(self) -> int:
        """Blocks that the frozen features consist of."""
        return self._path("frozen").n_blocks if "frozen" in self.paths else 1

    @property
    def path_names(self) -> list[str]:
        """Names of the paths in the order of the base's columns."""
        return list(self.paths)

    def fit(
        self, features: dict[str, np.ndarray], batch: np.ndarray, covariates: np.ndarray, shares: np.ndarray
    ) -> np.ndarray:
        """Fit centring, rotation and shares on path features; return the base, (cells, width) float32."""
        self.shares.copy_(torch.as_tensor(shares, dtype=torch.float32))
        self.targets.copy_(self.direct.features[: len(self.targets)])  # features come most informative first
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

    def fit_guess(self, wide: np.ndarray, frozen: np.ndarray, batch: np.ndarray) -> None:
        """Fit what the wide input of the direct path says of the frozen features, within batches."""
        x, y = wide[:, : len(self.guess_mean)], np.asarray(frozen, np.float32)
        means = [batch_means(values, batch, self.n_batch) for values in (x, y)]
        guess = ridge(x - means[0][batch], y - means[1][batch], GUESS_PENALTY)
        fill(self, guess_mean=means[0].mean(0), frozen_mean=means[1].mean(0), frozen_guess=guess)

    def guess_frozen(self, wide: np.ndarray) -> np.ndarray:
        """Frozen features as the wide input lets expect them, (cells, features) float32."""
        centred = wide[:, : len(self.guess_mean)] - array(self.guess_mean)
        return array(self.frozen_mean) + centred @ array(self.frozen_guess).astype(np.float32)

    def moved_by(self, changes: dict[str, np.ndarray]) -> np.ndarray:
        """Change of the base that changes of the features of paths make, (rows, width) float32."""
        rows = len(next(iter(changes.values())))
        nothing = {name: np.zeros((rows, self._path(name).n_in), np.float32) for name in self.paths}
        new, covariates = np.full(rows, -1), np.zeros((rows, self.n_covariates), np.float32)
        changed = {name: changes.get(name, zero) for name, zero in nothing.items()}
        return self.transform(changed, new, covariates) - self.transform(nothing, new, covariates)

    def fit_wide(self, wide: np.ndarray, batch: np.ndarray, types: np.ndarray, strength: Strength) -> None:
        """Fit the offsets that :meth:`centre_wide` subtracts, within types: codes, (cells,), -1 = unknown."""
        if self.centres_wide:  # nothing reads the others
            offset = strength.part(typed_offsets(wide, batch, types, self.n_batch, TYPE_PRIOR))
            self.wide_offset.copy_(torch.from_numpy(offset))

    def centre_wide(self, wide: np.ndarray, batch: np.ndarray) -> np.ndarray:
        """Wide input freed of its offsets if the modality asks for it, (cells, n_wide)."""
        if not self.centres_wide:
            return wide
        return wide - batch_offsets(batch, self.wide_offset.cpu().numpy())

    def shift(self, base: np.ndarray, batch: np.ndarray) -> np.ndarray:
        """Base of (cells, width) moved to where batches would be at equal composition."""
        return base - batch_offsets(batch, self.composition.cpu().numpy())

    def own_means(self) -> np.ndarray:
        """What centring each batch on its own mean moved it by, (batches, width)."""
        return self._join([self._path(name).offset_map() for name in self.paths])

    def shift_in_all(self) -> np.ndarray:
        """What each batch was moved by in all, (batches, width)."""
        return self.own_means() + self.composition.cpu().numpy()

    def fit_composition(
        self, base: np.ndarray, batch: np.ndarray, types: np.ndarray, prior: int, strength: Strength
    ) -> np.ndarray:
        """Shift of each batch to where it would be at equal composition, (batches, width).

        Batches that hold types in other proportions have other means without any batch effect.

        Parameters
        ----------
        base
            (cells, width), centred by batch.
        batch
            Codes, (cells,).
        types
            Codes of types or clusters, (cells,), -1 = unknown.
        prior
            See :func:`more_scvi.base._offsets.typed_offsets`.
        strength
            How much of the offsets goes; of strength 0, batches stay where they were measured.
        """
        own = self.own_means()
        offset = strength.part(typed_offsets(base + own[batch], batch, types, self.n_batch, prior))
        shift = (offset - own).astype(np.float32)
        self.composition.copy_(torch.from_numpy(shift))
        return shift

    def placed_by(self, base: np.ndarray, batch: np.ndarray, types: np.ndarray, strength: Strength) -> np.ndarray:
        """Finished base of some cells as it would be if only these types were known; arguments as above."""
        measured = base + self.shift_in_all()[batch]
        offset = strength.part(typed_offsets(measured, batch, types, self.n_batch, TYPE_PRIOR))
        return (measured - offset[batch]).astype(np.float32)

    def _path(self, name: str) -> PathBase:
        return cast(PathBase, self.paths[name])

    def _join(self, parts: list[np.ndarray]) -> np.ndarray:
        shares = np.sqrt(self.shares.cpu().numpy())  # they are shares of variance
        return np.concatenate([s * part for s, part in zip(shares, parts, strict=True)], 1).astype(np.float32)


class LinearBase(nn.Module):
    """Linear bases of all modalities and the links between those that no cell has both of; buffers only.

    Parameters
    ----------
    modalities
        Sizes of each modality, in order.
    n_batch, n_covariates
        Number of batches and columns of the covariate design.
    patterns
        bool (patterns, modalities): combinations of measured modalities that occur.
    n_variable, n_components, n_wide, n_feature_axes, n_targets
        See :class:`ModalityBase`.
    """

    fitted: torch.Tensor

    def __init__(
        self,
        modalities: Sequence[ModalitySizes],
        n_batch: int,
        n_covariates: int,
        patterns: np.ndarray,
        n_variable: int,
        n_components: int,
        n_wide: int,
        n_feature_axes: int,
        n_targets: int,
    ):
        super().__init__()
        self.bases = nn.ModuleDict(
            {
                sizes.name: ModalityBase(
                    sizes, n_batch, n_covariates, n_variable, n_components, n_wide, n_feature_axes, n_targets
                )
                for sizes in modalities
            }
        )
        names = [sizes.name for sizes in modalities]
        bases = [self.base(name) for name in names]
        self.layout = Layout(tuple(names), tuple(b.width for b in bases), tuple(b.n_wide for b in bases))
        # pairs of modalities that no cell has both of: genes link them, see _bridge
        together = np.asarray(patterns, dtype=int).T @ np.asarray(patterns, dtype=int)
        self.unpaired = [(i, j) for i in range(len(names)) for j in range(i + 1, len(names)) if not together[i, j]]
        for k, (i, j) in enumerate(self.unpaired):
            self.register_buffer(f"link_{k}_first", torch.zeros(bases[i].width, N_CANONICAL))
            self.register_buffer(f"link_{k}_second", torch.zeros(bases[j].width, N_CANONICAL))
        self.register_buffer("fitted", torch.tensor(False))  # a buffer, so that it is saved with the rest

    @property
    def n_wide(self) -> int:
        """Columns of the wide input: of all modalities, and the coordinates of all links."""
        return sum(self.layout.wide_widths) + N_CANONICAL * len(self.unpaired)

    def base(self, modality: str) -> ModalityBase:
        """Direct path and linear base of a modality."""
        return cast(ModalityBase, self.bases[modality])

    def store_links(self, links: dict[tuple[int, int], Link]) -> None:
        """Keep the links of a shared space."""
        for k, pair in enumerate(self.unpaired):
            for side in ("first", "second") if pair in links else ():
                directions = torch.from_numpy(getattr(links[pair], side))
                getattr(self, f"link_{k}_{side}")[:, : directions.shape[1]] = directions

    def link_coordinates(self, base: np.ndarray, present: np.ndarray) -> np.ndarray:
        """Coordinates that modalities without common cells share through genes, (cells, coordinates of all links).

        ``base`` is the joined base before :meth:`ModalityBase.shift`. Cells with neither modality of a link get zeros.
        """
        out = np.zeros((len(base), N_CANONICAL * len(self.unpaired)), np.float32)
        for k, pair in enumerate(self.unpaired):
            columns = slice(k * N_CANONICAL, (k + 1) * N_CANONICAL)
            for at, side in zip(pair, ("first", "second"), strict=True):
                rows = np.flatnonzero(present[:, at])
                directions = getattr(self, f"link_{k}_{side}").cpu().numpy()
                own = base[rows, self.layout.columns(self.layout.modalities[at])]
                out[rows, columns] = linked_coordinates(own, directions)
        return out
