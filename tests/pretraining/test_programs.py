"""The pool and the linear front that is fitted to it."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from more_scvi.pretraining import fit_front, marker_sets, read_pool
from more_scvi.pretraining._programs import _components, _gene_statistics, _normalise, expected_share

SMALL = {"n_components": 4, "n_features": 8, "n_tokens": 4, "d_model": 8, "n_layers": 1, "n_heads": 2}


def test_pool_joins_studies_of_two_species(pool):
    assert pool.studies == ("A", "B", "D", "E", "C")
    assert pool.counts.shape == (200, 60)
    assert pool.measured.sum(1).tolist() == [50, 60, 60, 60, 50]
    assert set(pool.labels[pool.study == 1]) == {"t0", "t1", "t2", "t3"}
    assert set(pool.labels[pool.study != 1]) == {""}
    assert pool.vocabulary.mouse_symbol[3] == "Gene3"
    assert pool.vocabulary.human_alias[3] == "OLD3"
    assert pool.counts[pool.study == 0][:, 50:].sum() == 0


def test_vocabulary_size(files):
    small = read_pool(files / "pool", files / "annotation", n_genes=20)
    assert len(small.vocabulary) == small.counts.shape[1] == small.measured.shape[1] == 20


def test_selecting_studies(pool):
    kept = pool.of_studies(["B"], drop=True)
    assert kept.studies == ("A", "D", "E", "C")
    assert np.bincount(kept.study).tolist() == [40, 40, 40, 40]
    assert pool.of_studies(["B"]).studies == ("B",)
    with pytest.raises(KeyError, match="it holds A, B, D, E, C"):
        pool.of_studies(["F"])


def test_no_pool(tmp_path, files):
    with pytest.raises(ValueError, match="no .h5ad file"):
        read_pool(tmp_path, files / "annotation", n_genes=10)


def test_front_is_linear_and_centred(pool, gene_sets):
    backbone = fit_front(pool, gene_sets, **SMALL)
    assert backbone.sizes.n_sets == 5  # the one with a single known gene is left out
    genes = np.arange(60)
    features, _ = backbone.front.encode(pool.counts[pool.study == 1].astype(float), genes)
    assert np.abs(features.mean(0)).max() < 1
    assert 0.3 < features.std() < 3
    assert (backbone.transformer.readout == 0).all()


def test_more_features_than_programs(pool, gene_sets):
    with pytest.raises(ValueError, match="the 4 components .* the 5 gene sets"):
        fit_front(pool, gene_sets, **SMALL | {"n_features": 12})


def test_unmeasured_genes_do_not_enter_the_statistics(pool, gene_sets):
    mean = fit_front(pool, gene_sets, **SMALL).front.gene_mean.numpy()
    complete = fit_front(pool.of_studies(["B", "D", "E"]), gene_sets, **SMALL).front.gene_mean.numpy()
    np.testing.assert_allclose(mean[50:], complete[50:], atol=0.1)


def test_share_of_a_study_with_fewer_genes(pool, gene_sets):
    share = fit_front(pool, gene_sets, **SMALL).front.gene_share.numpy() / 60
    assert share.sum() == pytest.approx(1, abs=1e-2)
    whole = pool.of_studies(["B", "D", "E"]).counts.sum(0)
    assert share[50:].sum() == pytest.approx(whole[0, 50:].sum() / whole.sum(), abs=0.03)


def test_half_of_the_genes_give_comparable_features(pool, gene_sets):
    backbone = fit_front(pool, gene_sets, **SMALL)
    x = pool.counts[pool.study == 1].astype(float)
    full, _ = backbone.front.encode(x, np.arange(60))
    genes = np.arange(0, 60, 2)
    half, _ = backbone.front.encode(x[:, genes].tocsr(), genes)
    assert np.corrcoef(full.ravel(), half.ravel())[0, 1] > 0.5
    assert 0.3 < half.std() / full.std() < 1.3


def test_components_are_those_of_a_dense_svd(pool, gene_sets):
    y = _normalise(pool, expected_share(pool), 1e4)
    _, scale = _gene_statistics(pool, y, 0.5)
    found = _components(pool, y, scale, 4, seed=0)
    z = y.toarray() / scale
    for s in range(5):
        z[pool.study == s] -= z[pool.study == s].mean(0)
    _, _, expected = np.linalg.svd(np.sqrt(pool.cell_weights())[:, None] * z, full_matrices=False)
    overlap = np.linalg.svd(found.T @ expected[:4].T, compute_uv=False)
    assert overlap.min() > 0.95


def test_the_same_seed_gives_the_same_front(pool, gene_sets):
    prints = [fit_front(pool, gene_sets, seed=s, **SMALL).fingerprint() for s in (0, 0, 1)]
    assert prints[0] == prints[1] != prints[2]


@pytest.fixture(scope="module")
def marked(pool):
    """Two studies of 120 cells: of the first, two halves differ in ten genes each; of the second, cells do not."""
    rng = np.random.default_rng(0)
    rates = np.full((240, 60), 2.0)
    rates[:60, :10], rates[60:120, 10:20] = 20.0, 20.0
    counts = csr_matrix(rng.poisson(rates).astype(np.float32))
    measured = np.ones((2, 60), bool)
    measured[0, 5] = False
    counts[:120, 5] = 0
    labels = np.full(240, "")
    return replace(
        pool, counts=counts, study=np.repeat([0, 1], 120), studies=("X", "Y"), measured=measured, labels=labels
    )


def test_markers_are_the_genes_in_which_clusters_differ(marked):
    sets = marker_sets(marked, n_genes=12)
    first, second = ({f"GENE{i}" for i in genes} for genes in (set(range(10)) - {5}, range(10, 20)))  # 5: not measured
    found = [set(genes) for name, genes in sets.items() if name.startswith("X ")]
    assert any(first <= genes for genes in found) and any(second <= genes for genes in found)
    assert all(genes <= first or genes <= second for genes in found)
    assert max(map(len, marker_sets(marked, n_genes=6).values())) == 6
    assert sets == marker_sets(marked, n_genes=12)


def test_markers_hang_on_no_label(marked):
    other = replace(marked, labels=np.resize(["a", "b"], 240))
    assert marker_sets(other) == marker_sets(marked)


def test_small_studies_give_no_markers(marked):
    few = np.concatenate([np.arange(0, 120, 3), np.arange(120, 240)])
    small = replace(marked, counts=marked.counts[few], study=marked.study[few], labels=marked.labels[few])
    assert not any(name.startswith("X ") for name in marker_sets(small))
