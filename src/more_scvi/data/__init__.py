"""What comes in: registered fields, input checks, gene vocabularies, simulated datasets with known truth."""

from ._arguments import check_indices, check_integer, check_mapping, check_number, check_option
from ._batches import batch_codes, batch_offsets
from ._cells import Cells, read_cells
from ._checks import check_mudata, check_setup, check_vocabulary, speak_of
from ._columns import as_batch_array, as_label_array, check_categories, check_genes, check_key_list
from ._covariates import CovariateDesign
from ._demo import load_demo
from ._fields import RNA, BatchField, FeaturesField, LabelsField, MatrixField, features_key, read_links
from ._genes import GeneMatch, GeneVocabulary, match_genes
from ._manager import DataManager
from ._matrix import ValueRules, check_matrix
from ._objects import check_anndata
from ._rows import RowReader
from ._simulate import simulate_batches, simulate_platform
from ._simulate_multi import simulate_multiomics
from ._spatial import neighbours, niche_means

__all__ = [
    "BatchField",
    "Cells",
    "CovariateDesign",
    "DataManager",
    "FeaturesField",
    "GeneMatch",
    "GeneVocabulary",
    "LabelsField",
    "MatrixField",
    "RNA",
    "RowReader",
    "ValueRules",
    "as_batch_array",
    "as_label_array",
    "batch_codes",
    "batch_offsets",
    "check_anndata",
    "check_categories",
    "check_genes",
    "check_indices",
    "check_integer",
    "check_key_list",
    "check_mapping",
    "check_matrix",
    "check_mudata",
    "check_number",
    "check_option",
    "check_setup",
    "check_vocabulary",
    "features_key",
    "load_demo",
    "match_genes",
    "neighbours",
    "niche_means",
    "read_cells",
    "read_links",
    "simulate_batches",
    "simulate_multiomics",
    "simulate_platform",
    "speak_of",
]
