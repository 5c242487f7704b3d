"""Heads that are trained on the embedding: classifier over labels, projection for the contrastive loss."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Classifier(nn.Module):
    r"""Linear head plus a bottleneck residual that starts at zero.

    .. math:: \ell = W z + W_2\,\mathrm{gelu}(W_1 z)

    Classes that no visible label carries get a logit of :math:`-\infty` and are never predicted.

    Parameters
    ----------
    n_latent, n_labels
        Width of the embedding and number of classes.
    n_hidden
        Width of the bottleneck; 0 leaves the head linear.
    dropout
        Dropout on the bottleneck.
    """

    open_classes: Tensor

    def __init__(self, n_latent: int, n_labels: int, n_hidden: int = 32, dropout: float = 0.1):
        super().__init__()
        self.linear = nn.Linear(n_latent, n_labels)
        self.down = nn.Linear(n_latent, n_hidden) if n_hidden else None
        self.dropout = nn.Dropout(dropout)
        if n_hidden:
            self.up = nn.Linear(n_hidden, n_labels, bias=False)
            nn.init.zeros_(self.up.weight)
        self.register_buffer("open_classes", torch.ones(n_labels, dtype=torch.bool))

    def forward(self, z: Tensor) -> Tensor:
        """(cells, n_latent) -> logits (cells, n_labels)."""
        logits = self.linear(z)
        if self.down is not None:
            logits = logits + self.up(self.dropout(F.gelu(self.down(z))))
        return logits.masked_fill(~self.open_classes, float("-inf"))


class Projection(nn.Linear):
    """Linear projection for the contrastive loss, so that the loss need not shape every direction of ``z``."""

    def __init__(self, n_latent: int, n_out: int = 32):
        super().__init__(n_latent, min(n_out, n_latent), bias=False)
        nn.init.orthogonal_(self.weight)
