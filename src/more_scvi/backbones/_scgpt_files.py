"""``args.json`` and ``vocab.json`` of scGPT, with what to assume where there is no ``args.json``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from more_scvi.data._genes import GeneVocabulary

from ._checkpoints import read_config, size_of
from ._pickles import check_ids, read_dictionary

ARGS, VOCAB, WEIGHTS = "args.json", "vocab.json", "best_model.pt"
_GENES = "encoder.embedding.weight"
_HIDDEN = "transformer_encoder.layers.0.linear1.weight"
_LAYER = re.compile(r"^transformer_encoder\.layers\.(\d+)\.")
_APPENDED = ("<pad>", "<cls>", "<eoc>")  # the order in which scGPT adds those that a vocabulary lacks
_ONLY = {"input_style": "binned", "input_emb_style": "continuous", "pre_norm": False, "cell_emb_style": "cls"}


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
    found = {"d_model": state[_GENES].shape[1], "d_hidden": state[_HIDDEN].shape[0], "n_layers": max(layers) + 1}
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
    return ScGPTSizes(
        **found,
        n_heads=n_heads,
        n_bins=n_bins,
        max_length=size_of(args, path, "max_seq_len", default=1200),
        pad_value=float(pad_value),
    )


def read_vocabulary(folder: Path, n_tokens: int) -> tuple[GeneVocabulary, np.ndarray, dict[str, int]]:
    """Genes, their token ids, and the ids of special tokens; ``n_tokens`` are the rows of the embedding."""
    path = folder / VOCAB
    tokens = read_dictionary(path)
    lacking = [name for name in _APPENDED if name not in tokens]
    if lacking and len(tokens) + len(lacking) == n_tokens:
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
    vocabulary = GeneVocabulary(names, ("",) * len(names), ignore_case=False, keep_repeats=True)
    return vocabulary, np.array([i for i, _ in genes], np.int64), special
