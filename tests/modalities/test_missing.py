"""Features that are missing are expected from those that are there, on the right scale, and it is known how surely."""

import numpy as np
import pytest
import scipy.sparse as sp

import more_scvi as more
from more_scvi.modalities import get_modality

N_FEATURES = {"rna": 400, "atac": 900, "protein": 60}


@pytest.fixture(scope="module")
def cells():
    return more.data.simulate_multiomics(
        900, n_types=6, n_batches=1, n_genes=400, n_peaks=900, n_proteins=60, markers=0.3, n_factors=4, seed=0
    )


def fitted(cells, name):
    """Path of a modality, fitted on two thirds of the cells, and the counts of the others."""
    mdata = cells
    adata = next(a for a in mdata.mod.values() if a.n_vars == N_FEATURES[name])
    x = sp.csr_matrix(adata.X, dtype=np.float32)
    train, held = x[:600], x[600:]
    path = get_modality(name).path(x.shape[1], "counts", 400, 20, 40)
    batch = np.zeros(600, dtype=int)
    path.fit(lambda: [(path.normalise(train), batch)], 1)
    return path, held, np.asarray(train.sum(0)).ravel() / train.sum()


def answers(path, x, level, share, seed=0):
    """Wide input of whole cells, of cells that lack features, as expected and as it was, and which are there."""
    visible = np.random.default_rng(seed).random(len(level)) < share
    padded = sp.csr_matrix(x.multiply(visible[None]))
    part = path.normalise(padded, visible, float(level[visible].sum()))
    return path.transform_wide(path.normalise(x)), path.complete(part, visible)[1], visible


@pytest.mark.parametrize("share", [0.5, 0.2])
@pytest.mark.parametrize("name", list(N_FEATURES))
def test_what_is_expected_has_the_right_scale(cells, name, share):
    """Whole cells regressed on what is expected of them have slope 1: it is neither too sure nor too timid."""
    path, x, level = fitted(cells, name)
    whole, expected, _ = answers(path, x, level, share)
    whole, expected = whole - whole.mean(0), expected - expected.mean(0)
    assert (whole * expected).sum() / (expected**2).sum() == pytest.approx(1, abs=0.25)
    explained = 1 - np.square(whole - expected).sum() / np.square(whole).sum()
    assert explained > {0.5: 0.4, 0.2: 0.2}[share]


@pytest.mark.parametrize("name", list(N_FEATURES))
def test_draws_are_as_far_apart_as_cells_are_from_what_is_expected(cells, name):
    path, x, level = fitted(cells, name)
    for share in (0.5, 0.2):
        whole, expected, visible = answers(path, x, level, share)
        narrow, wide = path.doubt(visible, 200, np.random.default_rng(0))
        assert wide.shape == (200, path.n_wide) and narrow.shape == (200, path.n_components)
        np.testing.assert_allclose(wide.sum(0), 0, atol=1e-2)  # answers are not moved, only spread
        assert np.square(wide).sum(1).mean() == pytest.approx(np.square(whole - expected).sum(1).mean(), rel=0.55)


@pytest.mark.parametrize("name", list(N_FEATURES))
def test_one_missing_feature_changes_next_to_nothing(cells, name):
    """There is no step from whole cells to cells that lack little; hidden values are not looked at."""
    path, x, level = fitted(cells, name)
    visible = np.arange(len(level)) != 7
    part = path.normalise(sp.csr_matrix(x.multiply(visible[None])), visible, float(level[visible].sum()))
    for full, completed in zip(
        (path.transform(path.normalise(x)), path.transform_wide(path.normalise(x))),
        path.complete(part, visible), strict=True,
    ):  # fmt: skip
        assert np.square(full - completed).sum() < 0.02 * np.square(full - full.mean(0)).sum()
