"""Direct paths of protein and chromatin accessibility: fixed linear maps, fitted in chunks, without labels."""

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.linear_model import LogisticRegression

from more_scvi.modalities.atac import AccessibilityPath
from more_scvi.modalities.protein import ProteinPath


def chunked(x, batch, size):
    return lambda: ((x[i : i + size], batch[i : i + size]) for i in range(0, x.shape[0], size))


def proteins(n=300, antibodies=12, seed=0):
    """Counts, types and batches; type 0, 1 and 2 raise antibodies 0 to 3, 4 to 7 and 8 to 11."""
    rng = np.random.default_rng(seed)
    types, batch = rng.integers(0, 3, n), rng.integers(0, 2, n)
    rate = np.full((3, antibodies), 5.0)
    for t in range(3):
        rate[t, 4 * t : 4 * t + 4] = 100.0
    depth = rng.gamma(5, 0.2, (n, 1)) * np.where(batch == 0, 1.0, 3.0)[:, None]
    return sp.csr_matrix(rng.poisson(rate[types] * depth).astype(np.float32)), types, batch


def peaks(n=400, n_peaks=900, seed=0):
    """Counts, types and batches; each type opens 60 peaks of its own. Depth varies eightfold."""
    rng = np.random.default_rng(seed)
    types, batch = rng.integers(0, 3, n), rng.integers(0, 2, n)
    chance = np.tile(rng.uniform(0.02, 0.1, n_peaks), (3, 1))
    for t in range(3):
        chance[t, 60 * t : 60 * t + 60] += 0.25
    depth = rng.choice([0.25, 1.0, 2.0], (n, 1))
    x = rng.poisson(chance[types] * depth).astype(np.float32)
    x[:, -1] = 0
    return sp.csr_matrix(x), types, batch


def fitted_protein(x, batch, size=1000, **widths):
    path = ProteinPath(x.shape[1], **widths)
    norm = path.normalise(x)
    path.fit(chunked(norm, batch, size), batch.max() + 1)
    return path, norm


def guessed(path, norm):
    """Best linear guess of the values from their components."""
    out = np.empty_like(norm)
    out[:, path.features] = path.transform(norm) @ path.loadings.numpy().T * path.std.numpy() + path.mean.numpy()
    return out


def fitted_peaks(x, batch, size=1000, **widths):
    path = AccessibilityPath(x.shape[1], **({"n_components": 10, "n_wide": 20} | widths))
    tf = path.normalise(x)
    path.fit(chunked(tf, batch, size), batch.max() + 1)
    return path, tf


def separates(features, types, at_least):
    half = len(types) // 2
    model = LogisticRegression(max_iter=1000).fit(features[:half], types[:half])
    assert model.score(features[half:], types[half:]) > at_least


# ---- protein


def test_protein_values_are_log_ratios_that_ignore_the_scale_of_a_cell():
    norm = ProteinPath(3).normalise(np.array([[9.0, 99, 999], [99, 999, 9999]]))
    assert norm == pytest.approx(np.log(10) * np.array([[-1.0, 0, 1], [-1, 0, 1]]), abs=1e-6)
    assert norm.dtype == np.float32


def test_protein_path_standardises_within_batches_and_finds_the_types():
    x, types, batch = proteins()
    path, norm = fitted_protein(x, batch, n_components=2)
    u = path.transform(norm)
    assert u.shape == (300, 2) and u.dtype == np.float32
    separates(u, types, 0.95)
    z = (norm[:, path.features] - path.mean.numpy()) / path.std.numpy()
    within = np.concatenate([z[batch == b] - z[batch == b].mean(0) for b in (0, 1)])
    assert within.std(0) == pytest.approx(np.ones(12), abs=1e-3)
    assert np.all(np.diff([norm[batch == 0][:, j].std() for j in path.features[[0, -1]]]) < 0)


def test_wide_view_of_few_antibodies_loses_nothing():
    x, _, batch = proteins()
    path, norm = fitted_protein(x, batch, n_components=50)
    assert path.n_components == path.n_wide == 12
    z = (norm[:, path.features] - path.mean.numpy()) / path.std.numpy()
    wide = path.transform_wide(norm)
    assert wide @ wide.T == pytest.approx(z @ z.T, abs=1e-2)
    assert guessed(path, norm) == pytest.approx(norm, abs=1e-3)


def test_few_components_hold_most_of_the_values():
    x, _, batch = proteins()
    path, norm = fitted_protein(x, batch, n_components=2)
    residual = norm - guessed(path, norm)
    assert (residual**2).sum() < 0.3 * ((norm - norm.mean(0)) ** 2).sum()


def test_hidden_antibodies_do_not_count_and_the_rest_tells_about_them():
    x, _, batch = proteins()
    path, norm = fitted_protein(x, batch, n_components=2)
    visible = np.ones(12, bool)
    visible[[0, 1, 4, 8, 9]] = False
    changed = x.toarray()
    changed[:, ~visible] = 1e4
    view = path.transform(path.normalise(x, visible, share=0.5), visible)
    assert np.array_equal(view, path.transform(path.normalise(changed, visible), visible))
    full = path.transform(norm)
    for k in range(2):
        assert np.corrcoef(view[:, k], full[:, k])[0, 1] > 0.95
    assert np.abs(view.mean(0)).max() < 0.15 * full.std()
    nothing = np.zeros(12, bool)
    assert not path.transform(path.normalise(x, nothing), nothing).any()


