"""The terms of the composite loss: pure functions of tensors, one file each."""

from more_scvi.losses._align import align_batches
from more_scvi.losses._align_modality import distil, pair_modalities
from more_scvi.losses._classify import classify
from more_scvi.losses._contrast import contrast_labels, contrast_views
from more_scvi.losses._keep import keep_distances
from more_scvi.losses._masked import (
    masked_bernoulli,
    masked_gaussian,
    masked_negative_binomial,
    masked_negative_binomial_mixture,
)
from more_scvi.losses._variance import intra_class_variance

__all__ = [
    "align_batches",
    "classify",
    "contrast_labels",
    "contrast_views",
    "distil",
    "intra_class_variance",
    "keep_distances",
    "masked_bernoulli",
    "masked_gaussian",
    "masked_negative_binomial",
    "masked_negative_binomial_mixture",
    "pair_modalities",
]
