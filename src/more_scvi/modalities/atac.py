r"""Chromatin accessibility. Its direct path: latent semantic indexing of the user's own peaks, fitted without labels.

With :math:`x` the counts of a cell, :math:`\bar m` the mean number of open peaks per cell, :math:`N` the cells and
:math:`n_p` those in which peak :math:`p` is open,

.. math:: t_p = \log\!\left(1 + 10\,\bar m\,\frac{x_p}{\sum_q x_q}\right) \log^2\!\left(1 + \frac{N}{n_p}\right),
          \qquad u = V^\top (t - \bar t)

with :math:`V` the right singular vectors of :math:`t`. This is the variant of TF-IDF that takes the logarithm of both
factors (method 3 of ``Signac::RunTFIDF``; its default, the logarithm of their product, is flatter), with two changes:
the constant in the first logarithm follows the depth of the data, where Signac has :math:`10^4`, and the second factor
is squared, as it is where two cells are compared. Both were chosen by how well :math:`u` predicts the RNA of the same
cells (SNARE-seq of mouse cortex, which is therefore no independent test of this path). Counts are not made 0/1: it
makes no difference. Components that follow sequencing depth are left out, as users of LSI do; the others are not
scaled, so that they keep their weight.

Where a panel hides peaks, :math:`u` is the posterior mean given the visible ones, as in
:class:`~more_scvi.modalities.DirectPath`.

The singular vectors come from a block Lanczos iteration on :math:`t^\top t`, for which every block of cells is one
sparse product to and fro. There is neither a dense matrix of cells × peaks nor one of peaks × peaks: memory is bounded
by a few copies of a sparse chunk, its dense scores (cells × ``BLOCK``) and two or three copies of the basis, peaks ×
(``N_PASSES`` · ``BLOCK``) float32: some 0.15 GB for the default 25,000 peaks and 100 components.
"""

import os
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from anndata import AnnData
from torch import Tensor, nn

from more_scvi.data._matrix import ValueRules
from more_scvi.losses._masked import masked_bernoulli
from more_scvi.modalities._missing import posterior, signal
from more_scvi.modalities._modality import Chunks, Decoder, LinearPath, Modality
from more_scvi.modalities._parts import LowRankMap, array, fill, fix_signs, members, posterior_map
from more_scvi.modalities._peaks import peak_to_gene

N_PEAKS, N_WIDE_PEAKS = 25_000, 100
"""Most peaks of the direct path, and components of its wide input. Source: plain value, not tuned."""
LEAST_OPEN = 0.01
"""Expected accessibility below this is left out of the sparse result of imputation."""

CONTRAST = 10.0
"""Value of a single count of an average cell before the logarithm. Source: plain value, not tuned."""

IDF_POWER = 2
"""Power of the inverse document frequency of peaks. Source: plain value, not tuned."""
MIN_CELLS = 10
"""Peaks open in fewer cells weigh as if they were open in this many. Source: plain value, not tuned."""

DEPTH_CORRELATION = 0.75
"""Components that follow depth more closely than this are dropped. Source: paper Granja 2021 (ArchR)."""
OVERSAMPLING = 10  # further candidates, as those that follow depth are dropped
N_PASSES = 8
BLOCK = 64
"""Columns that each pass adds to the basis, which should hold some times as many as there are components."""

SEED = 0
WIDE_VARIANCE = 200.0
"""Total variance of the wide input, of the order of that of log-normalised genes: classifiers penalise both alike.
Source: plain value, not tuned."""


