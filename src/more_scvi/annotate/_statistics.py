r"""Types that come with a query: a discriminant analysis that is solved from sums over cells, not from cells.

Of labelled cells :math:`z_i` of type :math:`t_i` three sums are kept, :math:`n_t = \sum 1`, :math:`s_t = \sum z_i` and
:math:`Q = \sum z_i z_i^\top`. Sums of several data sets add up in any order. With :math:`\mu_t = s_t / n_t` they give
the pooled scatter within types,

.. math:: \Sigma = \frac{1}{n}\Bigl(Q - \sum_t n_t\, \mu_t \mu_t^\top\Bigr),\qquad
          \ell_t = \mu_t^\top \Sigma^{-1} z - \tfrac12 \mu_t^\top \Sigma^{-1} \mu_t ,

which is shrunk to a multiple of the identity by a rule that needs no cells either. All types have the same prior: how
often a type was labelled does not say how often it is in a query. With :math:`q = \mathrm{softmax}(\ell)` and the
answer :math:`p` of the reference, a new type has the probability :math:`q_t`, and old ones share the rest as :math:`p`
does; where cells of old types were labelled, too, as the geometric mean of :math:`p` and :math:`q` does.

References: shrinkage, Chen et al. 2010 (OAS).
"""

from collections.abc import Callable
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

NEW_TYPE_CELLS = 20
"""Labelled cells from which on a type that the reference lacks is answered. Source: plain value, not tuned."""


class TypeStatistics(nn.Module):
    """Sums over the labelled cells of each type; buffers only, in double precision, on the CPU.

    Parameters
    ----------
    n_latent, n_types
        Width of the embedding and number of types.
    """

    count: Tensor
    total: Tensor
    second: Tensor

    def __init__(self, n_latent: int, n_types: int):
        super().__init__()
        self.register_buffer("count", torch.zeros(n_types, dtype=torch.float64))
        self.register_buffer("total", torch.zeros(n_types, n_latent, dtype=torch.float64))
        self.register_buffer("second", torch.zeros(n_latent, n_latent, dtype=torch.float64))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        return self  # sums need double precision, which some devices lack

    def reset(self) -> None:
        """Forget all cells."""
        for buffer in self.buffers():
            buffer.zero_()

    def add(self, z: np.ndarray, labels: np.ndarray, sign: int = 1) -> None:
        """Add cells, (cells, n_latent) and codes (cells,), -1 = not labelled; with ``sign`` -1 take them away."""
        known = labels >= 0
        x, at = torch.from_numpy(z[known]).double(), torch.from_numpy(labels[known])
        self.count.index_add_(0, at, torch.full((len(x),), float(sign), dtype=torch.float64))
        self.total.index_add_(0, at, sign * x)
        self.second += sign * (x.T @ x)

    def with_more(self, more: "TypeStatistics") -> "TypeStatistics":
        """Sums of both; ``more`` has the types of this one first, and perhaps further ones."""
        n_types, n_latent = more.total.shape
        out = TypeStatistics(n_latent, n_types)
        for name, value in more.named_buffers():
            own = getattr(self, name)
            getattr(out, name).copy_(value)[tuple(slice(n) for n in own.shape)] += own
        return out

    @property
    def centres(self) -> Tensor:
        """Mean of each type, (types, n_latent); NaN where it has no cell."""
        return self.total / self.count[:, None]

    def covariance(self) -> Tensor:
        """Shrunk covariance within types, (n_latent, n_latent)."""
        means, n, p = self.centres.nan_to_num(), self.count.sum().clamp_min(1.0), self.total.shape[1]
        within = (self.second - self.total.T @ means) / n
        size, level = within.square().mean(), within.diagonal().mean()
        share = ((size + level**2) / ((n + 1) * (size - level**2 / p)).clamp_min(1e-300)).clamp_max(1.0)
        return (1 - share) * within + (share * level).clamp_min(1e-12) * torch.eye(p, dtype=torch.float64)

    def distances(self, z: Tensor) -> Tensor:
        """Squared Mahalanobis distance to each type's centre, (cells, types); infinite where it has no cell."""
        means = self.centres
        root = torch.linalg.cholesky(self.covariance())
        x, c = (torch.linalg.solve_triangular(root, v.double().cpu().T, upper=False).T for v in (z, means.nan_to_num()))
        out = (x.square().sum(1, keepdim=True) - 2 * x @ c.T + c.square().sum(1)).clamp_min(0.0)
        return out.masked_fill(self.count < 1, float("inf"))


class NewTypes(nn.Module):
    """Sums of the reference and of what was added since, and the probabilities of types that the reference lacks.

    Parameters
    ----------
    n_latent, n_labels, n_new
        Width of the embedding, types of the reference and types that were added.
    """

    def __init__(self, n_latent: int, n_labels: int, n_new: int):
        super().__init__()
        self.n_labels, self.n_new = n_labels, n_new
        self.reference = TypeStatistics(n_latent, n_labels)
        self.added = TypeStatistics(n_latent, n_labels + n_new)

    @property
    def open(self) -> Tensor:
        """Types that can be answered, bool (n_labels + n_new,): new ones with enough labelled cells."""
        count = self.reference.with_more(self.added).count
        return count >= torch.where(torch.arange(len(count)) < self.n_labels, 1, NEW_TYPE_CELLS)

    def distances(self, z: Tensor) -> Tensor:
        """Squared distance to each type as :meth:`TypeStatistics.distances`; infinite where it cannot be answered."""
        out = self.reference.with_more(self.added).distances(z)
        return out.masked_fill(~self.open, float("inf"))

    def say(self, z: Tensor) -> Tensor:
        """Log-probabilities of the reference's types by their centres alone, (cells, n_latent) -> (cells, n_labels)."""
        return torch.log_softmax(-0.5 * self.distances(z)[:, : self.n_labels], 1).to(z)

    def widen(self, log_probs: Tensor, z: Tensor, others: Tensor) -> Tensor:
        """Log-probabilities of old and new types, (cells, n_labels + n_new).

        Parameters
        ----------
        log_probs
            The reference's answer, (cells, n_labels).
        z
            (cells, n_latent).
        others
            bool (cells,): cells that queries may change the answer of; for the others it stays as it is.
        """
        retold = bool((self.added.count[: self.n_labels] > 0).any())
        if not self.n_new and not retold:
            return log_probs
        new = log_probs.new_full((len(z), self.n_new), float("-inf"))
        rest = torch.zeros_like(log_probs[:, :1])
        if others.any():
            said: Any = torch.log_softmax(-0.5 * self.distances(z[others]), 1)
            left = said[:, : self.n_labels].logsumexp(1, keepdim=True)
            new[others], rest[others] = said[:, self.n_labels :].to(new), left.to(rest)
            if retold:
                old = torch.log_softmax(said[:, : self.n_labels], 1).to(log_probs)
                log_probs = log_probs.clone()
                log_probs[others] = torch.log_softmax((log_probs[others] + old) / 2, 1)
        return torch.cat([log_probs + rest, new], 1)
