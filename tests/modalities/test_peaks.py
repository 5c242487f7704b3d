"""Peaks to genes: every overlap found once, whatever the naming; what cannot be read is refused in words."""

import gzip

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from more_scvi.modalities._peaks import check_peak_genes, genes_of_peaks, peak_to_gene

GENES = pd.DataFrame(
    {
        "symbol": ["Fwd", "Bwd", "Far", "Twice", "Twice"],
        "chrom": ["chr1", "chr1", "chr2", "chrX", "chrX"],
        "start": [5001, 20001, 101, 1001, 9001],
        "end": [6000, 21000, 200, 2000, 9500],
        "strand": ["+", "-", "+", "+", "+"],
    }
)


def pairs(peaks, annotation=GENES, **rules):
    matrix, genes = peak_to_gene(peaks, annotation, **rules)
    coo = matrix.tocoo()
    return sorted(zip(coo.row.tolist(), genes[coo.col].tolist(), strict=True))


@pytest.mark.parametrize(
    ("peak", "gene"),
    [
        ("chr1:5999-6100", "Fwd"),  # base 6000 is the last of the gene
        ("chr1:6000-6100", None),
        ("chr1:2900-3001", "Fwd"),  # upstream of +
        ("chr1:2900-3000", None),
        ("chr1:22999-23100", "Bwd"),  # upstream of - lies behind it
        ("chr1:23000-23100", None),
        ("chr1:19900-20000", None),
        ("chr1:4000-9000", "Fwd"),  # holds the gene
        ("chr1:5100-5200", "Fwd"),  # within the gene
        ("chr1:5000-5000", None),  # empty
        ("chr2:150-160", "Far"),
        ("chr3:150-160", None),
    ],
)
def test_edges_of_a_gene(peak, gene):
    anchor = "chr2:120-130"  # so that there is always a hit
    found = [g for i, g in pairs([peak, anchor]) if i == 0]
    assert found == ([gene] if gene else [])


def test_one_based_peaks_end_where_zero_based_ones_would():
    assert pairs(["chr1:6000-6100"], one_based=True) == [(0, "Fwd")]
    assert pairs(["chr2:50-100", "chr2:101-101"], upstream=0, one_based=True) == [(1, "Far")]


def test_downstream_and_promoter_only():
    peaks = ["chr1:6100-6200", "chr1:5500-5600", "chr1:4900-4950", "chr1:19900-19950"]
    assert pairs(peaks, downstream=300, upstream=0) == [(0, "Fwd"), (1, "Fwd"), (3, "Bwd")]
    assert pairs(peaks, body=False) == [(2, "Fwd")]
    assert pairs(peaks, body=False, downstream=700) == [(1, "Fwd"), (2, "Fwd")]


@pytest.mark.parametrize(
    "name", ["chr1:5100-5200", "chr1-5100-5200", "chr1_5100_5200", "1:5,100-5,200", "CHR1:5100-5200"]
)
def test_ways_to_name_a_peak(name):
    assert pairs([name]) == [(0, "Fwd")]


def test_tables_files_and_prefixes_give_the_same(tmp_path):
    names = ["chr1:5100-5200", "chrX:1500-1600", "GL000_1.2:5-9", "gene"]
    table = pd.DataFrame({"chrom": ["1", "X", "GL", "9"], "start": [5100, 1500, 5, 9], "end": [5200, 1600, 9, 10]})
    text = "# build\n" + GENES.assign(chrom=GENES["chrom"].str[3:]).to_csv(sep="\t", index=False)
    (tmp_path / "genes.tsv").write_text(text)
    with gzip.open(tmp_path / "genes.tsv.gz", "wt") as handle:
        handle.write(text)
    expected = [(0, "Fwd"), (1, "Twice")]
    for annotation in (GENES, tmp_path / "genes.tsv", str(tmp_path / "genes.tsv.gz")):
        assert pairs(names, annotation) == pairs(pd.DataFrame(index=names), annotation) == expected
        assert pairs(table, annotation) == expected


def test_positions_that_share_a_symbol_are_one_gene_and_genes_without_peaks_are_left_out():
    matrix, genes = peak_to_gene(["chrX:1500-9100", "chr2:150-160"], GENES)
    assert genes.tolist() == ["Far", "Twice"]
    assert matrix.toarray().tolist() == [[0, 1], [1, 0]]


