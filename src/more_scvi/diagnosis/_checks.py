"""All checks, in the order in which they are reported."""

from more_scvi.diagnosis._data import batch_and_type_confounded, low_vocabulary_overlap
from more_scvi.diagnosis._embedding import batches_separate, types_collapse
from more_scvi.diagnosis._labels import rare_types_lost
from more_scvi.diagnosis._modalities import modality_ignored, modality_uninformative
from more_scvi.diagnosis._training import labels_not_learned, overfitting

CHECKS = (
    batches_separate,
    types_collapse,
    rare_types_lost,
    labels_not_learned,
    overfitting,
    modality_ignored,
    modality_uninformative,
    low_vocabulary_overlap,
    batch_and_type_confounded,
)
