"""Intra-class variance with a floor."""

from torch import Tensor

from more_scvi.losses._pairs import one_hot


def intra_class_variance(z: Tensor, labels: Tensor, n_labels: int, floor: float = 0.3) -> Tensor:
    r"""Share of the variance that lies within classes, above a floor.

    .. math:: \max\left(0, \frac{\sum_c \sum_{i \in c} \lVert z_i - \bar z_c \rVert^2}
              {\sum_i \lVert z_i - \bar z \rVert^2} - \mathrm{floor}\right)

    The hinge stops the pull once classes are compact enough, so that structure within types survives.

    Parameters
    ----------
    z
        (cells, dims).
    labels
        (cells,) integer codes, negative = not labelled.
    n_labels
        Number of classes.
    floor
        Share of variance within classes that is left alone.

    Returns
    -------
    0-d tensor.
    """
    known = labels >= 0
    if known.sum() < 3:
        return z.sum() * 0.0
    z, m = z[known], one_hot(labels[known], n_labels)
    means = (m.T @ z) / m.sum(0).clamp_min(1.0)[:, None]  # a minibatch may lack classes
    within = (z - m @ means).pow(2).sum()
    total = (z - z.mean(0)).pow(2).sum().clamp_min(1e-8)
    return (within / total - floor).clamp_min(0.0)
