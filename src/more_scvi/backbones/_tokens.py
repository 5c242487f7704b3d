r"""Backbones that read a cell as a sequence of gene tokens.

A cell becomes the tokens of the genes it expresses, passes :math:`L` layers, and is read out after each of them:

.. math::
    h^{(0)} = \text{embed}(\text{tokens}), \qquad h^{(l)} = \text{layer}_l(h^{(l-1)}), \qquad
    f = \bigl[\,p(h^{(0)}) \,|\, p(h^{(1)}) \,|\, \dots \,|\, p(h^{(L)})\,\bigr]

where :math:`p` is the mean over gene tokens (never over padding, ``<cls>`` or ``<eos>``), or the ``<cls>`` token.
Layer 0 are the embeddings, layer :math:`L` is the last.

Cells are sorted by length into blocks whose numbers of rows and columns follow from the length alone, and the last
block is filled up with empty rows: what is computed for a cell does not depend, not even in the last bit, on the cells
that happen to be beside it.
"""

import logging
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any, Literal, get_args

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor, nn

from more_scvi.data._genes import GeneMatch, GeneVocabulary

from ._base import Backbone, LayerKind, Matrix, TopLayers, visible_counts

logger = logging.getLogger("more_scvi")
Pool = Literal["mean", "cls"]

_WIDTH_STEP = 64  # block widths are multiples of it
_BLOCK_TOKENS, _BLOCK_TOKENS_GPU = 1024, 32768
_SLOW_TOKENS = 1024
_STATES, _HIDDEN = 16, 3  # arrays of the width of the model and of its widest map that the allocator holds at once


class PoolReadout(nn.Module):
    """Token states to one vector per cell: the first token or the mean over genes, which marks may surround."""

    def __init__(self, pool: Pool, n_before: int, n_after: int) -> None:
        super().__init__()
        self.pool, self.n_before, self.n_after = pool, n_before, n_after

    def forward(self, h: Tensor, keep: Tensor) -> Tensor:
        """Map (cells, tokens, d) and bool (cells, tokens) to float32 (cells, d); zero for a cell without genes."""
        position = torch.arange(h.shape[1], device=h.device)
        last = keep.sum(1, keepdim=True) - self.n_after  # padding is on the right
        genes = (keep & (position >= self.n_before) & (position < last)).float().unsqueeze(-1)
        count = genes.sum(1)
        if self.pool == "cls":
            return h[:, 0].float() * (count > 0)
        return (h.float() * genes).sum(1) / count.clamp_min(1.0)


def attention_mask(keep: Tensor) -> Tensor:
    """(cells, tokens) -> (cells, 1, 1, tokens) bool, True where attention may go; rows of padding alone see all of it.

    Without that exception their softmax would be NaN, which spreads through gradients.
    """
    return (keep | ~keep.any(1, keepdim=True))[:, None, None, :]


