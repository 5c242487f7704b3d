"""Gene activity: which peaks count for which genes.

A peak counts for a gene if it overlaps the gene's body or the region upstream of its start, as in
``Signac::GeneActivity`` (2,000 bases upstream, gene body).
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp

from more_scvi.data._arguments import check_integer, listing

PEAK = re.compile(r"^\s*(?P<chrom>.+?)[:_-](?P<start>\d[\d,]*)[-_](?P<end>\d[\d,]*)\s*$")
SEPARATORS = re.compile(r"[,;]")
NO_GENE = frozenset({"", "nan", "none", "na", ".", "<na>"})
PEAK_COLUMNS = ("chrom", "start", "end")
GENE_COLUMNS = ("symbol", "chrom", "start", "end", "strand")


def peak_to_gene(
    peaks: pd.DataFrame | Sequence[str],
    annotation: pd.DataFrame | str | os.PathLike,
    upstream: int = 2000,
    downstream: int = 0,
    body: bool = True,
    one_based: bool = False,
) -> tuple[sp.csr_matrix, np.ndarray]:
    """Peaks that count for each gene, by position.

    Parameters
    ----------
    peaks
        Names such as ``chr1:100-200``, ``chr1-100-200`` or ``chr1_100_200``, or a table with the columns ``chrom``,
        ``start`` and ``end``; a table without them is read by the names in its index.
    annotation
        Genes: a table, or the path of a tab-separated file (``.gz`` or not, lines that start with ``#`` are comments),
        with the columns ``symbol``, ``chrom``, ``start``, ``end`` (1-based, both ends included, as in GTF) and
        ``strand`` (``+`` or ``-``, 1 or -1). The genome build must be that of the peaks.
    upstream
        Bases before the start of a gene that count as well; on the strand ``-`` they lie behind ``end``.
    downstream
        Bases behind the end of a gene that count as well; without the body, bases behind its start.
    body
        Whether the whole body of a gene counts, or only the surroundings of its start.
    one_based
        Whether positions of peaks are 1-based with both ends included, as in GTF and ``GRanges``; otherwise 0-based
        and half-open as in BED files and Cell Ranger.

    Returns
    -------
    matrix
        csr (peaks, genes), float32: 1 where the peak counts for the gene. Peaks may count for several genes or none.
    genes
        (genes,) symbols of the genes that have a peak, in the order of the annotation. Positions that share a symbol
        are one gene. Genes without any peak are left out: nothing is known of them.

    Raises
    ------
    KeyError, TypeError, ValueError
        If columns are missing, positions cannot be read, chromosomes are named differently or no peak counts for any
        gene.

    Examples
    --------
    >>> genes = pd.DataFrame({"symbol": ["A"], "chrom": ["1"], "start": [5000], "end": [6000], "strand": ["+"]})
    >>> matrix, names = peak_to_gene(["chr1:3500-3600", "chr1:6500-6600"], genes)
    >>> matrix.toarray().ravel().tolist(), names.tolist()
    ([1.0, 0.0], ['A'])
    """
    upstream, downstream = check_integer("upstream", upstream, 0), check_integer("downstream", downstream, 0)
    if not body and upstream + downstream == 0:
        raise ValueError("peak_to_gene: body=False, upstream=0 and downstream=0 leave no bases. Raise one of them.")
    peak_chrom, peak_start, peak_end = _read_peaks(peaks, one_based)
    table = _read_annotation(annotation)
    gene_chrom = table["chrom"].to_numpy()
    shared = np.intersect1d(peak_chrom, gene_chrom)
    if not shared.size:
        raise ValueError(
            "peak_to_gene: peaks and annotation have no chromosome in common. "
            f"Peaks: {listing(sorted(set(peak_chrom)), 5)}; annotation: {listing(sorted(set(gene_chrom)), 5)} "
            "(a prefix 'chr' does not count). Give the annotation of the same species and naming."
        )
    gene_start, gene_end = _regions(table, upstream, downstream, body)
    peak_index, gene_index = [], []
    for chrom in shared:
        p, g = np.flatnonzero(peak_chrom == chrom), np.flatnonzero(gene_chrom == chrom)
        i, j = _overlaps(peak_start[p], peak_end[p], gene_start[g], gene_end[g])
        peak_index.append(p[i])
        gene_index.append(g[j])
    rows, columns = np.concatenate(peak_index), np.concatenate(gene_index)
    if not rows.size:
        raise ValueError(
            f"peak_to_gene: none of {len(peak_chrom)} peaks overlaps any of {len(table)} genes. "
            "Are both of the same genome build (hg19, hg38, mm10, mm39)?"
        )
    codes, symbols = pd.factorize(table["symbol"])
    return _matrix(rows, codes[columns], len(peak_chrom), np.asarray(symbols, dtype=object))


def genes_of_peaks(names: Sequence, features: str = "peaks") -> tuple[sp.csr_matrix, np.ndarray]:
    """Peaks that count for each gene, by the names given per peak.

    Parameters
    ----------
    names
        (peaks,): gene symbols, several separated by ``,`` or ``;``; missing values and ``""`` are peaks without a gene.
    features
        Word for what is not peaks, for messages.

    Returns
    -------
    As :func:`peak_to_gene`; genes in alphabetical order.

    Examples
    --------
    >>> matrix, genes = genes_of_peaks(["A", "A;B", ""])
    >>> matrix.toarray().tolist(), genes.tolist()
    ([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]], ['A', 'B'])
    """
    if isinstance(names, str):
        raise TypeError(f"genes_of_peaks: names must be one entry per peak, not the single string {names!r}.")
    series = pd.Series(list(names), dtype=object)
    parts = series.where(series.notna(), "").astype(str).str.split(SEPARATORS, regex=True).explode().str.strip()
    parts = parts[~parts.str.lower().isin(NO_GENE)]
    if parts.empty:
        raise ValueError(
            f"genes_of_peaks: none of {len(series)} {features} has a gene name. Give the column of var that holds gene "
            "symbols, or positions to peak_to_gene()."
        )
    codes, genes = pd.factorize(parts, sort=True)
    return _matrix(parts.index.to_numpy(), codes, len(series), np.asarray(genes, dtype=object))


def check_peak_genes(
    matrix: sp.spmatrix | np.ndarray, genes: Sequence[str], n_peaks: int, features: str = "peaks"
) -> sp.csr_matrix:
    """A peaks × genes matrix given by the user, as csr float32.

    Raises
    ------
    TypeError, ValueError
        If it is no matrix, its shape is not (``n_peaks``, number of genes), weights are negative or not finite, or all
        are zero.
    """
    if not sp.issparse(matrix) and not isinstance(matrix, np.ndarray):
        raise TypeError(f"{features} × genes matrix is a {type(matrix).__name__}; give a sparse matrix or an array.")
    if matrix.shape != (n_peaks, len(genes)):
        hint = " It seems to be transposed." if matrix.shape == (len(genes), n_peaks) else ""
        raise ValueError(
            f"{features} × genes matrix has shape {matrix.shape}; expected ({n_peaks}, {len(genes)}): one row per"
            f" feature of the data, one column per gene name.{hint}"
        )
    out = sp.csr_matrix(matrix, dtype=np.float32)
    if not np.isfinite(out.data).all() or (out.data < 0).any():
        raise ValueError(f"{features} × genes matrix holds negative or non-finite weights; weights must be 0 or more.")
    if not out.data.any():
        raise ValueError(f"{features} × genes matrix is all zero: none of them counts for any gene.")
    return out


def _matrix(rows: np.ndarray, columns: np.ndarray, n_peaks: int, genes: np.ndarray) -> tuple[sp.csr_matrix, np.ndarray]:
    """0/1 matrix without the genes that have no peak."""
    out = sp.csr_matrix((np.ones(len(rows), np.float32), (rows, columns)), shape=(n_peaks, len(genes)))
    out.data[:] = 1.0  # a peak that hits two positions of one symbol counts once
    hit = np.flatnonzero(np.bincount(columns, minlength=len(genes)))
    out = out[:, hit]
    out.sort_indices()
    return out, genes[hit]


def _read_peaks(peaks: pd.DataFrame | Sequence[str], one_based: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Chromosomes without prefix, starts and ends (0-based, half-open); an unreadable name is on no chromosome."""
    if isinstance(peaks, str):
        raise TypeError(f"peak_to_gene: peaks must be a table or a sequence of names, not the single string {peaks!r}.")
    if isinstance(peaks, pd.DataFrame) and any(c in peaks.columns for c in PEAK_COLUMNS):
        _need_columns(peaks, PEAK_COLUMNS, "peaks")
        table, what, named = peaks.loc[:, list(PEAK_COLUMNS)], "row", peaks.index
    else:
        what, named = "name", peaks.index if isinstance(peaks, pd.DataFrame) else peaks
        names = pd.Series(list(named), dtype=str)
        table = names.str.extract(PEAK).reindex(columns=list(PEAK_COLUMNS))
        for column in ("start", "end"):
            table[column] = table[column].str.replace(",", "")  # genome browsers write 1,000,000
    start = pd.to_numeric(table["start"], errors="coerce").to_numpy(float)
    end = pd.to_numeric(table["end"], errors="coerce").to_numpy(float)
    readable = table["chrom"].notna().to_numpy() & np.isfinite(start) & np.isfinite(end)
    if not readable.any():
        example = listing(map(str, list(named)[:3]))
        raise ValueError(
            f"peak_to_gene: no {what} of {len(table)} peaks could be read as a position (first: {example}). "
            "Expected names such as 'chr1:100-200', 'chr1-100-200' or 'chr1_100_200', or a table with the columns "
            f"{', '.join(PEAK_COLUMNS)}."
        )
    chrom = _bare(table["chrom"].where(readable, "")).to_numpy(object)
    chrom[~readable] = " unreadable"
    start, end = np.where(readable, start, 0).astype(np.int64), np.where(readable, end, 0).astype(np.int64)
    return chrom.astype(str), start - 1 if one_based else start, end


