"""``scgpt``: a transformer over genes and their binned values, from published weights."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from more_scvi.data._genes import GeneVocabulary

from ._checkpoints import checkpoint_folder, fit_state, read_state
from ._scgpt_files import ARGS, VOCAB, WEIGHTS, ScGPTSizes, read_sizes, read_vocabulary
from ._scgpt_layers import ScGPTEmbedding, ScGPTLayer, own_names, plain_names, published_shapes
from ._tokens import Pool, TokenBackbone

_READ = ("encoder.", "value_encoder.", "transformer_encoder.")
_HEADS = ("decoder.", "cls_decoder.", "mvc_decoder.", "flag_encoder.", "batch_encoder.", "grad_reverse_discriminator.")
_CHOICE_SEED = 0


class ScGPT(TokenBackbone):
    r"""scGPT, frozen, read from the files its authors publish.

    The non-zero genes of a cell are tokens behind a ``<cls>``. Their values are cut into the quantiles of that cell,
    bins 1 to 50; a value that equals several edges gets the middle one of the bins it could have, where the original
    draws one at random. Of a cell with more than ``max_length - 1`` genes, those with the smallest

    .. math:: -\log(u_g) \,/\, \text{bin}_g, \qquad u_g \sim U(0, 1) \text{ fixed per gene},

    are read: a sample without replacement in which a gene counts in proportion to its bin, that prefers the same genes
    in all cells, where the original draws other ones for each cell. There are no positions, so order does not matter.

    Parameters
    ----------
    sizes
        Sizes and conventions.
    vocabulary
        The genes.
    ids
        (genes,) token ids.
    special
        Token ids of ``<pad>`` and ``<cls>``.
    pool
        ``"cls"``, which the pre-training taught to predict the expression of the cell and which its authors use, or
        ``"mean"`` over gene tokens.
    max_length
        Most tokens of a cell, ``<cls>`` included; None: as many as in training.
    cls_value
        Value of the ``<cls>`` token; None: that of padding, as in the authors' embedding function (their fine-tuning
        code takes 0).
    min_overlap
        Share of the user's genes that must be in the vocabulary, or of the vocabulary that must be among them.

    Examples
    --------
    >>> backbone = ScGPT.load("scGPT_human")  # doctest: +SKIP
    >>> backbone.encode(adata.X, match_genes(adata.var_names, backbone.vocabulary)).shape  # doctest: +SKIP
    (2638, 6656)

    Notes
    -----
    Cui et al., Nature Methods 2024. The weights are MIT and are not part of this package. Features are not scaled to
    length 1, which the authors do last.
    """

    name = "scgpt"

    def __init__(
        self,
        sizes: ScGPTSizes,
        vocabulary: GeneVocabulary,
        ids: np.ndarray,
        special: dict[str, int],
        *,
        pool: Pool = "cls",
        max_length: int | None = None,
        cls_value: float | None = None,
        min_overlap: float = 0.3,
    ) -> None:
        super().__init__()
        self.sizes, self.vocabulary, self.ids, self.special = sizes, vocabulary, ids, special
        length = sizes.max_length if max_length is None else max_length
        if isinstance(length, bool) or not isinstance(length, int | np.integer) or length < 2:
            raise ValueError(f"max_length={max_length!r} of backbone 'scgpt': give an integer of at least 2, or None.")
        if cls_value is not None and (isinstance(cls_value, bool) or not isinstance(cls_value, int | float)):
            raise TypeError(f"cls_value={cls_value!r} of backbone 'scgpt' must be a number or None.")
        self.cls_value = sizes.pad_value if cls_value is None else float(cls_value)
        self.embedding = ScGPTEmbedding(len(ids) + len(special), sizes.d_model)
        self.layers = nn.ModuleList(
            ScGPTLayer(sizes.d_model, sizes.n_heads, sizes.d_hidden) for _ in range(sizes.n_layers)
        )
        self.max_length, self._padding = int(length), (special["<pad>"], sizes.pad_value)
        # one number per gene, whatever genes the data have
        self._haste = -np.log(np.random.default_rng(_CHOICE_SEED).random(len(ids)))
        self._finish(sizes.d_model, sizes.n_layers, pool, 1, 0, min_overlap)

    @classmethod
    def load(
        cls,
        path: str | Path | None = None,
        *,
        hub_id: str | None = None,
        revision: str | None = None,
        subfolder: str | None = None,
        pool: Pool = "cls",
        max_length: int | None = None,
        cls_value: float | None = None,
        min_overlap: float = 0.3,
    ) -> ScGPT:
        """Read published weights.

        Parameters
        ----------
        path
            Folder with ``best_model.pt``, ``vocab.json`` and, but for the number of heads (8) and bins (51) and the
            length (1200) of the published models, ``args.json``. Nothing is downloaded.
        hub_id, revision, subfolder
            Instead of ``path`` a repository of the Hugging Face hub, a commit of it, and a folder in it (a subfolder
            may also be of ``path``).
        pool, max_length, cls_value, min_overlap
            As for the class.

        Raises
        ------
        ValueError
            If a file is missing, a git-lfs pointer, truncated, hostile or does not fit the others.
        ImportError
            If a hub id is given without huggingface_hub, or torch is too old to read the weights safely.
        """
        folder = checkpoint_folder("scgpt", path, hub_id, revision, subfolder, (ARGS, VOCAB, WEIGHTS))
        state = plain_names(read_state(folder / WEIGHTS))
        strange = sorted({name.split(".")[0] for name in state if not name.startswith((*_READ, *_HEADS))})
        if strange:
            raise ValueError(
                f"{folder / WEIGHTS}: tensors of {', '.join(strange[:4])}, which no published scGPT encoder has (a"
                " fine-tuned model with layers of its own?). Give a published checkpoint, or its features as"
                " backbone='precomputed'."
            )
        body = {name: tensor for name, tensor in state.items() if name.startswith(_READ)}
        sizes = read_sizes(folder, body)
        n_tokens = body["encoder.embedding.weight"].shape[0]
        vocabulary, ids, special = read_vocabulary(folder, n_tokens)
        shapes = published_shapes(n_tokens, sizes.d_model, sizes.d_hidden, sizes.n_layers)
        tensors = own_names(fit_state(folder / WEIGHTS, body, shapes))
        options: dict[str, Any] = {"pool": pool, "max_length": max_length, "cls_value": cls_value}
        with torch.random.fork_rng(devices=[]):  # initial weights are drawn, and then replaced
            backbone = cls(sizes, vocabulary, ids, special, **options, min_overlap=min_overlap)
        backbone.load_state_dict(tensors)
        return backbone

    def config(self) -> dict[str, Any]:
        """Options, sizes, conventions and tokens."""
        own = {"cls_value": self.cls_value, "special": self.special}
        tokens = hashlib.sha256(self.ids.tobytes()).hexdigest()
        return asdict(self.sizes) | super().config() | own | {"tokens": tokens}

    def _sequence(self, genes: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        bins = bin_values(counts, self.sizes.n_bins)
        room = self.max_length - 1
        if len(genes) > room:
            chosen = np.sort(np.argsort(self._haste[genes] / bins, kind="stable")[:room])
            genes, bins = genes[chosen], bins[chosen]
        ids = np.concatenate([[self.special["<cls>"]], self.ids[genes]])
        return ids, np.concatenate([[self.cls_value], bins]).astype(np.float32)

    def _embed(self, ids: Tensor, values: Tensor) -> Tensor:
        return self.embedding(ids, values)

    def _layers(self) -> list[nn.Module]:
        return list(self.layers)


def bin_values(values: np.ndarray, n_bins: int) -> np.ndarray:
    """Bins 1 to ``n_bins - 1`` of the positive values of one cell, by its quantiles; ties get the middle bin."""
    edges = np.quantile(values, np.linspace(0, 1, n_bins - 1))
    low, high = np.digitize(values, edges, right=True), np.digitize(values, edges)
    return np.ceil((low + high) / 2).clip(1, n_bins - 1)


def is_scgpt(folder: Path) -> bool:
    """Whether the folder has a vocabulary beside the weights or the arguments of scGPT."""
    return (folder / VOCAB).is_file() and ((folder / WEIGHTS).exists() or (folder / ARGS).exists())
