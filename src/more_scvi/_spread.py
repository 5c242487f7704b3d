r"""Last refinement step: the spread of a type is made the same in every batch.

Where batches differ in depth or noise, cells of one type scatter more widely in one batch than in another even when
their means agree, and the tight batch keeps to itself. With :math:`c_{tb}` the centre and :math:`\sigma_{tb}` the
spread of type :math:`t` in batch :math:`b`, and :math:`p` the class probabilities of a cell, the step subtracts

.. math:: (1 - s)\,(z - c),\qquad c = \sum_t p_t c_{tb},\qquad s = \sum_t p_t\, \bar\sigma_t / \sigma_{tb} .

Within a type of a batch all distances change by one factor, so structure is untouched. The step is fitted in closed
form after training; no loss sees it, and it changes no prediction.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

FEW_CELLS = 10
"""A group of this size is scaled half as far as its own spread suggests. Source: plain value, not tuned."""


class SpreadStep(nn.Module):
    """Centres and scales per (type, batch); buffers only, the identity until fitted.

    Parameters
    ----------
    n_latent, n_batch, n_labels
        Width of the embedding, numbers of batches and types.
    """

    centre: Tensor
    scale: Tensor

    def __init__(self, n_latent: int, n_batch: int, n_labels: int):
        super().__init__()
        self.register_buffer("centre", torch.zeros(n_batch, n_labels, n_latent))
        self.register_buffer("scale", torch.ones(n_batch, n_labels))

    def fit(
        self,
        z: Tensor,
        types: Tensor,
        batch: Tensor,
        target: Tensor | None = None,
        part: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> None:
        """Measure centres and spreads: (cells, n_latent), (cells,) codes (-1 = unknown type), (cells,) codes.

        With ``target``, (cells, n_latent), every type of every batch gets the spread that it has there. ``part``: what
        is to be removed of differences between batches, (batches, types) logarithms; None: all.
        """
        n, centre, log_spread = self._measure(z, types, batch)
        measured = (n >= 3).float()
        if target is None:
            wanted = (log_spread * measured).sum(0) / measured.sum(0).clamp_min(1)
        else:
            wanted = self._measure(target, types, batch)[2]
        log_scale = (wanted - log_spread) * measured * n / (n + FEW_CELLS)
        if part is not None:
            log_scale = torch.from_numpy(part(log_scale.cpu().numpy())).to(log_scale.device)
        self.scale.copy_(torch.exp(log_scale))
        self.centre.copy_(centre)

    def _measure(self, z: Tensor, types: Tensor, batch: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Cells, centre and logarithm of the spread of every group, (batches, types) each."""
        n_batch, n_types = self.scale.shape
        known = (types >= 0) & (batch >= 0)
        group, z = (batch * n_types + types)[known], z[known]
        n = torch.bincount(group, minlength=n_batch * n_types).float()
        centre = z.new_zeros(len(n), z.shape[1]).index_add_(0, group, z) / n.clamp_min(1)[:, None]
        squares = z.new_zeros(len(n)).index_add_(0, group, (z - centre[group]).pow(2).sum(1)) / (n - 1).clamp_min(1)
        log_spread = 0.5 * squares.clamp_min(1e-8).log()  # equal cells, and groups without cells, scatter by 0
        return n.view_as(self.scale), centre.view_as(self.centre), log_spread.view_as(self.scale)

    def forward(self, z: Tensor, probabilities: Tensor, batch: Tensor) -> Tensor:
        """(cells, n_latent), (cells, n_labels), (cells,) -> (cells, n_latent); new batches (code < 0) do not move."""
        known = batch.clamp_min(0)  # any index will do for new batches, which are put back below
        moves = (batch >= 0) & (self.scale != 1.0).any(1)[known]  # exactly, whatever probabilities add up to
        centre = torch.einsum("nt,ntd->nd", probabilities, self.centre[known])
        scale = (probabilities * self.scale[known]).sum(1, keepdim=True)
        return torch.where(moves[:, None], z - (1.0 - scale) * (z - centre), z)
