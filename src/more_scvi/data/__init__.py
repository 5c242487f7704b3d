"""What comes in: registered fields, input checks, gene vocabularies, simulated datasets with known truth."""

from ._activity import activity, check_peak_genes, genes_of_peaks, peak_to_gene
from ._antibodies import AntibodyMatch, match_antibodies
from ._arguments import check_indices, check_integer, check_mapping, check_number, check_option
from ._batches import batch_codes, batch_offsets
from ._cells import Cells, read_cells
from ._checks import check_mudata, check_setup, check_vocabulary, speak_of
from ._columns import as_batch_array, as_label_array, check_categories, check_genes, check_key_list
from ._covariates import CovariateDesign
from ._demo import load_demo
from ._fields import BatchField, FeaturesField, LabelsField, MatrixField, features_key, read_links
from ._genes import GeneMatch, GeneVocabulary, match_genes
from ._manager import DataManager
from ._matrix import check_matrix
from ._objects import ROLES, check_anndata
from ._rows import RowReader
from ._simulate import simulate_batches, simulate_platform
from ._simulate_multi import simulate_multiomics
from ._spatial import neighbours, niche_means

__all__ = [
    "AntibodyMatch",
    "BatchField",
    "Cells",
    "CovariateDesign",
    "DataManager",
    "FeaturesField",
    "GeneMatch",
    "GeneVocabulary",
    "LabelsField",
    "MatrixField",
    "ROLES",
    "RowReader",
    "activity",
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
    "check_peak_genes",
    "check_setup",
    "check_vocabulary",
    "features_key",
    "genes_of_peaks",
    "load_demo",
    "match_antibodies",
    "match_genes",
    "neighbours",
    "niche_means",
    "peak_to_gene",
    "read_cells",
    "read_links",
    "simulate_batches",
    "simulate_multiomics",
    "simulate_platform",
    "speak_of",
]
