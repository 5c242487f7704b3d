"""Principal components of few features: the direct path of panels."""

from typing import ClassVar

import numpy as np
import scipy.sparse as sp

from more_scvi.modalities._missing import FactorModel
from more_scvi.modalities._modality import Chunks
from more_scvi.modalities._parts import ComponentTables, array, fill, fix_signs, posterior_map

LEVEL_VARIANCE = 100.0
"""Variance of the level of a cell before its values are seen: next to nothing is known. Source: plain value, not
tuned."""


class PrincipalComponents(ComponentTables):
    """PCA of standardised values of all features, dense; fitted once, then a fixed linear map.

    Meant for some thousand features at most: a features × features matrix is held in memory. A modality derives its
    path from it and says in :meth:`values` on which scale its components are taken.

    Parameters
    ----------
    n_features
        Features of the data set; all are used. ``features`` lists them, the one that varies most first.
    n_components
        Width of the path (at most ``n_features``).
    n_wide
        Width of the wide input (at most ``n_features``). From ``n_features`` on it is a rotation of the standardised
        values and loses nothing.
    """

    totals: ClassVar[bool] = False
    """Whether values are relative to the mean of those that are there, which is another where some are missing."""

    def __init__(self, n_features: int, n_components: int = 50, n_wide: int = 400):
        super().__init__(n_features, n_components, n_wide)
        self.n_features = n_features
        self.factors = FactorModel(n_features, self.n_wide + self.totals)

    def values(self, x: np.ndarray) -> np.ndarray:
        """Measured values on the scale of the components, elementwise: dense (cells, features) float32."""
        return np.asarray(x, np.float32)

    def normalise(
        self, x: sp.csr_matrix | np.ndarray, visible: np.ndarray | None = None, share: float = 1.0
    ) -> np.ndarray:
        """Measured values to what the other methods read: dense (cells, features) float32, hidden features 0.

        ``share`` is that of a cell's total that is visible; values that do not depend on a total have no use for it.
        """
        out = self.values(x.toarray() if sp.issparse(x) else np.asarray(x))  # type: ignore[union-attr]
        return out if visible is None else np.where(visible, out, np.float32(0.0))

    def fit(self, chunks: Chunks, n_batch: int) -> None:
        """Fit mean, scale and components on ``chunks()``, an iterator of (normalised values, batch codes)."""
        n, total = np.zeros(n_batch), np.zeros((n_batch, self.n_features))
        gram = np.zeros((self.n_features, self.n_features))
        for x, batch in chunks():
            x = np.asarray(x, np.float64)  # what is subtracted below cancels most digits of float32
            n += np.bincount(batch, minlength=n_batch)
            np.add.at(total, batch, x)
            gram += x.T @ x
        gram -= (total / np.maximum(n, 1)[:, None]).T @ total  # pooled within batches; one may have no cell
        gram /= max(n.sum(), 1)
        std = np.sqrt(np.maximum(np.diag(gram), 0.0))  # rounding can leave less than 0
        order = np.argsort(-std, kind="stable")  # features that tie keep their order on every machine
        std = np.where(std < 1e-5, 1.0, std)[order]  # rounding of a constant feature is not blown up
        correlation = gram[np.ix_(order, order)] / np.outer(std, std)
        values, v = np.linalg.eigh(correlation)
        values, v = values[::-1], fix_signs(v[:, ::-1])
        mean = total.sum(0)[order] / max(n.sum(), 1)
        loadings = {"loadings": v[:, : self.n_components], "wide_loadings": v[:, : self.n_wide]}
        fill(self, features=order, mean=mean, std=std, **loadings)
        noise = values[len(values) // 2 :].mean()  # few features have as many directions as they have signals
        v, values = v[:, : self.n_wide], values[: self.n_wide]
        if self.totals:  # the level of a cell is one more factor, of which nothing is known beforehand
            v, values = np.column_stack([v, 1 / std]), np.append(values, LEVEL_VARIANCE)
        self.factors.fit(np.zeros(len(order)), v, values, noise)

    def transform(self, x: np.ndarray, visible: np.ndarray | None = None) -> np.ndarray:
        """Project normalised values: (cells, features) -> (cells, components) float32."""
        return self._project(x, array(self.loadings), visible)

    def transform_wide(self, x: np.ndarray, visible: np.ndarray | None = None) -> np.ndarray:
        """Wide input of normalised values: (cells, features) -> (cells, n_wide) float32."""
        return self._project(x, array(self.wide_loadings), visible)

    def _project(self, x: np.ndarray, v: np.ndarray, visible: np.ndarray | None) -> np.ndarray:
        features, mean, std = (array(t) for t in (self.features, self.mean, self.std))
        if visible is None:
            return ((x[:, features] - mean) / std @ v).astype(np.float32)
        seen = np.asarray(visible, bool)[features]
        if not seen.any():  # the posterior mean of nothing seen is that of the prior
            return np.zeros((x.shape[0], v.shape[1]), np.float32)
        std = std[seen, None]
        a, mean = self._seen(v[seen], mean[seen], std)
        return ((x[:, features[seen]] - mean) / std.T @ posterior_map(a)).astype(np.float32)

    def complete(self, x: np.ndarray, visible: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Both projections of values in which features that are not visible are taken as expected."""
        features = array(self.features)
        seen = np.asarray(visible, bool)[features]
        y = (x[:, features] - array(self.mean)) / array(self.std)
        f, weights = self.factors.expected(y, seen), self.factors.weights()
        if self.totals:
            y = y - f[:, -1:] * weights[:, -1]
            f[:, -1] = 0.0
        y[:, ~seen] = f @ weights[~seen].T
        return self._both(y)

    def doubt(self, visible: np.ndarray, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """What is not known of :meth:`complete`'s answer: ``n`` draws of what may have to be added to it."""
        seen = np.asarray(visible, bool)[array(self.features)]
        y = np.zeros((n, len(seen)), np.float32)
        y[:, ~seen] = self.factors.draw(~seen, seen, n, rng)
        return self._both(y)

    def _both(self, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return (y @ array(self.loadings)).astype(np.float32), (y @ array(self.wide_loadings)).astype(np.float32)

    def _seen(self, loadings: np.ndarray, mean: np.ndarray, std: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Loadings and mean of the visible features, where these alone are normalised."""
        return loadings, mean
