"""Folders of random weights, in the files and tensor names in which Geneformer and scGPT are published.

They say nothing about cells, but take the memory, the disk and the time of the real ones: what a run will cost on a
machine is known before anything is downloaded.
"""

import json
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from scipy.sparse import csr_matrix
from torch import Tensor

from more_scvi._files import write_files
from more_scvi.data._arguments import check_integer, check_option

from ._base import Backbone


@dataclass(frozen=True)
class Sizes:
    """Sizes of a published model."""

    n_layers: int
    d_model: int
    n_heads: int
    d_hidden: int
    n_genes: int
    n_tokens: int  # positions of Geneformer, training length of scGPT
    marks: tuple[str, ...]  # special tokens, as its vocabulary orders them


_V1, _V2, _SCGPT = ("<pad>", "<mask>"), ("<pad>", "<mask>", "<cls>", "<eos>"), ("<pad>", "<cls>", "<eoc>")
SYNTHETIC = {
    "geneformer": {
        "tiny": Sizes(2, 32, 4, 64, 60, 64, _V2),
        "V1-10M": Sizes(6, 256, 4, 512, 25_424, 2048, _V1),
        "V2-104M": Sizes(12, 768, 12, 3072, 20_271, 4096, _V2),
        "V2-316M": Sizes(18, 1152, 18, 4608, 20_271, 4096, _V2),
    },
    "scgpt": {
        "tiny": Sizes(2, 32, 8, 48, 60, 64, _SCGPT),
        "whole-human": Sizes(12, 512, 8, 512, 60_694, 1200, _SCGPT),
    },
}
"""Kind and name of a published model → its sizes; ``tiny``: for tests."""


def write_synthetic(
    folder: str | Path, kind: str, size: str = "tiny", *, dtype: torch.dtype = torch.float32, seed: int = 0
) -> Path:
    """Write a checkpoint of random weights.

    Its genes are called ``GENE0``, ``GENE1``, ...; Geneformer also knows them as ``ENSG00000000000``, ....

    Parameters
    ----------
    folder
        Folder to write to; it is made if needed, and files of the same names in it are replaced.
    kind
        ``"geneformer"`` or ``"scgpt"``.
    size
        Name of a published model, ``"V1-10M"``, ``"V2-104M"`` or ``"V2-316M"`` of Geneformer and ``"whole-human"`` of
        scGPT, or ``"tiny"`` (100 kB).
    dtype
        Type of the weights; published ones are float32.
    seed
        Seed of the weights.

    Returns
    -------
    The folder, which :func:`more_scvi.backbones.get_backbone` reads.

    Raises
    ------
    ValueError
        If the kind or the size is unknown.

    Examples
    --------
    >>> import tempfile
    >>> from more_scvi.backbones import get_backbone
    >>> get_backbone(write_synthetic(tempfile.mkdtemp(), "scgpt")).n_features
    96
    """
    check_option("kind", kind, tuple(SYNTHETIC))
    check_option("size", size, tuple(SYNTHETIC[kind]))
    check_integer("seed", seed, 0)
    folder, sizes = Path(folder), SYNTHETIC[kind][size]
    folder.mkdir(parents=True, exist_ok=True)
    shapes = dict(_geneformer_shapes(sizes) if kind == "geneformer" else _scgpt_shapes(sizes))
    generator = torch.Generator().manual_seed(seed)
    state = {name: _random(name, shape, generator).to(dtype) for name, shape in shapes.items()}
    files = _geneformer_files(sizes, state, seed) if kind == "geneformer" else _scgpt_files(sizes, state)
    write_files({folder / name: content for name, content in files.items()})
    return folder


def synthetic_counts(backbone: Backbone, n_cells: int, *, n_genes: int = 1500, seed: int = 0) -> csr_matrix:
    """Counts of cells that express random genes of a backbone, as many as droplets find.

    Parameters
    ----------
    backbone
        A backbone with a vocabulary; its genes are the columns.
    n_cells
        Number of cells.
    n_genes
        Median number of genes of a cell; log-normal with a standard deviation of 0.5 in the logarithm.
    seed
        Seed.

    Returns
    -------
    (n_cells, genes of the vocabulary) float32 counts above zero.

    Examples
    --------
    >>> from more_scvi.backbones import get_backbone
    >>> synthetic_counts(get_backbone("more-mini"), 3, n_genes=100).shape[0]
    3
    """
    for name, value in (("n_cells", n_cells), ("n_genes", n_genes)):
        check_integer(name, value)
    if backbone.vocabulary is None:
        raise ValueError(f"Backbone {backbone.name!r} has no vocabulary, of which genes could be drawn.")
    rng, known = np.random.default_rng(seed), len(backbone.vocabulary)
    lengths = np.clip(rng.lognormal(np.log(n_genes), 0.5, n_cells).astype(int), 1, known)
    genes = np.concatenate([np.sort(rng.permutation(known)[:length]) for length in lengths])
    counts = 1.0 + rng.poisson(1.0, len(genes)).astype(np.float32)
    return csr_matrix((counts, genes, np.r_[0, lengths.cumsum()]), (n_cells, known), dtype=np.float32)


