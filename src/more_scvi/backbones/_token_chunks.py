"""What enters the last layers of a backbone, for all cells, in chunks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from scipy.sparse import issparse
from tqdm.auto import tqdm

from ._base import Backbone
from ._cache import _bfloat16_is_faster, _match, _on_device, _rows


def token_chunks(
    backbone: Backbone,
    x: Any,
    genes: Sequence[str],
    *,
    depth: int,
    normalised: bool = False,
    chunk_size: int = 256,
    device: str | torch.device = "cpu",
    progress: bool = True,
) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Tokens of all cells, chunk by chunk; the caller decides what to keep of them.

    Parameters
    ----------
    backbone
        A backbone with layers that adapters may enter; it is on ``device`` while the chunks are read.
    x, genes, normalised, device, progress
        As in :func:`compute_features`.
    depth
        Number of layers above.
    chunk_size
        Cells per chunk.

    Yields
    ------
    Rows of the chunk, and the values (cells, tokens, d) float16 and mask (cells, tokens) bool of
    :meth:`Backbone.tokens`.

    Raises
    ------
    ValueError
        If the backbone has not as many layers, or no gene is in its vocabulary.
    """
    x = x.tocsr() if issparse(x) and x.format != "csr" else x
    match, _ = _match(backbone, genes, None, x.shape[1])
    device = torch.device(device)
    faster = _bfloat16_is_faster(device)
    with _on_device(backbone, device, "float32"):
        starts = range(0, x.shape[0], chunk_size)
        for start in tqdm(starts, desc=f"{backbone.name} tokens", unit="chunk", disable=not progress):
            rows = _rows(x, start, start + chunk_size)
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=faster):
                values, keep = backbone.tokens(rows, match, depth=depth, normalised=normalised)
            yield slice(start, start + len(values)), values, keep
