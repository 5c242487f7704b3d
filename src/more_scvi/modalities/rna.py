r"""RNA. Its direct path: a low-rank linear view of the user's own data, fitted without labels.

Let :math:`x` be log-normalised expression (cells × genes) of the most variable genes (chosen within batches),
centred, scaled by their standard deviation and clipped. With :math:`V` the leading eigenvectors of their covariance,

.. math:: u = V^\top \, \mathrm{clip}\!\left(\frac{x - \mu}{\sigma}, \pm c\right) .

Where a panel hides genes, :math:`u` is the posterior mean given the visible ones (probabilistic PCA,
Tipping and Bishop 1999): :math:`u_S = (V_S^\top V_S + \rho I)^{-1} V_S^\top x_S`.

Beside it stands a *wide input*, more components of the same genes that are centred but not scaled, so that genes keep
the weight of their expression; the closed-form experts read it. For shallow cells there is another such input, of
:math:`\log(1 + r\, n)` with expression :math:`n` and a scale :math:`r` on which one of their counts is about 1: on a
larger one a count is worth much or nothing, and what deep cells show between is not there.

Everything is accumulated over chunks of rows: memory is bounded by the chunk and a genes × genes matrix.
"""

from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from anndata import AnnData
from scipy.linalg import eigh
from scipy.sparse.linalg import eigsh
from torch import Tensor, nn

from more_scvi.data._fields import RNA
from more_scvi.data._matrix import ValueRules
from more_scvi.losses._masked import masked_gaussian, masked_negative_binomial
from more_scvi.modalities._missing import N_FACTORS, FactorModel
from more_scvi.modalities._modality import Chunks, Decoder, LinearPath, Modality
from more_scvi.modalities._parts import ComponentTables, LowRankMap, array, fill, fix_signs, members, posterior_map

CLIP = 10.0
"""Scaled values are cut off here. Source: paper Wolf 2018 (scanpy)."""
SIZE = 1e4
N_BINS = 20
"""Bins of mean expression in which genes' dispersions are compared. Source: paper Satija 2015 (Seurat)."""
SHALLOW, LEAST_DETECTED = 0.5, 0.01
"""Genes per cell, over the mean of all batches, below which a batch is shallow, and share of its cells in which a gene
is to be seen. Source: record tuning/shallow.md."""
SHALLOW_CELL = 0.4
"""Genes, over the mean of all cells, below which a cell of a batch that the model does not know is shallow. Source:
record tuning/shallow.md."""
SHALLOW_DEPTH = 0.1
"""Depth, over that of the average cell, that the scale for shallow cells is made for where no batch is shallow.
Source: plain value, not tuned."""


def log_normalise(counts: sp.csr_matrix, totals: np.ndarray | None = None, size: float = SIZE) -> sp.csr_matrix:
    """log1p of counts scaled to ``size`` per cell: csr (cells, genes), float32."""
    out = sp.csr_matrix(counts, dtype=np.float32, copy=True)  # the next lines work in place
    totals = np.asarray(out.sum(1)).ravel() if totals is None else totals
    out.data *= np.repeat(size / np.maximum(totals, 1e-12), np.diff(out.indptr)).astype(np.float32)
    np.log1p(out.data, out=out.data)
    return out


