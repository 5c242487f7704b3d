"""Heads that read the embedding: classifier over labels, projection for the contrastive loss."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn import functional as F

from more_scvi.module._probes import solve_logistic


class Classifier(nn.Module):
    r"""Linear head plus a bottleneck residual that starts at zero.

    .. math:: \ell = W z + W_2\,\mathrm{gelu}(W_1 z)

    Classes that no visible label carries get a logit of :math:`-\infty` and are never predicted.

    Parameters
    ----------
    n_latent, n_labels
        Width of the embedding and number of classes.
    n_hidden
        Width of the bottleneck; 0 leaves the head linear.
    dropout
        Dropout on the bottleneck.
    """

    open_classes: Tensor

    def __init__(self, n_latent: int, n_labels: int, n_hidden: int = 32, dropout: float = 0.1):
        super().__init__()
        self.linear = nn.Linear(n_latent, n_labels)
        self.down = nn.Linear(n_latent, n_hidden) if n_hidden else None
        self.dropout = nn.Dropout(dropout)
        if n_hidden:
            self.up = nn.Linear(n_hidden, n_labels, bias=False)
            nn.init.zeros_(self.up.weight)
        self.register_buffer("open_classes", torch.ones(n_labels, dtype=torch.bool))

    def forward(self, z: Tensor) -> Tensor:
        """(cells, n_latent) -> logits (cells, n_labels)."""
        logits = self.linear(z)
        if self.down is not None:
            logits = logits + self.up(self.dropout(F.gelu(self.down(z))))
        return logits.masked_fill(~self.open_classes, float("-inf"))


MIN_STACKING = 30
"""Labelled cells from which the share of a classifier is cross-validated. Source: plain value."""
PARTIAL_SHARE = 0.5
"""Least share where modalities are missing: labels of fuller cells, which cross-validation uses, flatter the head.
Source: plain value."""
UNSEEN_SHARE = 0.8
"""Share of an expert whose pattern of modalities no labelled cell has: nothing vouches for the trained head there.
Source: not recorded."""


class WideClassifier(nn.Module):
    r"""Logistic regression on the wide view, solved exactly before training; an expert beside the trained head.

    A linear model over thousands of genes knows fine distinctions that a low-dimensional embedding loses, an embedding
    transfers better between batches. Their probabilities are mixed with the ``share`` at which a mixture of this
    classifier and one on the base predicts visible labels best in cross-validation (stacking, Wolpert 1992).

    There is one expert per pattern of measured modalities, which reads the columns of these modalities only. A pattern
    that was not there in training is served by the expert of the largest pattern within it.

    Parameters
    ----------
    n_wide
        Width of the wide view of all modalities.
    n_labels
        Number of classes.
    patterns
        bool (patterns, modalities): which modalities each expert reads.
    """

    weight: Tensor
    bias: Tensor
    share: Tensor
    patterns: Tensor

    def __init__(self, n_wide: int, n_labels: int, patterns: np.ndarray):
        super().__init__()
        n = len(patterns)
        self.register_buffer("weight", torch.zeros(n, n_labels, n_wide))
        self.register_buffer("bias", torch.full((n, n_labels), float("-inf")))
        self.register_buffer("share", torch.full((n,), 0.5))
        self.register_buffer("patterns", torch.from_numpy(np.asarray(patterns, dtype=bool)))

    def fit(self, expert: int, wide: np.ndarray, base: np.ndarray, labels: np.ndarray, n_own: int) -> None:
        """Fit one expert on cells with a visible label; L2 penalty with C = 1.

        Parameters
        ----------
        expert
            Position in ``patterns``.
        wide
            (cells, n_wide), zero in the columns of other modalities.
        base
            (cells, width) that the trained head will read, for the share.
        labels
            (cells,) codes.
        n_own
            The first so many cells have the pattern; the others were completed and say nothing about the share.
        """
        n_labels, n_wide = self.weight.shape[1:]
        used = np.flatnonzero(np.abs(wide).max(0) > 0)
        x = wide if len(used) == n_wide else np.ascontiguousarray(wide[:, used])
        weight = np.zeros((n_labels, n_wide))
        weight[:, used], bias = solve_logistic(x, labels, n_labels)
        if len(used) and len(np.unique(labels)) > 1:
            own = slice(n_own)
            self.share[expert] = UNSEEN_SHARE if n_own < len(labels) else 0.5
            if n_own >= MIN_STACKING:
                self.share[expert] = stacking_share(x[own], base[own] / base[own].std(), labels[own])
            if not bool(self.patterns[expert].all()):
                self.share[expert].clamp_(min=PARTIAL_SHARE)
        self.weight[expert] = torch.from_numpy(weight)
        self.bias[expert] = torch.from_numpy(bias)

    def choose(self, present: Tensor) -> Tensor:
        """Expert of each cell, (cells,), given bool (cells, modalities); -1 where none can serve it."""
        patterns = self.patterns
        within = (~patterns[None] | present[:, None]).all(2) & self.bias.isfinite().any(1)
        size = torch.where(within, patterns.sum(1), -1)
        best, expert = size.max(1)
        return torch.where(best > 0, expert, -1)

    def forward(self, wide: Tensor, expert: Tensor) -> Tensor:
        """(cells, n_wide), (cells,) -> logits (cells, n_labels); 0 for cells without an expert."""
        if len(self.patterns) == 1 and bool((expert == 0).all()):
            return wide @ self.weight[0].T + self.bias[0]
        logits = wide.new_zeros(len(wide), self.weight.shape[1])
        for k in expert.unique().tolist():
            if k >= 0:
                rows = expert == k
                logits[rows] = wide[rows] @ self.weight[k].T + self.bias[k]
        return logits


def stacking_share(first: np.ndarray, second: np.ndarray, labels: np.ndarray, n_folds: int = 3) -> float:
    """Weight of a classifier on ``first`` in its mixture with one on ``second``, by likelihood of held-out cells."""
    fold = np.random.default_rng(0).permutation(len(labels)) % n_folds
    likelihood = np.zeros((2, len(labels)))
    for k in range(n_folds):
        train, test = fold != k, fold == k
        classes = np.unique(labels[train])
        if len(classes) < 2:
            return 0.5
        at = np.searchsorted(classes, labels[test]).clip(max=len(classes) - 1)
        known = classes[at] == labels[test]
        for expert, x in enumerate((first, second)):
            p = LogisticRegression(C=1.0, max_iter=200).fit(x[train], labels[train]).predict_proba(x[test])
            likelihood[expert, test] = np.where(known, p[np.arange(len(at)), at], 0.0)
    known = likelihood.sum(0) > 0
    shares = np.linspace(0.1, 0.9, 9)
    scores = [np.log(s * likelihood[0, known] + (1 - s) * likelihood[1, known] + 1e-4).mean() for s in shares]
    return float(shares[int(np.argmax(scores))])


class Projection(nn.Linear):
    """Linear projection for the contrastive loss, so that the loss need not shape every direction of ``z``."""

    def __init__(self, n_latent: int, n_out: int = 32):
        super().__init__(n_latent, min(n_out, n_latent), bias=False)
        nn.init.orthogonal_(self.weight)
