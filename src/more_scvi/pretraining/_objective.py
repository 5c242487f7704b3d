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
    """Squared error of a linear decoder at genes that the view did not show, zeros included.

    Parameters
    ----------
    z
        (groups, cells, features).
    decoder
        (groups, features, genes) of the genes that were drawn for each group.
    target
        (groups, cells, genes) standardised expression; group means are free.
    """
    target = centred(target)
    error = (centred(z) @ decoder - target).pow(2).mean((1, 2))
    return (error / target.pow(2).mean((1, 2)).clamp_min(1e-3)).mean()


def contrast(z_a: Tensor, z_b: Tensor, positive: Tensor, temperature: float) -> Tensor:
    """Supervised contrast (Khosla et al. 2020) between two views of the cells of a group.

    Parameters
    ----------
    z_a, z_b
        (groups, cells, features), two views; all other cells of the group are the negatives.
    positive
        (groups, cells, cells) bool, True on the diagonal (the cell itself) and for cells that should lie close.
    temperature
        Temperature of the cosine.
    """
    a, b = (F.normalize(centred(z), dim=-1) for z in (z_a, z_b))
    logits = a @ b.transpose(1, 2) / temperature
    weight = positive.float() / positive.sum(-1, keepdim=True)
    forward = -(weight * logits.log_softmax(-1)).sum(-1)
    weight = positive.transpose(1, 2).float()
    weight = weight / weight.sum(-1, keepdim=True)
    backward = -(weight * logits.transpose(1, 2).log_softmax(-1)).sum(-1)
    return (forward + backward).mean() / 2


def drift(residual: Tensor) -> Tensor:
    """Mean square of the residual beyond the group's mean: keeps the features near the linear ones."""
    return centred(residual).pow(2).mean()


def same_cluster(cluster: Tensor) -> Tensor:
    """(groups, cells, cells) pairs of cells of one cluster; a cell always pairs with itself."""
    return cluster[:, :, None] == cluster[:, None, :]
