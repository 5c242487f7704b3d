r"""Composition of batches without labels: types that a batch holds often are likelier there than in the reference.

Classifiers answer as if a cell came from data in which types are as frequent as among the labelled cells, :math:`\pi`.
The proportions :math:`q` of a batch follow from the product of what classifiers say of its cells by expectation
maximisation, with the belief of a few cells in :math:`\pi`, and the answer becomes

.. math:: \log p_t + \min(1, D / D_1) \log \frac{q_t}{\pi_t} + \text{const},\qquad
          D = \sum_t q_t \log \frac{q_t}{\pi_t},

with :math:`D_1 = 1`, so that a batch that holds what the others hold is hardly changed: there, rare types would
pay for errors of the estimate. A batch that is measured otherwise can look as if it were of one type. Then classifiers
that read different views say different things, and nothing is changed. Nor is it for cells that are measured otherwise
than all labelled ones: for them, classifiers only guess. In tissue nothing is weighed at all: a spot holds cells of
several types, so that answers do not add up to the shares of types, and no section is of one type.

References: expectation maximisation of class proportions, Saerens et al. 2002.
"""

import numpy as np
from scipy.special import logsumexp

PRIOR_CELLS = 5
"""Weight, in cells, of the belief that a batch holds types as the labelled cells do. Source: record
tuning/composition.md."""

LEAST_OVERLAP = 0.5
"""Share that any two classifiers' estimates of a composition must have in common. Source: record
tuning/composition.md."""

FULL = 1.0
"""Divergence from the usual composition, in nats, from which on the one found counts in full. Source: plain value, not
tuned."""

LEAST = -50.0
"""Log-probability below which classifiers are not taken at their word. Source: plain value, not tuned."""

N_STEPS = 100
"""Steps of expectation maximisation. Source: plain value, not tuned."""


def composition_shift(voices: list[np.ndarray], counts: np.ndarray, answer: np.ndarray | None = None) -> np.ndarray:
    """What to add to the log-probabilities of cells of one batch without labels.

    Parameters
    ----------
    voices
        What each classifier that takes part says of its cells, log-probabilities (cells, types) each.
    counts
        Labelled cells of each type, (types,); types without any are never answered.
    answer
        Log-probabilities that the proportions follow from; None: the product of the voices.

    Returns
    -------
    (types,), up to a constant; small where the composition is nearly as usual, zeros where classifiers disagree on it.
    """
    open_types = counts > 0
    usual = counts[open_types] / counts.sum()
    shares = [_proportions(said[:, open_types], usual) for said in voices]
    out = np.zeros(len(counts))
    if any(np.minimum(a, b).sum() < LEAST_OVERLAP for a in shares for b in shares):
        return out
    found = _proportions((_mean(voices) if answer is None else answer)[:, open_types], usual)
    ratio = np.log(found / usual)
    out[open_types] = min(1.0, float(found @ ratio) / FULL) * ratio
    return out


def _mean(voices: list[np.ndarray]) -> np.ndarray:
    """Geometric mean of probabilities, as log-probabilities: clearer than a mixture, of which flat parts never go."""
    total = np.sum([np.maximum(said, LEAST) for said in voices], axis=0) / len(voices)
    return total - logsumexp(total, axis=1, keepdims=True)


def _proportions(said: np.ndarray, usual: np.ndarray) -> np.ndarray:
    """Proportions of types among cells, (types,), given log-probabilities (cells, types) under usual ones."""
    found, likelihood = usual, said - np.log(usual)
    for _ in range(N_STEPS):
        weighed = likelihood + np.log(found)
        p = np.exp(weighed - logsumexp(weighed, axis=1, keepdims=True))
        found = (p.sum(0) + PRIOR_CELLS * usual) / (len(said) + PRIOR_CELLS)
    return found
