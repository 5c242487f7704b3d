r"""The trained part of a student: residuals that start at zero on a linear guess.

.. math:: z = h + \bar z_b + W_2\,\mathrm{gelu}(W_1\,\mathrm{norm}[h, e_b]), \qquad
          \ell = A h + a + V_2\,\mathrm{gelu}(V_1\,\mathrm{norm}[h, e_b])

:math:`h` is the linear guess of the front, :math:`\bar z_b` the teacher's mean in a batch and :math:`e_b` a learned
vector per batch (one for each residual), 0 at the start. A batch that was not there in training has the mean of all
:math:`\bar z_b` and :math:`e = 0`; training leaves :math:`e` out at random, so that this case is learned, too.

A regression scatters less than what it predicts, and the less the noisier a batch is, which would set batches apart.
Last, every type of a known batch is given the spread that the teacher gave it (:class:`more_scvi.module.SpreadStep`).
"""

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from more_scvi._spread import SpreadStep
from more_scvi.base._missing import N_DRAWS, WIDENED
from more_scvi.modalities._missing import posterior

SIZES = ("n_genes", "n_variable", "n_components", "n_latent", "n_batch", "n_labels", "n_hidden", "normalised")
"""Arguments of the network, in their order."""

N_BATCH_AXES = 8
"""Most axes of batch effects in the student."""
CLIP = 10.0
"""Scaled values are cut off here. Source: paper Wolf 2018 (scanpy)."""
SIZE = 1e4


@dataclass(frozen=True)
class VisibleMap:
    """What a :class:`LinearFront` does where some genes are there."""

    columns: np.ndarray  # (visible variable genes,) in the data
    genes: np.ndarray  # (known genes,) columns of all genes that count for the totals
    share: float  # of a cell's counts that these are expected to hold
    ceiling: np.ndarray  # (visible variable genes,) where expression is clipped
    weight: np.ndarray  # (visible variable genes, n_latent)
    offset: np.ndarray  # (n_latent,) what is subtracted from every cell
    centres: np.ndarray  # (batches, n_latent) what is subtracted from cells of a batch


