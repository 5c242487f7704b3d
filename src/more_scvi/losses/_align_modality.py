"""Modality alignment: paired cells find each other, and one modality lands where all of them would."""

from torch import Tensor

from more_scvi.losses._pairs import info_nce


def pair_modalities(first: Tensor, second: Tensor, groups: Tensor, temperature: float = 0.2) -> Tensor:
    r"""InfoNCE between two modalities of the same cells, negatives from the same group only.

    .. math:: -\frac{1}{2n}\sum_i \log \frac{e^{a_i b_i / \tau}}{\sum_{j: g_j = g_i} e^{a_i b_j / \tau}}
              + \log \frac{e^{a_i b_i / \tau}}{\sum_{j: g_j = g_i} e^{a_j b_i / \tau}}

    with unit vectors (van den Oord et al. 2018; symmetric as in Radford et al. 2021). Negatives from other batches
    would reward telling batches apart.

    Parameters
    ----------
    first, second
        (cells, dims) embeddings of the same cells in two modalities.
    groups
        (cells,) batch codes, not negative.
    temperature
        :math:`\tau`.

    Returns
    -------
    0-d tensor; 0 without a pair of cells in one group.
    """
    return info_nce(first, second, groups, temperature) if len(first) else first.sum()  # a mean over nothing is NaN


def distil(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Distance of the embedding from some modalities to that from all, relative to the size of the latter.

    .. math:: \sum_i\|s_i - t_i\|^2 / \sum_i\|t_i\|^2

    Parameters
    ----------
    student
        (cells, dims), from a subset of the modalities.
    teacher
        (cells, dims), from all measured modalities; not differentiated.

    Returns
    -------
    0-d tensor.
    """
    teacher = teacher.detach()
    return (student - teacher).pow(2).sum() / teacher.pow(2).sum().clamp_min(1e-8)
