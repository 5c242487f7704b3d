r"""The last layers of a backbone, taken out so that adapters may enter them.

What enters layer :math:`L-k+1` does not change while the layers below are frozen: it is computed once per cell
(:meth:`Backbone.tokens`), and training replays the last :math:`k` layers and the read-out from there. Copies are
handed out; the backbone itself stays as it is.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

from torch import Tensor, nn

if TYPE_CHECKING:
    from ._base import Backbone

LayerKind = Literal["own", "transformers"]
MOST_LAYERS = 1000
"""Layers that a config may ask for."""


class TopLayers(nn.Module):
    """A frozen copy of the last layers of a backbone and of its read-out; always in evaluation mode.

    Parameters
    ----------
    layers
        The last layers, lowest first; each is called ``layer(h, keep)`` with h (cells, tokens, d) and keep
        (cells, tokens) bool, True for tokens that are not padding, and returns h. They are copied.
    readout
        Called ``readout(h, keep)``; returns the pooled feature of the last layer, (cells, n_features // n_pooled). It
        is copied.
    d_model
        Width d of a token.
    lora_targets
        How the names of those ``nn.Linear`` modules inside a layer end that LoRA goes to.
    kind
        ``"transformers"`` for layers of the transformers package, which ``peft`` knows; ``"own"`` for others.

    Examples
    --------
    >>> class Mean(nn.Module):
    ...     def forward(self, h, keep):
    ...         return (h * keep[..., None]).sum(1) / keep.sum(1, keepdim=True)
    >>> top = TopLayers([], Mean(), d_model=2)
    >>> top(torch.tensor([[[1.0, 3.0], [9.0, 9.0]]]), torch.tensor([[True, False]]))
    tensor([[1., 3.]])
    """

    def __init__(
        self,
        layers: Iterable[nn.Module],
        readout: nn.Module,
        *,
        d_model: int,
        lora_targets: tuple[str, ...] = (),
        kind: LayerKind = "own",
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(copy.deepcopy(layer) for layer in layers)
        self.readout = copy.deepcopy(readout)
        self.d_model, self.lora_targets, self.kind = d_model, tuple(lora_targets), kind
        self.requires_grad_(False).zero_grad()
        super().train(False)

    def train(self, mode: bool = True) -> TopLayers:
        """Stay in evaluation mode: dropout would make what an adapter adds differ from zero before it has learned."""
        return super().train(False)

    def forward(self, tokens: Tensor, keep: Tensor) -> Tensor:
        """Map (cells, tokens, d) and bool (cells, tokens) to the pooled feature (cells, n_features // n_pooled)."""
        h = tokens
        for layer in self.layers:
            h = layer(h, keep)
        return self.readout(h, keep)


def check_depth(backbone: Backbone, depth: int) -> None:
    """Raise a ValueError if ``depth`` layers cannot be taken out of the backbone."""
    if not backbone.n_layers:
        raise ValueError(
            f"Backbone {backbone.name!r} has no layers that adapters may enter (n_layers is 0); use adapter='output'."
        )
    if not 1 <= depth <= backbone.n_layers:
        raise ValueError(
            f"depth={depth} of backbone {backbone.name!r}: give a number of layers from 1 to {backbone.n_layers}."
        )
