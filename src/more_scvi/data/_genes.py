"""Which gene of a vocabulary is each of the user's genes? Symbols or Ensembl ids, human or mouse."""

import gzip
import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import pandas as pd

from more_scvi._files import unzip_text

SPECIES = ("human", "mouse")
COLUMNS = ("human_symbol", "human_ensembl", "mouse_symbol", "mouse_ensembl", "human_alias", "mouse_alias")
_ENSEMBL = re.compile(r"^ENS[A-Z]*G\d{11}")
_RENAMED = (
    (r"^(GRCh3\d|hg\d+|GRCm3\d|mm\d+)_+", "", "carry the name of the genome"),
    (r"\.\d+$", "", "carry a version"),
)
_GENOME = re.compile(_RENAMED[0][0])
_VERSIONED = re.compile(r"^(ENS[A-Z]*G\d{11})\.\d+$")


@dataclass(frozen=True)
class GeneVocabulary:
    """The genes a backbone knows, each with its human and mouse names.

    Parameters
    ----------
    human_symbol, human_ensembl, mouse_symbol, mouse_ensembl
        One entry per gene, in the order of the backbone's tables; ``""`` where a species has no one-to-one orthologue.
    human_alias, mouse_alias
        Former symbols of the gene, joined by ``|``; ``""`` if there are none.
    ignore_case
        Whether a symbol also matches without regard to case.
    keep_repeats
        Whether several names of one gene all match it, for a backbone that sums them; otherwise the first does.

    Examples
    --------
    >>> vocabulary = GeneVocabulary(("CD3E",), ("ENSG00000198851",), ("Cd3e",), ("ENSMUSG00000032093",))
    >>> match_genes(["Cd3e", "Actb"], vocabulary).vocab_index
    array([ 0, -1])
    """

    human_symbol: tuple[str, ...]
    human_ensembl: tuple[str, ...]
    mouse_symbol: tuple[str, ...] = ()
    mouse_ensembl: tuple[str, ...] = ()
    human_alias: tuple[str, ...] = ()
    mouse_alias: tuple[str, ...] = ()
    ignore_case: bool = field(default=True, kw_only=True)
    keep_repeats: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        n = len(self.human_symbol)
        for column in COLUMNS:
            values = tuple(getattr(self, column)) or ("",) * n
            if len(values) != n:
                raise ValueError(f"GeneVocabulary: {column} has {len(values)} entries, human_symbol has {n}.")
            object.__setattr__(self, column, values)  # the class is frozen

    def __len__(self) -> int:
        return len(self.human_symbol)

    @cached_property
    def _tables(self) -> dict[tuple[str, str], dict[str, int]]:
        """``(species, id type) -> name -> index``; the first gene wins where a name occurs twice."""
        tables: dict[tuple[str, str], dict[str, int]] = {}
        for species in SPECIES:
            for kind in ("symbol", "ensembl"):
                names = getattr(self, f"{species}_{kind}")
                tables[species, kind] = {n: i for i, n in reversed(list(enumerate(names))) if n}
            current = tables[species, "symbol"]
            alias: dict[str, int] = {}
            for i, joined in enumerate(getattr(self, f"{species}_alias")):
                for name in filter(None, joined.split("|")):
                    if name not in current:  # a former symbol may be another gene's present one
                        alias.setdefault(name, i)
            tables[species, "alias"] = alias
            folded: dict[str, int] = {}
            for table in (current, alias) if self.ignore_case else ():
                for name, i in table.items():
                    folded.setdefault(name.casefold(), i)
            tables[species, "folded"] = folded
            tables[species, "dotted"] = {
                dotted: i for name, i in current.items() if (dotted := name.replace("-", ".")) not in current
            }
        return tables

    def digest(self) -> str:
        """SHA-256 over all names in order."""
        return hashlib.sha256(self._to_text().encode()).hexdigest()

    def _to_text(self) -> str:
        rows = zip(*(getattr(self, c) for c in COLUMNS), strict=True)
        return "\n".join("\t".join(r) for r in [COLUMNS, *rows]) + "\n"

    def to_bytes(self) -> bytes:
        """The vocabulary as a gzipped tab-separated table (the same bytes for the same genes)."""
        return gzip.compress(self._to_text().encode(), mtime=0)

    @classmethod
    def from_bytes(cls, content: bytes, path: str | Path) -> Self:
        """Read what :meth:`to_bytes` gives; ``path`` is named in errors."""
        try:
            # not strip(): a line may end in the tabs of empty columns
            rows = [line.split("\t") for line in unzip_text(content, path).removesuffix("\n").split("\n")]
        except ValueError as error:
            raise ValueError(f"{path}: not a readable gene table ({error}). Restore the file.") from None
        if tuple(rows[0]) != COLUMNS or any(len(r) != len(COLUMNS) for r in rows):
            raise ValueError(f"{path}: expected the tab-separated columns {', '.join(COLUMNS)}. Restore the file.")
        return cls(*(tuple(r[k] for r in rows[1:]) for k in range(len(COLUMNS))))


