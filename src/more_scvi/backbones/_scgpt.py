r"""``scgpt``: a transformer over genes and their binned values, from published weights.

Post-norm, ReLU, no position: with tokens :math:`h`, attention :math:`A` and feed-forward :math:`F`

.. math:: h \leftarrow \text{norm}_1(h + A(h)), \qquad h \leftarrow \text{norm}_2(h + F(h)).

Written out, because ``nn.TransformerEncoderLayer`` switches to a fused path in evaluation mode that passes adapters by.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from more_scvi.data._genes import GeneVocabulary

from ._base import MOST_LAYERS
from ._checkpoints import check_ids, checkpoint_folder, fit_state, read_config, read_dictionary, read_state, size_of
from ._tokens import Pool, TokenBackbone, attention_mask

_READ = ("encoder.", "value_encoder.", "transformer_encoder.")
_HEADS = ("decoder.", "cls_decoder.", "mvc_decoder.", "flag_encoder.", "batch_encoder.", "grad_reverse_discriminator.")
ARGS, VOCAB, WEIGHTS = "args.json", "vocab.json", "best_model.pt"
_GENES = "encoder.embedding.weight"
_HIDDEN = "transformer_encoder.layers.0.linear1.weight"
_LAYER = re.compile(r"^transformer_encoder\.layers\.(\d+)\.")
_APPENDED = ("<pad>", "<cls>", "<eoc>")  # the order in which scGPT adds those that a vocabulary lacks
_ONLY = {"input_style": "binned", "input_emb_style": "continuous", "pre_norm": False, "cell_emb_style": "cls"}
_MAX_VALUE = 512.0  # where published code cuts values off
_PARTS = ("query", "key", "value")
_CHOICE_SEED = 0
_EMBEDDING = {
    "encoder.embedding": "gene",
    "encoder.enc_norm": "gene_norm",
    "value_encoder.linear1": "value1",
    "value_encoder.linear2": "value2",
    "value_encoder.norm": "value_norm",
}


@dataclass(frozen=True)
class ScGPTSizes:
    """Sizes and conventions of a checkpoint."""

    d_model: int
    n_heads: int  # leaves no trace in the tensors: without ``args.json`` it is taken to be 8
    d_hidden: int
    n_layers: int
    n_bins: int  # values are cut into n_bins - 1 quantiles of a cell, zero apart
    max_length: int  # tokens the checkpoint was trained with
    pad_value: float  # of padding, and of <cls>


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
        self._finish(sizes.d_model, sizes.n_layers, sizes.n_heads, pool, 1, 0, min_overlap)

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
    ) -> Self:
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
        state = read_state(folder / WEIGHTS)
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
        options: dict[str, Any] = {"max_length": max_length, "cls_value": cls_value, "min_overlap": min_overlap}
        empty = partial(cls, sizes, vocabulary, ids, special, pool=pool, **options)
        with torch.device("meta"):  # sizes are believed once the tensors have them
            expected = empty().state_dict()
        tensors = fit_state(folder / WEIGHTS, own_names(body), expected)
        with torch.random.fork_rng(devices=[]):  # initial weights are drawn, and then replaced
            backbone = empty()
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
    edges = np.quantile(values, np.linspace(0, 1, n_bins - 1))  # as published: zero has a bin of its own
    low, high = np.digitize(values, edges, right=True), np.digitize(values, edges)
    return np.ceil((low + high) / 2).clip(1, n_bins - 1)


def is_scgpt(folder: Path) -> bool:
    """Whether the folder has a vocabulary beside the weights or the arguments of scGPT."""
    return (folder / VOCAB).is_file() and ((folder / WEIGHTS).exists() or (folder / ARGS).exists())


def read_sizes(folder: Path, state: Mapping[str, Tensor]) -> ScGPTSizes:
    """Sizes from the tensors, completed by ``args.json`` and compared with it where it exists."""
    path = folder / ARGS
    args: dict[str, Any] = read_config(path) if path.exists() else {}
    for key, wanted in _ONLY.items():
        if args.get(key, wanted) != wanted:
            raise ValueError(
                f"{path}: {key} is {args[key]!r}; only {wanted!r}, that of the published models, is supported."
            )
    layers = {int(part[1]) for name in state if (part := _LAYER.match(name))}
    if _GENES not in state or _HIDDEN not in state or state[_GENES].ndim != 2 or state[_HIDDEN].ndim != 2:
        raise ValueError(f"{folder / WEIGHTS}: lacks {_GENES} or {_HIDDEN}; these are not the tensors of scGPT.")
    if len(layers) > MOST_LAYERS:  # a network of them is built before its sizes are compared
        raise ValueError(f"{folder / WEIGHTS}: {len(layers)} layers; at most {MOST_LAYERS} are built.")
    found = {"d_model": state[_GENES].shape[1], "d_hidden": state[_HIDDEN].shape[0], "n_layers": len(layers)}
    names = {"d_model": ("embsize", "layer_size"), "d_hidden": ("d_hid", "layer_size"), "n_layers": ("nlayers",)}
    for key, value in found.items():
        said = size_of(args, path, *names[key], default=value)
        if said != value:
            raise ValueError(
                f"{path}: {' or '.join(names[key])} is {said}, but the tensors of {WEIGHTS} have {value}. Both files"
                " must be of one model."
            )
    n_heads = size_of(args, path, "nheads", "nhead", default=8)
    n_bins = size_of(args, path, "n_bins", default=51, most=10_000)
    if found["d_model"] % n_heads or n_bins < 3:
        raise ValueError(
            f"{path}: {n_heads} heads and {n_bins} bins; the width {found['d_model']} must be a multiple of the heads,"
            " and 3 bins are the fewest."
        )
    pad_value = args.get("pad_value", -2)
    if isinstance(pad_value, bool) or not isinstance(pad_value, int | float):
        raise ValueError(f"{path}: pad_value is {pad_value!r}, expected a number.")
    length = size_of(args, path, "max_seq_len", default=1200)
    return ScGPTSizes(**found, n_heads=n_heads, n_bins=n_bins, max_length=length, pad_value=float(pad_value))


def read_vocabulary(folder: Path, n_tokens: int) -> tuple[GeneVocabulary, np.ndarray, dict[str, int]]:
    """Genes, their token ids, and the ids of special tokens; ``n_tokens`` are the rows of the embedding."""
    path = folder / VOCAB
    tokens = read_dictionary(path)
    lacking = [name for name in _APPENDED if name not in tokens]
    if lacking and len(tokens) + len(lacking) == n_tokens:  # their rows were trained, the file does not name them
        tokens |= {name: len(tokens) + at for at, name in enumerate(lacking)}
    check_ids(path, tokens)
    if len(tokens) != n_tokens:
        raise ValueError(
            f"{path}: {len(tokens)} tokens, but the embedding of {WEIGHTS} has {n_tokens} rows. Every checkpoint has a"
            " vocab.json of its own: take both from one folder."
        )
    special = {name: i for name, i in tokens.items() if name.startswith("<")}
    if not {"<pad>", "<cls>"} <= set(special):
        raise ValueError(f"{path}: has no <pad> or no <cls> token. Take the vocab.json of this checkpoint.")
    genes = sorted((i, name) for name, i in tokens.items() if not name.startswith("<"))
    names = tuple(name for _, name in genes)
    vocabulary = GeneVocabulary(names, ("",) * len(names), ignore_case=False, keep_repeats=True)  # repeats: summed
    return vocabulary, np.array([i for i, _ in genes], np.int64), special


def own_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a published encoder, in any of the three spellings of its attention, named as here."""
    out: dict[str, Tensor] = {}
    for name, tensor in state.items():
        owner, kind = name.rsplit(".", 1)
        if owner in _EMBEDDING:
            out[f"embedding.{_EMBEDDING[owner]}.{kind}"] = tensor
            continue
        inside = name.removeprefix("transformer_encoder.").replace(".self_attn._impl.", ".self_attn.")
        inside = inside.replace(".self_attn.Wqkv.", ".self_attn.in_proj_").replace(".self_attn.", ".")
        if ".in_proj_" in inside:  # what has other than three parts will lack one, or have another shape
            layer, kind = inside.split("in_proj_", 1)
            out |= zip((f"{layer}{part}.{kind}" for part in _PARTS), torch.atleast_1d(tensor).chunk(3), strict=False)
        else:
            out[inside] = tensor
    return out
