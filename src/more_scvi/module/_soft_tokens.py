r"""Soft tokens: a modality that speaks of no gene the backbone knows still reaches its frozen layers.

Tokens are learned from the modality's linear base :math:`b` instead of being looked up, pass the frozen layers
:math:`T`, and what comes out is added to the embedding of the modality:

.. math:: e = e_\mathrm{adapter} + W_\mathrm{out}\, T(\hat b\, W_1, \dots, \hat b\, W_k)

with :math:`\hat b` the normalised base and :math:`W_\mathrm{out} = 0` at the start (after the soft prompts of Lester et
al. 2021). Gradients pass through the frozen layers, which do not change; their output cannot be cached, so that a step
costs a pass through them.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn


class SoftTokens(nn.Module):
    """Learned tokens into frozen layers; adds nothing at the start.

    Parameters
    ----------
    read
        The frozen layers: (cells, tokens, d_model) -> (cells, n_features). Not part of this module's weights.
    n_in, n_latent
        Width of the base and of the shared space.
    d_model, n_features
        Width of a token and of what the layers give.
    n_tokens
        Number of tokens.
    """

    def __init__(
        self,
        read: Callable[[Tensor], Tensor],
        n_in: int,
        n_latent: int,
        d_model: int,
        n_features: int,
        n_tokens: int = 4,
    ):
        super().__init__()
        self._read = [read]  # in a list, so that frozen weights are neither saved nor counted here
        self.n_tokens = n_tokens
        self.write = nn.Linear(n_in, n_tokens * d_model)
        self.out = nn.Linear(n_features, n_latent, bias=False)
        nn.init.zeros_(self.out.weight)

    def forward(self, base: Tensor) -> Tensor:
        """(cells, n_in) -> (cells, n_latent)."""
        normed = nn.functional.layer_norm(base, base.shape[1:])
        tokens = self.write(normed).view(len(base), self.n_tokens, -1)
        with torch.autocast(base.device.type, enabled=False):  # the frozen layers are float32
            features = self._read[0](tokens.float())
        return self.out(features)
