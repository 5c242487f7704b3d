"""Antibodies of a protein panel and the genes of their antigens.

The names come from our own table, ``antibodies.tsv``: antibodies of the common CITE-seq panels, with synonyms.
"""

import csv
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal

import numpy as np
import scipy.sparse as sp

from more_scvi.data._arguments import check_option

SPECIES = ("human", "mouse")

_GREEK = str.maketrans({"α": "a", "β": "b", "γ": "g", "δ": "d", "ε": "e", "κ": "k", "λ": "l", "µ": "m", "μ": "m"})
_SPELLED = {"alpha": "a", "beta": "b", "gamma": "g", "delta": "d", "epsilon": "e", "kappa": "k", "lambda": "l"}
_SPECIES_WORD = r"(?:human|mouse|rat|hu|ms|rt)"
_PREFIX = re.compile(
    r"^(?:(?:adt|ab|prot|protein|cite|totalseq[\s._-]?[abcd]?|[abcd]\d{4})[\s._:-]+"
    rf"|anti[\s._-]+(?:{_SPECIES_WORD}(?:[\s._/-]*{_SPECIES_WORD})*[\s._/-]+)?"
    r"|(?:hu|ms|rt|rat)+[.][\s_]*"
    r"|(?:human|mouse)[\s._/-]+)",
    re.IGNORECASE,
)
_SUFFIX = re.compile(
    r"[\s._:-]+(?:adt|prot|protein|antibody|ab|tsa|tsb|tsc|total(?:seq)?[\s._-]?[abcd]?|[abcd]\d{4}|[acgt]{10,})$",
    re.IGNORECASE,
)
_BRACKETS = re.compile(r"^(?P<outer>[^()]*)\((?P<inner>[^()]*)\)?.*$")
_NUMBERED = re.compile(r"[\s._-]+\d{1,2}$")
_CLONE = re.compile(r"^(?P<name>CD[a-z\d]+)[\s._-]+(?!CD\d)(?=[\w.-]*\d)[\w.-]{3,}$", re.IGNORECASE)
_CONTROL = re.compile(
    r"isotype|hash[\s._-]*tag|(?:^|[\s._-])(?:hto\d*|ctrl|control|unmapped)(?:[\s._-]|$)|igg[\s._-]?[1-4]"
    r"|(?:mouse|rat|hamster|goat|ms|rt|ham)[\s._-]*ig[gm]",
    re.IGNORECASE,
)


@dataclass(frozen=True, eq=False)
class AntibodyMatch:
    """Result of :func:`match_antibodies`.

    Attributes
    ----------
    matrix
        csr (antibodies, genes), float32; the weights of an antibody that has genes add up to 1.
    genes
        (genes,) symbols; each is the gene of at least one antibody.
    unmatched
        Names that the table does not hold, or that have no gene in this species (sugars, foreign peptides).
    controls
        Names of isotype controls and hashtags.
    species
        ``"human"`` or ``"mouse"``: whose symbols ``genes`` are.
    """

    matrix: sp.csr_matrix
    genes: np.ndarray
    unmatched: tuple[str, ...]
    controls: tuple[str, ...]
    species: Literal["human", "mouse"]

    @property
    def n_matched(self) -> int:
        """Number of antibodies that have a gene."""
        return int((np.diff(self.matrix.indptr) > 0).sum())


def match_antibodies(
    names: Sequence[str], species: str | None = None, known_genes: Collection[str] | None = None
) -> AntibodyMatch:
    """Genes of the antigens of a panel's antibodies.

    A name is compared without regard to case and punctuation, but a sign between two digits counts (``CD3.1`` is not
    ``CD31``). What panels add is dropped: ``_ADT``, ``_TotalSeqB``, ``ADT_``, ``anti-human``, ``Hu.``, barcodes, the
    number of a clone (``CD4-2``), its name (``CD4_RPA-T4``), and words in brackets (``CD115(CSF-1R)``).
    The table comes first, then gene symbols.

    Parameters
    ----------
    names
        Names of the antibodies, such as ``adata.var_names``.
    species
        ``"human"`` or ``"mouse"``. If None, that of ``known_genes``; human without them.
    known_genes
        Symbols or Ensembl ids of the genes measured beside the proteins. A name that is none of the table but one of
        these symbols maps to that gene.

    Returns
    -------
    AntibodyMatch
        One row per name, in their order; rows of unmatched names and controls are empty.

    Examples
    --------
    >>> match = match_antibodies(["CD3.1_ADT", "CD56", "Isotype_IgG1", "what"])
    >>> match.genes.tolist(), match.controls, match.unmatched
    (['CD3E', 'CD3D', 'CD3G', 'NCAM1'], ('Isotype_IgG1',), ('what',))
    """
    if isinstance(names, str):
        raise TypeError(f"match_antibodies: names must be a sequence of names, not the single string {names!r}.")
    if isinstance(known_genes, str):
        raise TypeError(f"match_antibodies: known_genes must be several symbols, not the string {known_genes!r}.")
    known = [] if known_genes is None else [str(g) for g in known_genes]
    found = _guess_species(known) if species is None else check_option("species", species, SPECIES)
    chosen: Literal["human", "mouse"] = "mouse" if found == "mouse" else "human"
    table = _table()[chosen]
    symbols: dict[str, tuple[str, ...]] = {}
    for gene in known:
        symbols.setdefault(gene.casefold(), (gene,))
    columns: dict[str, int] = {}
    rows, cols, weights = [], [], []
    unmatched, controls = [], []
    for row, name in enumerate(map(str, names)):
        if _CONTROL.search(name):
            controls.append(name)
            continue
        genes = _lookup(name, table, symbols)
        if not genes:
            unmatched.append(name)
        for gene in genes:
            rows.append(row)
            cols.append(columns.setdefault(gene, len(columns)))
            weights.append(1.0 / len(genes))
    matrix = sp.csr_matrix((np.array(weights, np.float32), (rows, cols)), shape=(len(names), len(columns)))
    matrix.sort_indices()
    return AntibodyMatch(matrix, np.array(list(columns), dtype=object), tuple(unmatched), tuple(controls), chosen)


