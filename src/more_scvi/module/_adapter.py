r"""Adapter: joins the two paths through a learned gate and adds a bottleneck residual.

.. math:: z_0 = J^\top (g \odot b), \qquad z_1 = z_0 + W_2\,\mathrm{gelu}(W_1\,\mathrm{norm}(b))

:math:`b` is the linear base, :math:`g = 2\,\sigma(w)` the element-wise gate with one shared entry per
path (:math:`w = 0`, so :math:`g = 1`, before the first step), :math:`J` a fixed rotation to the
:math:`n_\mathrm{latent}` principal axes of the joined base, and :math:`W_2 = 0` at the start
(Houlsby et al. 2019 place such bottlenecks inside a frozen transformer; here they follow it, so that
its output can be cached).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class GatedAdapter(nn.Module):
    """Gate over paths, rotation to the shared space, zero-initialised bottleneck residual.

    Parameters
    ----------
    path_widths
        Width of each path's part of the base, in order.
    n_latent
        Width of the shared space.
    n_bottleneck
        Width of the bottleneck.
    dropout
        Dropout inside the bottleneck.
    """

    rotation: Tensor

    def __init__(self, path_widths: list[int], n_latent: int, n_bottleneck: int = 64, dropout: float = 0.1):
        super().__init__()
        self.path_widths = path_widths
        n_in = sum(path_widths)
        self.path_logits = nn.Parameter(torch.zeros(len(path_widths)))
        self.element_logits = nn.Parameter(torch.zeros(n_in))
        self.register_buffer("rotation", torch.eye(n_in, n_latent))
        self.norm = nn.LayerNorm(n_in, elementwise_affine=False)  # the linear map that follows scales and shifts
        self.down = nn.Linear(n_in, n_bottleneck)
        self.dropout = nn.Dropout(dropout)
        self.up = nn.Linear(n_bottleneck, n_latent)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def gate(self) -> Tensor:
        """Element-wise gate, (sum of path widths,); 1 everywhere before training."""
        widths = torch.tensor(self.path_widths, device=self.path_logits.device)
        return 2.0 * torch.sigmoid(self.path_logits.repeat_interleave(widths) + self.element_logits)

    def forward(self, base: Tensor) -> Tensor:
        """(cells, sum of path widths) -> (cells, n_latent)."""
        z0 = (base * self.gate()) @ self.rotation
        return z0 + self.up(self.dropout(F.gelu(self.down(self.norm(base)))))
