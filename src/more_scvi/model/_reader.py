"""From any data to the arrays that the module reads: computed once for all questions about the same cells."""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import cast

import numpy as np
from anndata import AnnData
from mudata import MuData

from more_scvi.backbones._cache import FeatureCache
from more_scvi.base._arrays import Arrays
from more_scvi.base._features import Features, read_features
from more_scvi.base._prepare import FrozenReader, prepare, without_silent
from more_scvi.base._schema import Schema
from more_scvi.data._measured import CellSet
from more_scvi.model._coverage import say_coverage
from more_scvi.model._inside import moved_streaming
from more_scvi.module._further import FurtherModality
from more_scvi.module._module import MoREModule

N_KEPT = 2
"""Data sets whose arrays are kept: the registered one and the last other one."""


class Reader:
    """Reads data by a schema, a backbone and a fitted module; remembers what it has read by its content.

    ``given``: modality → key of ``obsm`` with features that were computed elsewhere.
    """

    def __init__(self, schema: Schema, frozen: FrozenReader, module: MoREModule, given: Mapping[str, str]) -> None:
        self.schema, self.frozen, self.module, self.given = schema, frozen, module, given
        self._kept: dict[str, Arrays] = {}

    @property
    def depth(self) -> int:
        """Layers of the backbone that adapters enter."""
        adapter = None if self.module.inside is None else self.module.inside.adapter
        return 0 if adapter is None else len(adapter.top.layers)

    def cells(self, data: AnnData | MuData) -> CellSet:
        """Codes and matrices of cells."""
        return self.schema.read(data, self.given)

    def caches(
        self, cells: CellSet, device: str, panels: Mapping[str, np.ndarray] | None = None
    ) -> dict[str, FeatureCache | None]:
        """Frozen features per modality, and of masked views if ``panels`` are given; the heavy step."""
        return {
            name: self.frozen.read(measured, None if panels is None else panels[name], device)
            for name, measured in cells.measured.items()
        }

    def features(self, cells: CellSet, caches: Mapping[str, FeatureCache | None]) -> dict[str, Features]:
        """Features of all paths."""
        out, device = {}, str(next(self.module.parameters()).device)
        for name, measured in cells.measured.items():
            base, cache = self.module.base(name), caches[name]
            shift = self.frozen.shift(measured, base, device)
            out[name] = read_features(measured, base, None if cache is None else cache.full, shift)
        return out

    def measured(self, data: AnnData | MuData) -> CellSet:
        """Cells of any data, of which features that were padded with zeros count as missing."""
        return without_silent(self.cells(data), self.module.linear)

    def arrays(self, data: AnnData | MuData) -> Arrays:
        """Arrays of cells; those of the last data sets are kept."""
        if not bool(self.module.linear.fitted):
            raise RuntimeError("The model is not trained; call model.train() first.")
        key = self.key(data)
        if key not in self._kept:
            cells = self.measured(data)
            say_coverage(cells, self.module.linear)
            device = next(self.module.parameters()).device
            features = self.features(cells, self.caches(cells, str(device)))
            arrays = prepare(cells, self.module.linear, features)
            arrays = moved_streaming(arrays, cells, features, self.module, self.frozen.backbone)
            self.remember(key, self._with_further(arrays, cells))
        self.remember(key, self._kept[key])  # what was asked for last is dropped last
        return self._kept[key]

    def _with_further(self, arrays: Arrays, cells: CellSet) -> Arrays:
        """Arrays in which cells without a modality of the reference are placed by one that came with a query."""
        placed = np.full((len(arrays), self.module.n_latent), np.nan, np.float32)
        for name, measured in cells.further.items():
            rows = np.flatnonzero(~arrays.present[measured.cells].any(1))
            part = cast(FurtherModality, self.module.further[name])
            if len(rows):
                placed[measured.cells[rows]] = part.pairs.predict(part.read(measured)[rows])
        return arrays if np.isnan(placed).all() else replace(arrays, placed=placed)

    def key(self, data: AnnData | MuData) -> str:
        """Digest of the data, and of what adapters inside the backbone have learned."""
        digest = hashlib.blake2b(self.schema.fingerprint(data, self.given).encode(), digest_size=16)
        if self.module.inside is not None:
            for tensor in self.module.inside.state_dict().values():
                digest.update(tensor.cpu().numpy().tobytes())
        return digest.hexdigest()

    def remember(self, key: str, arrays: Arrays) -> None:
        """Keep arrays for further questions; those asked for longest ago go."""
        self._kept.pop(key, None)
        self._kept[key] = arrays
        while len(self._kept) > N_KEPT:
            self._kept.pop(next(iter(self._kept)))

    def forget(self) -> None:
        """Drop what was kept: the linear base is about to change."""
        self._kept.clear()
