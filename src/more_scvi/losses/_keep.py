"""Keep the distances of the linear base within groups of cells."""

import torch
from torch import Tensor

from more_scvi.losses._pairs import same, squared_distances


def keep_distances(z: Tensor, base: Tensor, groups: Tensor) -> Tensor:
    r"""Relative change of within-group distances against the base, free of scale.

    .. math:: \frac{\sum_{ij} (s\, d_{ij}(z) - d_{ij}(b))^2}{\sum_{ij} d_{ij}(b)^2},\qquad
              s = \frac{\sum d(z) d(b)}{\sum d(z)^2}

    over pairs of cells of the same group (type within a batch). :math:`s` is the best common scale, so
    only the *pattern* of distances is kept. This is what stops label and alignment losses from
    collapsing structure within types.

    Parameters
    ----------
    z
        (cells, dims), trained.
    base
        (cells, dims), the linear base; not differentiated.
    groups
        (cells,) integer codes; negative = in no group.

    Returns
    -------
    0-d tensor; 0 = distances unchanged.
    """
    pairs = same(groups)
    pairs.fill_diagonal_(False)
    if not pairs.any():
        return z.sum() * 0.0
    d_base = squared_distances(base.detach()).sqrt() * pairs  # masked, as picking pairs costs more than all of them
    d = torch.sqrt(squared_distances(z) + 1e-8) * pairs  # the slope of the root at 0 is infinite
    scale = ((d * d_base).sum() / (d * d).sum().clamp_min(1e-8)).detach()  # the best one: its gradient is 0
    return (scale * d - d_base).pow(2).sum() / d_base.pow(2).sum().clamp_min(1e-8)
