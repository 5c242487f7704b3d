import numpy as np
import pytest


@pytest.fixture
def cells():
    """600 cells, 3 types × 2 batches, Gaussian within types."""
    rng = np.random.default_rng(0)
    labels, batches = np.repeat(list("abc"), 200), np.tile(["x", "y"], 300)
    centres = 10 * np.eye(3, 10)[np.unique(labels, return_inverse=True)[1]]
    return centres + rng.standard_normal((600, 10)), labels, batches
