"""From a modality's matrix to the arrays that training and inference read: path features, masked views, targets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

from more_scvi.data import RowReader
from more_scvi.module import ModalityBase, batch_means, ridge

EVIDENCE_CELLS = 1000.0
"""Number of cells at which the direct path gets as much weight as the frozen features. Source: record
tuning/before_development_sets.md."""

EVIDENCE_POWER = 2
"""How fast the weight of the direct path grows with cells. Source: record tuning/before_development_sets.md."""

COVERAGE = (0.4, 0.6)
"""Coverage below which frozen features count next to nothing, and above which they count in full. Source: not
recorded."""

LEAST_SEEN = 0.05
"""What is left of the frozen features' evidence at no coverage: from nothing the gate could not open. Source: not
recorded."""

COVERAGE_CELLS, COVERAGE_PENALTY, FEW_CELLS = 4000, 0.01, 100
"""Cells, ridge penalty and prior cells of the estimate of how much of the frozen features is seen. Source: plain
value."""

NICHE_SHARE = 0.25
"""Share of the neighbours' mean in the base of spatial data. Source: not recorded."""


def path_shares(names: list[str], n_cells: int, overlap: float, coverage: float) -> np.ndarray:
    """Shares of the paths in the base before training, from the evidence there is for each.

    Principal components of the data need cells: with few, most of what they hold is noise. Frozen features need genes
    that the backbone knows, and to be seen in the data (``coverage``, see :func:`covered`).
    """
    least, enough = COVERAGE
    seen = float(np.clip((coverage - least) / (enough - least), LEAST_SEEN, 1.0))
    evidence = {
        "frozen": min(1.0, 2.0 * overlap) * seen,
        "direct": (n_cells / EVIDENCE_CELLS) ** EVIDENCE_POWER,
    }
    share = np.array([evidence.get(name, 0.0) for name in names])
    niche = np.array([NICHE_SHARE if name == "niche" else 0.0 for name in names])
    return share / share.sum() * (1.0 - niche.sum()) + niche


def covered(frozen: np.ndarray, direct: np.ndarray, batch: np.ndarray) -> float:
    """How much of the frozen features is seen in the data, 0 to 1.

    The share of their variance within batches that a ridge regression on the direct path explains in cells that it was
    not fitted on. What principal components of the same cells cannot explain is mostly noise: a backbone of another
    tissue, or a panel that is too small for it. With few cells the components are noisy themselves, so the value is
    drawn towards 1.

    Parameters
    ----------
    frozen, direct
        (cells, features) each.
    batch
        (cells,) codes.
    """
    rows = np.random.default_rng(0).permutation(len(batch))[:COVERAGE_CELLS]
    batch = np.unique(batch[rows], return_inverse=True)[1]
    y, x = (
        values - batch_means(values, batch, batch.max() + 1)[batch]
        for values in (np.asarray(features[rows], np.float64) for features in (frozen, direct))
    )
    fitted, held = slice(0, None, 2), slice(1, None, 2)
    residual = y[held] - x[held] @ ridge(x[fitted], y[fitted], COVERAGE_PENALTY)
    explained = max(0.0, 1.0 - np.square(residual).sum() / max(np.square(y[held]).sum(), 1e-12))
    return float((len(rows) * explained + FEW_CELLS) / (len(rows) + FEW_CELLS))


@dataclass
class Measured:
    """One modality of the cells: its matrix and how it is read.

    Attributes
    ----------
    name
        Role of the modality.
    reader
        Rows of the matrix, features in the order of the model.
    cells
        (rows,) position of each row's cell among all cells.
    normalised
        The matrix holds log-normalised values; otherwise counts.
    gene_names
        Genes that the backbone reads.
    links
        csr (features, genes) from features to these genes; None: features are genes.
    niche
        csr (rows, rows) weights of spatial neighbours, or None.
    given
        (rows, features) features that were computed elsewhere, or None.
    """

    name: str
    reader: RowReader
    cells: np.ndarray
    normalised: bool
    gene_names: list[str]
    links: sp.csr_matrix | None = None
    niche: sp.csr_matrix | None = None
    given: np.ndarray | None = None

    @property
    def source(self) -> Any:
        """What the backbone reads: given features, genes, or features summed up to genes; sliced by rows."""
        if self.given is not None:
            return self.given
        return self.reader if self.links is None else LinkedReader(self.reader, self.links)

    def feature_panels(self, gene_panels: np.ndarray) -> np.ndarray:
        """Panels of features that show the same genes, (views, features); those without a gene are shown at random."""
        if self.links is None:
            return gene_panels
        rng = np.random.default_rng(0)
        panels = (self.links @ gene_panels.T.astype(np.float32) > 0).T
        unlinked = np.diff(self.links.indptr) == 0
        panels[:, unlinked] = rng.random((len(panels), int(unlinked.sum()))) < 0.5
        panels[~panels.any(1), 0] = True
        return panels


class LinkedReader:
    """Rows of a matrix summed up to genes: slices are csr (rows, genes)."""

    def __init__(self, reader: RowReader, links: sp.csr_matrix):
        self._reader, self._links = reader, links.astype(np.float32)
        self.shape = (len(reader), links.shape[1])

    def __getitem__(self, rows: slice) -> sp.csr_matrix:
        return sp.csr_matrix(self._reader[rows] @ self._links)


