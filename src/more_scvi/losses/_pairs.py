"""Helpers shared by the losses that compare cells of one minibatch."""

import torch
from torch import Tensor
from torch.nn import functional as F


def squared_distances(z: Tensor) -> Tensor:
    """Squared Euclidean distances between the rows of ``z``: (cells, dims) -> (cells, cells)."""
    sq = (z * z).sum(1)
    return (sq[:, None] + sq[None] - 2.0 * z @ z.T).clamp_min(0.0)  # rounding can leave less than 0


def same(codes: Tensor) -> Tensor:
    """Boolean (cells, cells): do two cells carry the same code; negative codes match nothing."""
    return (codes[:, None] == codes[None]) & (codes[:, None] >= 0)


def info_nce(first: Tensor, second: Tensor, groups: Tensor, temperature: float) -> Tensor:
    """Symmetric InfoNCE of two embeddings of the same cells, normalised here; negatives are of the cell's own group."""
    scores = F.normalize(first, dim=1) @ F.normalize(second, dim=1).T / temperature
    scores = scores.masked_fill(groups[:, None] != groups[None], float("-inf"))  # never the target
    target = torch.arange(len(scores), device=scores.device)
    return 0.5 * (F.cross_entropy(scores, target) + F.cross_entropy(scores.T, target))


def one_hot(codes: Tensor, n: int) -> Tensor:
    """(cells,) integer codes -> (cells, n) float indicators; negative codes become empty rows."""
    return (codes[:, None] == torch.arange(n, device=codes.device)[None]).float()  # F.one_hot takes none below 0
