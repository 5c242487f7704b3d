r"""Fusion: one embedding from the embeddings of the modalities that were measured.

With :math:`e_m` the embedding of modality :math:`m` in the shared space and :math:`M_n` the modalities measured in cell
:math:`n`, every axis :math:`d` is a weighted mean,

.. math:: z_{nd} = \sum_{m \in M_n} a_{nmd}\, e_{nmd}, \qquad
          a_{nmd} = \mathrm{softmax}_{m \in M_n}\left(s_{md} + l_{md} + (C_m\, \tanh(D_m \hat b_{nm}))_d\right).

:math:`s` is fixed: an axis that comes from modality :math:`m` itself starts with more trust in :math:`m` than in what
the others say about it. :math:`l` and the cell-dependent part (:math:`\hat b` the normalised base) are trained and
start at zero. A cell with one modality has :math:`a = 1`: fusion is the identity.
"""

import torch
from torch import Tensor, nn


class Fusion(nn.Module):
    """Element-wise attention over the measured modalities.

    Parameters
    ----------
    widths
        Width of each modality's base, in order.
    n_latent
        Width of the shared space.
    rank
        Rank of the cell-dependent part; 0 leaves it out.
    kind
        ``"attention"``; two controls without trained weights: ``"concatenation"`` (each axis from its own modality
        where that was measured) and ``"mean"`` (all measured modalities alike).
    """

    start: Tensor

    def __init__(self, widths: list[int], n_latent: int, rank: int = 4, kind: str = "attention"):
        super().__init__()
        self.widths, self.kind = widths, kind
        n = len(widths)
        self.register_buffer("start", torch.zeros(n, n_latent))
        learned = n > 1 and kind == "attention"
        self.logits = nn.Parameter(torch.zeros(n, n_latent)) if learned else None
        rank = rank if learned else 0
        self.read = nn.ModuleList(nn.Linear(width, rank) for width in widths if rank)
        self.write = nn.ModuleList(nn.Linear(rank, n_latent, bias=False) for _ in widths if rank)
        for weight in self.write.parameters():
            nn.init.zeros_(weight)

    def weights(self, base: Tensor, present: Tensor) -> Tensor:
        """(cells, width of all bases), bool (cells, modalities) -> (cells, modalities, n_latent); columns add up to 1.

        Modalities that were not measured have weight 0, all of them where none was.
        """
        # a control is the same for all ("mean"), or all weight on the own modality ("concatenation")
        sharpness = {"attention": 1.0, "concatenation": 1e4, "mean": 0.0}[self.kind]
        scores = sharpness * self.start.expand(len(base), -1, -1)
        if self.logits is not None:
            scores = scores + self.logits
        if len(self.read):
            parts = torch.split(base, self.widths, dim=1)
            scores = scores + torch.stack(
                [
                    write(torch.tanh(read(nn.functional.layer_norm(part, part.shape[1:]))))
                    for read, write, part in zip(self.read, self.write, parts, strict=True)
                ],
                1,
            )
        absent = ~present[:, :, None]
        return scores.masked_fill(absent, -1e9).softmax(1).masked_fill(absent, 0.0)  # -inf in all would give NaN

    def forward(self, embeddings: Tensor, base: Tensor, present: Tensor) -> Tensor:
        """Fuse (cells, modalities, n_latent) to (cells, n_latent)."""
        if embeddings.shape[1] == 1:
            return embeddings[:, 0]
        return (self.weights(base, present) * embeddings).sum(1)
