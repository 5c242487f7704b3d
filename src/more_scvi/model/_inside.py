"""Adapters inside the backbone and the mix of its layers: how they are built, what they read, what they add."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from more_scvi.backbones._base import Backbone
from more_scvi.backbones._cache import token_chunks
from more_scvi.base._arrays import Arrays, InsideArrays, scatter
from more_scvi.base._features import Features
from more_scvi.base._prepare import FrozenReader
from more_scvi.data._measured import CellSet, Measured
from more_scvi.module._inside import Inside, InsideAdapter
from more_scvi.module._module import MoREModule

ADAPTERS = ("output", "bottleneck", "lora")
CELLS_PER_PASS, TOKENS_PER_PASS = 128, 8192
"""Most cells, and tokens of all of them, that pass the last layers at once: long ones would fill the memory."""


def make_inside(frozen: FrozenReader, arguments: Mapping[str, Any]) -> Inside | None:
    """What is trained inside the frozen path of the first modality that the backbone reads; None if nothing is.

    ``arguments``: those of :class:`more_scvi.model.MoRE`.
    """
    freezes = arguments["freeze_backbone"]
    kind = arguments["adapter"] if freezes else "full"
    blocks = 1 if frozen.backbone is None or not frozen.modalities else frozen.backbone.n_pooled
    adapter = None
    if kind != "output":
        backbone = _with_layers(frozen, arguments)
        top = backbone.top_layers(arguments["adapter_layers"] if freezes else backbone.n_layers)
        adapter = InsideAdapter(top, kind, arguments["adapter_rank"])
    return Inside(frozen.modalities[0], adapter, blocks) if adapter is not None or blocks > 1 else None


def _with_layers(frozen: FrozenReader, args: Mapping[str, Any]) -> Backbone:
    """The backbone, if adapters may enter as many of its layers as were asked for."""
    backbone = frozen.backbone
    asked = f"adapter={args['adapter']!r}" if args["freeze_backbone"] else "freeze_backbone=False"
    if backbone is None or not backbone.n_layers:
        raise ValueError(
            f"{asked} needs a backbone with layers that adapters may enter, such as 'more-mini';"
            f" backbone={args['backbone']!r} has none. Use adapter='output', freeze_backbone=True."
        )
    if not frozen.modalities:
        raise ValueError(
            f"{asked}, but backbone {args['backbone']!r} reads none of the modalities {list(frozen.overlaps)}: they"
            " speak of too few genes it knows. Use adapter='output', freeze_backbone=True."
        )
    if args["freeze_backbone"] and args["adapter_layers"] > backbone.n_layers:
        raise ValueError(
            f"adapter_layers={args['adapter_layers']}, but backbone {args['backbone']!r} has {backbone.n_layers}"
            f" layers; give a number from 1 to {backbone.n_layers}."
        )
    return backbone


def inside_arrays(
    cells: CellSet, features: Mapping[str, Features], module: MoREModule, backbone: Backbone, depth: int, device: str
) -> InsideArrays:
    """What the trained part reads of cells, kept in memory: one row per cell."""
    inside = module.inside
    assert inside is not None
    measured = cells.measured[inside.modality]
    parts = {"blocks": _blocks(cells, features, module)}
    if inside.adapter is not None:
        parts |= _joined([part for _, part in _token_chunks(measured, backbone, depth, torch.device(device))])
    found = {name: scatter(x, measured.cells, len(cells)) for name, x in parts.items() if x is not None}
    return InsideArrays(**found)


def moved(arrays: Arrays, module: MoREModule, inside: InsideArrays | None) -> Arrays:
    """Arrays whose base is as the trained part moves it; the same object where there is none."""
    if module.inside is None or inside is None:
        return arrays
    rows = np.flatnonzero(arrays.present[:, module.layout.at(module.inside.modality)])
    return _with_added(arrays, module, rows, _added(module, inside, rows))


def moved_streaming(
    arrays: Arrays, cells: CellSet, features: Mapping[str, Features], module: MoREModule, backbone: Backbone | None
) -> Arrays:
    """As :func:`moved`, for other cells, whose tokens are not kept."""
    inside = module.inside
    if inside is None or inside.modality not in cells.measured:
        return arrays
    measured, blocks = cells.measured[inside.modality], _blocks(cells, features, module)
    chunks = iter([(slice(0, len(measured.cells)), InsideArrays())])  # the mix of layers reads no tokens
    if inside.adapter is not None:
        assert backbone is not None
        depth, device = len(inside.adapter.top.layers), next(module.parameters()).device
        chunks = _token_chunks(measured, backbone, depth, device)
    parts = []
    for rows, chunk in chunks:
        chunk = replace(chunk, blocks=None if blocks is None else blocks[rows])
        parts.append(_added(module, chunk, np.arange(rows.stop - rows.start)))
    return _with_added(arrays, module, measured.cells, np.concatenate(parts))


def _token_chunks(
    measured: Measured, backbone: Backbone, depth: int, device: torch.device
) -> Iterator[tuple[slice, InsideArrays]]:
    """Tokens of the rows of a modality and what the frozen layers make of them, chunk by chunk."""
    top, x, genes = backbone.top_layers(depth).to(device), measured.source, measured.source_genes
    chunks = token_chunks(
        backbone, x, genes, depth=depth, normalised=measured.normalised, chunk_size=CELLS_PER_PASS, device=device
    )
    for rows, tokens, keep in chunks:
        with torch.inference_mode():  # of the float16 tokens that training reads, so that its change starts at 0
            passes = [
                top(torch.from_numpy(tokens[part]).to(device).float(), torch.from_numpy(keep[part]).to(device))
                for part in _passes(*keep.shape)
            ]
        yield rows, InsideArrays(tokens, keep, torch.cat(passes).cpu().numpy())


def _passes(n_cells: int, width: int) -> list[slice]:
    """Rows that pass the last layers together; at least one pass, of no rows if there are none."""
    step = max(1, min(CELLS_PER_PASS, TOKENS_PER_PASS // max(width, 1)))
    return [slice(start, start + step) for start in range(0, max(n_cells, 1), step)]


def _blocks(cells: CellSet, features: Mapping[str, Features], module: MoREModule) -> np.ndarray | None:
    """Part of each block of the frozen features in the base, (rows, blocks, axes) float16, or None."""
    inside = module.inside
    if inside is None or inside.mix is None:
        return None
    rows = cells.measured[inside.modality].cells
    frozen, base = features[inside.modality].paths["frozen"], module.base(inside.modality)
    return base.frozen_blocks(frozen, cells.batch[rows], cells.covariates[rows]).astype(np.float16)


@torch.inference_mode()
def _added(module: MoREModule, cached: InsideArrays, rows: np.ndarray) -> np.ndarray:
    """What is added to the frozen columns, (rows, axes)."""
    inside = module.inside
    assert inside is not None
    part = module.base(inside.modality)
    device, out = part.shares.device, []
    for taken in _passes(len(rows), 1 if cached.keep is None else cached.keep.shape[1]):
        chunk = cached.rows(rows[taken])
        tensors = {name: torch.from_numpy(np.ascontiguousarray(x)).to(device) for name, x in chunk.items()}
        out.append(inside(part, **tensors).cpu().numpy())
    return np.concatenate(out)


def _with_added(arrays: Arrays, module: MoREModule, rows: np.ndarray, added: np.ndarray) -> Arrays:
    assert module.inside is not None
    base, start = arrays.base.copy(), module.layout.columns(module.inside.modality).start
    base[rows, start : start + added.shape[1]] += added  # frozen columns are the first of a modality
    return replace(arrays, base=base)


def _joined(chunks: list[InsideArrays]) -> dict[str, np.ndarray]:
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
    return {"tokens": tokens, "keep": keep, "frozen": frozen}