def _random(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Of the size that keeps the variance of what passes: attention is not uniform then, as it is not after training.

    Norms and biases are random, too: otherwise a swap of two of them would pass unnoticed.
    """
    drawn = torch.randn(shape, generator=generator)
    if len(shape) > 1:
        return drawn.div_(shape[-1] ** 0.5)
    return drawn.mul_(0.1).add_(1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0)


def _geneformer_shapes(sizes: Sizes) -> Iterator[tuple[str, tuple[int, ...]]]:
    d, n_tokens = sizes.d_model, len(sizes.marks) + sizes.n_genes
    for name, rows in (("word", n_tokens), ("position", sizes.n_tokens), ("token_type", 2)):
        yield f"bert.embeddings.{name}_embeddings.weight", (rows, d)
    yield from _both("bert.embeddings.LayerNorm", d)
    for at in range(sizes.n_layers):
        layer = f"bert.encoder.layer.{at}"
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            yield from _both(f"{layer}.attention.{part}", d, d)
        yield from _both(f"{layer}.attention.output.LayerNorm", d)
        yield from _both(f"{layer}.intermediate.dense", sizes.d_hidden, d)
        yield from _both(f"{layer}.output.dense", d, sizes.d_hidden)
        yield from _both(f"{layer}.output.LayerNorm", d)
    yield "cls.predictions.bias", (n_tokens,)
    yield from _both("cls.predictions.transform.dense", d, d)
    yield from _both("cls.predictions.transform.LayerNorm", d)


def _scgpt_shapes(sizes: Sizes) -> Iterator[tuple[str, tuple[int, ...]]]:
    d = sizes.d_model
    yield "encoder.embedding.weight", (sizes.n_genes + len(sizes.marks), d)
    yield from _both("encoder.enc_norm", d)
    yield from _both("value_encoder.linear1", d, 1)
    yield from _both("value_encoder.linear2", d, d)
    yield from _both("value_encoder.norm", d)
    for at in range(sizes.n_layers):
        layer = f"transformer_encoder.layers.{at}"
        yield from _both(f"{layer}.self_attn.Wqkv", 3 * d, d)
        yield from _both(f"{layer}.self_attn.out_proj", d, d)
        yield from _both(f"{layer}.linear1", sizes.d_hidden, d)
        yield from _both(f"{layer}.linear2", d, sizes.d_hidden)
        yield from _both(f"{layer}.norm1", d)
        yield from _both(f"{layer}.norm2", d)
    for at, rows in ((0, d), (2, d), (4, 1)):
        yield from _both(f"decoder.fc.{at}", rows, d)
    yield from _both("mvc_decoder.gene2query", d, d)
    yield "mvc_decoder.W.weight", (d, d)
    yield "flag_encoder.weight", (2, d)


def _both(name: str, *shape: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]


def _geneformer_files(sizes: Sizes, state: dict[str, Tensor], seed: int) -> dict[str, Any]:
    ensembl = [f"ENSG{at:011d}" for at in range(sizes.n_genes)]
    tokens = {name: at for at, name in enumerate([*sizes.marks, *ensembl])}
    medians = np.random.default_rng(seed).lognormal(1.0, 0.6, sizes.n_genes).tolist()
    dictionaries = {
        "token_dictionary": tokens,
        "gene_median_dictionary": dict(zip(ensembl, medians, strict=True)),
        "gene_name_id_dict": {f"GENE{at}": gene for at, gene in enumerate(ensembl)},
        "ensembl_mapping_dict": {gene: gene for gene in ensembl},
    }
    version = "gc104M" if "<cls>" in tokens else "gc30M"
    config = {
        "architectures": ["BertForMaskedLM"], "model_type": "bert", "hidden_act": "relu", "hidden_size": sizes.d_model,
        "num_hidden_layers": sizes.n_layers, "num_attention_heads": sizes.n_heads, "intermediate_size": sizes.d_hidden,
        "max_position_embeddings": sizes.n_tokens, "type_vocab_size": 2, "vocab_size": len(tokens), "pad_token_id": 0,
        "layer_norm_eps": 1e-12, "initializer_range": 0.02, "hidden_dropout_prob": 0.02,
        "attention_probs_dropout_prob": 0.02, "position_embedding_type": "absolute",
    }  # fmt: skip
    files: dict[str, Any] = {f"{name}_{version}.pkl": pickle.dumps(of, 4) for name, of in dictionaries.items()}
    return files | {"model.safetensors": partial(save_file, state), "config.json": json.dumps(config, indent=1)}


def _scgpt_files(sizes: Sizes, state: dict[str, Tensor]) -> dict[str, Any]:
    vocabulary = [*(f"GENE{at}" for at in range(sizes.n_genes)), *sizes.marks]
    args = {
        "embsize": sizes.d_model, "nheads": sizes.n_heads, "d_hid": sizes.d_hidden, "nlayers": sizes.n_layers,
        "n_layers_cls": 3, "dropout": 0.2, "pad_token": "<pad>", "pad_value": -2, "mask_value": -1, "n_bins": 51,
        "max_seq_len": sizes.n_tokens, "input_style": "binned", "input_emb_style": "continuous", "MVC": True,
        "fast_transformer": True,
    }  # fmt: skip
    tokens = {name: at for at, name in enumerate(vocabulary)}
    weights = partial(torch.save, state)
    return {"best_model.pt": weights, "vocab.json": json.dumps(tokens), "args.json": json.dumps(args, indent=1)}
