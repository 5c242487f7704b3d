"""One modality of some cells, as the stages read it: nothing after this sees an AnnData."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from ._rows import RowReader


@dataclass(frozen=True, eq=False)
class Measured:
    """One modality of the cells: its matrix and how it is read."""

    modality: str
    reader: RowReader  # features in the order of the model; columns of missing features are empty
    cells: np.ndarray  # (rows,) position of each row's cell among all cells
    normalised: bool  # the backbone takes the values as they are; otherwise they are counts
    gene_names: list[str]  # genes that the backbone reads
    links: sp.csr_matrix | None = None  # (features, genes) from features to these genes; None: features are genes
    niche: sp.csr_matrix | None = None  # (rows, rows) weights of spatial neighbours
    given: np.ndarray | None = None  # (rows, features) features that were computed elsewhere
    visible: np.ndarray | None = None  # bool (features,): which features of the model the data hold; None: all

    @property
    def source(self) -> Any:
        """What the backbone reads: given features, genes, or features summed up to genes; sliced by rows."""
        if self.given is not None:
            return self.given
        if self.links is None and self.visible is None:
            return self.reader
        links = sp.identity(self.reader.shape[1], format="csr") if self.links is None else self.links
        return GeneReader(self.reader, links if self.visible is None else links[:, self.shown])

    @property
    def source_genes(self) -> list[str]:
        """Names of the columns of :attr:`source`: genes of which the data hold no feature are missing, not zero."""
        return self.gene_names if self.visible is None else [self.gene_names[at] for at in self.shown]

    @property
    def shown(self) -> np.ndarray:
        """Positions of the genes of which the data hold a feature."""
        visible = np.asarray(self.visible, dtype=np.float32)
        return np.flatnonzero(visible if self.links is None else self.links.T @ visible)

    def feature_panels(self, gene_panels: np.ndarray, seed: int) -> np.ndarray:
        """Panels of features that show the same genes, (views, features); those without a gene are shown at random."""
        if self.links is None:
            return gene_panels
        rng = np.random.default_rng(seed)
        panels = (self.links @ gene_panels.T.astype(np.float32) > 0).T
        unlinked = np.diff(self.links.indptr) == 0
        panels[:, unlinked] = rng.random((len(panels), int(unlinked.sum()))) < 0.5
        panels[~panels.any(1), 0] = True
        return panels


class GeneReader:
    """Rows of a matrix summed up to genes by ``links``, csr (features, genes); slices are csr."""

    def __init__(self, reader: RowReader, links: sp.csr_matrix):
        self._reader, self._links = reader, sp.csr_matrix(links, dtype=np.float32)
        self.shape = (len(reader), links.shape[1])

    def __getitem__(self, rows: slice) -> sp.csr_matrix:
        return sp.csr_matrix(self._reader[rows] @ self._links).sorted_indices()  # products come unsorted


@dataclass(frozen=True, eq=False)
class CellSet:
    """Cells of one data set as a model sees them; modalities that the data lack are left out of ``measured``."""

    names: pd.Index
    measured: dict[str, Measured]
    present: np.ndarray  # bool (cells, modalities of the model)
    batch: np.ndarray  # codes, see :class:`more_scvi.base.Arrays`
    domain: np.ndarray
    covariates: np.ndarray  # design, (cells, columns) float32
    further: dict[str, Measured] = field(default_factory=dict)  # modalities that came with queries

    def __len__(self) -> int:
        return len(self.names)
