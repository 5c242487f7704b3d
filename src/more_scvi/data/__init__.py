"""What comes in: registered fields, input checks, gene vocabularies, simulated datasets with known truth."""

from ._arguments import check_indices, check_integer, check_mapping, check_number
from ._checks import check_anndata, check_matrix, check_setup, check_vocabulary
from ._columns import as_batch_array, as_label_array, check_categories, check_genes
from ._covariates import CovariateDesign
from ._demo import load_demo
from ._fields import BatchField, LabelsField, MatrixField
from ._genes import GeneMatch, GeneVocabulary, match_genes
from ._manager import DataManager
from ._rows import RowReader
from ._simulate import simulate_batches, simulate_platform

__all__ = [
    "BatchField",
    "CovariateDesign",
    "DataManager",
    "GeneMatch",
    "GeneVocabulary",
    "LabelsField",
    "MatrixField",
    "RowReader",
    "as_batch_array",
    "as_label_array",
    "check_anndata",
    "check_categories",
    "check_genes",
    "check_indices",
    "check_integer",
    "check_mapping",
    "check_matrix",
    "check_number",
    "check_setup",
    "check_vocabulary",
    "load_demo",
    "match_genes",
    "simulate_batches",
    "simulate_platform",
]
