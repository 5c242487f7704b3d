"""Batch alignment: maximum mean discrepancy between batches, within each type."""

import torch
from torch import Tensor

from more_scvi.losses._pairs import one_hot, squared_distances


def align_batches(
    z: Tensor,
    batches: Tensor,
    types: Tensor | None,
    n_batches: int,
    n_types: int = 1,
    bandwidths: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 4.0),
    min_cells: int = 2,
) -> Tensor:
    r"""Squared MMD between the cells of a type in one batch and in all other batches.

    With the kernel matrix :math:`K` of the minibatch, a group's indicator column :math:`m_g` and the
    column :math:`r_g` of the same type in other batches, the unbiased estimate is

    .. math:: \mathrm{MMD}^2_g = \frac{m_g^\top K m_g - n_g}{n_g (n_g - 1)}
              + \frac{r_g^\top K r_g - n_r}{n_r (n_r - 1)} - 2 \frac{m_g^\top K r_g}{n_g n_r}

    (Gretton et al. 2012), all groups from one kernel matrix. Types that a batch lacks are never aligned.

    Parameters
    ----------
    z
        (cells, dims).
    batches
        (cells,) integer codes.
    types
        (cells,) visible labels and confident pseudo-labels; negative = unknown, left out.
        ``None`` aligns whole batches (unconditional MMD).
    n_batches, n_types
        Number of categories.
    bandwidths
        Multiples of the mean squared distance within groups; the kernel is their mean of Gaussians.
    min_cells
        Groups with fewer cells, in the batch or outside it, are skipped.

    Returns
    -------
    0-d tensor: mean over groups weighted by the smaller side's size, zero when no group can be aligned.
    """
    types = torch.zeros_like(batches) if types is None else types
    group = torch.where(types >= 0, types * n_batches + batches, -torch.ones_like(batches))
    m = one_hot(group, n_types * n_batches)
    n_all = m.sum(0)
    rest = one_hot(types, n_types).repeat_interleave(n_batches, dim=1) - m
    n_rest = rest.sum(0)
    use = (n_all >= min_cells) & (n_rest >= min_cells)  # the unbiased estimate divides by n - 1
    if not use.any():
        return z.sum() * 0.0  # zero, with a gradient
    m, rest, n, r = m[:, use], rest[:, use], n_all[use], n_rest[use]
    d = squared_distances(z)
    within = m @ m.T
    within.fill_diagonal_(0.0)  # the distance of a cell to itself says nothing of the scale
    scale = ((d * within).sum() / within.sum().clamp_min(1.0)).detach().clamp_min(1e-8)  # no way to lower the loss
    kernel = torch.stack([torch.exp(-d / (2.0 * float(scale) * w)) for w in bandwidths]).mean(0)
    weight = torch.minimum(n, r)
    # the estimate is linear in the kernel: its coefficients need no gradient
    inside = (m * (weight / (n * (n - 1)))) @ m.T + (rest * (weight / (r * (r - 1)))) @ rest.T
    inside.fill_diagonal_(0.0)  # unbiased: no cell beside itself
    between = (m * (weight / (n * r))) @ rest.T
    return ((inside - 2.0 * between) * kernel).sum() / weight.sum()
