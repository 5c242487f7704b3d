"""Names of genes: symbols, Ensembl ids, human, mouse."""

import gzip

import numpy as np
import pytest

from more_scvi.data import GeneVocabulary, match_genes

VOCABULARY = GeneVocabulary(
    human_symbol=("CD3E", "ACTB", "C1orf43", "PCLAF"),
    human_ensembl=("ENSG00000198851", "ENSG00000075624", "ENSG00000143612", "ENSG00000166803"),
    mouse_symbol=("Cd3e", "Actb", "", "Pclaf"),
    mouse_ensembl=("ENSMUSG00000032093", "ENSMUSG00000029580", "", "ENSMUSG00000040204"),
    human_alias=("", "", "", "KIAA0101|PAF"),
    mouse_alias=("", "", "", "2810417H13Rik"),
)


@pytest.mark.parametrize(
    ("names", "index", "id_type", "species"),
    [
        (["ACTB", "nothing", "CD3E"], [1, -1, 0], "symbol", "human"),
        (["ENSG00000075624.17", "ENSG00000198851"], [1, 0], "ensembl", "human"),
        (["Actb", "Cd3e", "Gm123"], [1, 0, -1], "symbol", "mouse"),
        (["ENSMUSG00000029580.3"], [1], "ensembl", "mouse"),
        (["ACTB", "ENSG00000198851"], [1, 0], "mixed", "human"),
        (["KIAA0101", "ACTB"], [3, 1], "symbol", "human"),
        (["2810417H13Rik", "Actb"], [3, 1], "symbol", "mouse"),
        (["CD3E", "actb", "C1ORF43"], [0, 1, 2], "symbol", "human"),
        (["peak1", "peak2"], [-1, -1], "none", "unknown"),
        ([], [], "none", "unknown"),
    ],
)
def test_names_are_found(names, index, id_type, species):
    match = match_genes(names, VOCABULARY)
    assert match.vocab_index.tolist() == index
    assert match.vocab_index.dtype == np.int64
    assert (match.id_type, match.species) == (id_type, species)
    assert match.n_matched == sum(i >= 0 for i in index)


def test_a_gene_named_twice_counts_once_and_the_exact_name_wins():
    assert match_genes(["actb", "PAF", "ACTB", "PCLAF", "ACTB"], VOCABULARY).vocab_index.tolist() == [-1, -1, 1, 3, -1]


def test_overlap_is_the_share_of_names():
    assert match_genes(["ACTB", "a", "b", "c"], VOCABULARY).overlap == 0.25
    assert match_genes([], VOCABULARY).overlap == 0


def test_one_string_is_refused():
    with pytest.raises(TypeError, match="ACTB"):
        match_genes("ACTB", VOCABULARY)


def test_columns_must_have_one_length():
    with pytest.raises(ValueError, match="mouse_symbol has 2 entries, human_symbol has 1"):
        GeneVocabulary(("A",), ("ENSG1",), ("a", "b"))


def test_file_round_trip():
    again = GeneVocabulary.from_bytes(VOCABULARY.to_bytes(), "genes.tsv.gz")
    assert again == VOCABULARY
    assert again.digest() == VOCABULARY.digest()


@pytest.mark.parametrize("content", [b"no gzip", gzip.compress(b"a\tb\n1\t2\n"), gzip.compress(b"x" * 99)[:-9]])
def test_damaged_file_is_refused(content):
    with pytest.raises(ValueError, match="genes.tsv.gz"):
        GeneVocabulary.from_bytes(content, "genes.tsv.gz")
