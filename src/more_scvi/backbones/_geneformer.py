"""``geneformer``: BERT over genes in the order of how unusual their expression is, from published weights.

Its dictionaries say which token a gene is, its typical count, and its other names.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from more_scvi._files import json_object
from more_scvi.data._genes import GeneVocabulary

from . import _checkpoints as files
from ._base import MOST_LAYERS
from ._tokens import Pool, TokenBackbone, attention_mask

if TYPE_CHECKING:
    from transformers import BertConfig, BertModel

CONFIG, WEIGHTS = "config.json", ("model.safetensors", "pytorch_model.bin")
_TEXT_FILES = ("vocab.txt", "tokenizer.json")
_MARKS = ("<cls>", "<eos>")
_SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings")
_PREFIX = "bert."
_BODY = ("embeddings.", "encoder.")
_NOT_READ = ("embeddings.position_ids", "pooler.")  # a buffer of old versions, and a head that was never trained

TOKENS, MEDIANS = "token_dictionary", "gene_median_dictionary"
SYMBOLS, MAPPING = "gene_name_id_dict", "ensembl_mapping_dict"
_SUFFIXES = (".json", ".pkl")  # a JSON copy is taken first
_SPECIAL = ("<pad>", "<mask>", "<cls>", "<eos>")


@dataclass(frozen=True, eq=False)
class GeneTokens:
    """What the dictionaries of a checkpoint say, genes in the order of their tokens."""

    vocabulary: GeneVocabulary
    ids: np.ndarray  # (genes,) int64
    medians: np.ndarray  # (genes,) float64 non-zero median of the counts per 10,000 in the training corpus
    special: dict[str, int]  # "<pad>", "<cls>", ... -> token id, those that there are

    def digest(self) -> str:
        """SHA-256 over tokens and medians; the names are in the vocabulary."""
        found = hashlib.sha256(json.dumps(self.special, sort_keys=True).encode())
        found.update(self.ids.tobytes())
        found.update(self.medians.tobytes())
        return found.hexdigest()


class Geneformer(TokenBackbone):
    r"""Geneformer (V1 and V2), frozen, read from the files its authors publish.

    A cell is the list of its genes, sorted by

    .. math:: \text{count}_{g} \,/\, \text{median}_{g},

    where the median is the gene's typical value in the training corpus; genes with equal values come in the order of
    their tokens. The first ``max_length`` are read, with ``<cls>`` before and ``<eos>`` behind them in V2. The factor
    that would bring the cell to 10,000 counts cannot change the order and is left out; log-normalised values would
    change it and are taken back first. The network is ``transformers.BertModel``, loaded strictly and without pooler.

    Parameters
    ----------
    bert
        The network, without pooler.
    genes
        Its dictionaries.
    pool
        ``"mean"`` over gene tokens or ``"cls"`` (V2 only).
    max_length
        Most tokens of a cell, ``<cls>`` and ``<eos>`` included; None: as many as the checkpoint has positions.
    min_overlap
        Share of the user's genes that must be in the vocabulary, or of the vocabulary that must be among them.

    Examples
    --------
    >>> backbone = Geneformer.load("Geneformer-V2-104M", max_length=1024)  # doctest: +SKIP
    >>> backbone.encode(adata.X, match_genes(adata.var_names, backbone.vocabulary)).shape  # doctest: +SKIP
    (2638, 9984)

    Notes
    -----
    Theodoris et al., Nature 2023. The weights are Apache-2.0 and are not part of this package.
    """

    name = "geneformer"
    layer_kind = "transformers"

    def __init__(
        self,
        bert: BertModel,
        genes: GeneTokens,
        *,
        pool: Pool = "mean",
        max_length: int | None = None,
        min_overlap: float = 0.3,
    ) -> None:
        super().__init__()
        self.bert, self.genes, self.vocabulary = bert, genes, genes.vocabulary
        marks = [np.array([genes.special[name]] if name in genes.special else [], np.int64) for name in _MARKS]
        self._before, self._after = marks
        n_marks, positions = sum(map(len, marks)), bert.config.max_position_embeddings
        length = positions if max_length is None else max_length
        if isinstance(length, bool) or not isinstance(length, int | np.integer):
            raise TypeError(f"max_length={max_length!r} of backbone 'geneformer' must be an integer or None.")
        if not n_marks < length <= positions:
            raise ValueError(
                f"max_length={max_length} of backbone 'geneformer': choose {n_marks + 1} to {positions}, the number of"
                " positions of this checkpoint."
            )
        self.max_length, self._padding = int(length), (genes.special["<pad>"], 0.0)
        size = bert.config.hidden_size, bert.config.num_hidden_layers, bert.config.num_attention_heads
        self._finish(*size, pool, len(marks[0]), len(marks[1]), min_overlap)

    @classmethod
    def load(
        cls,
        path: str | Path | None = None,
        *,
        hub_id: str | None = None,
        revision: str | None = None,
        subfolder: str | None = None,
        dictionaries: str | Path | None = None,
        pool: Pool = "mean",
        max_length: int | None = None,
        min_overlap: float = 0.3,
    ) -> Geneformer:
        """Read published weights.

        Parameters
        ----------
        path
            Folder with ``config.json`` and ``model.safetensors`` or ``pytorch_model.bin``. Nothing is downloaded.
        hub_id, revision, subfolder
            Instead of ``path`` a repository of the Hugging Face hub, e.g. ``"ctheodoris/Geneformer"``, a commit of it,
            and the folder of one model, e.g. ``"Geneformer-V2-104M"`` (a subfolder may also be of ``path``).
        dictionaries
            Folder with ``token_dictionary*``, ``gene_median_dictionary*`` and, if symbols are to be known,
            ``gene_name_id_dict*`` and ``ensembl_mapping_dict*`` (``.pkl`` or ``.json``). None: beside the weights, in
            the folder above, or in its folder ``geneformer``, as published.
        pool, max_length, min_overlap
            As for the class.

        Raises
        ------
        ImportError
            If transformers is not installed: ``pip install "more-scvi[foundation]"``.
        ValueError
            If a file is missing, a git-lfs pointer, truncated, hostile or of another version than the rest.
        """
        names = (CONFIG, *WEIGHTS, "*dict*")
        folder = files.checkpoint_folder("geneformer", path, hub_id, revision, subfolder, names, ["geneformer/*dict*"])
        config = files.read_config(folder / CONFIG)
        weights = next((folder / name for name in WEIGHTS if (folder / name).exists()), folder / WEIGHTS[0])
        state = _encoder_tensors(files.read_state(weights))
        for name in _SIZES:
            files.size_of(config, folder / CONFIG, name, most=MOST_LAYERS if name == "num_hidden_layers" else None)
        for name, wanted in {"model_type": "bert", "position_embedding_type": "absolute"}.items():
            if config.get(name, wanted) != wanted:
                raise ValueError(f"{folder / CONFIG}: {name} is {config[name]!r}, Geneformer's is {wanted!r}.")
        genes = read_gene_tokens(folder, config["vocab_size"], dictionaries)
        bert, state = _empty_bert(folder / CONFIG, config, weights, state)
        bert.load_state_dict(state)
        return cls(bert, genes, pool=pool, max_length=max_length, min_overlap=min_overlap)

    def config(self) -> dict[str, Any]:
        """Options, dictionaries and what of the network's config changes its output."""
        keys = ("hidden_act", "layer_norm_eps", "num_attention_heads")
        network = {key: getattr(self.bert.config, key) for key in keys}
        return {**super().config(), **network, "dictionaries": self.genes.digest()}

    def _sequence(self, genes: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        room = self.max_length - len(self._before) - len(self._after)
        order = np.argsort(-(counts / self.genes.medians[genes]), kind="stable")[:room]  # upstream leaves ties open
        ids = np.concatenate([self._before, self.genes.ids[genes[order]], self._after])
        return ids, np.zeros(len(ids), np.float32)  # their order says it all, no value is read

    def _embed(self, ids: Tensor, values: Tensor) -> Tensor:
        return self.bert.embeddings(input_ids=ids)

    def _layers(self) -> list[nn.Module]:
        return [_BertLayer(layer) for layer in self.bert.encoder.layer]


class _BertLayer(nn.Module):
    """A layer of transformers, called with the tokens to keep instead of a mask."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, h: Tensor, keep: Tensor) -> Tensor:
        out = self.layer(h, attention_mask=attention_mask(keep))
        return out[0] if isinstance(out, tuple) else out  # transformers 4 and 5 differ


def is_geneformer(folder: Path) -> bool:
    """Whether ``config.json`` says BERT and the folder holds no text tokenizer."""
    is_bert = json_object(folder / CONFIG).get("model_type") == "bert"
    return is_bert and not any((folder / name).exists() for name in _TEXT_FILES)


def _encoder_tensors(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of the encoder, named as in ``BertModel``; heads of pre-training or of a classifier are left out."""
    if any(name.startswith(_PREFIX) for name in state):
        body = {name.removeprefix(_PREFIX): tensor for name, tensor in state.items() if name.startswith(_PREFIX)}
    else:
        body = {name: tensor for name, tensor in state.items() if name.startswith(_BODY)}
    return {name: tensor for name, tensor in body.items() if not name.startswith(_NOT_READ)}


def _empty_bert(
    path: Path, config: dict[str, Any], weights: Path, state: dict[str, Tensor]
) -> tuple[BertModel, dict[str, Tensor]]:
    """A network of the sizes of the config, which must be those of the tensors, and these as float32."""
    transformers = files.optional("transformers", "Backbone 'geneformer'")
    try:
        settings: BertConfig = transformers.BertConfig(**config)
        settings._attn_implementation = "sdpa"  # eager attention would add our boolean mask to its scores
        with torch.device("meta"):  # sizes are believed once the tensors have them
            empty = transformers.BertModel(settings, add_pooling_layer=False).state_dict()
    except (ValueError, KeyError, TypeError, RuntimeError, ZeroDivisionError) as error:
        raise ValueError(f"{path}: transformers builds no network from it ({error!r}).") from error
    state = files.fit_state(weights, state, empty)
    with torch.random.fork_rng(devices=[]):  # initial weights are drawn, and then replaced
        return transformers.BertModel(settings, add_pooling_layer=False).eval(), state


def read_gene_tokens(folder: Path, vocab_size: int, dictionaries: str | Path | None) -> GeneTokens:
    """Find and read the dictionaries of a model of ``vocab_size`` tokens; other sizes belong to other versions."""
    if dictionaries is not None and not Path(dictionaries).is_dir():
        raise ValueError(f"dictionaries={str(dictionaries)!r} is not a folder; give the one with {TOKENS}*.pkl.")
    path, tokens = _token_dictionary(folder, vocab_size, dictionaries)
    special = {name: int(value) for name, value in tokens.items() if name.startswith("<")}
    genes = {name: value for name, value in tokens.items() if not name.startswith("<")}
    files.check_ids(path, tokens)
    unknown = sorted(set(special) - set(_SPECIAL))
    if "<pad>" not in special or ("<cls>" in special) != ("<eos>" in special) or unknown:
        raise ValueError(
            f"{path}: special tokens {sorted(special)}; expected <pad> and <mask>, and <cls> and <eos> both or neither."
        )
    medians_path, medians = _beside(path, MEDIANS)
    unknown = [gene for gene in genes if gene not in medians]
    values = np.array([medians.get(gene, 1.0) for gene in genes])
    if unknown or values.dtype.kind not in "if" or not np.isfinite(values).all() or (values <= 0).any():
        reason = f"it lacks {len(unknown)} genes of {path.name}" if unknown else "a median is not a positive number"
        raise ValueError(f"{medians_path}: {reason}. Take both dictionaries from one version of the repository.")
    ids = np.array([int(value) for value in genes.values()], np.int64)
    order = np.argsort(ids)
    names = np.array(list(genes), dtype=object)[order].tolist()
    return GeneTokens(_vocabulary(names, path), ids[order], values.astype(np.float64)[order], special)


def _token_dictionary(folder: Path, vocab_size: int, dictionaries: str | Path | None) -> tuple[Path, dict[str, Any]]:
    """The nearest token dictionary of the right size."""
    above = folder.resolve().parent
    places = [folder.resolve(), above]
    for base in (folder.resolve(), above):  # as in the published repository
        places += [base / "geneformer", base / "geneformer" / "gene_dictionaries_30m", base / "gene_dictionaries_30m"]
    sizes: dict[str, int] = {}
    for place in [Path(dictionaries)] if dictionaries is not None else filter(Path.is_dir, places):
        fitting: dict[Path, dict[str, Any]] = {}
        here = [path for path in place.glob(f"{TOKENS}*") if path.suffix in _SUFFIXES]
        for path in sorted(here, key=lambda path: (_SUFFIXES.index(path.suffix), path.name)):
            found = files.read_dictionary(path)
            sizes[str(path)] = len(found)
            if len(found) == vocab_size:
                fitting[path] = found
        if any(found != next(iter(fitting.values())) for found in fitting.values()):
            raise ValueError(
                f"{place}: {', '.join(p.name for p in fitting)} have {vocab_size} tokens each but differ; put the"
                " dictionaries of this model into a folder of their own and give it as dictionaries=."
            )
        if fitting:
            return next(iter(fitting.items()))
    if not sizes:
        raise ValueError(
            f"{folder}: no {TOKENS}*.pkl or .json beside the weights, in the folder above or in its folder geneformer."
            " Give the folder that holds the dictionaries as dictionaries=."
        )
    listed = "; ".join(f"{path}: {size}" for path, size in sizes.items())
    raise ValueError(
        f"{folder}: the model has vocab_size {vocab_size}, the token dictionaries found have other sizes ({listed})."
        " V1 and V2 of Geneformer have dictionaries of their own: give the folder of the right ones as dictionaries=."
    )


def _beside(tokens: Path, stem: str, required: bool = True) -> tuple[Path, dict[str, Any]]:
    """The dictionary of another kind that lies beside the tokens and has the same version in its name."""
    version = tokens.stem.removeprefix(TOKENS)
    for suffix in (tokens.suffix, *_SUFFIXES):
        path = tokens.with_name(f"{stem}{version}{suffix}")
        if path.exists():
            return path, files.read_dictionary(path)
    if required:
        raise ValueError(f"{tokens.parent}: holds {tokens.name} but no {stem}{version}.pkl or .json; add it.")
    return tokens, {}


def _vocabulary(genes: list[str], tokens: Path) -> GeneVocabulary:
    """Ensembl ids in the order of their tokens, with the symbols and former ids that lie beside them."""
    names: dict[str, list[str]] = {gene: [] for gene in genes}
    for stem in (SYMBOLS, MAPPING):
        for name, gene in _beside(tokens, stem, required=False)[1].items():
            if gene in names and name not in names and name not in names[gene] and "|" not in name:  # | parts aliases
                names[gene].append(name)
    symbols = tuple(names[gene][0] if names[gene] else gene for gene in genes)
    aliases = tuple("|".join(names[gene][1:]) for gene in genes)
    return GeneVocabulary(symbols, tuple(genes), human_alias=aliases, ignore_case=False, keep_repeats=True)
