r"""What every frozen backbone is: features of a cell from its own measurements, never trained, never changed.

Adapters may enter the last layers. What enters layer :math:`L-k+1` does not change while the layers below are frozen:
it is computed once per cell (:meth:`Backbone.tokens`), and training replays the last :math:`k` layers and the read-out
from there. Copies are handed out; the backbone itself stays as it is.
"""

from __future__ import annotations

import copy
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import DTypeLike
from scipy.sparse import csr_matrix, issparse
from torch import Tensor, nn

from more_scvi.data._arguments import check_integer
from more_scvi.data._genes import GeneMatch, GeneVocabulary

Matrix: TypeAlias = csr_matrix | np.ndarray
LayerKind = Literal["own", "transformers"]
MOST_LAYERS = 1000
"""Layers that a config may ask for."""


class Backbone(nn.Module, ABC):
    """A frozen network that turns the measurements of a cell into a vector.

    A subclass sets the attributes below, writes :meth:`encode`, and calls :meth:`freeze` at the end of its
    constructor. From then on no weight asks for a gradient, ``train()`` keeps evaluation mode, and the weights are
    bit-identical before and after whatever is trained on top.

    Attributes
    ----------
    name
        What the backbone is called in the registry, in logs and in saved models.
    n_features
        Width of the cell feature.
    vocabulary
        The genes it knows; None if it reads features that somebody else computed.
    n_pooled
        Blocks of ``n_features // n_pooled`` columns that the feature consists of: pooled features of several layers,
        of which a model learns a mix. 1: one feature.
    n_layers
        Layers that adapters may enter; 0: none. Where there are some, :meth:`tokens` and :meth:`top_layers` are there.

    Examples
    --------
    >>> class Depth(Backbone):
    ...     name, n_features, vocabulary = "depth", 1, None
    ...
    ...     def encode(self, x, match, *, visible=None, normalised=False):
    ...         return np.log1p(np.asarray(x.sum(1), np.float32)).reshape(-1, 1)
    """

    name: str
    n_features: int
    vocabulary: GeneVocabulary | None = None
    n_pooled: int = 1
    n_layers: int = 0

    @abstractmethod
    def encode(
        self, x: Matrix, match: GeneMatch | None, *, visible: np.ndarray | None = None, normalised: bool = False
    ) -> np.ndarray:
        """Features of the cells in ``x``.

        Parameters
        ----------
        x
            (cells, genes of the user): raw counts, or log1p of counts per 10,000 if ``normalised``.
        match
            Where the user's genes are in the vocabulary (:func:`more_scvi.data.match_genes`).
        visible
            (genes of the user,) bool. A gene that is not visible is *missing*, not zero. None: all are visible.
        normalised
            Whether ``x`` is log-normalised.

        Returns
        -------
        (cells, n_features) float32. A cell's row depends on that cell only; rows are not centred by batch.
        """

    token_width: int | None = None
    """Width of a token that :meth:`read_tokens` takes; None: this backbone takes no continuous tokens."""

    def read_tokens(self, tokens: torch.Tensor) -> torch.Tensor:
        """Pass tokens through the frozen layers, with gradients: (cells, tokens, token_width) -> (cells, token_width).

        For modalities that speak of no gene in the vocabulary.
        """
        raise NotImplementedError(f"Backbone {self.name!r} takes no continuous tokens.")

    def tokens(
        self, x: Matrix, match: GeneMatch | None, *, depth: int, normalised: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """What enters the last ``depth`` layers, which a model caches to train adapters inside them.

        Parameters
        ----------
        x, match, normalised
            As in :meth:`encode`.
        depth
            Number of layers above, from 1 to :attr:`n_layers`; all of them: what enters the first layer.

        Returns
        -------
        values
            (cells, tokens, d) float16; rows are padded to a common length within the call.
        keep
            (cells, tokens) bool, False for padding.

        Raises
        ------
        ValueError
            If the backbone has no layers that adapters may enter, or not as many.
        """
        self._check_depth(depth)
        raise NotImplementedError(f"Backbone {self.name!r} has n_layers={self.n_layers}, but does not define tokens.")

    def top_layers(self, depth: int) -> TopLayers:
        """A frozen copy of the last ``depth`` layers and of the read-out, for adapters to enter.

        Parameters
        ----------
        depth
            Number of layers, from 1 to :attr:`n_layers`.

        Returns
        -------
        A module that maps :meth:`tokens` to the pooled feature of the last layer, (cells, n_features // n_pooled).

        Raises
        ------
        ValueError
            If the backbone has no layers that adapters may enter, or not as many.
        """
        self._check_depth(depth)
        raise NotImplementedError(f"Backbone {self.name!r} has n_layers={self.n_layers}, but defines no top_layers.")

    def _check_depth(self, depth: int) -> None:
        """Raise a ValueError if ``depth`` layers cannot be taken out."""
        if not self.n_layers:
            raise ValueError(
                f"Backbone {self.name!r} has no layers that adapters may enter (n_layers is 0); use adapter='output'."
            )
        if not 1 <= depth <= self.n_layers:
            raise ValueError(
                f"depth={depth} of backbone {self.name!r}: give a number of layers from 1 to {self.n_layers}."
            )

    @property
    def tokens_at_once(self) -> int | None:
        """Tokens that pass the layers together, by which extraction is cut; None: all cells cost the same."""
        return None

    def lengths(self, x: Matrix, match: GeneMatch | None) -> np.ndarray:
        """How much of each cell is read, (cells,) tokens, before it is; asked where :attr:`tokens_at_once` is given."""
        raise NotImplementedError(f"Backbone {self.name!r} has tokens_at_once, but does not define lengths.")

    def working_bytes(self) -> int:
        """Most memory in bytes that one pass takes beside weights, rows and features; 0: next to none."""
        return 0

    def check_match(self, match: GeneMatch) -> None:
        """Raise a ValueError if this backbone cannot read genes that match like this; called before any is read."""

    def config(self) -> dict[str, Any]:
        """Settings that change the features; JSON-serialisable and part of the fingerprint."""
        return {}

    def freeze(self) -> None:
        """Switch off gradients and set evaluation mode, for good."""
        super().requires_grad_(False).zero_grad()  # upstream's: our own only refuses
        super().train(False)

    def train(self, mode: bool = True) -> Backbone:
        """Stay in evaluation mode whatever ``mode`` says."""
        return super().train(False)

    def requires_grad_(self, requires_grad: bool = True) -> Backbone:
        """Refuse to unfreeze.

        Raises
        ------
        ValueError
            If ``requires_grad`` is True.
        """
        if requires_grad:
            raise ValueError(f"Backbone {self.name!r} is frozen: train adapters on its features instead.")
        return self

    @property
    def device(self) -> torch.device:
        """Device of the weights (CPU if there are none)."""
        tensor = next(iter(self.state_dict().values()), None)  # buffers, too: a backbone may be tables alone
        return torch.device("cpu") if tensor is None else tensor.device

    def n_parameters(self) -> int:
        """Number of all weights, embedding and programme tables included."""
        return sum(tensor.numel() for tensor in self.state_dict().values())

    def fingerprint(self) -> str:
        """SHA-256 over weights, vocabulary and settings: two backbones share it only if they compute the same."""
        digest = hashlib.sha256(json.dumps([self.name, self.n_features, self.config()], sort_keys=True).encode())
        digest.update(b"" if self.vocabulary is None else self.vocabulary.digest().encode())
        for key, tensor in sorted(self.state_dict().items()):
            digest.update(f"{key}{tuple(tensor.shape)}{tensor.dtype}".encode())
            raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)  # NumPy has no bfloat16
            digest.update(raw.numpy())
        return digest.hexdigest()