class TokenBackbone(Backbone):
    """What sequence models of genes have in common.

    Subclasses set ``name`` and ``layer_kind``, write the abstract methods, and call :meth:`_finish` at the end of
    their constructor.
    """

    vocabulary: GeneVocabulary
    layer_kind: LayerKind = "own"
    lora_targets: tuple[str, ...] = ("query", "value")

    _padding: tuple[int, float]  # token id and value
    max_length: int  # most tokens of a cell, special ones included

    def _finish(
        self, d_model: int, n_layers: int, n_heads: int, pool: Pool, n_before: int, n_after: int, min_overlap: float
    ) -> None:
        """Set what :class:`Backbone` promises, check the options and freeze."""
        if pool not in get_args(Pool):
            raise ValueError(f"pool={pool!r} of backbone {self.name!r}: choose one of {', '.join(get_args(Pool))}.")
        if not 0 <= min_overlap <= 1:
            raise ValueError(f"min_overlap={min_overlap!r} of backbone {self.name!r}: choose a share from 0 to 1.")
        if pool == "cls" and not n_before:
            raise ValueError(f"pool='cls' of backbone {self.name!r}: this checkpoint has no <cls> token; use 'mean'.")
        self.d_model, self.n_layers, self.n_heads, self.n_pooled = d_model, n_layers, n_heads, n_layers + 1
        self.n_features = self.n_pooled * d_model
        self.pool, self.min_overlap = pool, min_overlap
        self.readout = PoolReadout(pool, n_before, n_after)
        self._warned = False
        self.freeze()

    @abstractmethod
    def _sequence(self, genes: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Token ids and values of a cell, special tokens included.

        ``genes`` are positions in the vocabulary, ascending; ``counts`` is positive. At least one gene is there.
        """

    @abstractmethod
    def _embed(self, ids: Tensor, values: Tensor) -> Tensor:
        """(cells, tokens) token ids and values -> (cells, tokens, d)."""

    @abstractmethod
    def _layers(self) -> list[nn.Module]:
        """The layers, lowest first; each is called ``layer(h, keep)``."""

    @torch.no_grad()
    def encode(
        self, x: Matrix, match: GeneMatch | None, *, visible: np.ndarray | None = None, normalised: bool = False
    ) -> np.ndarray:
        """Pooled features of all layers, side by side, layer 0 (the embeddings) first; see :meth:`Backbone.encode`.

        A cell without a visible, known gene gets zeros.

        Raises
        ------
        ValueError
            If too few genes are in the vocabulary, sizes disagree, or ``x`` holds negative or non-finite values.
        """
        out = np.zeros((x.shape[0], self.n_pooled, self.d_model), np.float32)
        layers = self._layers()
        for rows, h, keep in self._blocks(self._sequences(x, match, visible, normalised)):
            pooled = [self.readout(h, keep)]
            for layer in layers:
                h = layer(h, keep)
                pooled.append(self.readout(h, keep))
            out[rows] = torch.stack(pooled, 1)[: len(rows)].cpu().numpy()
        return out.reshape(len(out), self.n_features)

    @torch.no_grad()
    def tokens(
        self, x: Matrix, match: GeneMatch | None, *, depth: int, normalised: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """What enters the last ``depth`` layers; see :meth:`Backbone.tokens`. Cells without genes keep no token."""
        self._check_depth(depth)
        sequences = self._sequences(x, match, None, normalised)
        width = max((len(ids) for ids, _ in sequences), default=0)
        values = np.zeros((len(sequences), width, self.d_model), np.float16)
        kept = np.zeros((len(sequences), width), dtype=bool)
        layers = self._layers()[: self.n_layers - depth]
        for rows, h, keep in self._blocks(sequences):
            for layer in layers:
                h = layer(h, keep)
            columns = min(width, h.shape[1])
            h = torch.where(keep.unsqueeze(-1), h, 0.0)[: len(rows), :columns]  # padding differs from block to block
            values[rows, :columns] = h.float().cpu().numpy()
            kept[rows, :columns] = keep[: len(rows), :columns].cpu().numpy()
        return values, kept

    def top_layers(self, depth: int) -> TopLayers:
        """The last ``depth`` layers and the read-out; see :meth:`Backbone.top_layers`."""
        self._check_depth(depth)
        layers = self._layers()[self.n_layers - depth :]
        return TopLayers(
            layers, self.readout, d_model=self.d_model, lora_targets=self.lora_targets, kind=self.layer_kind
        )

    def config(self) -> dict[str, Any]:
        """Options that change the features."""
        return {"pool": self.pool, "max_length": self.max_length}

    @property
    def tokens_at_once(self) -> int:
        """Tokens of a block: cells of similar length, or one cell that is longer."""
        return max(_budget(self.device.type), self.max_length)

    def lengths(self, x: Matrix, match: GeneMatch | None) -> np.ndarray:
        """Tokens of each cell, (cells,), special ones included; 0 for a cell without genes."""
        counts, _ = visible_counts(self.name, x, match, None, False, np.float32)
        n_genes = np.diff(counts.indptr)
        marks = self.readout.n_before + self.readout.n_after
        return np.where(n_genes > 0, np.minimum(n_genes + marks, self.max_length), 0)

    def working_bytes(self) -> int:
        """Bytes of the activations of a block, float32; attention is computed in pieces and adds little."""
        widest = max(parameter.shape[0] for parameter in self._layers()[0].parameters())
        return 4 * self.tokens_at_once * (_STATES * self.d_model + _HIDDEN * widest)

    def _sequences(
        self, x: Matrix, match: GeneMatch | None, visible: np.ndarray | None, normalised: bool
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Token ids and values of every cell; empty for a cell without genes."""
        values, positions = visible_counts(self.name, x, match, visible, normalised, np.float64)
        assert match is not None
        self.check_match(match)
        genes, place = np.unique(positions, return_inverse=True)  # columns that mean the same gene are summed
        collect = csr_matrix((np.ones(len(place)), (np.arange(len(place)), place)), (len(place), len(genes)))
        counts = csr_matrix(values @ collect)
        counts.eliminate_zeros()
        counts.sort_indices()
        nothing = (np.zeros(0, np.int64), np.zeros(0, np.float32))
        sequences = []
        for start, stop in zip(counts.indptr[:-1], counts.indptr[1:], strict=True):
            cell = slice(start, stop)
            found = stop > start
            sequences.append(self._sequence(genes[counts.indices[cell]], counts.data[cell]) if found else nothing)
        longest = max((len(ids) for ids, _ in sequences), default=0)
        if longest > _SLOW_TOKENS and self.device.type == "cpu" and not self._warned:
            self._warned = True
            logger.warning(
                "%s: cells of up to %d tokens on a CPU take seconds each. A GPU, or max_length=512 among the backbone's"
                " arguments, is many times faster.",
                self.name, longest,
            )  # fmt: skip
        return sequences

    def check_match(self, match: GeneMatch) -> None:
        """Refuse genes of which too few are known; see :meth:`Backbone.check_match`."""
        covered = len(np.unique(match.vocab_index[match.vocab_index >= 0])) / len(self.vocabulary)
        if max(match.overlap, covered) < self.min_overlap or not match.n_matched:
            known = ", ".join(map(repr, self.vocabulary.human_symbol[:3]))
            raise ValueError(
                f"{match.n_matched} of {len(match.vocab_index)} genes ({match.overlap:.0%}) are in the vocabulary of"
                f" {self.name!r} and make up {covered:.0%} of it; at least {self.min_overlap:.0%} of yours (a panel) or"
                f" of the vocabulary (all genes there are) must be. It knows {known}, ... Give human names as this"
                " checkpoint spells them, in adata.var_names or a column named by gene_key. It cannot read genes of"
                " another species: name their human one-to-one orthologues, or use backbone='more-mini', which reads"
                " mouse genes. min_overlap= among the backbone's arguments lowers the limit."
            )

    def _blocks(self, sequences: list[tuple[np.ndarray, np.ndarray]]) -> Iterator[tuple[np.ndarray, Tensor, Tensor]]:
        """Positions of cells, what enters layer 1 and which tokens are no padding; the block may have rows more."""
        lengths = np.array([len(ids) for ids, _ in sequences], dtype=np.int64)
        for rows, height, width in _plan(lengths, self.max_length, self.device.type):
            ids = np.full((height, width), self._padding[0], np.int64)
            values = np.full((height, width), self._padding[1], np.float32)
            keep = np.zeros((height, width), dtype=bool)
            for at, row in enumerate(rows):
                n = lengths[row]
                ids[at, :n], values[at, :n] = sequences[row]
                keep[at, :n] = True
            at_ids, at_values, at_keep = (torch.from_numpy(part).to(self.device) for part in (ids, values, keep))
            yield rows, self._embed(at_ids, at_values), at_keep


def _budget(device: str) -> int:
    """Tokens of a block, unless a single cell has more."""
    return _BLOCK_TOKENS if device == "cpu" else _BLOCK_TOKENS_GPU


def _plan(lengths: np.ndarray, max_length: int, device: str) -> Iterable[tuple[np.ndarray, int, int]]:
    """Cells of similar length, with the height and width of their block; cells of length 0 are left out."""
    widths = np.minimum(-(-lengths // _WIDTH_STEP) * _WIDTH_STEP, max_length)
    budget = _budget(device)
    for width in np.unique(widths[widths > 0]):
        cells = np.flatnonzero(widths == width)
        height = max(1, budget // int(width))  # by width alone, see above: never by how many cells there are
        for start in range(0, len(cells), height):
            yield cells[start : start + height], height, int(width)