class AccessibilityPath(nn.Module):
    """LSI of the most accessible peaks; fitted once, then a fixed linear map of TF-IDF values.

    Parameters
    ----------
    n_features
        Peaks of the data set.
    n_variable
        Most accessible peaks used (fewer if the data hold fewer); ``features`` lists them, the one open in most cells
        first.
    n_components
        Width of the path. Columns stay 0 where the data have fewer components.
    n_wide
        Width of the wide input, which has more of the same components, scaled to the total variance ``WIDE_VARIANCE``.
    """

    features: Tensor
    scale: Tensor
    wide_scale: Tensor
    idf: Tensor
    mean: Tensor
    loadings: Tensor
    variances: Tensor
    noise: Tensor

    def __init__(self, n_features: int, n_variable: int = 25_000, n_components: int = 50, n_wide: int = 100):
        super().__init__()
        self.n_features = n_features
        n_variable = min(n_variable, n_features)
        self.n_components = min(n_components, n_variable)
        self.n_wide = min(n_wide, n_variable)
        n_kept = max(self.n_components, self.n_wide)
        self.register_buffer("features", torch.arange(n_variable))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("wide_scale", torch.ones(()))
        self.register_buffer("idf", torch.ones(n_variable))
        self.register_buffer("mean", torch.zeros(n_variable))
        self.register_buffer("loadings", torch.zeros(n_variable, n_kept))
        self.register_buffer("variances", torch.ones(n_kept))
        self.register_buffer("noise", torch.ones(()))

    def normalise(self, x: sp.csr_matrix, visible: np.ndarray | None = None, share: float = 1.0) -> sp.csr_matrix:
        """Counts to term frequencies, csr (cells, features) float32, that add up to ``share`` over the visible peaks.

        The inverse document frequencies are known only after the fit; :meth:`fit` and :meth:`transform` apply them.
        """
        out = sp.csr_matrix(x, dtype=np.float32, copy=True)
        if visible is not None:
            out.data *= np.asarray(visible, bool)[out.indices]
        out.eliminate_zeros()  # the fit counts open peaks by what is stored
        totals = np.asarray(out.sum(1, dtype=np.float64)).ravel()
        out.data *= np.repeat(share / np.maximum(totals, 1e-12), np.diff(out.indptr)).astype(np.float32)
        return out

    def fit(self, chunks: Chunks, n_batch: int) -> None:
        """Choose peaks and components from ``chunks()``, an iterator of (term frequencies, batch codes).

        ``chunks`` is called ``N_PASSES`` + 2 times.
        """
        n, n_open, detected = np.zeros(n_batch), 0, np.zeros(self.n_features)
        for x, batch in chunks():
            n += np.bincount(batch, minlength=n_batch)
            n_open += x.nnz
            detected += np.bincount(x.indices, minlength=self.n_features)
        features = np.argsort(-detected, kind="stable")[: len(self.features)]
        idf = np.log1p(n.sum() / np.maximum(detected[features], MIN_CELLS)) ** IDF_POWER
        fill(self, scale=CONTRAST * n_open / max(n.sum(), 1.0), features=features, idf=idf)
        v = self._singular_vectors(chunks)
        std, depth, total = self._depth_correlation(chunks, v, n)
        # what varies a ten-thousandth as much as the first component is rounding
        kept = np.flatnonzero((depth <= DEPTH_CORRELATION) & (std > 1e-4 * std.max()))[: self.loadings.shape[1]]
        self.loadings.zero_()  # fewer components may be kept than there are columns
        self.loadings[:, : len(kept)] = torch.from_numpy(v[:, kept])
        noise = max((total - (std**2).sum()) / max(len(v) - len(std), 1), 1e-6)
        variances = np.zeros(self.loadings.shape[1])
        variances[: len(kept)] = std[kept] ** 2
        # noise alone reaches the variance of the last candidates: few cells open a peak, and idf blows them up
        fill(self, noise=noise, variances=signal(variances - std.min() ** 2, noise))
        fill(self, wide_scale=np.sqrt(WIDE_VARIANCE / max((std[kept[: self.n_wide]] ** 2).sum(), 1e-12)))

    def transform(self, x: sp.csr_matrix, visible: np.ndarray | None = None) -> np.ndarray:
        """Project term frequencies: csr (cells, features) -> (cells, components) float32."""
        return self._project(x, array(self.loadings)[:, : self.n_components], visible)

    def transform_wide(self, x: sp.csr_matrix, visible: np.ndarray | None = None) -> np.ndarray:
        """Wide input of term frequencies: csr (cells, features) -> (cells, n_wide) float32."""
        return float(self.wide_scale) * self._project(x, array(self.loadings)[:, : self.n_wide], visible)

    def complete(self, x: sp.csr_matrix, visible: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Both projections of term frequencies in which peaks that are not visible are taken as expected."""
        t, seen = self._tf_idf(x), np.asarray(visible, bool)[array(self.features)]
        (v, rest), noise = self._parted(seen), float(self.noise)
        # what is seen, and beside it the part of the others that is expected of it
        v = v + v @ posterior(v, array(self.variances), noise) @ rest / noise
        return self._both(t[:, np.flatnonzero(seen)] @ v - array(self.mean)[seen] @ v)

    def doubt(self, visible: np.ndarray, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """What is not known of :meth:`complete`'s answer: ``n`` draws of what may have to be added to it."""
        v, rest = self._parted(np.asarray(visible, bool)[array(self.features)])
        noise = float(self.noise)
        spread = rest @ posterior(v, array(self.variances), noise) @ rest + noise * rest
        values, vectors = np.linalg.eigh(spread)
        u = rng.normal(size=(n // 2, len(values))) * np.sqrt(np.maximum(values, 0.0)) @ vectors.T
        return self._both(np.concatenate([u, -u]))

    def _parted(self, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Loadings of the peaks that are seen, and the products of those of the others, (components, components)."""
        v = array(self.loadings).astype(np.float64)
        return v[seen], v[~seen].T @ v[~seen]

    def _both(self, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        u = np.asarray(u, np.float32)
        return u[:, : self.n_components], float(self.wide_scale) * u[:, : self.n_wide]

    def _project(self, x: sp.csr_matrix, v: np.ndarray, visible: np.ndarray | None) -> np.ndarray:
        t, mean = self._tf_idf(x), array(self.mean)
        if visible is not None:
            seen = np.flatnonzero(np.asarray(visible, bool)[array(self.features)])
            v, t, mean = posterior_map(v[seen]), t[:, seen], mean[seen]
        return (t @ v - mean @ v).astype(np.float32)  # so that t stays sparse

    def _tf_idf(self, x: sp.csr_matrix) -> sp.csr_matrix:
        """Term frequencies of all peaks -> TF-IDF of the peaks used, in the order of ``features``."""
        t = sp.csr_matrix(x[:, array(self.features)])
        t.data = np.log1p(float(self.scale) * t.data) * array(self.idf)[t.indices]
        return t

    def _singular_vectors(self, chunks: Chunks) -> np.ndarray:
        """Leading right singular vectors of TF-IDF, (peaks, candidates) float32, largest first; sets ``mean``.

        Block Lanczos with full orthogonalisation; each pass over the data widens the basis by one block.
        """
        n_peaks = len(self.features)
        n_candidates = min(self.loadings.shape[1] + OVERSAMPLING, n_peaks)
        width = min(max(BLOCK, 3 * n_candidates // N_PASSES), n_peaks)  # the basis holds three times the candidates
        block = np.linalg.qr(np.random.default_rng(SEED).standard_normal((n_peaks, width), dtype=np.float32))[0]
        basis, gram = np.empty((n_peaks, 0), np.float32), np.empty((0, 0))
        for _ in range(N_PASSES):
            product, total, n = np.zeros_like(block), np.zeros(n_peaks), 0
            for x, _ in chunks():
                t = self._tf_idf(x)
                product += t.T @ (t @ block)
                total += np.asarray(t.sum(0, dtype=np.float64)).ravel()
                n += t.shape[0]
            basis = np.hstack([basis, block])
            corner = (basis.T @ product).astype(np.float64)
            known = len(gram)
            gram = np.block([[gram, corner[:known]], [corner[:known].T, corner[known:]]])
            block = product[:, : n_peaks - basis.shape[1]]  # there are no more directions than peaks
            if not block.shape[1]:
                break
            for _ in range(2):  # once is not enough in float32
                block = np.linalg.qr(block - basis @ (basis.T @ block))[0]
        fill(self, mean=total / max(n, 1))
        values, vectors = np.linalg.eigh((gram + gram.T) / 2)  # symmetric but for rounding
        order = np.argsort(-values)[:n_candidates]
        return fix_signs(basis @ vectors[:, order].astype(np.float32))

    def _depth_correlation(self, chunks: Chunks, v: np.ndarray, n: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        """Standard deviation of the scores and their absolute correlation with log depth, within batches.

        Last, the variance of all peaks together.

        Depth is the number of open peaks: it is what sparse counts say about the total, and still known here.
        """
        n_batch, k = len(n), v.shape[1]
        total, squares, products = np.zeros((n_batch, k + 1)), np.zeros(k + 1), np.zeros(k)
        own = 0.0
        for x, batch in chunks():
            t = self._tf_idf(x)
            own += float(np.square(t.data, dtype=np.float64).sum())
            z = np.column_stack([t @ v, np.log1p(np.diff(x.indptr))]).astype(np.float64)
            total += members(batch, n_batch) @ z
            squares += (z**2).sum(0)
            products += z[:, -1] @ z[:, :-1]
        mean = total / np.maximum(n, 1.0)[:, None]
        cells = max(n.sum(), 1.0)
        variance = np.maximum(squares - (mean * total).sum(0), 0.0) / cells
        covariance = (products - mean[:, -1] @ total[:, :-1]) / cells
        std = np.sqrt(variance)
        own = own / cells - float(np.square(array(self.mean), dtype=np.float64).sum())
        return std[:-1], np.abs(covariance) / np.maximum(std[:-1] * std[-1], 1e-12), own


class AccessibilityDecoder(nn.Module):
    r"""Decoder of peaks: a peak is seen open with probability :math:`\sigma(\beta_g + (W z_n)_g + \log l_n / \bar l)`.

    Parameters
    ----------
    n_latent, n_features
        Width of the embedding and number of target peaks.
    """

    average: Tensor
    mean_total: Tensor

    def __init__(self, n_latent: int, n_features: int):
        super().__init__()
        self.map = LowRankMap(n_latent, n_features)
        self.register_buffer("average", torch.zeros(n_features))
        self.register_buffer("mean_total", torch.ones(()))

    def fit_average(self, target: sp.csr_matrix, totals: np.ndarray) -> None:
        """Set the logit of each peak's share of open cells, and the mean total."""
        share = (np.asarray((target > 0).sum(0)).ravel() + 0.5) / (target.shape[0] + 1.0)  # a finite logit for all
        fill(self, average=np.log(share / (1 - share)), mean_total=max(float(totals.mean()), 1.0))

    def loss(self, z: Tensor, target: Tensor, totals: Tensor, hidden: Tensor) -> Tensor:
        """Negative log-likelihood of the hidden target peaks, (cells,)."""
        logits = self.average + self.map(z) + torch.log(totals.clamp_min(1.0) / self.mean_total)  # empty cells
        return masked_bernoulli(target, logits, hidden)


class Atac(Modality):
    """Peaks: counts, latent semantic indexing, Bernoulli of "open"."""

    name, title, features = "atac", "ATAC", "peaks"
    count = "n_peaks"
    values = ValueRules(
        ("counts",), "raw fragment or insertion counts per peak (or 0/1 for open) are needed", feature="peak"
    )
    genes_argument = "peak_genes"
    genes_words = ", or a gene annotation (DataFrame or file)"
    imputes_sparse = True

    def path(self, n_features: int, data_type: str, n_variable: int, n_components: int, n_wide: int) -> LinearPath:
        """:class:`AccessibilityPath`."""
        return AccessibilityPath(n_features, N_PEAKS, n_components, min(n_wide, N_WIDE_PEAKS))

    def decoder(self, data_type: str, n_latent: int, n_features: int) -> Decoder:
        """:class:`AccessibilityDecoder`."""
        return AccessibilityDecoder(n_latent, n_features)

    def genes(self, adata: AnnData, given: Any, others: Any) -> tuple[list[str], sp.csr_matrix]:
        """Also by position: ``given`` may be a gene annotation, as a table or the path of one."""
        is_path = isinstance(given, str) and given not in adata.var and os.path.exists(given)
        if not is_path and not isinstance(given, os.PathLike | pd.DataFrame):
            return super().genes(adata, given, others)
        matrix, genes = peak_to_gene(adata.var, given)
        return [str(g) for g in genes], matrix

    def imputed(self, x: sp.csr_matrix, path: LinearPath) -> sp.csr_matrix:
        """Which peaks are open."""
        return (x > 0).astype(np.float32)

    def expected(self, values: np.ndarray) -> np.ndarray:
        """Probability that a peak is seen open; below ``LEAST_OPEN`` it is 0."""
        values = np.clip(values, 0.0, 1.0)
        values[values < LEAST_OPEN] = 0.0
        return values.astype(np.float32)
