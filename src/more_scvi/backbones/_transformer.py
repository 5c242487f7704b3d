"""Transformer over program tokens whose output starts as zero: what pre-training may add to the linear features.

The whitened features of a cell, ``(cells, features)``, are cut into tokens of a few components; a context token (how
much of the cell was measured) joins them. Pre-norm layers with scaled dot-product attention follow, and every token
is read out into its own components: ``(cells, features)`` again, added to the input by the caller.

The attention is written out, because ``nn.TransformerEncoderLayer`` switches to a fused path in evaluation mode.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._front import N_CONTEXT
from ._layers import TopLayers


class _Layer(nn.Module):
    """Pre-norm attention and feed-forward, each a residual."""

    def __init__(self, d_model: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.norm_attention = nn.LayerNorm(d_model)
        self.norm_feed = nn.LayerNorm(d_model)
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.mix = nn.Linear(d_model, d_model)
        self.widen = nn.Linear(d_model, 2 * d_model)
        self.narrow = nn.Linear(2 * d_model, d_model)

    def forward(self, h: Tensor, keep: Tensor | None = None) -> Tensor:
        """(cells, tokens, d_model) -> the same; every cell has every program, so that ``keep`` has nothing to hide."""
        n, t, d = h.shape
        qkv = self.qkv(self.norm_attention(h)).view(n, t, 3, self.n_heads, d // self.n_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (cells, heads, tokens, d / heads) each
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, d)
        h = h + self.mix(attended)
        return h + self.narrow(F.gelu(self.widen(self.norm_feed(h))))


def _read_out(h: Tensor, norm: nn.Module, weight: Tensor) -> Tensor:
    """Every program token into its own components: (cells, 1 + tokens, d_model) -> (cells, features)."""
    return torch.einsum("ctd,tdw->ctw", norm(h[:, 1:]), weight).flatten(1)


class _ReadOut(nn.Module):
    """The read-out as a module of its own."""

    def __init__(self, norm: nn.Module, weight: nn.Parameter) -> None:
        super().__init__()
        self.norm, self.weight = norm, weight

    def forward(self, h: Tensor, keep: Tensor) -> Tensor:
        return _read_out(h, self.norm, self.weight)


class ProgramTransformer(nn.Module):
    """Residual of the linear features, whose width must be a multiple of ``n_tokens``."""

    def __init__(self, n_features: int, n_tokens: int, d_model: int, n_layers: int, n_heads: int) -> None:
        super().__init__()
        if n_features % n_tokens or d_model % n_heads:
            raise ValueError(
                f"ProgramTransformer: n_features={n_features} must be a multiple of n_tokens={n_tokens}, "
                f"and d_model={d_model} of n_heads={n_heads}."
            )
        width = n_features // n_tokens
        self.n_tokens = n_tokens
        self.embed = nn.Parameter(torch.randn(n_tokens, width, d_model) * width**-0.5)
        self.token = nn.Parameter(torch.randn(n_tokens, d_model) * 0.5)
        self.context = nn.Linear(N_CONTEXT, d_model)
        self.layers = nn.ModuleList(_Layer(d_model, n_heads) for _ in range(n_layers))
        self.norm = nn.LayerNorm(d_model)
        self.readout = nn.Parameter(torch.zeros(n_tokens, d_model, width))

    def randomise_readout(self) -> None:
        """Give the read-out random weights of a linear layer's size: the control without pre-training."""
        with torch.no_grad():
            self.readout.normal_(0, self.readout.shape[1] ** -0.5)

    def read_tokens(self, tokens: Tensor) -> Tensor:
        """Any ``(cells, tokens, d_model)`` through the layers, averaged: ``(cells, d_model)``."""
        for layer in self.layers:
            tokens = layer(tokens)
        return self.norm(tokens).mean(1)

    def tokens(self, features: Tensor, context: Tensor, depth: int) -> Tensor:
        """What enters the last ``depth`` layers, (cells, 1 + tokens, d_model), given the arguments of a pass."""
        parts = features.view(len(features), self.n_tokens, -1)
        h = torch.einsum("ctw,twd->ctd", parts, self.embed) + self.token
        h = torch.cat([self.context(context).unsqueeze(1), h], dim=1)
        for layer in self.layers[: len(self.layers) - depth]:
            h = layer(h)
        return h

    def top_layers(self, depth: int) -> TopLayers:
        """A frozen copy of the last ``depth`` layers and of the read-out."""
        layers = list(self.layers)[len(self.layers) - depth :]
        readout = _ReadOut(self.norm, self.readout)
        return TopLayers(layers, readout, d_model=self.token.shape[1], lora_targets=("qkv",))

    def forward(self, features: Tensor, context: Tensor) -> Tensor:
        """Map ``(cells, features)`` and ``(cells, context)`` to the residual ``(cells, features)``."""
        return _read_out(self.tokens(features, context, depth=0), self.norm, self.readout)