def test_empty_cells_and_constant_antibodies_stay_finite():
    x, _, batch = proteins(antibodies=12)
    x = x.toarray()
    x[:5] = 0
    path, norm = fitted_protein(x, batch)
    assert np.isfinite(path.transform(norm)).all() and np.isfinite(path.transform_wide(norm)).all()
    one, norm = fitted_protein(x[:, :1], batch)
    assert one.transform(norm).shape == (300, 1) and not one.transform(norm).any()


# ---- accessibility


def test_term_frequencies_are_sparse_and_add_up_to_the_share():
    x, _, _ = peaks()
    path = AccessibilityPath(x.shape[1])
    tf = path.normalise(x)
    assert sp.issparse(tf) and tf.dtype == np.float32
    assert np.asarray(tf.sum(1)).ravel() == pytest.approx(np.ones(x.shape[0]), abs=1e-5)
    visible = np.arange(x.shape[1]) < 300
    part = path.normalise(x, visible, share=0.4)
    assert np.asarray(part.sum(1)).ravel() == pytest.approx(np.full(x.shape[0], 0.4), abs=1e-5)
    assert not part[:, 300:].nnz and x.max() > 1, "the counts given must stay as they are"


def test_components_find_the_types_and_not_the_depth():
    x, types, batch = peaks()
    path, tf = fitted_peaks(x, batch)
    u, wide = path.transform(tf), path.transform_wide(tf)
    assert u.shape == (400, 10) and wide.shape == (400, 20) and u.dtype == wide.dtype == np.float32
    assert wide.var(0).sum() == pytest.approx(200.0, rel=0.05), "the total variance that the classifier expects"
    assert u / wide[:, :10] == pytest.approx(np.full((400, 10), u.std() / wide[:, :10].std()), rel=1e-2)
    separates(u[:, :4], types, 0.9)
    depth = np.log1p(np.diff(x.indptr))
    for k in range(10):
        within = [np.corrcoef(u[batch == b, k], depth[batch == b])[0, 1] for b in (0, 1)]
        assert np.abs(np.mean(within)) < 0.76


def test_components_are_the_leading_singular_vectors():
    x, _, batch = peaks()
    path, tf = fitted_peaks(x, batch)
    t = path._tf_idf(tf).toarray().astype(float)
    exact = np.linalg.svd(t, full_matrices=False)[2][:5]
    inside = np.linalg.norm(exact @ path.loadings.numpy(), axis=1)
    assert inside[0] < 0.1, "the first follows depth"
    assert inside[1:] == pytest.approx(np.ones(4), abs=0.01)


def test_peaks_used_are_the_most_accessible():
    x, _, batch = peaks()
    path, _ = fitted_peaks(x, batch, n_variable=100)
    open_in = np.asarray((x > 0).sum(0)).ravel()
    assert np.array_equal(open_in[path.features], np.sort(open_in)[::-1][:100])


def test_fit_does_not_depend_on_chunks_and_new_cells_are_mapped_alike():
    x, _, batch = peaks()
    (one, tf), (many, _) = fitted_peaks(x, batch), fitted_peaks(x, batch, size=37)
    (again, _) = fitted_peaks(x, batch)
    assert np.array_equal(one.transform(tf), again.transform(tf))
    assert np.array_equal(one.features, many.features)
    assert one.transform(tf)[:, :2] == pytest.approx(many.transform(tf)[:, :2], abs=0.02)
    assert one.transform(tf[7:9]) == pytest.approx(one.transform(tf)[7:9], abs=1e-4)


def test_hidden_peaks_do_not_count_and_the_rest_tells_about_them():
    x, _, batch = peaks()
    path, tf = fitted_peaks(x, batch)
    visible = np.random.default_rng(1).random(x.shape[1]) < 0.7
    share = float(tf[:, visible].sum() / tf.sum())
    changed = x.toarray()
    changed[:, ~visible] = 9
    view = path.transform(path.normalise(x, visible, share), visible)
    other = path.transform(path.normalise(sp.csr_matrix(changed), visible, share), visible)
    assert view == pytest.approx(other, abs=1e-4)
    full = path.transform(tf)
    for k in range(2):
        assert np.corrcoef(view[:, k], full[:, k])[0, 1] > 0.85


def test_few_cells_and_empty_cells_leave_finite_values():
    x = sp.csr_matrix(np.eye(4, 9, k=-1, dtype=np.float32))
    path, tf = fitted_peaks(x, np.zeros(4, int))
    assert path.transform(tf).shape == (4, 9) and np.isfinite(path.transform(tf)).all()


def test_paths_travel_in_the_state_of_the_module():
    x, _, batch = peaks()
    path, tf = fitted_peaks(x, batch)
    copy = AccessibilityPath(x.shape[1], n_components=10, n_wide=20)
    copy.load_state_dict(path.state_dict())
    assert np.array_equal(copy.transform(tf), path.transform(tf))
    y, _, batch = proteins()
    protein, norm = fitted_protein(y, batch)
    other = ProteinPath(y.shape[1])
    other.load_state_dict(protein.state_dict())
    assert np.array_equal(other.transform(norm), protein.transform(norm))
    assert not list(path.parameters()) and not list(protein.parameters())


@pytest.mark.slow
def test_accessibility_tells_real_types_apart(real_data):
    import mudata

    atac = mudata.read_h5mu(real_data("bench/snareseq.h5mu"))["atac"]
    batch = atac.obs["batch"].astype("category").cat.codes.to_numpy()
    path, tf = fitted_peaks(sp.csr_matrix(atac.X), batch, size=2000, n_components=30)
    u = path.transform(tf)
    order = np.random.default_rng(0).permutation(len(u))
    types = atac.obs["cell_type"].astype(str).to_numpy()[order]
    separates((u / np.sqrt((u**2).sum(1).mean() / 30))[order], types, 0.6)