class Precomputed(Backbone):
    """Features that were computed elsewhere and lie in ``adata.obsm``; ``encode`` hands the rows on as float32.

    Parameters
    ----------
    n_features
        Width of the features.
    n_pooled
        Layers whose features lie side by side, blocks of ``n_features // n_pooled`` columns, of which a model learns a
        mix; 1: one feature.

    Raises
    ------
    TypeError, ValueError
        If ``n_pooled`` is no whole number from 1, or the columns cannot be divided into as many blocks.

    Examples
    --------
    >>> Precomputed(2).encode(np.array([[1, 2]]), None)
    array([[1., 2.]], dtype=float32)
    """

    name = "precomputed"

    def __init__(self, n_features: int, n_pooled: int = 1) -> None:
        super().__init__()
        self.n_features, self.n_pooled = int(n_features), check_integer("n_pooled", n_pooled)
        if self.n_features % self.n_pooled:
            raise ValueError(
                f"n_pooled={n_pooled} does not divide the {n_features} columns of the precomputed features; give the"
                " number of layers that lie side by side in them, 1 if it is one feature."
            )
        self.freeze()

    def config(self) -> dict[str, Any]:
        """Blocks of the feature, where it has several."""
        return {"n_pooled": self.n_pooled} if self.n_pooled > 1 else {}

    def encode(
        self, x: Matrix, match: GeneMatch | None = None, *, visible: np.ndarray | None = None, normalised: bool = False
    ) -> np.ndarray:
        """Return ``x`` as a dense float32 array; it has no genes, so ``match`` and ``visible`` mean nothing here.

        Raises
        ------
        ValueError
            If the width is not ``n_features`` or a value is not finite.
        """
        rows = np.asarray(x.toarray() if hasattr(x, "toarray") else x, dtype=np.float32)
        if rows.ndim != 2 or rows.shape[1] != self.n_features:
            raise ValueError(f"Precomputed features have shape {rows.shape}, expected (cells, {self.n_features}).")
        if not np.isfinite(rows).all():
            raise ValueError("Precomputed features hold NaN or infinite values: remove those cells or recompute them.")
        return rows


def visible_counts(
    name: str, x: Matrix, match: GeneMatch | None, visible: np.ndarray | None, normalised: bool, dtype: DTypeLike
) -> tuple[csr_matrix, np.ndarray]:
    """Counts of the genes that are visible and known, csr without stored zeros, and their places in the vocabulary.

    Arguments as in :meth:`Backbone.encode`; log-normalised values are taken back to the scale of counts.
    """
    if match is None:
        raise ValueError(f"{name} reads genes: pass match=match_genes(gene_names, backbone.vocabulary).")
    known = match.vocab_index >= 0
    if x.shape[1] != len(known):
        raise ValueError(f"x has {x.shape[1]} genes, match was made for {len(known)}: match the genes of x.")
    if visible is not None:
        known = known & np.asarray(visible, dtype=bool)
    columns = np.flatnonzero(known)
    counts = (csr_matrix(x)[:, columns] if issparse(x) else csr_matrix(np.asarray(x)[:, columns])).astype(dtype)
    counts.sum_duplicates()
    counts.eliminate_zeros()  # a stored zero is no detected gene
    if not np.isfinite(counts.data).all() or (counts.data < 0).any():
        raise ValueError(
            f"x holds negative or non-finite values: {name} reads raw counts, or log1p of counts per 10,000 with "
            "normalised=True."
        )
    if normalised:
        counts.data = np.expm1(counts.data)
    return counts, match.vocab_index[columns]


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
        self.layers = nn.ModuleList(copy.deepcopy(layer) for layer in layers)  # adapters must not reach the backbone
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
