import numpy as np
import pytest

from more_scvi.metrics import effective_dimension, linear_probe, structure


def test_structure_is_one_for_the_reference_itself_also_after_batch_centring(cells):
    z, labels, batches = cells
    assert structure(z, z, labels, batches) == pytest.approx(1)
    assert structure(3 * z + 50 * (batches == "x")[:, None], z, labels, batches) == pytest.approx(1)


def test_label_collapse_loses_structure_and_dimension_but_not_f1(cells):
    z, labels, batches = cells
    onehot = np.eye(3)[np.unique(labels, return_inverse=True)[1]]
    hidden = np.arange(600) % 2 == 0
    assert linear_probe(onehot, labels, hidden) == 1.0
    assert structure(onehot, z, labels, batches) == 0
    assert effective_dimension(onehot, labels, batches) == 0
    assert effective_dimension(z, labels, batches) > 8


def test_structure_of_noise_and_of_one_point_is_zero(cells):
    z, labels, batches = cells
    noise = np.random.default_rng(1).standard_normal(z.shape)
    assert structure(noise, z, labels, batches) == pytest.approx(0, abs=0.02)
    assert structure(np.full((600, 2), 7.0), z, labels, batches) == 0
    assert np.isnan(structure(z[:5], z[:5], labels[:5], batches[:5]))


def test_effective_dimension_is_the_participation_ratio():
    rng = np.random.default_rng(0)
    variances = np.array([4.0, 2.0, 1.0, 0.5])
    z = rng.standard_normal((40_000, 4)) * np.sqrt(variances)
    batches = rng.integers(0, 2, 40_000)
    expected = variances.sum() ** 2 / np.square(variances).sum()
    shifted = z + 30 * batches[:, None]
    assert effective_dimension(shifted, ["a"] * 40_000, batches) == pytest.approx(expected, rel=0.03)


def test_unusable_arrays_are_refused(cells):
    z, labels, batches = cells
    with pytest.raises(ValueError, match=r"labels \(600,\) must hold one name for each of the 10 cells"):
        structure(z[:10], z, labels, batches)
    with pytest.raises(ValueError, match=r"reference \(10, 10\) must be \(600 cells, columns\)"):
        structure(z, z[:10], labels, batches)
    broken = z.copy()
    broken[:2, 0] = np.inf
    with pytest.raises(ValueError, match="reference holds 2 values that are not finite"):
        structure(z, broken, labels, batches)