def _read_annotation(annotation: pd.DataFrame | str | os.PathLike) -> pd.DataFrame:
    """Genes with symbol and position; chromosomes without prefix, strand as boolean ``forward``."""
    where = "annotation"
    if isinstance(annotation, str | os.PathLike):
        path = Path(annotation)
        if not path.is_file():
            raise FileNotFoundError(f"peak_to_gene: {path}: no such file. Give a table or the path of a .tsv(.gz).")
        where = str(path)
        annotation = pd.read_csv(path, sep="\t", comment="#", dtype={"chrom": str}, keep_default_na=False)
    if not isinstance(annotation, pd.DataFrame):
        raise TypeError(f"peak_to_gene: annotation is a {type(annotation).__name__}; give a DataFrame or a path.")
    _need_columns(annotation, GENE_COLUMNS, where)
    table = annotation.loc[:, list(GENE_COLUMNS)]
    strand = table["strand"].astype(str).str.strip()
    forward, backward = strand.isin(["+", "1", "1.0", "+1"]), strand.isin(["-", "-1", "-1.0"])
    bad = ~(forward | backward)
    if bad.any():
        raise ValueError(
            f"peak_to_gene: {where}: strand of {bad.sum()} genes is none of '+', '-', 1, -1 "
            f"(first: {strand[bad].iloc[0]!r}). Correct or drop these genes."
        )
    positions = table[["start", "end"]].apply(pd.to_numeric, errors="coerce")
    if positions.isna().any(axis=None):
        first = table["symbol"][positions.isna().any(axis=1)].iloc[0]
        raise ValueError(f"peak_to_gene: {where}: start or end is no number (first: gene {first!r}). Drop these genes.")
    symbol = table["symbol"].where(table["symbol"].notna(), "").astype(str).str.strip()
    out = pd.DataFrame(
        {"symbol": symbol, "chrom": _bare(table["chrom"]), **positions.astype(np.int64), "forward": forward}
    )
    return out[~symbol.str.lower().isin(NO_GENE)].reset_index(drop=True)


