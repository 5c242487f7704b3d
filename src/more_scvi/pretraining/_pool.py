"""The pre-training pool: studies of both species in one gene space, each with its own set of measured genes."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import anndata as ad
import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix, issparse, vstack

from more_scvi._files import check_regular
from more_scvi.data._arguments import check_integer, listing
from more_scvi.data._checks import speak_of
from more_scvi.data._genes import COLUMNS, GeneVocabulary, match_genes
from more_scvi.data._matrix import check_matrix
from more_scvi.data._rows import RowReader

_MIN_STUDIES = 3
TABLES = (("symbol", "ensembl"), ("human_symbol", "mouse_symbol", "mouse_ensembl", "type"))
"""Columns of a table of genes, and of that of the orthologues."""


@dataclass(frozen=True, eq=False)
class Pool:
    """Cells of many studies in the order of one vocabulary.

    Attributes
    ----------
    counts
        (cells, genes) float32.
    study
        (cells,) number of the study.
    studies
        Names of the studies.
    measured
        (studies, genes) bool: a gene that a study did not measure is missing there, not zero.
    labels
        (cells,) the authors' cell type, ``""`` where they gave none.
    vocabulary
        The genes.
    """

    counts: csr_matrix
    study: np.ndarray
    studies: tuple[str, ...]
    measured: np.ndarray
    labels: np.ndarray
    vocabulary: GeneVocabulary

    def cell_weights(self) -> np.ndarray:
        """(cells,) weights with which a study counts as the square root of its cells; they sum to 1."""
        n = np.bincount(self.study, minlength=len(self.studies))
        weights = 1.0 / np.sqrt(n)[self.study]
        return weights / weights.sum()

    def study_means(self, values: csr_matrix | np.ndarray) -> np.ndarray:
        """(studies, columns) means of values, (cells, columns), over the cells of each study."""
        n_cells, n_studies = len(self.study), len(self.studies)
        per_study = 1.0 / np.bincount(self.study, minlength=n_studies)[self.study]
        average = csr_matrix((per_study, (self.study, np.arange(n_cells))), (n_studies, n_cells))
        means = average @ values
        return means.toarray() if issparse(means) else means

    def of_studies(self, names: Iterable[str], *, drop: bool = False) -> Self:
        """The pool of the named studies, or of all others if ``drop``.

        Raises
        ------
        KeyError
            If a study is not in the pool.
        """
        wanted = set(names)
        unknown = sorted(wanted - set(self.studies))
        if unknown:
            raise KeyError(f"Studies {unknown} are not in the pool; it holds {', '.join(self.studies)}.")
        chosen = np.array([(s in wanted) != drop for s in self.studies])
        cells = np.flatnonzero(chosen[self.study])
        kept, study = np.unique(self.study[cells], return_inverse=True)
        studies = tuple(self.studies[s] for s in kept)
        parts = (self.counts[cells], study, studies, self.measured[kept], self.labels[cells], self.vocabulary)
        return type(self)(*parts)


def full_vocabulary(annotation: str | Path) -> GeneVocabulary:
    """All protein-coding human genes with their one-to-one mouse orthologues and former symbols.

    Parameters
    ----------
    annotation
        Folder with ``human_genes.tsv.gz``, ``mouse_genes.tsv.gz``, ``human_mouse_orthologues.tsv.gz`` and the tables of
        the neighbouring assemblies (``human_genes_grch37.tsv.gz``, ``mouse_genes_grcm39.tsv.gz``), whose symbols for
        the same Ensembl ids are the former (or later) names.
    """
    folder = Path(annotation)

    def table(name: str) -> pd.DataFrame:
        found = pd.read_csv(check_regular(folder / name), sep="\t", comment="#", dtype=str, keep_default_na=False)
        needed = TABLES[name.startswith("human_mouse")]
        if missing := [column for column in needed if column not in found]:
            raise KeyError(
                f"{folder / name} has no column {missing[0]!r}; it has {listing(found)}, needed: {listing(needed)}."
            )
        return found

    human = table("human_genes.tsv.gz").query("symbol != ''").drop_duplicates("symbol")
    pairs = table("human_mouse_orthologues.tsv.gz").query("type == 'one2one'").drop_duplicates("human_symbol")
    mouse = human[["symbol"]].merge(pairs, how="left", left_on="symbol", right_on="human_symbol").fillna("")

    def other_names(ids: pd.Series, symbols: pd.Series, *files: str) -> tuple[str, ...]:
        known = set(symbols)
        names: dict[str, set[str]] = {}
        for file in files:
            for row in table(file).itertuples():
                if row.symbol and row.symbol not in known:  # a former name that another gene bears today is that gene's
                    names.setdefault(row.ensembl, set()).add(row.symbol)
        return tuple("|".join(sorted(names.get(i, ()))) if i else "" for i in ids)

    return GeneVocabulary(
        human_symbol=tuple(human["symbol"]),
        human_ensembl=tuple(human["ensembl"]),
        mouse_symbol=tuple(mouse["mouse_symbol"]),
        mouse_ensembl=tuple(mouse["mouse_ensembl"]),
        human_alias=other_names(human["ensembl"], human["symbol"], "human_genes_grch37.tsv.gz"),
        mouse_alias=other_names(
            mouse["mouse_ensembl"], mouse["mouse_symbol"], "mouse_genes.tsv.gz", "mouse_genes_grcm39.tsv.gz"
        ),
    )


def read_pool(folder: str | Path, annotation: str | Path, *, n_genes: int) -> Pool:
    """Read all ``*.h5ad`` of a folder as one pool.

    Parameters
    ----------
    folder
        Files with integer counts, ``obs["study"]``, optionally ``obs["cell_type"]``, ``varm["measured"]``
        (genes x studies) and ``uns["measured_studies"]``. Human or mouse symbols or Ensembl ids.
    annotation
        See :func:`full_vocabulary`.
    n_genes
        Size of the vocabulary: the genes with the highest share of expressing cells (mean over the studies that
        measured the gene), among those that at least three studies measured.

    Raises
    ------
    ValueError
        If the folder holds no pool.
    """
    check_integer("n_genes", n_genes)
    vocabulary = full_vocabulary(annotation)
    files = sorted(Path(folder).glob("*.h5ad"))
    if not files:
        raise ValueError(f"{folder}: no .h5ad file of a pre-training pool here.")
    parts = [_read_file(file, vocabulary) for file in files]
    names = tuple(name for part in parts for name in part.studies)
    offsets = np.cumsum([0, *(len(part.studies) for part in parts)])
    pool = Pool(
        counts=csr_matrix(vstack([part.counts for part in parts], format="csr")),
        study=np.concatenate([part.study + o for part, o in zip(parts, offsets, strict=False)]),
        studies=names,
        measured=np.vstack([part.measured for part in parts]),
        labels=np.concatenate([part.labels for part in parts]),
        vocabulary=vocabulary,
    )
    chosen = _best_measured(pool, n_genes)
    fewer = GeneVocabulary(*(tuple(getattr(vocabulary, c)[g] for g in chosen) for c in COLUMNS))
    return Pool(pool.counts[:, chosen], pool.study, names, pool.measured[:, chosen], pool.labels, fewer)


def _read_file(path: Path, vocabulary: GeneVocabulary) -> Pool:
    adata = ad.read_h5ad(path)
    for place, key in (("obs", "study"), ("uns", "measured_studies"), ("varm", "measured")):
        if key not in (there := getattr(adata, place)):
            raise KeyError(f"{path}: {place} lacks {key!r}, which a file of a pool needs; it has {listing(there)}.")
    speak_of(str(path), check_matrix, adata, data_type="counts", query=True)
    index = match_genes(adata.var_names.astype(str).tolist(), vocabulary).vocab_index
    known = np.flatnonzero(index >= 0)
    counts = RowReader(adata)[:][:, known]
    counts = csr_matrix((counts.data, index[known][counts.indices], counts.indptr), (adata.n_obs, len(vocabulary)))
    counts.sort_indices()
    studies = [str(s) for s in adata.uns["measured_studies"]]
    if adata.varm["measured"].shape != (adata.n_vars, len(studies)):
        shape = adata.varm["measured"].shape
        raise ValueError(
            f"{path}: varm['measured'] has shape {shape}; needed: genes x the {len(studies)} studies of uns."
        )
    measured = np.zeros((len(studies), len(vocabulary)), dtype=bool)
    measured[:, index[known]] = np.asarray(adata.varm["measured"])[known].T
    study = pd.Index(studies).get_indexer(adata.obs["study"].astype(str))
    if (study < 0).any():
        raise ValueError(f"{path}: obs['study'] holds names that uns['measured_studies'] lacks.")
    labels = adata.obs["cell_type"].astype(str).to_numpy() if "cell_type" in adata.obs else np.full(adata.n_obs, "")
    labels = np.where(np.isin(labels, ("nan", "None", "")), "", labels)  # what missing values read as text
    return Pool(counts, study, tuple(studies), measured, labels, vocabulary)


def _best_measured(pool: Pool, n_genes: int) -> np.ndarray:
    """Positions of the genes to keep, in the vocabulary's order."""
    share = pool.study_means(pool.counts > 0)
    measured = pool.measured
    score = (share * measured).sum(0) / np.maximum(measured.sum(0), 1)
    score[measured.sum(0) < min(_MIN_STUDIES, len(pool.studies))] = 0
    return np.sort(np.argsort(-score, kind="stable")[: min(n_genes, int((score > 0).sum()))])
