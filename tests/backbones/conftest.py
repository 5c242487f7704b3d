"""A more-mini of 60 genes with random tables, and counts in its genes."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from more_scvi.backbones import MoreMini, MoreMiniSizes
from more_scvi.data import GeneVocabulary

N_GENES, N_SETS = 60, 6


def build_tiny(seed: int = 0, residual: bool = True) -> MoreMini:
    rng = np.random.default_rng(seed)
    symbols = tuple(f"GENE{i}" for i in range(N_GENES))
    vocabulary = GeneVocabulary(
        symbols, tuple(f"ENSG{i:011d}" for i in range(N_GENES)), tuple(s.title() for s in symbols)
    )
    sizes = MoreMiniSizes(N_GENES, 4, N_SETS, 5 * N_SETS, n_features=8, n_tokens=4, d_model=8, n_layers=2, n_heads=2)
    torch.manual_seed(seed)
    backbone = MoreMini(sizes, vocabulary)
    tables = {
        "gene_mean": rng.uniform(0.2, 1, N_GENES),
        "gene_scale": rng.uniform(0.5, 1.5, N_GENES),
        "gene_share": np.ones(N_GENES),
        "components": np.linalg.qr(rng.normal(size=(N_GENES, 4)))[0],
        "program_scale": rng.uniform(1.5, 2.5, 4 + N_SETS),
        "whitening": rng.normal(size=(4 + N_SETS, 8)) / 3,
        "member_gene": np.concatenate([rng.permutation(N_GENES)[:5] for _ in range(N_SETS)]),
        "member_set": np.repeat(np.arange(N_SETS), 5),
    }
    backbone.front.load_state_dict(
        {k: torch.as_tensor(v, dtype=backbone.front.state_dict()[k].dtype) for k, v in tables.items()}
    )
    if residual:
        backbone.transformer.randomise_readout()
    return backbone


@pytest.fixture
def make_tiny():
    return build_tiny


@pytest.fixture
def tiny() -> MoreMini:
    return build_tiny()


@pytest.fixture
def counts() -> csr_matrix:
    rng = np.random.default_rng(1)
    return csr_matrix(rng.poisson(rng.gamma(0.5, 2, size=N_GENES), size=(30, N_GENES)).astype(np.float32))


@pytest.fixture
def genes(tiny) -> tuple[str, ...]:
    return tiny.vocabulary.human_symbol