class LinearFront(nn.Module):
    r"""Linear start of a student: expression of the genes that are there to a first guess of the teacher's embedding.

    With :math:`x` the log-normalised, standardised and clipped expression of the variable genes and :math:`m_b` its
    mean in batch :math:`b`,

    .. math:: h = W^\top (x - m_b),

    :math:`W` by ridge regression of the teacher's embedding (centred in the same way). Genes that were not measured are
    missing, not zero: they are taken at their expectation given the genes :math:`S` that were, under a factor model
    (probabilistic PCA, Tipping and Bishop 1999) with loadings :math:`U`, variances :math:`\Lambda` and noise
    :math:`\rho`. That is linear, too:

    .. math:: W_S^{\mathrm{eff}} = W_S + U_S (U_S^\top U_S + \rho \Lambda^{-1})^{-1} U_M^\top W_M .

    Counts are scaled to 10,000 times the share of a cell's counts that the genes there are expected to hold.
    Standardising moves zeros to one value per gene and clipping touches only stored values, so that all of it is one
    product of a sparse matrix; nothing is made dense. Buffers only.
    """

    gene_share: Tensor
    detected: Tensor
    variable: Tensor
    mean: Tensor
    std: Tensor
    weight: Tensor
    loadings: Tensor
    variances: Tensor
    noise: Tensor
    batch_mean: Tensor

    def __init__(
        self, n_genes: int, n_variable: int, n_components: int, n_latent: int, n_batch: int, normalised: bool = False
    ) -> None:
        super().__init__()
        self.normalised = normalised
        shapes: dict[str, tuple[int, ...]] = {
            **dict.fromkeys(("gene_share", "detected"), (n_genes,)),
            **dict.fromkeys(("mean", "std"), (n_variable,)),
            "weight": (n_variable, n_latent),
            "loadings": (n_variable, n_components),
            "variances": (n_components,),
            "noise": (),
            "batch_mean": (n_batch, n_variable),
        }
        for name, shape in shapes.items():
            self.register_buffer(name, torch.ones(shape))
        self.register_buffer("variable", torch.zeros(n_variable, dtype=torch.long))

    def effective(self, weight: np.ndarray, seen: np.ndarray) -> np.ndarray:
        """Weights on the genes that are seen, (seen, n_latent), given those on all, (variable genes, n_latent)."""
        if seen.all() or not len(self.variances):
            return weight[seen]
        u, precision = self.loadings.numpy(), float(self.noise) / self.variances.numpy()
        guess = np.linalg.solve(u[seen].T @ u[seen] + np.diag(precision), u[~seen].T @ weight[~seen])
        return (weight[seen] + u[seen] @ guess).astype(np.float32)

    def visible_map(self, index: np.ndarray, weight: np.ndarray | None = None) -> VisibleMap:
        """The map for data whose columns are genes ``index`` (-1: not known to the student).

        ``weight``, (variable genes, n_latent), stands in for the fitted one.
        """
        place = np.full(len(self.gene_share), -1)
        genes = np.flatnonzero(index >= 0)
        place[index[genes]] = genes
        columns = place[self.variable.numpy()]
        seen = columns >= 0
        used = self.effective(self.weight.numpy() if weight is None else weight, seen)
        mean, std = self.mean.numpy()[seen], self.std.numpy()[seen]
        scaled = used / std[:, None]
        return VisibleMap(
            columns=columns[seen],
            genes=genes,
            share=float(self.gene_share.numpy()[index[genes]].sum()),
            ceiling=mean + CLIP * std,
            weight=scaled.astype(np.float32),
            offset=(mean @ scaled).astype(np.float32),
            centres=(self.batch_mean.numpy()[:, seen] @ used).astype(np.float32),
        )

    def doubt(self, index: np.ndarray) -> np.ndarray:
        """Draws of what missing genes may add to the guess beside what is expected of them, (draws, n_latent) float32.

        They add up to zero and are the same for all cells; without missing genes there is none. ``index`` as in
        :meth:`visible_map`.
        """
        hidden = ~np.isin(self.variable.numpy(), index)
        if not hidden.any():
            return np.zeros((0, self.weight.shape[1]), np.float32)
        u, noise, rng = self.loadings.numpy().astype(np.float64), float(self.noise), np.random.default_rng(0)
        root = np.linalg.cholesky(posterior(u[~hidden], self.variances.numpy(), noise))
        x = rng.normal(size=(N_DRAWS // 2, len(root))) @ root.T @ u[hidden].T
        x = WIDENED * (x + np.sqrt(noise) * rng.normal(size=x.shape)) @ self.weight.numpy()[hidden]
        return np.concatenate([x, -x]).astype(np.float32)

    def project(self, x: sp.csr_matrix, there: VisibleMap) -> np.ndarray:
        """Linear guess before centring: csr (cells, columns of the data) -> (cells, n_latent) float32."""
        y = normalise(x, there, self.normalised)
        np.minimum(y.data, np.take(there.ceiling, y.indices), out=y.data)
        return np.asarray(y @ there.weight) - there.offset


def normalise(x: sp.csr_matrix, there: VisibleMap, normalised: bool) -> sp.csr_matrix:
    """Log-normalised expression of the visible variable genes, csr float32."""
    y = sp.csr_matrix(x[:, there.columns], dtype=np.float32, copy=True)
    if normalised:
        return y
    counted = np.zeros(x.shape[1], np.float32)
    counted[there.genes] = 1.0
    totals = np.maximum(np.asarray(x @ counted, dtype=np.float32).ravel(), 1e-12)
    y.data *= np.repeat((SIZE * there.share / totals).astype(np.float32), np.diff(y.indptr))
    np.log1p(y.data, out=y.data)
    return y


class _Residual(nn.Module):
    """One hidden layer over the guess and the batch; zero at the start."""

    def __init__(self, n_latent: int, n_batch: int, n_hidden: int, n_out: int) -> None:
        super().__init__()
        self.batch = nn.Embedding(n_batch, N_BATCH_AXES)
        nn.init.zeros_(self.batch.weight)
        n_in = n_latent + N_BATCH_AXES
        self.norm = nn.LayerNorm(n_in, elementwise_affine=False)
        self.down = nn.Linear(n_in, n_hidden)
        self.dropout = nn.Dropout(0.1)
        self.up = nn.Linear(n_hidden, n_out)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, h: Tensor, batch: Tensor) -> Tensor:
        """(cells, n_latent), codes (cells,), -1 = new -> (cells, n_out)."""
        x = torch.cat([h, self.batch(batch.clamp_min(0)) * (batch >= 0)[:, None]], 1)
        return self.up(self.dropout(F.gelu(self.down(self.norm(x)))))


class StudentNetwork(nn.Module):
    """Linear front and residuals of a student.

    Parameters
    ----------
    n_genes, n_variable, n_components, n_latent, n_batch, normalised
        Of the linear front.
    n_labels
        Number of labels (0: no classifier).
    n_hidden
        Width of the residual.
    """

    batch_latent: Tensor
    start: Tensor
    start_bias: Tensor

    def __init__(
        self,
        n_genes: int,
        n_variable: int,
        n_components: int,
        n_latent: int,
        n_batch: int,
        n_labels: int,
        n_hidden: int = 256,
        normalised: bool = False,
    ) -> None:
        super().__init__()
        sizes = (n_genes, n_variable, n_components, n_latent, n_batch, n_labels, n_hidden, normalised)
        self.sizes = dict(zip(SIZES, sizes, strict=True))
        self.front = LinearFront(n_genes, n_variable, n_components, n_latent, n_batch, normalised)
        self.register_buffer("batch_latent", torch.zeros(n_batch, n_latent))
        self.residual = _Residual(n_latent, n_batch, n_hidden, n_latent)
        self.classifier = _Residual(n_latent, n_batch, n_hidden // 2, n_labels) if n_labels else None
        if n_labels:
            self.register_buffer("start", torch.zeros(n_latent, n_labels))
            self.register_buffer("start_bias", torch.zeros(n_labels))
        self.spread = SpreadStep(n_latent, n_batch, max(n_labels, 1))

    def forward(self, h: Tensor, batch: Tensor) -> tuple[Tensor, Tensor | None]:
        """Embedding and logits (None without labels): centred guess (cells, n_latent), batch codes (-1 = new)."""
        mean = torch.where((batch >= 0)[:, None], self.batch_latent[batch.clamp_min(0)], self.batch_latent.mean(0))
        z = h + mean + self.residual(h, batch)
        if self.classifier is None:
            return self.spread(z, z.new_ones(len(z), 1), batch), None
        logits = h @ self.start + self.start_bias + self.classifier(h, batch)
        return self.spread(z, logits.detach().softmax(1), batch), logits  # the spread must not teach the classifier