def _guess_species(known: Sequence[str]) -> str:
    """Mouse symbols are capitalised (Cd4), human ones in capitals (CD4); numbers and clone names say nothing."""
    mouse = sum(g.startswith("ENSMUSG") or bool(re.match(r"[A-Z][a-z]{2}|[A-Z][a-z]\d", g)) for g in known)
    human = sum((g.startswith("ENSG") or bool(re.match(r"[A-Z]{2}[A-Z\d]", g))) and g[:7] != "ENSMUSG" for g in known)
    return "mouse" if mouse > human else "human"


def _lookup(name: str, table: dict[str, tuple[str, ...]], symbols: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Genes of the first reading of the name that is known; () if none is, or if the antigen has no gene."""
    for reading in _readings(name):
        key = _key(reading)
        if key in table:
            return table[key]
        if reading.casefold() in symbols:
            return symbols[reading.casefold()]
    return ()


def _readings(name: str) -> Iterator[str]:
    """The name in ever shorter forms: as it is, without additions, without brackets, without the clone."""
    yield name.strip()
    bare = _strip(name)
    yield bare
    forms = [bare]
    brackets = _BRACKETS.match(bare)
    if brackets:
        inner = brackets["inner"]
        forms = [brackets["outer"].strip(" ._-"), inner, *re.split(r"[/,;_]", inner)]
        forms = [f for f in map(_strip, forms) if f]
        yield from forms
    for form in forms:
        shorter = _NUMBERED.sub("", form)
        if shorter != form:
            yield shorter
        clone = _CLONE.match(form)
        if clone:
            yield clone["name"]


def _strip(name: str) -> str:
    """Without prefixes and suffixes that say species, kit or barcode."""
    name = name.strip()
    while True:
        shorter = _SUFFIX.sub("", _PREFIX.sub("", name)).strip()
        if shorter == name or not shorter:
            return name
        name = shorter


def _key(name: str) -> str:
    """Lower case without punctuation, except between digits; Greek letters as one Latin letter."""
    text = name.translate(_GREEK).casefold()
    for word, letter in _SPELLED.items():
        text = text.replace(word, letter)
    text = re.sub(r"[^a-z0-9]+", "-", text).strip("-")
    return re.sub(r"(?<!\d)-|-(?!\d)", "", text)


@cache
def _table() -> dict[str, dict[str, tuple[str, ...]]]:
    """Key → genes, per species: names and synonyms first, then the gene symbols of both species themselves."""
    text = files("more_scvi.modalities").joinpath("antibodies.tsv").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    rows = list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
    out: dict[str, dict[str, tuple[str, ...]]] = {species: {} for species in SPECIES}
    pairs = []
    for row in rows:
        human = _genes(row["genes"])
        mouse = _genes(row["mouse"]) if row["mouse"] else tuple(g.capitalize() for g in human)
        for name in (row["antibody"], *filter(None, row["aliases"].split(";"))):
            out["human"][_key(name)], out["mouse"][_key(name)] = human, mouse
        if len(human) == len(mouse) or not human or not mouse:
            pairs += list(zip(human or [None] * len(mouse), mouse or [None] * len(human), strict=True))
    for human_gene, mouse_gene in pairs:
        for name in filter(None, (human_gene, mouse_gene)):
            out["human"].setdefault(_key(name), (human_gene,) if human_gene else ())
            out["mouse"].setdefault(_key(name), (mouse_gene,) if mouse_gene else ())
    return out


def _genes(text: str) -> tuple[str, ...]:
    return () if text == "-" else tuple(text.split(";"))
