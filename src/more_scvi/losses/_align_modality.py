"""Modality alignment: paired cells find each other, and one modality lands where all of them would."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from more_scvi.losses._pairs import same


def pair_modalities(first: Tensor, second: Tensor, groups: Tensor, temperature: float = 0.2) -> Tensor:
    r"""InfoNCE between two modalities of the same cells, negatives from the same group only.

    .. math:: -\frac{1}{2n}\sum_i \log \frac{e^{a_i b_i / \tau}}{\sum_{j: g_j = g_i} e^{a_i b_j / \tau}}
              + \log \frac{e^{a_i b_i / \tau}}{\sum_{j: g_j = g_i} e^{a_j b_i / \tau}}

    with unit vectors (van den Oord et al. 2018; symmetric as in Radford et al. 2021). Negatives from other batches
    would reward telling batches apart.

    Parameters
    ----------
    first, second
        (cells, dims) embeddings of the same cells in two modalities.
    groups
        (cells,) batch codes, not negative.
    temperature
        :math:`\tau`.

    Returns
    -------
    0-d tensor; 0 without a pair of cells in one group.
    """
    allowed = same(groups)
    if len(first) < 2 or not (allowed.sum(1) > 1).any():
        return first.sum() * 0.0
    scores = F.normalize(first, dim=1) @ F.normalize(second, dim=1).T / temperature
    scores = scores.masked_fill(~allowed, float("-inf"))
    target = torch.arange(len(scores), device=scores.device)
    return 0.5 * (F.cross_entropy(scores, target) + F.cross_entropy(scores.T, target))


def distil(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Distance of the embedding from some modalities to that from all, relative to the size of the latter.

    .. math:: \sum_i\|s_i - t_i\|^2 / \sum_i\|t_i\|^2

    Parameters
    ----------
    student
        (cells, dims), from a subset of the modalities.
    teacher
        (cells, dims), from all measured modalities; not differentiated.

    Returns
    -------
    0-d tensor.
    """
    teacher = teacher.detach()
    return (student - teacher).pow(2).sum() / teacher.pow(2).sum().clamp_min(1e-8)
