"""Cross-entropy on visible labels."""

from torch import Tensor
from torch.nn import functional as F


def classify(logits: Tensor, labels: Tensor, class_weights: Tensor | None = None, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of the cells whose label is visible.

    Parameters
    ----------
    logits
        (cells, classes); classes without a visible label are already masked with ``-inf``.
    labels
        (cells,) integer codes; negative = not labelled.
    class_weights
        Optional (classes,) weights. Unweighted is the default: weights cost macro-F1 of rare types
        (false positives).
    smoothing
        Label smoothing in [0, 1), spread over the classes that can be predicted.

    Returns
    -------
    0-d tensor; zero (with gradient) when no cell of the minibatch is labelled.
    """
    known = labels >= 0
    if not known.any():
        return logits[:, 0].nan_to_num(neginf=0.0).sum() * 0.0  # a masked class is -inf, and -inf · 0 is NaN
    logits, labels = logits[known], labels[known]
    log_p = F.log_softmax(logits, 1)
    weight = log_p.new_ones(len(labels)) if class_weights is None else class_weights[labels]
    nll = -log_p.gather(1, labels[:, None])[:, 0]
    if smoothing > 0:
        open_classes = logits.isfinite()
        uniform = -log_p.masked_fill(~open_classes, 0.0).sum(1) / open_classes.sum(1)  # of masked ones it is -inf
        nll = (1 - smoothing) * nll + smoothing * uniform
    return (weight * nll).sum() / weight.sum()
