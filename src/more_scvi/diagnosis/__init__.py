"""What can be wrong with a trained model: checks on arrays, each with a value, a limit and a remedy.

Users call ``model.diagnose()``, see :meth:`more_scvi.model.MoRE.diagnose`.
"""

from ._data import batch_and_type_confounded, low_vocabulary_overlap
from ._embedding import batches_separate, types_collapse
from ._evidence import MAX_CELLS, Evidence, representative
from ._labels import rare_types_lost
from ._modalities import modality_ignored, modality_uninformative
from ._result import Check, Diagnosis
from ._training import labels_not_learned, overfitting

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
"""In the order in which they are reported."""

__all__ = ["CHECKS", "MAX_CELLS", "Check", "Diagnosis", "Evidence", "representative"]
