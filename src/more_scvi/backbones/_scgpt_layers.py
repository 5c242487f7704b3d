r"""Layers of scGPT, and the three ways in which its checkpoints spell them.

Post-norm, ReLU, no position: with tokens :math:`h`, attention :math:`A` and feed-forward :math:`F`

.. math:: h \leftarrow \text{norm}_1(h + A(h)), \qquad h \leftarrow \text{norm}_2(h + F(h)).

Written out, because ``nn.TransformerEncoderLayer`` switches to a fused path in evaluation mode that passes adapters by.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._tokens import attention_mask

_MAX_VALUE = 512.0
_PARTS = ("query", "key", "value")


class ScGPTLayer(nn.Module):
    """Post-norm attention and feed-forward."""

    def __init__(self, d_model: int, n_heads: int, d_hidden: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.query, self.key, self.value = (nn.Linear(d_model, d_model) for _ in _PARTS)
        self.out_proj = nn.Linear(d_model, d_model)
        self.linear1, self.linear2 = nn.Linear(d_model, d_hidden), nn.Linear(d_hidden, d_model)
        self.norm1, self.norm2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)

    def forward(self, h: Tensor, keep: Tensor) -> Tensor:
        """(cells, tokens, d_model) and bool (cells, tokens) -> (cells, tokens, d_model)."""
        heads = (*h.shape[:2], self.n_heads, -1)
        q, k, v = (part(h).view(heads).transpose(1, 2) for part in (self.query, self.key, self.value))
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=attention_mask(keep))
        h = self.norm1(h + self.out_proj(attended.transpose(1, 2).reshape(h.shape)))
        return self.norm2(h + self.linear2(F.relu(self.linear1(h))))


class ScGPTEmbedding(nn.Module):
    """Sum of a gene's and of its value's embedding."""

    def __init__(self, n_tokens: int, d_model: int) -> None:
        super().__init__()
        self.gene, self.gene_norm = nn.Embedding(n_tokens, d_model), nn.LayerNorm(d_model)
        self.value1, self.value2 = nn.Linear(1, d_model), nn.Linear(d_model, d_model)
        self.value_norm = nn.LayerNorm(d_model)

    def forward(self, ids: Tensor, values: Tensor) -> Tensor:
        """(cells, tokens) ids and values -> (cells, tokens, d_model)."""
        value = self.value2(F.relu(self.value1(values.unsqueeze(-1).clamp(max=_MAX_VALUE))))
        return self.gene_norm(self.gene(ids)) + self.value_norm(value)


def plain_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Any of the three spellings (``Wqkv``, ``in_proj_``, ``_impl.``) as that of ``nn.MultiheadAttention``."""
    out = {}
    for name, tensor in state.items():
        name = name.replace(".self_attn._impl.", ".self_attn.")
        out[name.replace(".self_attn.Wqkv.", ".self_attn.in_proj_")] = tensor
    return out


def published_shapes(n_tokens: int, d_model: int, d_hidden: int, n_layers: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors that make up the encoder of a published checkpoint."""
    shapes: dict[str, tuple[int, ...]] = {"encoder.embedding.weight": (n_tokens, d_model)}
    shapes |= _pair("encoder.enc_norm", d_model)
    shapes |= _pair("value_encoder.linear1", d_model, 1) | _pair("value_encoder.linear2", d_model, d_model)
    shapes |= _pair("value_encoder.norm", d_model)
    for i in range(n_layers):
        layer = f"transformer_encoder.layers.{i}."
        shapes[f"{layer}self_attn.in_proj_weight"] = (3 * d_model, d_model)
        shapes[f"{layer}self_attn.in_proj_bias"] = (3 * d_model,)
        shapes |= _pair(f"{layer}self_attn.out_proj", d_model, d_model)
        shapes |= _pair(f"{layer}linear1", d_hidden, d_model) | _pair(f"{layer}linear2", d_model, d_hidden)
        shapes |= _pair(f"{layer}norm1", d_model) | _pair(f"{layer}norm2", d_model)
    return shapes


def _pair(name: str, n_out: int, *n_in: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (n_out, *n_in), f"{name}.bias": (n_out,)}


_EMBEDDING = {
    "encoder.embedding": "gene",
    "encoder.enc_norm": "gene_norm",
    "value_encoder.linear1": "value1",
    "value_encoder.linear2": "value2",
    "value_encoder.norm": "value_norm",
}


def own_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of :func:`published_shapes` under the names of ``embedding`` and ``layers`` of the backbone."""
    out: dict[str, Tensor] = {}
    for name, tensor in state.items():
        owner, kind = name.rsplit(".", 1)
        if owner in _EMBEDDING:
            out[f"embedding.{_EMBEDDING[owner]}.{kind}"] = tensor
            continue
        inside = name.removeprefix("transformer_encoder.").replace("self_attn.", "")
        if "in_proj_" in inside:
            layer, kind = inside.split("in_proj_")
            out |= {f"{layer}{part}.{kind}": t for part, t in zip(_PARTS, torch.chunk(tensor, 3), strict=True)}
        else:
            out[inside] = tensor
    return out
