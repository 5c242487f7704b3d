"""What comes in: registered fields, input checks, gene vocabularies, simulated datasets with known truth."""

from ._demo import load_demo
from ._simulate import simulate_batches, simulate_platform

__all__ = ["load_demo", "simulate_batches", "simulate_platform"]
