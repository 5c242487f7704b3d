"""Closed-form experts on the wide input, one per pattern of measured modalities, solved before training."""

import numpy as np
import torch
from torch import Tensor, nn

from more_scvi.annotate._closed_form import solve_logistic

SHARE = 2 / 3
"""Share of an expert in its mixture with the trained head. Source: record tuning/few_labels.md."""

UNSEEN_SHARE = 0.8
"""The same where no labelled cell has the expert's pattern of modalities, and for shallow cells of unlabelled batches:
nothing vouches for the trained head there. Source: plain value, not tuned."""


class WideClassifier(nn.Module):
    r"""Logistic regression on the wide input, with the linear base beside it once training has ended; solved exactly.

    A linear model over thousands of genes knows fine distinctions that a low-dimensional embedding loses; the base
    holds what the backbone knows, and an embedding transfers better between batches.

    There is one expert per pattern of measured modalities, which reads the columns of these modalities only. A pattern
    that was not there in training is served by the expert of the largest pattern within it.

    Parameters
    ----------
    n_in
        Width of the input of all modalities.
    n_labels
        Number of classes.
    patterns
        bool (patterns, modalities): which modalities each expert reads.
    """

    weight: Tensor
    bias: Tensor
    share: Tensor
    patterns: Tensor

    def __init__(self, n_in: int, n_labels: int, patterns: np.ndarray):
        super().__init__()
        n = len(patterns)
        self.register_buffer("weight", torch.zeros(n, n_labels, n_in))
        self.register_buffer("bias", torch.full((n, n_labels), float("-inf")))
        self.register_buffer("share", torch.full((n,), SHARE))
        self.register_buffer("patterns", torch.tensor(np.asarray(patterns, dtype=bool)))

    def fit(self, expert: int, x: np.ndarray, labels: np.ndarray, n_own: int) -> None:
        """Fit one expert on cells with a visible label; L2 penalty with C = 1.

        Parameters
        ----------
        expert
            Position in ``patterns``.
        x
            (cells, n_in), zero in the columns of other modalities.
        labels
            (cells,) codes.
        n_own
            Cells that have the pattern; with none nothing vouches for the trained head there.
        """
        n_labels, n_in = self.weight.shape[1:]
        used = np.flatnonzero(np.abs(x).max(0) > 0)  # columns of absent modalities cost time and teach nothing
        weight = np.zeros((n_labels, n_in))
        weight[:, used], bias = solve_logistic(np.ascontiguousarray(x[:, used], np.float32), labels, n_labels)
        self.share[expert] = SHARE if n_own else UNSEEN_SHARE
        self.weight[expert] = torch.from_numpy(weight)
        self.bias[expert] = torch.from_numpy(bias)

    def choose(self, present: Tensor) -> Tensor:
        """Expert of each cell, (cells,), given bool (cells, modalities); -1 where none can serve it."""
        patterns = self.patterns
        within = (~patterns[None] | present[:, None]).all(2) & self.bias.isfinite().any(1)  # -inf: not fitted
        size = torch.where(within, patterns.sum(1), -1)
        best, expert = size.max(1)
        return torch.where(best > 0, expert, -1)

    def forward(self, x: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """(cells, n_in), bool (cells, modalities) -> log-probabilities (cells, n_labels) and shares (cells, 1).

        Cells that no expert can serve have the share 0.
        """
        expert = self.choose(present)
        logits = x.new_zeros(len(x), self.weight.shape[1])
        for k in expert.unique().tolist():
            if k >= 0:
                rows = expert == k
                logits[rows] = x[rows] @ self.weight[k].T + self.bias[k]
        share = torch.where(expert >= 0, self.share[expert.clamp_min(0)], 0.0)
        return logits.log_softmax(1), share[:, None]