class MatrixPass:
    """Reads a modality in blocks and returns direct features, masked views, targets and totals.

    Parameters
    ----------
    measured
        The modality.
    base
        Its part of the module; its direct path is read, and fitted by :meth:`fit`.
    """

    def __init__(self, measured: Measured, base: ModalityBase):
        self.reader, self.normalised, self.path = measured.reader, measured.normalised, base.direct

    def fit(self, batch: np.ndarray, n_batch: int) -> None:
        """Fit the direct path, in several passes over the matrix."""

        def chunks() -> Iterator[tuple[Any, np.ndarray]]:
            for rows, x in self.reader.chunks():
                yield self._normalise(x), batch[rows]

        self.path.fit(chunks, n_batch)

    def features(self) -> tuple[np.ndarray, np.ndarray]:
        """Direct features, (rows, components), and the wide view, (rows, n_wide)."""
        blocks = (self._normalise(x) for _, x in self.reader.chunks())
        full, wide = zip(*((self.path.transform(x), self.path.transform_wide(x)) for x in blocks), strict=True)
        return np.concatenate(full), np.concatenate(wide)

    def training(
        self, panels: np.ndarray, targets: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, sp.csr_matrix, np.ndarray]:
        """Direct features, wide view, masked views (rows, views, components), target values and total counts."""
        path = self.path
        full: list[np.ndarray] = []
        wide: list[np.ndarray] = []
        views: list[np.ndarray] = []
        target: list[sp.csr_matrix] = []
        totals: list[np.ndarray] = []
        share = self._visible_share(panels)
        for _, x in self.reader.chunks():
            normalised = self._normalise(x)
            full.append(path.transform(normalised))
            wide.append(path.transform_wide(normalised))
            per_view = [
                path.transform(self._normalise(x, panel, s), panel) for panel, s in zip(panels, share, strict=True)
            ]
            views.append(
                np.stack(per_view, 1) if per_view else np.zeros((x.shape[0], 0, full[-1].shape[1]), np.float32)
            )
            target.append(x[:, targets])
            totals.append(np.asarray(x.sum(1)).ravel())
        dense = [np.concatenate(parts) for parts in (full, wide, views, totals)]
        return dense[0], dense[1], dense[2], sp.vstack(target, "csr"), dense[3]

    def normalised_block(self, x: sp.csr_matrix) -> Any:
        """A block of the matrix as the direct path reads it."""
        return self._normalise(x)

    def gene_values(self, links: sp.csr_matrix) -> np.ndarray:
        """Normalised features summed up to genes, (rows, genes) float32; ``links``: csr (features, genes)."""
        links = sp.csr_matrix(links, dtype=np.float32)
        blocks = [self._normalise(x) @ links for _, x in self.reader.chunks()]
        return np.concatenate([b.toarray() if sp.issparse(b) else np.asarray(b) for b in blocks]).astype(np.float32)

    def _visible_share(self, panels: np.ndarray) -> np.ndarray:
        """Share of all counts that each panel shows, (views,)."""
        if self.normalised or not len(panels):
            return np.ones(len(panels))
        per_feature = np.sum([np.asarray(x.sum(0)).ravel() for _, x in self.reader.chunks()], axis=0)
        return panels @ per_feature / per_feature.sum()

    def _normalise(self, x: sp.csr_matrix, panel: np.ndarray | None = None, share: float = 1.0) -> Any:
        return x if self.normalised else self.path.normalise(x, panel, share)


def masked_views(
    base: ModalityBase,
    views: dict[str, np.ndarray],
    full: dict[str, np.ndarray],
    batch: np.ndarray,
    covariates: np.ndarray,
    n_views: int,
) -> np.ndarray:
    """Base of the masked views, (rows, views, width), centred to the batch means of the full view."""
    out = np.empty((len(batch), n_views, base.width), np.float32)
    for k in range(n_views):
        shifted = {name: _recentre(views[name][:, k], full[name], batch, base.n_batch) for name in full}
        out[:, k] = base.shift(base.transform(shifted, batch, covariates), batch)
    return out


def _recentre(view: np.ndarray, full: np.ndarray, batch: np.ndarray, n_batch: int) -> np.ndarray:
    means = [batch_means(np.asarray(x, np.float32), batch, n_batch) for x in (full, view)]
    return view + (means[0] - means[1])[batch]


def scatter(part: np.ndarray, cells: np.ndarray, n_cells: int) -> np.ndarray:
    """Rows of a modality at their cells, zero elsewhere: (rows, ...) -> (n_cells, ...)."""
    if len(part) == n_cells and np.array_equal(cells, np.arange(n_cells)):
        return part
    out = np.zeros((n_cells, *part.shape[1:]), part.dtype)
    out[cells] = part
    return out


def scatter_rows(part: sp.csr_matrix, cells: np.ndarray, n_cells: int) -> sp.csr_matrix:
    """As :func:`scatter`, sparse."""
    if part.shape[0] == n_cells and np.array_equal(cells, np.arange(n_cells)):
        return part
    place = sp.csr_matrix((np.ones(len(cells), part.dtype), (cells, np.arange(len(cells)))), (n_cells, len(cells)))
    return sp.csr_matrix(place @ part)
