"""What comes in: registered fields, input checks, gene vocabularies, simulated datasets with known truth."""

from ._demo import load_demo
from ._genes import GeneMatch, GeneVocabulary, match_genes
from ._simulate import simulate_batches, simulate_platform

__all__ = ["GeneMatch", "GeneVocabulary", "load_demo", "match_genes", "simulate_batches", "simulate_platform"]
