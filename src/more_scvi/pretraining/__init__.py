"""How the bundled backbone was made: ``python -m more_scvi.pretraining``."""

from ._pool import Pool, full_vocabulary, read_gene_sets, read_pool
from ._programs import fit_front

__all__ = ["Pool", "fit_front", "full_vocabulary", "read_gene_sets", "read_pool"]
