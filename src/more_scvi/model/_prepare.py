"""From an AnnData to the arrays that training and inference read: features, base, masked views, targets."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import scipy.sparse as sp

from more_scvi.data import RowReader
from more_scvi.module import DirectPath, MoREModule, batch_means, log_normalise
from more_scvi.train import TrainingArrays

EVIDENCE_CELLS = 1000.0
"""Number of cells at which the direct path gets as much weight as the frozen features."""


def path_shares(names: list[str], n_cells: int, overlap: float) -> np.ndarray:
    """Shares of the paths in the base before training, from the evidence there is for each.

    Principal components of the data need cells; frozen features need genes that the backbone knows.
    """
    evidence = {"frozen": EVIDENCE_CELLS * min(1.0, 2.0 * overlap), "direct": float(n_cells)}
    share = np.array([evidence[name] for name in names])
    return share / share.sum()


class DirectPass:
    """Reads the matrix in blocks and returns direct features, masked views, targets and totals.

    Parameters
    ----------
    reader
        Rows of the matrix.
    normalised
        The matrix holds log-normalised values; otherwise counts.
    """

    def __init__(self, reader: RowReader, normalised: bool):
        self.reader, self.normalised = reader, normalised

    def fit(self, path: DirectPath, batch: np.ndarray, n_batch: int) -> None:
        """Fit the direct path; three passes over the matrix."""

        def chunks() -> Iterator[tuple[sp.csr_matrix, np.ndarray]]:
            for rows, x in self.reader.chunks():
                yield self._normalise(x), batch[rows]

        path.fit(chunks, n_batch)

    def features(self, path: DirectPath) -> tuple[np.ndarray, np.ndarray]:
        """Direct features, (cells, components), and the wide view, (cells, n_wide)."""
        blocks = (self._normalise(x) for _, x in self.reader.chunks())
        full, wide = zip(*((path.transform(x), path.transform_wide(x)) for x in blocks), strict=True)
        return np.concatenate(full), np.concatenate(wide)

    def training(
        self, path: DirectPath, panels: np.ndarray, targets: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, sp.csr_matrix, np.ndarray]:
        """Direct features, wide view, masked views (cells, views, components), target values and total counts."""
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

    def _visible_share(self, panels: np.ndarray) -> np.ndarray:
        """Share of all counts that each panel shows, (views,)."""
        if self.normalised or not len(panels):
            return np.ones(len(panels))
        per_gene = np.sum([np.asarray(x.sum(0)).ravel() for _, x in self.reader.chunks()], axis=0)
        return panels @ per_gene / per_gene.sum()

    def _normalise(self, x: sp.csr_matrix, panel: np.ndarray | None = None, share: float = 1.0) -> sp.csr_matrix:
        if self.normalised:
            return x
        return log_normalise(x) if panel is None else log_normalise(x, (x @ panel.astype(np.float32)) / share)


def training_arrays(
    module: MoREModule,
    full: dict[str, np.ndarray],
    views: dict[str, np.ndarray],
    panels: np.ndarray,
    target: sp.csr_matrix,
    totals: np.ndarray,
    batch: np.ndarray,
    labels: np.ndarray,
    covariates: np.ndarray,
    base: np.ndarray,
    wide: np.ndarray,
) -> TrainingArrays:
    """Put the arrays of all cells together; masked views are centred to the batch means of the full view."""
    n_views = len(panels)
    out = np.empty((len(base), n_views, base.shape[1]), np.float32)
    for k in range(n_views):
        shifted = {name: _recentre(views[name][:, k], full[name], batch, module.n_batch) for name in full}
        out[:, k] = module.transform_base(shifted, batch, covariates)
    hidden = ~panels[:, module.target_genes.cpu().numpy()]
    if n_views == 0:
        return TrainingArrays(base, wide, None, None, target, totals, batch, labels)
    return TrainingArrays(base, wide, out, hidden, target, totals, batch, labels)


def _recentre(view: np.ndarray, full: np.ndarray, batch: np.ndarray, n_batch: int) -> np.ndarray:
    means = [batch_means(np.asarray(x, np.float32), batch, n_batch) for x in (full, view)]
    return view + (means[0] - means[1])[batch]
