"""The two parts of ``more-mini``: a linear front, counts to gene programs to features, and a transformer on these."""

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import csr_matrix
from torch import Tensor, nn

from ._base import TopLayers

N_CONTEXT = 3
_N_MAPS = 16


@dataclass(frozen=True)
class _LinearMap:
    """``features = y @ weight - offset`` for one set of visible genes, and the share of counts they should hold."""

    weight: np.ndarray  # (visible genes, features)
    offset: np.ndarray  # (features,)
    share: float


class ProgramFront(nn.Module):
    r"""The linear front: counts to gene programs to whitened features, with genes missing but not zero.

    For a cell with counts :math:`x_g` over the visible genes :math:`V`

    .. math::
        y_g = \log\bigl(1 + x_g\, T \rho_V / \textstyle\sum_{g\in V} x_g\bigr), \qquad
        z_g = (y_g - \mu_g) / \sigma_g, \qquad
        r = W_V^\top z, \qquad f = Q^\top (r / s)

    :math:`T` = 10,000, and :math:`\rho_V` is the share of a cell's counts that the pool expects in the visible genes,
    so that a small panel gets values comparable with the whole transcriptome. :math:`\mu, \sigma` are pool statistics,
    the columns of :math:`W_V` are programs, :math:`s` their standard deviations within studies and :math:`Q` a
    whitening.

    Programs are renormalised over the visible genes, each by the best linear guess of its full value:

    * components :math:`U` (SVD of the pool) as the posterior mean of a factor model,
      :math:`(I+\Lambda)(U_V^\top U_V + \Lambda)^{-1} U_V^\top z`, which is :math:`U^\top z` when nothing is missing;
    * gene sets as the mean over the :math:`n` visible of :math:`N` genes, shrunk by
      :math:`(c + (1-c)/N) / (c + (1-c)/n)`, where :math:`c` is the mean correlation of its genes; 0 without any.

    All of it is one matrix per set of visible genes: ``sparse(y) @ B - c``. Nothing is densified.

    ``n_members`` are pairs of gene and set, ``target_sum`` the counts that every cell is scaled to. ``gene_share`` is
    in units of ``1 / n_genes``, which float16 on disk can hold.
    """

    gene_mean: Tensor
    gene_scale: Tensor
    gene_share: Tensor
    components: Tensor
    program_scale: Tensor
    whitening: Tensor
    member_gene: Tensor
    member_set: Tensor

    def __init__(
        self, n_genes: int, n_components: int, n_sets: int, n_members: int, n_features: int, target_sum: float = 1e4
    ) -> None:
        super().__init__()
        self.target_sum = target_sum
        n_programs = n_components + n_sets
        shapes: dict[str, tuple[int, ...]] = {
            **dict.fromkeys(("gene_mean", "gene_scale", "gene_share"), (n_genes,)),
            "components": (n_genes, n_components),
            "program_scale": (n_programs,),
            "whitening": (n_programs, n_features),
        }
        for name, shape in shapes.items():
            self.register_buffer(name, torch.zeros(shape))
        for name in ("member_gene", "member_set"):
            self.register_buffer(name, torch.zeros(n_members, dtype=torch.int32))
        self._maps: OrderedDict[bytes, _LinearMap] = OrderedDict()

    def _table(self, name: str) -> np.ndarray:
        return getattr(self, name).detach().cpu().numpy().astype(np.float64)

    def program_weights(self, genes: np.ndarray) -> np.ndarray:
        """Weights of the programs on z of the visible genes (positions in the vocabulary): (genes, programs)."""
        u_full, scale = self._table("components"), self._table("program_scale")
        n_genes, n_components = u_full.shape
        u = u_full[genes]
        # prior precision of a component, in units of the noise of a standardised gene (1)
        precision = np.diag(1.0 / np.maximum(scale[:n_components] ** 2 - 1.0, 0.05))
        gain = np.linalg.solve(u.T @ u + precision, u_full.T @ u_full + precision)
        member_gene, member_set = self.member_gene.cpu().numpy(), self.member_set.cpu().numpy()
        n_sets = len(scale) - n_components
        position = np.full(n_genes, -1)
        position[genes] = np.arange(len(genes))
        seen = position[member_gene] >= 0
        total = np.bincount(member_set, minlength=n_sets)
        count = np.bincount(member_set[seen], minlength=n_sets)
        variance = scale[n_components:] ** 2
        correlation = np.clip((variance * total - 1) / np.maximum(total - 1, 1), 0, 1)  # from Var = c + (1 - c) / N
        expected = correlation + (1 - correlation) / np.maximum(count, 1)
        full = correlation + (1 - correlation) / np.maximum(total, 1)
        sets = np.zeros((len(genes), n_sets))
        per_set = np.where(count > 0, full / expected / np.maximum(count, 1), 0.0)
        sets[position[member_gene[seen]], member_set[seen]] = per_set[member_set[seen]]
        return np.hstack([u @ gain, sets])

    def linear_map(self, genes: np.ndarray) -> _LinearMap:
        """The map for these visible genes; the latest ones are kept, as chunks share them."""
        key = np.ascontiguousarray(genes, dtype=np.int64).tobytes()  # by content: every chunk makes its own array
        if key not in self._maps:
            weight = self.program_weights(genes) / self._table("program_scale") @ self._table("whitening")
            scaled = weight / self._table("gene_scale")[genes, None]
            self._maps[key] = _LinearMap(
                weight=scaled.astype(np.float32),
                offset=(self._table("gene_mean")[genes] @ scaled).astype(np.float32),
                share=float(self._table("gene_share")[genes].mean() * len(genes) / len(self.gene_share)),
            )
            if len(self._maps) > _N_MAPS:
                self._maps.popitem(last=False)
        self._maps.move_to_end(key)
        return self._maps[key]

    def encode(self, x: csr_matrix, genes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Linear features and context of cells, float32.

        ``x`` holds counts of the visible ``genes``, or values proportional to counts within each cell. A cell without
        counts gets 0, the pool's mean. Context, (cells, 3): detected genes among the visible ones (log, scaled), share
        of genes and of counts seen.
        """
        linear = self.linear_map(genes)
        total = np.asarray(x.sum(axis=1, dtype=np.float64)).ravel()
        empty = total <= 0
        factor = (self.target_sum * linear.share / np.where(empty, 1.0, total)).astype(np.float32)
        n_detected = np.diff(x.indptr)
        values = np.repeat(factor, n_detected)
        values *= x.data
        y = csr_matrix((np.log1p(values, out=values), x.indices, x.indptr), shape=x.shape)
        features = y @ linear.weight - linear.offset
        features[empty] = 0.0
        context = np.empty((x.shape[0], N_CONTEXT), dtype=np.float32)
        context[:, 0] = (np.log1p(n_detected) - 6.5) / 1.5
        context[:, 1] = 2 * len(genes) / len(self.gene_mean) - 1
        context[:, 2] = 2 * linear.share - 1
        return features, context


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


class _ReadOut(nn.Module):
    """Every program token into its own components: (cells, 1 + tokens, d_model) -> (cells, features)."""

    def __init__(self, norm: nn.Module, weight: nn.Parameter) -> None:
        super().__init__()
        self.norm, self.weight = norm, weight

    def forward(self, h: Tensor, keep: Tensor | None = None) -> Tensor:
        return torch.einsum("ctd,tdw->ctw", self.norm(h[:, 1:]), self.weight).flatten(1)  # a token without features


class ProgramTransformer(nn.Module):
    """Transformer over program tokens whose output starts as zero: what pre-training may add to the linear features.

    The whitened features of a cell, ``(cells, features)``, are cut into tokens of a few components; a context token
    (how much of the cell was measured) joins them. Pre-norm layers with scaled dot-product attention follow, and every
    token is read out into its own components: ``(cells, features)`` again, added to the input by the caller.

    The attention is written out, because ``nn.TransformerEncoderLayer`` switches to a fused path in evaluation mode.
    The width of the features must be a multiple of ``n_tokens``.
    """

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
        return _ReadOut(self.norm, self.readout)(self.tokens(features, context, depth=0))