class DirectPath(ComponentTables):
    """PCA of log-normalised, highly variable genes; fitted once, then a fixed map.

    Parameters
    ----------
    n_genes
        Genes of the data set.
    n_variable
        Highly variable genes used (fewer if the data hold fewer); ``features`` lists them, most variable first.
    n_components
        Width of the path; 0 leaves only the choice of genes.
    n_wide
        Width of the wide input that the closed-form experts read: components of the same genes, not scaled, so that
        genes keep the weight of their expression.
    normalised
        The values are log-normalised already.
    """

    shallow_mean: Tensor
    shallow_scale: Tensor

    def __init__(
        self, n_genes: int, n_variable: int = 2000, n_components: int = 50, n_wide: int = 400, normalised: bool = False
    ):
        super().__init__(min(n_variable, n_genes), n_components, n_wide)
        self.n_genes, self.normalised = n_genes, normalised
        self.register_buffer("shallow_mean", torch.zeros(len(self.features)))
        self.register_buffer("shallow_scale", torch.ones(()))
        self.factors = FactorModel(n_genes, min(N_FACTORS, self.n_wide))

    def normalise(self, x: sp.csr_matrix, visible: np.ndarray | None = None, share: float = 1.0) -> sp.csr_matrix:
        """Counts to log-normalised expression: csr (cells, genes); totals are of visible genes over their ``share``."""
        if self.normalised:
            return x
        if visible is None:
            return log_normalise(x)
        return log_normalise(x, (x @ visible.astype(np.float32)) / share)

    def fit(self, chunks: Chunks, n_batch: int) -> np.ndarray:
        """Choose genes and components from ``chunks()``, an iterator of (log-normalised csr, batch codes).

        Returns which batches are shallow, bool (n_batch,).
        """
        moments = BatchMoments(n_batch, self.n_genes)
        for x, batch in chunks():
            moments.add(x, batch)
        genes = moments.variable_genes(len(self.features))
        mean, std = moments.mean_std(genes)
        scaled, plain = np.zeros((2, len(genes), len(genes)))
        fill(self, shallow_scale=moments.shallow_scale())
        total = np.zeros(len(genes))
        for x, _ in chunks():
            chosen = x[:, genes]
            plain += (chosen.T @ chosen).toarray()
            total += np.asarray(self._rescale(chosen).sum(0)).ravel()
            dense = np.clip((chosen.toarray() - mean.astype(np.float32)) / std.astype(np.float32), -CLIP, CLIP)
            scaled += dense.T @ dense
        plain -= moments.n.sum() * np.outer(mean, mean)  # centred here, so that blocks stay sparse
        narrow, wide = _leading_eigenvectors(scaled, self.n_components), _leading_eigenvectors(plain, self.n_wide)
        fill(self, features=genes, mean=mean, std=std, loadings=narrow, wide_loadings=wide)
        fill(self, shallow_mean=total / moments.n.sum())
        self._fit_factors(chunks, moments, np.diag(plain) / moments.n.sum())
        return moments.shallow()

    def _fit_factors(self, chunks: Chunks, moments: "BatchMoments", variance: np.ndarray) -> None:
        """Fit the leading wide components as factors of all genes; ``variance``: of the variable genes."""
        k = len(self.factors.variances)
        v, genes = array(self.wide_loadings)[:, :k].astype(np.float64), array(self.features)
        mean = moments.mean_std(np.arange(self.n_genes))[0]
        cross, squares, n = np.zeros((self.n_genes, k)), np.zeros(k), moments.n.sum()
        for x, _ in chunks():
            scores = x[:, genes] @ v - mean[genes] @ v  # of mean zero over all cells
            cross += x.T @ scores
            squares += (scores**2).sum(0)
        noise = (variance.sum() - squares.sum() / n) / max(len(genes) - k, 1)
        self.factors.fit(mean, cross / np.maximum(squares, 1e-12), squares / n, noise)

    def transform(self, x: sp.csr_matrix, visible: np.ndarray | None = None) -> np.ndarray:
        """Project log-normalised expression: (cells, genes) -> (cells, components) float32."""
        dense = (x[:, array(self.features)].toarray() - array(self.mean)) / array(self.std)
        return self._project(np.clip(dense, -CLIP, CLIP), array(self.loadings), visible)

    def transform_wide(self, x: sp.csr_matrix, visible: np.ndarray | None = None) -> np.ndarray:
        """Wide input of log-normalised expression: (cells, genes) -> (cells, n_wide) float32."""
        dense = x[:, array(self.features)].toarray() - array(self.mean)
        return self._project(dense, array(self.wide_loadings), visible)

    def transform_shallow(self, x: sp.csr_matrix, visible: np.ndarray | None = None) -> np.ndarray:
        """Wide input for shallow cells, (cells, genes) -> (cells, n_wide); missing genes are taken as expected."""
        if visible is None:
            dense = self._rescale(x[:, array(self.features)]).toarray()
        else:
            dense = self._rescale_dense(self._completed(x, visible) + array(self.mean))
        return ((dense - array(self.shallow_mean)) @ array(self.wide_loadings)).astype(np.float32)

    def shallow(self, x: sp.csr_matrix, expected: float) -> np.ndarray:
        """Cells that show less than ``SHALLOW_CELL`` of the genes that they are expected to show, bool (cells,)."""
        return np.asarray((x > 0).sum(1)).ravel() < SHALLOW_CELL * expected

    def complete(self, x: sp.csr_matrix, visible: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What :meth:`transform` and :meth:`transform_wide` give with the genes that are not visible as expected."""
        return self._both(self._completed(x, visible))

    def _completed(self, x: sp.csr_matrix, visible: np.ndarray) -> np.ndarray:
        """Centred values of the variable genes, of which those that are not visible are as expected."""
        genes, hidden = array(self.features), ~np.asarray(visible, bool)[array(self.features)]
        dense = x[:, genes].toarray() - array(self.mean)
        dense[:, hidden] = self.factors.expected(x, visible) @ self.factors.weights(genes[hidden]).T
        return dense

    def doubt(self, visible: np.ndarray, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """What is not known of :meth:`complete`'s answer: ``n`` draws of what may have to be added to it."""
        genes, hidden = array(self.features), ~np.asarray(visible, bool)[array(self.features)]
        dense = np.zeros((n, len(genes)), np.float32)
        dense[:, hidden] = self.factors.draw(genes[hidden], visible, n, rng)
        return self._both(dense)

    def doubt_shallow(self, visible: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
        """As the second of :meth:`doubt`, for :meth:`transform_shallow`; to first order at the average cell."""
        genes, hidden = array(self.features), ~np.asarray(visible, bool)[array(self.features)]
        dense = np.zeros((n, len(genes)), np.float32)
        level, scale = np.exp(np.maximum(array(self.mean)[hidden], 0.0)), float(self.shallow_scale)
        slope = scale * level / (1.0 + scale * (level - 1.0))
        dense[:, hidden] = slope * self.factors.draw(genes[hidden], visible, n, rng)
        return (dense @ array(self.wide_loadings)).astype(np.float32)

    def _both(self, dense: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        narrow = np.clip(dense / array(self.std), -CLIP, CLIP) @ array(self.loadings)
        return narrow.astype(np.float32), (dense @ array(self.wide_loadings)).astype(np.float32)

    def _rescale(self, x: sp.csr_matrix) -> sp.csr_matrix:
        """Log-normalised expression on the scale of shallow cells, csr."""
        x = sp.csr_matrix(x)
        return sp.csr_matrix((self._rescale_dense(x.data), x.indices, x.indptr), shape=x.shape)

    def _rescale_dense(self, x: np.ndarray) -> np.ndarray:
        return np.log1p(float(self.shallow_scale) * np.expm1(np.maximum(x, 0.0)))

    def _project(self, dense: np.ndarray, v: np.ndarray, visible: np.ndarray | None) -> np.ndarray:
        if visible is None:
            return (dense @ v).astype(np.float32)
        seen = np.asarray(visible)[array(self.features)]
        return (dense[:, seen] @ posterior_map(v[seen])).astype(np.float32)


class BatchMoments:
    """Cells, sums and sums of squares per batch and gene, of log-normalised and of normalised expression.

    Chooses genes as :func:`scanpy.pp.highly_variable_genes` does with ``flavor="seurat"`` and ``batch_key`` (Satija et
    al. 2015; a test holds both to the same genes), which needs all cells at once; here blocks of rows are added up.
    Genes that a shallow batch hardly shows come last: what deep batches say of them, it cannot answer.
    """

    def __init__(self, n_batch: int, n_genes: int):
        self.n = np.zeros(n_batch)
        self.log_sum, self.log_squares, self.sum, self.squares = np.zeros((4, n_batch, n_genes))
        self.detected = np.zeros((n_batch, n_genes))  # cells that show a gene
        # cells that show a gene, and the sum over them of one over their least value, which is mostly one count
        self.filled, self.steps = np.zeros((2, n_batch))

    def add(self, x: sp.csr_matrix, batch: np.ndarray) -> None:
        """Add a block of log-normalised cells (csr) with their batch codes."""
        member = members(batch, len(self.n))
        linear = sp.csr_matrix((np.expm1(x.data, dtype=np.float64), x.indices, x.indptr), shape=x.shape)
        self.n += np.bincount(batch, minlength=len(self.n))
        for total, squares, values in ((self.log_sum, self.log_squares, x), (self.sum, self.squares, linear)):
            total += (member @ values).toarray()
            squares += (member @ values.multiply(values)).toarray()
        self.detected += (member @ (x > 0)).toarray()
        filled = np.flatnonzero(np.diff(linear.indptr))
        if len(filled):
            positive = np.where(linear.data > 0, linear.data, np.inf)  # a sparse matrix may store zeros
            least = np.minimum.reduceat(positive, linear.indptr[filled])
            self.steps += np.bincount(batch[filled], weights=1.0 / least, minlength=len(self.n))
            self.filled += np.bincount(batch[filled], weights=least < np.inf, minlength=len(self.n))

    def shallow(self) -> np.ndarray:
        """Batches whose cells show fewer than ``SHALLOW`` times as many genes as those of others, bool (batches,).

        Cells without any gene are left out.
        """
        there = self.filled > 0
        per_cell = self.detected.sum(1) / np.maximum(self.filled, 1)
        return there & (per_cell < SHALLOW * per_cell[there].mean()) if there.any() else there

    def shallow_scale(self) -> float:
        """Scale of expression on which one count of a shallow cell is about 1, whatever values were normalised to."""
        shallow = self.shallow()
        if shallow.any():
            return float(self.steps[shallow].sum() / self.filled[shallow].sum())
        return SHALLOW_DEPTH * float(self.steps.sum()) / max(float(self.filled.sum()), 1.0)

    def mean_std(self, genes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of log-normalised expression over all cells; 1 for constant genes."""
        n = max(self.n.sum(), 1.0)
        mean = self.log_sum[:, genes].sum(0) / n
        std = np.sqrt(np.maximum(self.log_squares[:, genes].sum(0) / n - mean**2, 0.0))
        return mean, np.where(std < 1e-5, 1.0, std)

    def variable_genes(self, n_top: int) -> np.ndarray:
        """Positions of the ``n_top`` genes: chosen in most batches first, then by mean normalised dispersion.

        Genes that less than ``LEAST_DETECTED`` of the cells of a shallow batch show, as far as their number can tell,
        follow after all others.
        """
        chosen = np.zeros(self.detected.shape[1])
        dispersions = np.full(self.detected.shape, np.nan)
        for b in np.flatnonzero(self.n > 1).tolist():  # one cell has no variance
            genes = np.flatnonzero(self.detected[b])
            if not genes.size:  # a batch of empty cells
                continue
            norm = self._normalised_dispersion(b, genes)
            dispersions[b, genes] = norm
            finite = np.sort(norm[np.isfinite(norm)])[::-1]
            if finite.size:
                chosen[genes] += norm >= finite[min(n_top, finite.size) - 1]  # scanpy takes all that tie, too
        seen = np.isfinite(dispersions)
        mean = np.where(seen, dispersions, 0.0).sum(0) / np.maximum(seen.sum(0), 1)
        mean[~seen.any(0)] = -np.inf  # a dispersion that nothing is known of must not count as 0
        return np.lexsort((-mean, -chosen, self._lost()))[:n_top]

    def _lost(self) -> np.ndarray:
        """Genes that a shallow batch hardly shows, bool (genes,)."""
        shallow = self.shallow()
        return ((self.detected[shallow] + 1) / (self.n[shallow, None] + 1) < LEAST_DETECTED).any(0)

    def _normalised_dispersion(self, b: int, genes: np.ndarray) -> np.ndarray:
        mean = self.sum[b, genes] / self.n[b]
        variance = (self.squares[b, genes] - self.n[b] * mean**2) / (self.n[b] - 1)
        dispersion = np.where(variance > 0, variance / np.maximum(mean, 1e-12), np.nan)
        table = pd.DataFrame({"dispersion": np.log(dispersion), "bin": pd.cut(np.log1p(mean), bins=N_BINS)})
        stats = table.groupby("bin", observed=True)["dispersion"].agg(centre="mean", spread="std")
        alone = stats["spread"].isna()  # scanpy gives a gene that is alone in its bin the value 1
        stats.loc[alone, "spread"] = stats.loc[alone, "centre"]
        stats.loc[alone, "centre"] = 0.0
        stats = stats.loc[table["bin"]]
        with np.errstate(invalid="ignore", divide="ignore"):  # genes that are alone in their bin, or do not vary
            return (table["dispersion"].to_numpy() - stats["centre"].to_numpy()) / stats["spread"].to_numpy()


def _leading_eigenvectors(gram: np.ndarray, k: int) -> np.ndarray:
    """Eigenvectors of the k largest eigenvalues, largest first, signs fixed for reproducibility."""
    n = len(gram)
    if not k or np.trace(gram) <= 1e-12:  # constant data have no directions
        return np.eye(n, k)
    if 10 * k >= n:  # Lanczos pays for a few vectors only
        v = eigh(gram.astype(np.float32), subset_by_index=[n - k, n - 1])[1][:, ::-1]
    else:
        values, v = eigsh(gram, k=k, which="LA", v0=np.ones(gram.shape[0]))  # ARPACK's own start is random
        v = v[:, np.argsort(-values)]
    return fix_signs(v)


class ExpressionDecoder(nn.Module):
    r"""Decoder of genes.

    Counts have a negative binomial with mean :math:`l_n\, e^{\beta_g + (W z_n)_g}` and a dispersion per gene,
    log-normalised values a Gaussian with mean :math:`\beta_g + (W z_n)_g` and a scale per gene.

    Parameters
    ----------
    n_latent
        Width of the embedding.
    n_features
        Number of target genes.
    likelihood
        ``"nb"`` for counts, ``"gaussian"`` for log-normalised values.
    """

    average: Tensor

    def __init__(self, n_latent: int, n_features: int, likelihood: str = "nb"):
        super().__init__()
        self.likelihood = likelihood
        self.map = LowRankMap(n_latent, n_features)
        self.register_buffer("average", torch.zeros(n_features))
        self.log_dispersion = nn.Parameter(torch.zeros(n_features))

    def fit_average(self, target: sp.csr_matrix, totals: np.ndarray) -> None:
        """Set the average of each gene: log share of all counts, or mean and scale of log-normalised values."""
        if self.likelihood == "nb":
            share = (np.asarray(target.sum(0)).ravel() + 0.5) / max(float(totals.sum()), 1.0)  # log 0 is not finite
            fill(self, average=np.log(share))
            return
        mean = np.asarray(target.mean(0)).ravel()
        variance = np.asarray(target.multiply(target).mean(0)).ravel() - mean**2
        fill(self, average=mean, log_dispersion=0.5 * np.log(np.maximum(variance, 1e-3)))  # genes may be constant

    def forward(self, z: Tensor, totals: Tensor) -> Tensor:
        """Expected expression of the target genes: (cells, n_latent), (cells, 1) -> (cells, genes)."""
        shift = self.average + self.map(z)
        return totals * torch.exp(shift.clamp_max(15.0)) if self.likelihood == "nb" else shift  # finite

    def loss(self, z: Tensor, target: Tensor, totals: Tensor, hidden: Tensor) -> Tensor:
        """Negative log-likelihood of the hidden target genes, (cells,)."""
        term = masked_negative_binomial if self.likelihood == "nb" else masked_gaussian
        return term(target, self(z, totals), self.log_dispersion, hidden)


class Rna(Modality):
    """Genes: counts or log-normalised values, principal components, negative binomial or Gaussian."""

    name, title, features, count = RNA, "RNA", "genes", "n_vars"
    values = ValueRules()
    genes_argument = "gene_key"
    # labels of several batches teach a classifier over hundreds of genes what to ignore, and means of batches that hold
    # types in other proportions differ for good reason; a panel of few antibodies has no such choice
    centres_wide = False

    def path(self, n_features: int, data_type: str, n_variable: int, n_components: int, n_wide: int) -> LinearPath:
        """:class:`DirectPath`."""
        return DirectPath(n_features, n_variable, n_components, n_wide, data_type == "lognorm")

    def decoder(self, data_type: str, n_latent: int, n_features: int) -> Decoder:
        """:class:`ExpressionDecoder`."""
        return ExpressionDecoder(n_latent, n_features, "nb" if data_type == "counts" else "gaussian")

    def genes(self, adata: AnnData, given: Any, others: Any) -> tuple[list[str], None]:
        """Features are genes, named by ``var_names`` or by the column ``given``."""
        if given is not None and given not in adata.var:
            raise KeyError(f"gene_key={given!r} is not in var of the RNA modality; it has {list(adata.var.columns)}.")
        return (adata.var_names if given is None else adata.var[given]).astype(str).tolist(), None

    def expected(self, values: np.ndarray) -> np.ndarray:
        """Counts per 10,000."""
        return np.expm1(np.maximum(values, 0.0)).astype(np.float32)  # a regression may guess below 0