def _need_columns(table: pd.DataFrame, columns: Sequence[str], where: str) -> None:
    missing = [c for c in columns if c not in table.columns]
    if missing:
        raise KeyError(
            f"peak_to_gene: {where} lacks the columns {', '.join(missing)}; it has {listing(list(table.columns), 10)}. "
            "Rename or add them."
        )


def _bare(chrom: pd.Series) -> pd.Series:
    """Chromosome names as compared: no prefix ``chr``, the mitochondrion always ``M``."""
    bare = chrom.astype(str).str.strip().str.replace(r"^chr", "", case=False, regex=True)
    return bare.replace({"MT": "M", "Mt": "M"})  # Ensembl's name; UCSC writes chrM


def _regions(table: pd.DataFrame, upstream: int, downstream: int, body: bool) -> tuple[np.ndarray, np.ndarray]:
    """Start and end (0-based, half-open) of the bases that count for each gene."""
    start, end = table["start"].to_numpy() - 1, table["end"].to_numpy()
    forward = table["forward"].to_numpy()
    if not body:
        start, end = np.where(forward, start, end - 1), np.where(forward, start + 1, end)
    before, behind = np.where(forward, upstream, downstream), np.where(forward, downstream, upstream)
    return start - before, end + behind


def _overlaps(
    peak_start: np.ndarray, peak_end: np.ndarray, gene_start: np.ndarray, gene_end: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (peak, gene) of one chromosome that share a base.

    Of each such pair, either the peak starts within the gene or the gene starts within the peak, so that two sorted
    searches list them all and none twice.
    """
    i, j = _starts_within(peak_start, gene_start, gene_end)
    k, l = _starts_within(gene_start, peak_start, peak_end, strictly=True)  # equal starts are in the first list
    i, j = np.r_[i, l], np.r_[j, k]
    real = (peak_end[i] > peak_start[i]) & (gene_end[j] > gene_start[j])  # what has no length shares no base
    return i[real], j[real]


def _starts_within(
    position: np.ndarray, start: np.ndarray, end: np.ndarray, strictly: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (position, interval) with start <= position < end (start < position if ``strictly``)."""
    order = np.argsort(position, kind="stable")
    first = np.searchsorted(position[order], start, side="right" if strictly else "left")
    last = np.maximum(np.searchsorted(position[order], end, side="left"), first)  # of no length: fewer than none
    n = last - first
    offset = np.arange(n.sum()) - np.repeat(np.cumsum(n) - n, n)  # counts from 0 within each run
    return order[np.repeat(first, n) + offset], np.repeat(np.arange(len(start)), n)
