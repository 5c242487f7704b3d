r"""Linear base: what the embedding is before the first gradient step.

Frozen features :math:`h` and direct features :math:`u` are freed of what batch and covariates explain
linearly (step 0 of the refinement), rotated to their principal axes, scaled to one total variance and
set beside each other with shares :math:`s_h + s_u = 1`:

.. math:: b = \left[\sqrt{s_h}\,\frac{R_h^\top (h - B_h d)}{\lVert\cdot\rVert},\;
                    \sqrt{s_u}\,\frac{R_u^\top (u - B_u d)}{\lVert\cdot\rVert}\right]

with :math:`d` the one-hot batch and the covariates. A batch that was not seen is centred where the known
ones are in the mean.
Features that come in blocks (one per layer of the backbone) are centred block by block, scaled to one total variance
each and averaged; the mean takes the place of :math:`h`.
Nothing here sees labels.
"""

import numpy as np
import torch
from torch import nn

from more_scvi.data._batches import batch_offsets
from more_scvi.modalities._parts import fill, fix_signs, members

TOTAL_VARIANCE = 50.0
"""Variance of a path summed over its axes: about 1 per axis of the usual width, what heads and optimiser expect.
Source: plain value, not tuned."""


class PathBase(nn.Module):
    """Centring, rotation and scale of one path; buffers only.

    Parameters
    ----------
    n_in
        Width of the features that come in.
    n_out
        Principal axes that are kept.
    n_batch
        Number of batches.
    n_covariates
        Columns of the covariate design (one-hot categories and standardised continuous ones).
    n_blocks
        Blocks of ``n_in // n_blocks`` columns that the features consist of.
    """

    offset: torch.Tensor
    block_scale: torch.Tensor
    slope: torch.Tensor
    rotation: torch.Tensor
    scale: torch.Tensor

    def __init__(self, n_in: int, n_out: int, n_batch: int, n_covariates: int = 0, n_blocks: int = 1):
        super().__init__()
        self.n_in, self.n_blocks = n_in, n_blocks
        self.register_buffer("offset", torch.zeros(n_batch, n_in))
        self.register_buffer("slope", torch.zeros(n_covariates, n_in))
        self.register_buffer("rotation", torch.eye(n_in // n_blocks, n_out))
        self.register_buffer("scale", torch.ones(()))
        if n_blocks > 1:
            self.register_buffer("block_scale", torch.ones(n_blocks))

    def fit(self, features: np.ndarray, batch: np.ndarray, covariates: np.ndarray) -> np.ndarray:
        """Fit on (cells, n_in) features; return the transformed (cells, n_out) ones."""
        offset = batch_means(features, batch, len(self.offset))
        centred = features - offset[batch]
        if covariates.shape[1]:
            c = covariates - batch_means(covariates, batch, len(self.offset))[batch]  # else slopes are too small
            gram = c.T @ c + 1e-3 * len(c) * np.eye(c.shape[1])  # one-hot categories are collinear
            slope = np.linalg.solve(gram, c.T @ centred).astype(np.float32)
            centred = centred - c @ slope
            offset = offset - batch_means(covariates, batch, len(self.offset)) @ slope  # transform centres no covariate
            fill(self, slope=slope)
        if self.n_blocks > 1:
            spread = np.sqrt((self._split(centred) ** 2).sum(2).mean(0) / TOTAL_VARIANCE)
            fill(self, block_scale=np.where(spread > 1e-8, spread, 1.0))  # a block may not vary
            centred = self._scaled(centred).mean(1)
        values, vectors = np.linalg.eigh((centred.T @ centred) / len(centred))
        rotation = fix_signs(vectors[:, ::-1][:, : self.rotation.shape[1]])
        out = centred @ rotation
        scale = np.sqrt((out**2).sum(1).mean() / TOTAL_VARIANCE)
        fill(self, offset=offset, rotation=rotation, scale=scale if scale > 1e-8 else 1.0)
        return (out / float(self.scale)).astype(np.float32)  # the stored float32, as in transform

    def transform(self, features: np.ndarray, batch: np.ndarray, covariates: np.ndarray) -> np.ndarray:
        """(cells, n_in) -> (cells, n_out). New batches (negative codes) are centred on the mean of the known ones."""
        centred = self._centre(features, batch, covariates)
        if self.n_blocks > 1:
            centred = self._scaled(centred).mean(1)
        return (centred @ self.rotation.cpu().numpy() / float(self.scale)).astype(np.float32)

    def blocks(self, features: np.ndarray, batch: np.ndarray, covariates: np.ndarray) -> np.ndarray:
        """Each block's part of :meth:`transform`, which is their mean: (cells, n_in) -> (cells, n_blocks, n_out)."""
        scaled = self._scaled(self._centre(features, batch, covariates))
        return (scaled @ self.rotation.cpu().numpy() / float(self.scale)).astype(np.float32)

    def last_map(self) -> torch.Tensor:
        """The linear map from a change of the last block to that block's part, (n_in // n_blocks, n_out)."""
        scale = self.scale if self.n_blocks == 1 else self.scale * self.block_scale[-1]
        return self.rotation / scale

    def offset_map(self) -> np.ndarray:
        """What centring each known batch on its own mean moved it by, seen from their mean, (batches, n_out)."""
        covariates = np.zeros((len(self.offset), len(self.slope)), np.float32)
        return self.transform(self.offset.cpu().numpy(), np.full(len(self.offset), -1), covariates)

    def _centre(self, features: np.ndarray, batch: np.ndarray, covariates: np.ndarray) -> np.ndarray:
        explained = covariates @ self.slope.cpu().numpy() if covariates.shape[1] else np.zeros((1, 1), np.float32)
        residual = features - explained
        return residual - batch_offsets(batch, self.offset.cpu().numpy())

    def _split(self, features: np.ndarray) -> np.ndarray:
        return features.reshape(len(features), self.n_blocks, -1)

    def _scaled(self, centred: np.ndarray) -> np.ndarray:
        """Blocks of one total variance, (cells, n_blocks, n_in // n_blocks)."""
        return self._split(centred) / (1.0 if self.n_blocks == 1 else self.block_scale.cpu().numpy()[:, None])


def batch_means(x: np.ndarray, batch: np.ndarray, n_batch: int) -> np.ndarray:
    """Mean of each batch, (batches, columns); batches without cells get the overall mean."""
    n = np.bincount(batch, minlength=n_batch)
    out = (members(batch, n_batch) @ x) / np.maximum(n, 1)[:, None]
    out[n == 0] = x.mean(0)
    return out.astype(np.float32)