@dataclass(frozen=True, eq=False)
class GeneMatch:
    """Result of :func:`match_genes`.

    Attributes
    ----------
    vocab_index
        ``(n_names,)`` int64, position in the vocabulary, -1 where the name is unknown or repeats a gene (unless the
        vocabulary keeps repeats).
    id_type
        ``"symbol"``, ``"ensembl"``, ``"mixed"`` or ``"none"``: what the matched names are.
    species
        ``"human"``, ``"mouse"`` or ``"unknown"``.
    """

    vocab_index: np.ndarray
    id_type: Literal["symbol", "ensembl", "mixed", "none"]
    species: Literal["human", "mouse", "unknown"]

    @property
    def n_matched(self) -> int:
        """Number of names with a gene in the vocabulary."""
        return int((self.vocab_index >= 0).sum())

    @property
    def overlap(self) -> float:
        """Share of the names that have a gene in the vocabulary (0 for no names)."""
        return self.n_matched / max(len(self.vocab_index), 1)


def match_genes(names: Sequence[str], vocabulary: GeneVocabulary, *, spellings: bool = False) -> GeneMatch:
    """Match gene names to a vocabulary.

    All names are read as one species: the one with more exact hits (human on a tie). Per name, the first of these
    that hits counts: the exact symbol, the exact Ensembl id (its version suffix dropped), a former symbol,
    and the symbol without regard to case. If several names mean the same gene, the earlier of these rules wins and,
    within a rule, the first name; the others are unknown (``var_names_make_unique`` keeps the first name, too). A
    vocabulary may leave out the last rule (``ignore_case``), or let all names of a gene count (``keep_repeats``).

    Parameters
    ----------
    names
        Gene symbols or Ensembl gene ids, human or mouse; may be mixed.
    vocabulary
        The genes to match against.
    spellings
        Whether the name of a genome before a name is dropped (``GRCh38_CD3E``), and last ``HLA.DRA``, as R writes it,
        is ``HLA-DRA``.

    Examples
    --------
    >>> match = match_genes(adata.var_names, backbone.vocabulary)  # doctest: +SKIP
    >>> match.species, round(match.overlap, 2)  # doctest: +SKIP
    ('human', 0.63)
    """
    if isinstance(names, str):
        raise TypeError(f"match_genes: names must be a sequence of gene names, not the single string {names!r}.")
    cleaned = clean_names(names, genome=spellings)
    tables = vocabulary._tables

    def n_exact(species: str) -> int:
        symbol, ensembl = tables[species, "symbol"], tables[species, "ensembl"]
        return sum(n in symbol or n in ensembl for n in cleaned)

    species = max(SPECIES, key=n_exact)  # max keeps the first on a tie: human
    index = np.full(len(cleaned), -1, dtype=np.int64)
    taken: set[int] = set()
    hits = dict.fromkeys(("symbol", "ensembl", "alias", "folded", *(("dotted",) if spellings else ())), 0)
    for rule in hits:
        table = tables[species, rule]
        for position, name in enumerate(cleaned):
            gene = table.get(name.casefold() if rule == "folded" else name, -1)
            if gene >= 0 and index[position] < 0 and (vocabulary.keep_repeats or gene not in taken):
                index[position] = gene
                taken.add(gene)
                hits[rule] += 1
    n_symbol, n_ensembl = sum(hits.values()) - hits["ensembl"], hits["ensembl"]
    if not taken:
        return GeneMatch(index, "none", "unknown")
    id_type: Literal["symbol", "ensembl", "mixed"] = (
        "symbol" if not n_ensembl else "ensembl" if not n_symbol else "mixed"
    )
    return GeneMatch(index, id_type, "human" if species == "human" else "mouse")  # Literals; `species` is any str


def clean_names(names: Iterable[str], genome: bool = True) -> list[str]:
    """Names without spaces around them, the version of an Ensembl id and the name of a ``genome`` before them."""
    bare = (str(name).strip() for name in names)
    return [_VERSIONED.sub(r"\1", _GENOME.sub("", name) if genome else name) for name in bare]


