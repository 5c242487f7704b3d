r"""The trained part of a student: residuals that start at zero on a linear guess.

.. math:: z = h + \bar z_b + W_2\,\mathrm{gelu}(W_1\,\mathrm{norm}[h, e_b]), \qquad
          \ell = A h + a + V_2\,\mathrm{gelu}(V_1\,\mathrm{norm}[h, e_b])

:math:`h` is the linear guess of the front, :math:`\bar z_b` the teacher's mean in a batch and :math:`e_b` a learned
vector per batch (one for each residual), 0 at the start. A batch that was not there in training has the mean of all
:math:`\bar z_b` and :math:`e = 0`; training leaves :math:`e` out at random, so that this case is learned, too.

A regression scatters less than what it predicts, and the less the noisier a batch is, which would set batches apart.
Last, every type of a known batch is given the spread that the teacher gave it (:class:`more_scvi.module.SpreadStep`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from more_scvi._spread import SpreadStep

from ._front import LinearFront

SIZES = ("n_genes", "n_variable", "n_components", "n_latent", "n_batch", "n_labels", "n_hidden", "normalised")
"""Arguments of the network, in their order."""

N_BATCH_AXES = 8
"""Most axes of batch effects in the student."""


class _Residual(nn.Module):
    """One hidden layer over the guess and the batch; zero at the start."""

    def __init__(self, n_latent: int, n_batch: int, n_hidden: int, n_out: int) -> None:
        super().__init__()
        self.batch = nn.Embedding(n_batch, N_BATCH_AXES)
        nn.init.zeros_(self.batch.weight)
        n_in = n_latent + N_BATCH_AXES
        self.norm = nn.LayerNorm(n_in, elementwise_affine=False)
        self.down = nn.Linear(n_in, n_hidden)
        self.dropout = nn.Dropout(0.1)
        self.up = nn.Linear(n_hidden, n_out)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, h: Tensor, batch: Tensor) -> Tensor:
        """(cells, n_latent), codes (cells,), -1 = new -> (cells, n_out)."""
        x = torch.cat([h, self.batch(batch.clamp_min(0)) * (batch >= 0)[:, None]], 1)
        return self.up(self.dropout(F.gelu(self.down(self.norm(x)))))


class StudentNetwork(nn.Module):
    """Linear front and residuals of a student.

    Parameters
    ----------
    n_genes, n_variable, n_components, n_latent, n_batch, normalised
        Of the linear front.
    n_labels
        Number of labels (0: no classifier).
    n_hidden
        Width of the residual.
    """

    batch_latent: Tensor
    start: Tensor
    start_bias: Tensor

    def __init__(
        self,
        n_genes: int,
        n_variable: int,
        n_components: int,
        n_latent: int,
        n_batch: int,
        n_labels: int,
        n_hidden: int = 256,
        normalised: bool = False,
    ) -> None:
        super().__init__()
        sizes = (n_genes, n_variable, n_components, n_latent, n_batch, n_labels, n_hidden, normalised)
        self.sizes = dict(zip(SIZES, sizes, strict=True))
        self.front = LinearFront(n_genes, n_variable, n_components, n_latent, n_batch, normalised)
        self.register_buffer("batch_latent", torch.zeros(n_batch, n_latent))
        self.residual = _Residual(n_latent, n_batch, n_hidden, n_latent)
        self.classifier = _Residual(n_latent, n_batch, n_hidden // 2, n_labels) if n_labels else None
        if n_labels:
            self.register_buffer("start", torch.zeros(n_latent, n_labels))
            self.register_buffer("start_bias", torch.zeros(n_labels))
        self.spread = SpreadStep(n_latent, n_batch, max(n_labels, 1))

    def forward(self, h: Tensor, batch: Tensor) -> tuple[Tensor, Tensor | None]:
        """Embedding and logits (None without labels): centred guess (cells, n_latent), batch codes (-1 = new)."""
        mean = torch.where((batch >= 0)[:, None], self.batch_latent[batch.clamp_min(0)], self.batch_latent.mean(0))
        z = h + mean + self.residual(h, batch)
        if self.classifier is None:
            return self.spread(z, z.new_ones(len(z), 1), batch), None
        logits = h @ self.start + self.start_bias + self.classifier(h, batch)
        return self.spread(z, logits.detach().softmax(1), batch), logits
