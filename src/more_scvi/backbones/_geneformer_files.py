"""Dictionaries of Geneformer: which token a gene is, its typical count, and its other names."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from more_scvi.data._genes import GeneVocabulary

from ._pickles import check_ids, read_dictionary

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


def dictionary_folders(folder: Path, dictionaries: str | Path | None) -> list[Path]:
    """Where dictionaries may lie: beside the weights, or in the places of the published repository."""
    if dictionaries is not None:
        return [Path(dictionaries)]
    here = folder.resolve()
    places = [here, here.parent]
    for base in (here, here.parent):
        places += [base / "geneformer", base / "geneformer" / "gene_dictionaries_30m", base / "gene_dictionaries_30m"]
    return [place for place in places if place.is_dir()]


def read_gene_tokens(folder: Path, vocab_size: int, dictionaries: str | Path | None) -> GeneTokens:
    """Find and read the dictionaries of a model of ``vocab_size`` tokens; other sizes belong to other versions."""
    if dictionaries is not None and not Path(dictionaries).is_dir():
        raise ValueError(f"dictionaries={str(dictionaries)!r} is not a folder; give the one with {TOKENS}*.pkl.")
    path, tokens = _token_dictionary(folder, vocab_size, dictionaries)
    special = {name: int(value) for name, value in tokens.items() if name.startswith("<")}
    genes = {name: value for name, value in tokens.items() if not name.startswith("<")}
    check_ids(path, tokens)
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
    sizes: dict[str, int] = {}
    for place in dictionary_folders(folder, dictionaries):
        fitting: dict[Path, dict[str, Any]] = {}
        for path in _named(place, TOKENS):
            found = read_dictionary(path)
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


def _named(place: Path, stem: str) -> list[Path]:
    """Files ``<stem>*`` of a folder, JSON copies first."""
    found = [path for path in place.glob(f"{stem}*") if path.suffix in _SUFFIXES]
    return sorted(found, key=lambda path: (_SUFFIXES.index(path.suffix), path.name))


def _beside(tokens: Path, stem: str, required: bool = True) -> tuple[Path, dict[str, Any]]:
    """The dictionary of another kind that lies beside the tokens and has the same version in its name."""
    version = tokens.stem.removeprefix(TOKENS)
    for suffix in (tokens.suffix, *_SUFFIXES):
        path = tokens.with_name(f"{stem}{version}{suffix}")
        if path.exists():
            return path, read_dictionary(path)
    if required:
        raise ValueError(f"{tokens.parent}: holds {tokens.name} but no {stem}{version}.pkl or .json; add it.")
    return tokens, {}


def _vocabulary(genes: list[str], tokens: Path) -> GeneVocabulary:
    """Ensembl ids in the order of their tokens, with the symbols and former ids that lie beside them."""
    names: dict[str, list[str]] = {gene: [] for gene in genes}
    for stem in (SYMBOLS, MAPPING):
        for name, gene in _beside(tokens, stem, required=False)[1].items():
            if gene in names and name not in names and name not in names[gene] and "|" not in name:
                names[gene].append(name)
    symbols = tuple(names[gene][0] if names[gene] else gene for gene in genes)
    aliases = tuple("|".join(names[gene][1:]) for gene in genes)
    return GeneVocabulary(symbols, tuple(genes), human_alias=aliases, ignore_case=False, keep_repeats=True)
