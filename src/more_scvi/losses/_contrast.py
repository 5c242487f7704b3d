"""Supervised contrastive loss with positives from other batches; InfoNCE between views."""

import torch
from torch import Tensor
from torch.nn import functional as F

from more_scvi.losses._pairs import info_nce, same


def contrast_labels(projection: Tensor, labels: Tensor, batches: Tensor, temperature: float = 0.2) -> Tensor:
    r"""Supervised contrastive loss (Khosla et al. 2020, the :math:`\mathcal{L}_{out}` form).

    Positives of a cell are cells of its label in *other* batches; where a minibatch holds none,
    those of its own batch. Cells without a label are neither anchors nor candidates.

    Parameters
    ----------
    projection
        (cells, dims), normalised here.
    labels, batches
        (cells,) integer codes; a negative label means not labelled.
    temperature
        Softmax temperature.

    Returns
    -------
    0-d tensor; zero when no cell has a positive.
    """
    known = labels >= 0
    p, y, b = F.normalize(projection[known], dim=1), labels[known], batches[known]
    if len(y) < 2:
        return projection.sum() * 0.0
    itself = torch.eye(len(y), dtype=torch.bool, device=y.device)
    positives = same(y) & ~itself
    elsewhere = positives & (b[:, None] != b[None])
    positives = torch.where(elsewhere.any(1, keepdim=True), elsewhere, positives)
    anchors = positives.any(1)
    if not anchors.any():
        return projection.sum() * 0.0
    log_p = F.log_softmax((p @ p.T / temperature).masked_fill(itself, -1e9), 1)  # not -inf: -inf · 0 below is NaN
    per_cell = -(log_p * positives).sum(1) / positives.sum(1).clamp_min(1)  # those without any are no anchors
    return per_cell[anchors].mean()


def contrast_views(first: Tensor, second: Tensor, batches: Tensor, temperature: float = 0.2) -> Tensor:
    """InfoNCE between two views of the same cells (van den Oord et al. 2018), within batches.

    Negatives come from the cell's own batch only: telling batches apart must not pay.

    Parameters
    ----------
    first, second
        (cells, dims) projections of two views; normalised here.
    batches
        (cells,) integer codes.
    temperature
        Softmax temperature.

    Returns
    -------
    0-d tensor.
    """
    return info_nce(first, second, batches, temperature)