def test_all_overlaps_are_found():
    rng = np.random.default_rng(0)
    peaks = pd.DataFrame({"chrom": rng.choice(["chr1", "chr2"], 400), "start": rng.integers(1, 50_000, 400)})
    peaks["end"] = peaks["start"] + rng.integers(1, 3000, 400)
    genes = pd.DataFrame({"chrom": rng.choice(["chr1", "chr2"], 90), "start": rng.integers(3000, 50_000, 90)})
    genes["end"] = genes["start"] + rng.integers(0, 8000, 90)
    genes["strand"], genes["symbol"] = rng.choice(["+", "-"], 90), [f"g{i}" for i in range(90)]
    expected = []
    for i, p in enumerate(peaks.itertuples()):
        for g in genes.itertuples():
            start, end = g.start - 1 - 700 * (g.strand == "+"), g.end + 700 * (g.strand == "-")
            if p.chrom == g.chrom and p.start < end and start < p.end:
                expected.append((i, g.symbol))
    assert pairs(peaks, genes, upstream=700) == sorted(expected)


def test_names_per_peak():
    matrix, genes = genes_of_peaks(pd.Series(["B", "A, B;C", None, "", "nan", "B;B"]))
    assert genes.tolist() == ["A", "B", "C"]
    assert matrix.toarray().tolist() == [[0, 1, 0], [1, 1, 1], [0, 0, 0], [0, 0, 0], [0, 0, 0], [0, 1, 0]]


def test_a_matrix_of_the_user_is_checked():
    given = np.array([[0.5, 0], [0, 2], [0, 0]])
    assert np.array_equal(check_peak_genes(given, ["A", "B"], 3).toarray(), given)
    assert np.array_equal(check_peak_genes(sp.coo_matrix(given), ["A", "B"], 3).toarray(), given)
    for matrix, error, words in [
        (given.tolist(), TypeError, "list"),
        (given.T, ValueError, r"\(2, 3\); expected \(3, 2\).*transposed"),
        (given[:2], ValueError, r"expected \(3, 2\)"),
        (-given, ValueError, "negative"),
        (given * np.nan, ValueError, "non-finite"),
        (given * 0, ValueError, "all zero"),
    ]:
        with pytest.raises(error, match=words):
            check_peak_genes(matrix, ["A", "B"], 3)


PEAKS = ["chr1:5100-5200"]


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((["peak_1", "Fwd"], GENES), ValueError, "no name of 2 peaks.*'chr1:100-200'"),
        (("chr1:5100-5200", GENES), TypeError, "single string"),
        ((pd.DataFrame({"chrom": ["1"], "start": [5]}), GENES), KeyError, "peaks lacks the columns end"),
        ((pd.DataFrame({"chrom": ["1"], "start": ["x"], "end": [5]}), GENES), ValueError, "no row of 1 peaks"),
        ((["NC_000001.11:5100-5200"], GENES), ValueError, "no chromosome in common"),
        ((PEAKS, GENES.drop(columns="strand")), KeyError, "lacks the columns strand"),
        ((PEAKS, GENES.assign(strand="?")), ValueError, "strand of 5 genes"),
        ((PEAKS, GENES.assign(end="x")), ValueError, "gene 'Fwd'"),
        ((PEAKS, "nowhere.tsv"), FileNotFoundError, "nowhere.tsv"),
        ((PEAKS, 5), TypeError, "int"),
        ((["chr1:900000-900100"], GENES), ValueError, "none of 1 peaks overlaps any of 5 genes.*build"),
        ((PEAKS, GENES, -1), ValueError, "upstream=-1"),
        ((PEAKS, GENES, 2000, 0.5), TypeError, "downstream=0.5"),
        ((PEAKS, GENES, 0, 0, False), ValueError, "body=False"),
    ],
)
def test_what_is_refused(arguments, error, words):
    with pytest.raises(error, match=words):
        peak_to_gene(*arguments)


@pytest.mark.parametrize(("names", "error"), [("Fwd", TypeError), (["", None], ValueError)])
def test_names_that_are_refused(names, error):
    with pytest.raises(error, match="genes_of_peaks"):
        genes_of_peaks(names)


def test_positions_agree_with_the_genes_that_came_with_the_data(real_data):
    data, annotation = real_data("bench/snareseq.h5mu"), real_data("annotation/mouse_genes.tsv.gz")
    import h5py
    from anndata.io import read_elem

    with h5py.File(data) as file:
        var = read_elem(file["mod/atac/var"])
    by_position = set(pairs(list(var.index), annotation))
    matrix, genes = genes_of_peaks(var["gene"])
    given = matrix.tocoo()
    hits = [(int(i), genes[j]) in by_position for i, j in zip(given.row, given.col, strict=True)]
    assert np.mean(hits) > 0.95
