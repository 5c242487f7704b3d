"""Helpers shared by the losses that compare cells of one minibatch."""

from __future__ import annotations

import torch
from torch import Tensor


def squared_distances(z: Tensor) -> Tensor:
    """Squared Euclidean distances between the rows of ``z``: (cells, dims) -> (cells, cells)."""
    sq = (z * z).sum(1)
    return (sq[:, None] + sq[None] - 2.0 * z @ z.T).clamp_min(0.0)


def same(a: Tensor, b: Tensor | None = None) -> Tensor:
    """Boolean (cells, cells): do two cells carry the same code; negative codes match nothing."""
    b = a if b is None else b
    return (a[:, None] == b[None]) & (a[:, None] >= 0) & (b[None] >= 0)


def one_hot(codes: Tensor, n: int) -> Tensor:
    """(cells,) integer codes -> (cells, n) float indicators; negative codes become empty rows."""
    return (codes[:, None] == torch.arange(n, device=codes.device)[None]).float()
