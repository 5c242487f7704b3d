"""Losses of pre-training: pure functions of tensors; a group is a set of cells of one block (study and corruption).

Shapes: ``(groups, cells, features)`` for features, ``(groups, cells, cells)`` for pairs.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def centred(z: Tensor) -> Tensor:
    """Features minus their group's mean: what is the same for a whole study and platform does not count."""
    return z - z.mean(1, keepdim=True)


def denoise(z: Tensor, target: Tensor) -> Tensor:
    """Squared error against the clean features, per group in units of the target's variance; group means are free."""
    target = centred(target)
    error = (centred(z) - target).pow(2).mean((1, 2))
    return (error / target.pow(2).mean((1, 2)).clamp_min(1e-3)).mean()


def masked(z: Tensor, decoder: Tensor, target: Tensor) -> Tensor:
    """Squared error of a linear decoder at genes that the view did not show, zeros included, as of :func:`denoise`.

    Decoder (groups, features, genes) and target (groups, cells, genes), standardised expression, are of the genes that
    were drawn for each group.
    """
    return denoise(z @ decoder, target)


def contrast(z_a: Tensor, z_b: Tensor, positive: Tensor, temperature: float) -> Tensor:
    """Supervised contrast (Khosla et al. 2020) between two views of the cells of a group.

    All other cells of the group are the negatives. ``positive`` is bool, (groups, cells, cells), True on the diagonal
    (the cell itself) and for cells that should lie close; the temperature is that of the cosine.
    """
    a, b = (F.normalize(centred(z), dim=-1) for z in (z_a, z_b))
    logits = a @ b.transpose(1, 2) / temperature

    def one_way(logits: Tensor, positive: Tensor) -> Tensor:
        weight = positive.float() / positive.sum(-1, keepdim=True)
        return -(weight * logits.log_softmax(-1)).sum(-1)

    return (one_way(logits, positive) + one_way(logits.mT, positive.mT)).mean() / 2


def drift(residual: Tensor) -> Tensor:
    """Mean square of the residual beyond the group's mean: keeps the features near the linear ones."""
    return centred(residual).pow(2).mean()


def same_cluster(cluster: Tensor) -> Tensor:
    """(groups, cells, cells) pairs of cells of one cluster; a cell always pairs with itself."""
    return cluster[:, :, None] == cluster[:, None, :]
