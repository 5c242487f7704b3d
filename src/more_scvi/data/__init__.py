"""What comes in: registered fields, input checks, gene vocabularies, simulated datasets with known truth."""

from ._arguments import check_indices, check_integer, check_option
from ._batches import batch_codes, batch_offsets
from ._checks import check_mudata, check_setup
from ._fields import RNA
from ._genes import GeneMatch, GeneVocabulary, match_genes
from ._matrix import ValueRules, check_matrix
from ._objects import check_anndata
from ._rows import RowReader
from ._simulate import load_demo, simulate_batches, simulate_platform
from ._simulate_multi import simulate_multiomics
from ._spatial import neighbours, niche_means

__all__ = [
    "GeneMatch",
    "GeneVocabulary",
    "RNA",
    "RowReader",
    "ValueRules",
    "batch_codes",
    "batch_offsets",
    "check_anndata",
    "check_indices",
    "check_integer",
    "check_matrix",
    "check_mudata",
    "check_option",
    "check_setup",
    "load_demo",
    "match_genes",
    "neighbours",
    "niche_means",
    "simulate_batches",
    "simulate_multiomics",
    "simulate_platform",
]