def find_genes(
    names: Sequence[str],
    column: Sequence[str] | None,
    features: Sequence[str],
    genes: Sequence[str],
    vocabulary: GeneVocabulary | None,
) -> tuple[np.ndarray, dict[str, int]]:
    """Where other data hold the genes of a model, under whatever names.

    Each gene has one column: that of its own name, or the first that means it. Columns and genes that have found each
    other take no part in what follows: the column of names, the gene table, other spellings of one name.

    Parameters
    ----------
    names
        Names of the columns of the data.
    column
        What they are called in the column of ``var`` that the model reads, None where there is none.
    features, genes
        Names of the model's features, and what these are called in that column.
    vocabulary
        The gene table; None: names are compared as they are written.

    Returns
    -------
    Position of each feature among the names, int64, -1 = not found; and how many were found by which other name.

    Examples
    --------
    >>> table = GeneVocabulary(("CD3E",), ("ENSG00000198851",))
    >>> find_genes(["ENSG00000198851.7"], None, ["CD3E", "CD4"], ["CD3E", "CD4"], table)
    (array([ 0, -1]), {'Ensembl id': 1})
    """
    at, said = pd.Index(names).get_indexer(pd.Index(features)).astype(np.int64), dict[str, int]()
    if (at >= 0).all():
        return at, said
    free = np.ones(len(names), dtype=bool)
    free[at[at >= 0]] = False

    def take(ours: np.ndarray, theirs: np.ndarray, why: Callable[[int, int], str]) -> None:
        """Join keys of features (-1: none) with those of columns."""
        first: dict[Any, int] = {}
        for position in np.flatnonzero(free & (theirs != -1)).tolist():
            first.setdefault(theirs[position], position)
        for feature in np.flatnonzero((at < 0) & (ours != -1)).tolist():
            position = first.pop(ours[feature], -1)
            if position >= 0:
                at[feature], free[position] = position, False
                reason = why(feature, position)
                said[reason] = said.get(reason, 0) + 1

    given = [list(names)] if column is None else [list(column), list(names)]
    if vocabulary is not None:
        own = match_genes(genes, vocabulary, spellings=True)
        for some in given:
            other = match_genes(some, vocabulary, spellings=True)

            def why(feature: int, position: int, some: list[str] = some, other: GeneMatch = other) -> str:
                ids = [_ENSEMBL.match(clean_names([name])[0]) is not None for name in (genes[feature], some[position])]
                if ids[0] != ids[1]:
                    return "Ensembl id" if ids[1] else "symbol"
                return "another symbol" if own.species == other.species else f"{other.species} orthologue"

            take(own.vocab_index, other.vocab_index, why)
    for ours in (features, genes):
        known = GeneVocabulary(tuple(clean_names(ours)), ("",) * len(ours), ignore_case=False)
        for some in given:
            take(
                np.arange(len(ours)),
                match_genes(some, known, spellings=True).vocab_index,
                lambda *_: "another spelling",
            )
    return at, said


def naming_hint(given: Sequence[str], wanted: Sequence[str]) -> str:
    """Why names of genes differ from those that are wanted and how to rename them; empty if that is not the cause."""
    names, known = [str(name) for name in given], {str(name) for name in wanted}
    here = sum(name in known for name in set(names))
    ids = [sum(_ENSEMBL.match(name) is not None for name in some) > len(some) / 2 for some in (names, known)]
    if ids[0] != ids[1]:
        kinds = ("Ensembl ids", "gene symbols")
        yours, others = kinds if ids[0] else kinds[::-1]
        return (
            f" Yours are {yours}, {others} are wanted: adata.var_names = adata.var[column], with the column that holds"
            " them."
        )
    for pattern, new, words in _RENAMED:
        if sum(re.sub(pattern, new, name) in known for name in set(names)) > here:  # only if it helps
            step = f"adata.var_names = adata.var_names.str.replace({pattern!r}, {new!r}, regex=True)"
            return f" Yours {words}: {step}."
    dotted = {re.sub(r"[^A-Za-z0-9]", ".", name) for name in known} - known  # some names do have dots
    if any(name in dotted for name in names):
        return " Yours were changed by R, which writes '.' for '-' ('HLA.DRA' is 'HLA-DRA'): export the original names."
    upper = {name.upper() for name in known}
    if sum(name.upper() in upper for name in set(names)) > here:
        return " Yours differ by upper and lower case, as those of human and mouse do."
    return ""
