r"""Inside the frozen path: adapters in the last layers of the backbone, and a learned mix of its layers.

.. math:: b_h' = b_h + \sum_l \bigl(w_l - \tfrac1n\bigr)\, b_{h,l}
    + w_n\,\bigl(T'(t) - T(t)\bigr)\, M, \qquad w = \mathrm{softmax}(5a)

:math:`b_h` are the frozen columns of the linear base, the mean of the :math:`n` blocks :math:`b_{h,l}` that the
backbone gives (one per layer; ``more-mini`` gives one feature, so that the sum is empty). :math:`t` are the cached
tokens that enter the last layers :math:`T`, :math:`T'` is the copy that is trained and :math:`M` the linear map of the
base. With :math:`a = 0` and :math:`T' = T` before the first step nothing is added: the base stays the good start it
is. Three ways to train :math:`T'`:

* ``"bottleneck"``: :math:`h + W_2\,\mathrm{gelu}(W_1\,\mathrm{norm}(h))` after each layer, :math:`W_2 = 0` at the start
  (Houlsby et al. 2019; one per layer as Pfeiffer et al. 2021);
* ``"lora"``: :math:`Wx + BAx` in the attention's projections, :math:`B = 0` at the start (Hu et al. 2022);
* ``"full"``: all weights of the copied layers.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from more_scvi.backbones._base import TopLayers
from more_scvi.base._linear import ModalityBase

MIX_SPEED = 5.0
"""Factor on the logits of the mix, which Adam moves by a learning rate a step: too little to leave the even mix.
Source: plain value, not tuned."""


class BottleneckLayer(nn.Module):
    """A frozen layer, called ``layer(h, keep)``, followed by a bottleneck residual that starts at zero."""

    def __init__(self, layer: nn.Module, d_model: int, rank: int):
        super().__init__()
        self.layer = layer
        self.norm = nn.LayerNorm(d_model, elementwise_affine=False)  # the linear map that follows scales and shifts
        self.down = nn.Linear(d_model, rank)
        self.up = nn.Linear(rank, d_model)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, h: Tensor, keep: Tensor) -> Tensor:
        """(cells, tokens, d) and bool (cells, tokens) -> (cells, tokens, d)."""
        h = self.layer(h, keep)
        return h + self.up(F.gelu(self.down(self.norm(h))))


class LoRALinear(nn.Module):
    """A frozen linear map plus one of low rank that starts at zero."""

    def __init__(self, linear: nn.Linear, rank: int):
        super().__init__()
        self.linear = linear
        self.down = nn.Linear(linear.in_features, rank, bias=False)
        self.up = nn.Linear(rank, linear.out_features, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        return self.linear(x) + self.up(self.down(x))


class InsideAdapter(nn.Module):
    """The last layers of a backbone with an adapter in them; its state holds only what is trained.

    Parameters
    ----------
    top
        The layers; they become part of this module.
    kind
        ``"bottleneck"``, ``"lora"`` or ``"full"``.
    rank
        Width of the bottlenecks, or rank of LoRA.
    """

    def __init__(self, top: TopLayers, kind: str, rank: int):
        super().__init__()
        self.top, self.tunes_backbone = top, kind == "full"
        if kind == "bottleneck":
            top.layers = nn.ModuleList(BottleneckLayer(layer, top.d_model, rank) for layer in top.layers)
        elif kind == "lora":
            _add_lora(top, rank)
        else:
            for parameter in top.parameters():
                parameter.requires_grad = True
        self._trained = frozenset(name for name, p in self.named_parameters() if p.requires_grad)

    def forward(self, tokens: Tensor, keep: Tensor) -> Tensor:
        """(cells, tokens, d) and bool (cells, tokens) -> pooled feature of the last layer, (cells, width)."""
        return self.top(tokens, keep)

    def state_dict(self, *args: Any, prefix: str = "", **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """The trained tensors alone: the frozen ones are in the backbone."""
        state = super().state_dict(*args, prefix=prefix, **kwargs)
        for key in [k for k in state if k.startswith(prefix) and k.removeprefix(prefix) not in self._trained]:
            del state[key]  # in place: callers share the dictionary
        return state

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # strict loading asks for the frozen tensors, too, which are those of the backbone
        for key, value in super().state_dict(prefix=prefix).items():
            if key.removeprefix(prefix) not in self._trained:
                state_dict.setdefault(key, value)
        super()._load_from_state_dict(state_dict, prefix, *args)


class Inside(nn.Module):
    """What is trained inside the frozen path of one modality; adds nothing at the start.

    Parameters
    ----------
    modality
        Its name.
    adapter
        Layers with an adapter in them, or None.
    n_blocks
        Blocks of the frozen feature; 1: there is nothing to mix.
    """

    def __init__(self, modality: str, adapter: InsideAdapter | None, n_blocks: int = 1):
        super().__init__()
        self.modality, self.adapter = modality, adapter
        self.mix = nn.Parameter(torch.zeros(n_blocks)) if n_blocks > 1 else None

    def layer_weights(self) -> Tensor:
        """Weights of the blocks, adding up to 1: (blocks,)."""
        return torch.ones(1) if self.mix is None else (MIX_SPEED * self.mix).softmax(0)

    def forward(
        self,
        base: ModalityBase,
        tokens: Tensor | None = None,
        keep: Tensor | None = None,
        frozen: Tensor | None = None,
        blocks: Tensor | None = None,
    ) -> Tensor:
        """What is added to the frozen columns of the base.

        Parameters
        ----------
        base
            The modality's linear base.
        tokens, keep
            Cached tokens (cells, tokens, d) and which are not padding (cells, tokens).
        frozen
            What the frozen layers make of them, (cells, width).
        blocks
            Each block's part of the base, (cells, blocks, axes).

        Returns
        -------
        (cells, axes)
        """
        added: list[Tensor] = []
        device = base.shares.device
        last = torch.ones((), device=device)
        with torch.autocast(device.type, enabled=False):  # the frozen output was computed in float32
            if self.mix is not None and blocks is not None:
                weights = self.layer_weights()
                last = weights[-1]
                # the base holds the even mean of the blocks already
                added.append(torch.einsum("l,clk->ck", weights - 1.0 / len(weights), blocks.float()))
            if self.adapter is not None and tokens is not None and keep is not None and frozen is not None:
                change = self.adapter(tokens.float(), keep) - frozen
                added.append(last * (change @ base.frozen_map()))
            return torch.stack(added).sum(0)

    def shift(
        self, base: ModalityBase, joined: Tensor, present: Tensor, first: int, cached: dict[str, Tensor]
    ) -> Tensor:
        """Joined bases with what this adds to the cells that have the modality.

        Parameters
        ----------
        base
            The modality's linear base.
        joined
            (cells, width of all bases).
        present
            bool (cells,).
        first
            Where the modality's frozen columns start.
        cached
            Rows of the tensors that :meth:`forward` takes.
        """
        rows = present.nonzero()[:, 0]
        if not len(rows):
            return joined
        added = self(base, **{name: tensor[rows] for name, tensor in cached.items()})
        change = torch.zeros_like(joined)  # not in place: `keep` compares with the base as it was
        change[rows, first : first + added.shape[1]] = added.to(joined.dtype)
        return joined + change


def _add_lora(top: TopLayers, rank: int) -> None:
    """Put LoRA into the linear maps that the layers name as its targets."""
    if top.kind == "transformers":
        try:
            from peft import LoraConfig, inject_adapter_in_model
        except ImportError as error:
            raise ImportError(
                "adapter='lora' in a transformers model needs peft: pip install 'more-scvi[foundation]'; "
                "adapter='bottleneck' does without."
            ) from error
        config = LoraConfig(r=rank, lora_alpha=rank, lora_dropout=0.0, target_modules=list(top.lora_targets))  # scale 1
        inject_adapter_in_model(config, top.layers)
        return
    found = [
        (name, child)
        for name, child in top.layers.named_modules()
        if isinstance(child, nn.Linear) and any(f".{name}".endswith(f".{target}") for target in top.lora_targets)
    ]
    if not found:
        raise ValueError(
            f"adapter='lora' found no nn.Linear whose name ends in one of {list(top.lora_targets)} in the layers of the"
            " backbone; correct the lora_targets of its TopLayers, or use adapter='bottleneck'."
        )
    for name, linear in found:
        parent, _, leaf = name.rpartition(".")
        setattr(top.layers.get_submodule(parent), leaf, LoRALinear(linear, rank))
