import numpy as np
import pandas as pd
import pytest

from more_scvi.backbones import get_backbone
from more_scvi.data import simulate_batches
from more_scvi.evaluation import prepare


@pytest.fixture(scope="session")
def raw():
    """240 cells, 3 types, 3 batches; genes that the backbone knows."""
    adata = simulate_batches(n_cells=240, n_genes=120, n_types=3, n_batches=3, seed=0)
    adata.obs = adata.obs[["batch", "cell_type"]].astype(str)
    adata.var_names = pd.Index(get_backbone("more-mini").vocabulary.human_symbol[:120])
    return adata


@pytest.fixture(scope="session")
def prepared(raw):
    return prepare(raw.copy(), n_genes=100, n_pcs=20)


@pytest.fixture
def cells():
    """600 cells, 3 types × 2 batches, Gaussian within types."""
    rng = np.random.default_rng(0)
    labels, batches = np.repeat(list("abc"), 200), np.tile(["x", "y"], 300)
    centres = 10 * np.eye(3, 10)[np.unique(labels, return_inverse=True)[1]]
    return centres + rng.standard_normal((600, 10)), labels, batches
