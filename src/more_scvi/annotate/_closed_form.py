"""Classifiers that are solved, not trained: on the wide input before training, on the finished embedding after it."""

import numpy as np
import torch
from sklearn.covariance import ledoit_wolf
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

GAUSSIAN_SHARE = 0.4
"""Share of the discriminant analyses in the mixture with the other classifiers. Source: record tuning/few_labels.md."""


class _LinearClassifier(nn.Module):
    """Linear in the embedding; a class that was not there when it was solved cannot be predicted."""

    weight: Tensor
    bias: Tensor

    def __init__(self, n_latent: int, n_labels: int):
        super().__init__()
        self.register_buffer("weight", torch.zeros(n_labels, n_latent))
        self.register_buffer("bias", torch.full((n_labels,), float("-inf")))

    @property
    def is_fitted(self) -> bool:
        """At least one class can be predicted."""
        return bool(self.bias.isfinite().any())

    def _store(self, weight: np.ndarray, bias: np.ndarray) -> None:
        self.weight.copy_(torch.from_numpy(weight))
        self.bias.copy_(torch.from_numpy(bias))

    def forward(self, z: Tensor) -> Tensor:
        """(cells, n_latent) -> logits (cells, n_labels)."""
        return z @ self.weight.T + self.bias


class ProbeClassifier(_LinearClassifier):
    """Logistic regression on the finished embedding, solved after training and averaged with the trained head.

    With several modalities the head sees every rare type in several guises and may lose one; a convex fit does not.

    Parameters
    ----------
    n_latent, n_labels
        Width of the embedding and number of classes.
    """

    def fit(self, z: np.ndarray, labels: np.ndarray) -> None:
        """Fit on (cells, n_latent) embeddings of visible labels (cells,); standardised, L2 penalty with C = 1."""
        mean, std = z.mean(0), np.maximum(z.std(0), 1e-6)  # a direction may not vary
        coefficients, intercepts = solve_logistic((z - mean) / std, labels, len(self.bias))
        coefficients = coefficients / std
        self._store(coefficients, intercepts - coefficients @ mean)


class GaussianClassifier(_LinearClassifier):
    r"""Linear discriminant analysis of the finished embedding or of the linear base, solved after training.

    Types are Gaussians of one covariance :math:`\Sigma`, estimated within types with Ledoit-Wolf shrinkage:

    .. math:: \ell_t = \mu_t^\top \Sigma^{-1} z - \tfrac12 \mu_t^\top \Sigma^{-1} \mu_t + \log \pi_t

    A boundary halfway between centres moves less from batch to batch than one drawn along the cells at the border, as
    regressions and the trained head draw it. It is for cells measured like those it was fitted on: the spread within
    types is another where other modalities were measured.

    Parameters
    ----------
    n_latent, n_labels
        Width of what it reads, the embedding or the linear base, and number of classes.
    patterns
        bool (patterns, modalities): sets of modalities that cells may have.

    References
    ----------
    Shrinkage: Ledoit & Wolf 2004.
    """

    patterns: Tensor
    labelled: Tensor

    def __init__(self, n_latent: int, n_labels: int, patterns: np.ndarray):
        super().__init__(n_latent, n_labels)
        self.register_buffer("patterns", torch.tensor(np.asarray(patterns, dtype=bool)))
        self.register_buffer("labelled", torch.zeros(len(patterns), dtype=torch.bool))

    def serves(self, present: Tensor) -> Tensor:
        """Cells measured like those of the fit, (cells,), if there was one; ``present``: bool (cells, modalities)."""
        return ((present[:, None] == self.patterns).all(2) & self.labelled).any(1)

    def fit(self, z: np.ndarray, labels: np.ndarray, present: np.ndarray) -> None:
        """Fit, unless labels are too few to know the spread within types.

        Parameters
        ----------
        z, labels
            (cells, n_latent) and (cells,) codes.
        present
            bool (cells, modalities): what was measured in them.
        """
        self._store(np.zeros(self.weight.shape), np.full(len(self.bias), -np.inf))  # nothing of an earlier fit
        self.labelled.zero_()
        classes, code, n = np.unique(labels, return_inverse=True, return_counts=True)
        if len(classes) < 2 or len(labels) == len(classes):
            return
        used = np.flatnonzero(z.std(0) > 0)  # columns of modalities that were not measured say nothing
        if not len(used):
            return
        z = np.asarray(z[:, used], dtype=np.float64)
        centres = np.stack([z[code == k].mean(0) for k in range(len(classes))])
        covariance, _ = ledoit_wolf(z - centres[code], assume_centered=True)
        if np.linalg.matrix_rank(covariance) < len(covariance):  # cells that do not differ
            return
        weight, bias = np.zeros(self.weight.shape), np.full(len(self.bias), -np.inf)
        solved = np.linalg.solve(covariance, centres.T).T
        weight[np.ix_(classes, used)] = solved
        bias[classes] = np.log(n / n.sum()) - 0.5 * (solved * centres).sum(1)
        self._store(weight, bias)
        measured = torch.from_numpy(np.unique(np.asarray(present, dtype=bool), axis=0)).to(self.patterns.device)
        self.labelled.copy_((self.patterns[:, None] == measured).all(2).any(1))


def solve_logistic(x: np.ndarray, labels: np.ndarray, n_labels: int) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients (n_labels, columns) and intercepts of a logistic regression; absent classes have intercept -inf."""
    classes = np.unique(labels)
    weight, bias = np.zeros((n_labels, x.shape[1])), np.full(n_labels, -np.inf)
    if len(classes) == 1 or not x.shape[1]:  # scikit-learn refuses both
        bias[classes] = 0.0
        return weight, bias
    fitted = LogisticRegression(C=1.0, max_iter=200).fit(x, labels)
    coef, intercept = fitted.coef_, fitted.intercept_
    if len(classes) == 2:  # scikit-learn then gives the second class only
        coef, intercept = np.concatenate([-coef, coef]) / 2, np.concatenate([-intercept, intercept]) / 2
    weight[classes], bias[classes] = coef, intercept
    return weight, bias
