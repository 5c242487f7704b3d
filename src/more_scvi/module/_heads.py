"""Heads that read the embedding: classifier over labels, projection for the contrastive loss."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn import functional as F


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


class WideClassifier(nn.Module):
    r"""Logistic regression on the wide view, solved exactly before training; an expert beside the trained head.

    A linear model over thousands of genes knows fine distinctions that a low-dimensional embedding loses, an embedding
    transfers better between batches. Their probabilities are mixed with the ``share`` at which a mixture of this
    classifier and one on the base predicts visible labels best in cross-validation (stacking, Wolpert 1992).

    Parameters
    ----------
    n_wide, n_labels
        Width of the wide view and number of classes.
    """

    weight: Tensor
    bias: Tensor
    share: Tensor

    def __init__(self, n_wide: int, n_labels: int):
        super().__init__()
        self.register_buffer("weight", torch.zeros(n_labels, n_wide))
        self.register_buffer("bias", torch.full((n_labels,), float("-inf")))
        self.register_buffer("share", torch.tensor(0.5))

    @property
    def is_fitted(self) -> bool:
        """At least one class can be predicted."""
        return bool(self.bias.isfinite().any())

    def fit(self, wide: np.ndarray, base: np.ndarray, labels: np.ndarray) -> None:
        """Fit on cells with a visible label: (cells, n_wide), (cells, width), (cells,) codes; L2 penalty with C = 1."""
        classes = np.unique(labels)
        weight, bias = np.zeros(self.weight.shape), np.full(len(self.bias), -np.inf)
        if len(classes) == 1:
            bias[classes] = 0.0
        else:
            fitted = LogisticRegression(C=1.0, max_iter=200).fit(wide, labels)
            self.share.fill_(stacking_share(wide, base / base.std(), labels))
            coef, intercept = fitted.coef_, fitted.intercept_
            if len(classes) == 2:  # scikit-learn then gives the second class only
                coef, intercept = np.concatenate([-coef, coef]) / 2, np.concatenate([-intercept, intercept]) / 2
            weight[classes], bias[classes] = coef, intercept
        self.weight.copy_(torch.from_numpy(weight))
        self.bias.copy_(torch.from_numpy(bias))

    def forward(self, wide: Tensor) -> Tensor:
        """(cells, n_wide) -> logits (cells, n_labels)."""
        return wide @ self.weight.T + self.bias


def stacking_share(first: np.ndarray, second: np.ndarray, labels: np.ndarray, n_folds: int = 3) -> float:
    """Weight of a classifier on ``first`` in its mixture with one on ``second``, by likelihood of held-out cells."""
    if len(labels) < 10 * n_folds:
        return 0.5
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
