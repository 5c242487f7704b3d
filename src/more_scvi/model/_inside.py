"""Adapters inside the backbone and the mix of its layers: how they are built, what they read, what they add."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import numpy as np
import pandas as pd
import torch

from more_scvi._compat import parse_device_args
from more_scvi.backbones import Backbone, TopLayers, token_chunks
from more_scvi.model._prepare import Measured, scatter
from more_scvi.model._state import ModelState
from more_scvi.module import Inside, InsideAdapter
from more_scvi.train import InsideArrays, TrainingArrays

ADAPTERS = ("output", "bottleneck", "lora")
CELLS_PER_PASS = 128


class InsideMixin(ModelState):
    """The part of a model that reaches into the frozen path of the first modality that the backbone reads."""

    def get_layer_weights(self) -> pd.Series:
        """How much each layer of the backbone counts in the frozen features.

        Returns
        -------
        Weights that add up to 1, one per block of the backbone's features, in their order (for token models: from the
        embeddings to the last layer). They are equal before training. Where several modalities are read by the
        backbone, those of the first; the others keep equal weights.

        Raises
        ------
        ValueError
            If the backbone gives one feature, so that there is nothing to mix.

        Examples
        --------
        >>> model.get_layer_weights().plot.bar()
        """
        inside = self.module.inside
        if inside is None or inside.mix is None:
            raise ValueError(
                f"backbone={self.init_arguments['backbone']!r} gives one feature per cell, not one per layer: there are"
                " no layer weights. Use a backbone with n_pooled > 1."
            )
        weights = inside.layer_weights().detach().cpu().numpy()
        return pd.Series(weights, index=pd.RangeIndex(len(weights), name="layer"), name="weight")

    # ---- building

    def _attach_inside(self) -> None:
        """Add to the module what is trained inside the frozen path, if anything is."""
        args = self.init_arguments
        kind = args["adapter"] if args["freeze_backbone"] else "full"
        blocks = 1 if self.backbone is None or not self._frozen_roles else self.backbone.n_pooled
        adapter = None
        if kind != "output":
            top = self._backbone_with_layers().top_layers(self._inside_depth)
            adapter = InsideAdapter(top, kind, args["adapter_rank"])
        if adapter is not None or blocks > 1:
            self.module.add_inside(Inside(self._frozen_roles[0], adapter, blocks))

    @property
    def _inside_depth(self) -> int:
        args = self.init_arguments
        return args["adapter_layers"] if args["freeze_backbone"] else self._backbone_with_layers().n_layers

    def _backbone_with_layers(self) -> Backbone:
        """The backbone, if adapters may enter as many of its layers as were asked for."""
        args, backbone = self.init_arguments, self.backbone
        asked = f"adapter={args['adapter']!r}" if args["freeze_backbone"] else "freeze_backbone=False"
        if backbone is None or not backbone.n_layers:
            raise ValueError(
                f"{asked} needs a backbone with layers that adapters may enter, such as 'more-mini';"
                f" backbone={args['backbone']!r} has none. Use adapter='output', freeze_backbone=True."
            )
        if not self._frozen_roles:
            raise ValueError(
                f"{asked}, but backbone {args['backbone']!r} reads none of the modalities {self.roles}: they speak of"
                " too few genes it knows. Use adapter='output', freeze_backbone=True."
            )
        if args["freeze_backbone"] and args["adapter_layers"] > backbone.n_layers:
            raise ValueError(
                f"adapter_layers={args['adapter_layers']}, but backbone {args['backbone']!r} has {backbone.n_layers}"
                f" layers; give a number from 1 to {backbone.n_layers}."
            )
        return backbone

    # ---- what it reads

    def _token_chunks(self, measured: Measured, device: torch.device) -> Iterator[tuple[slice, InsideArrays]]:
        """Tokens of the rows of a modality and what the frozen layers make of them, chunk by chunk."""
        depth, backbone = self._inside_depth, self._backbone_with_layers()
        frozen = backbone.top_layers(depth).to(device)
        chunks = token_chunks(
            backbone,
            measured.source,
            measured.gene_names,
            depth=depth,
            normalised=measured.normalised,
            device=device,
        )
        for rows, tokens, keep in chunks:
            yield rows, InsideArrays(tokens, keep, _replay(frozen, tokens, keep, device))

    def _inside_arrays(
        self, measured: Measured, features: dict[str, np.ndarray], batch, covariates, accelerator: str, devices: Any
    ) -> InsideArrays | None:
        """Arrays of the registered cells that have a modality; None where nothing is trained inside its path."""
        inside = self.module.inside
        if inside is None or inside.modality != measured.name:
            return None
        arrays = InsideArrays()
        if inside.adapter is not None:
            _, _, device = parse_device_args(accelerator=accelerator, devices=devices, return_device="torch")
            arrays = _joined([part for _, part in self._token_chunks(measured, torch.device(device))])
        arrays.blocks = self._blocks(features, batch, covariates)
        return arrays

    def _blocks(self, features: dict[str, np.ndarray], batch: np.ndarray, covariates: np.ndarray) -> np.ndarray | None:
        """Part of each block of the frozen features in the base, (rows, blocks, axes) float16, or None."""
        inside = self.module.inside
        if inside is None or inside.mix is None:
            return None
        part = self.module.base(inside.modality)
        return part.frozen_blocks(features["frozen"], batch, covariates).astype(np.float16)

    # ---- what it adds

    def _moved_base(self, arrays: TrainingArrays) -> np.ndarray:
        """Bases of the registered cells as the trained part moves them; the array itself where there is none."""
        inside = self.module.inside
        if inside is None or arrays.inside is None:
            return arrays.base
        trained = hashlib.sha256()
        for tensor in inside.state_dict().values():
            trained.update(tensor.cpu().numpy().tobytes())
        added = self._added_before
        if added is None or added[0] is not arrays or added[1] != trained.digest():
            rows = np.flatnonzero(arrays.present[:, self.roles.index(inside.modality)])
            added = arrays, trained.digest(), scatter(self._added(arrays.inside, rows), rows, len(arrays.base))
            self._added_before = added
        return self._with_added(arrays.base.copy(), added[2])

    def _added_to(self, measured: Measured, features: dict[str, np.ndarray], batch, covariates) -> np.ndarray | None:
        """What is added to the frozen columns of other cells, (rows, axes), or None; their tokens are not kept."""
        inside = self.module.inside
        if inside is None or inside.modality != measured.name:
            return None
        blocks = self._blocks(features, batch, covariates)
        if inside.adapter is None:
            return self._added(InsideArrays(blocks=blocks), np.arange(len(measured.cells)))
        parts = []
        for rows, chunk in self._token_chunks(measured, self.device):
            chunk.blocks = None if blocks is None else blocks[rows]
            parts.append(self._added(chunk, np.arange(rows.stop - rows.start)))
        return np.concatenate(parts)

    @torch.inference_mode()
    def _added(self, cached: InsideArrays, rows: np.ndarray) -> np.ndarray:
        """What is added to the frozen columns, (rows, axes)."""
        inside = self.module.inside
        assert inside is not None
        part = self.module.base(inside.modality)
        device, out = part.shares.device, []
        for start in range(0, max(len(rows), 1), CELLS_PER_PASS):
            chunk = cached.rows(rows[start : start + CELLS_PER_PASS])
            tensors = {name: torch.from_numpy(np.ascontiguousarray(x)).to(device) for name, x in chunk.items()}
            out.append(inside(part, **tensors).cpu().numpy())
        return np.concatenate(out)

    def _with_added(self, base: np.ndarray, added: np.ndarray) -> np.ndarray:
        """Add to the frozen columns of joined bases, in place."""
        assert self.module.inside is not None
        start = self.module.columns(self.module.inside.modality).start
        base[:, start : start + added.shape[1]] += added
        return base


def joined_inside(parts: list[tuple[InsideArrays | None, np.ndarray]], n_cells: int) -> InsideArrays | None:
    """The one part of several modalities that has arrays, with its rows at their cells; None if none has."""
    for part, cells in parts:
        if part is not None:
            arrays = {field.name: getattr(part, field.name) for field in fields(part)}
            return InsideArrays(**{k: None if x is None else scatter(x, cells, n_cells) for k, x in arrays.items()})
    return None


@torch.inference_mode()
def _replay(top: TopLayers, tokens: np.ndarray, keep: np.ndarray, device: torch.device) -> np.ndarray:
    """Output of frozen layers, (cells, width) float32."""
    parts = []
    for start in range(0, max(len(tokens), 1), CELLS_PER_PASS):
        t, k = (torch.from_numpy(x[start : start + CELLS_PER_PASS]).to(device) for x in (tokens, keep))
        parts.append(top(t.float(), k).cpu().numpy())
    return np.concatenate(parts)


def _joined(chunks: list[InsideArrays]) -> InsideArrays:
    """All rows, padded to the longest chunk. Takes the chunks out of the list, to hold as little as possible twice."""
    shapes = np.array([np.asarray(chunk.tokens).shape for chunk in chunks])
    n, (longest, d_model) = int(shapes[:, 0].sum()), shapes[:, 1:].max(0)
    tokens, keep = np.zeros((n, longest, d_model), np.float16), np.zeros((n, longest), bool)
    frozen = np.concatenate([np.asarray(chunk.frozen) for chunk in chunks])
    start = 0
    for length, width, _ in shapes:
        chunk, rows = chunks.pop(0), slice(start, start + length)
        tokens[rows, :width], keep[rows, :width] = chunk.tokens, chunk.keep
        start += length
    return InsideArrays(tokens, keep, frozen)
