import numpy as np
import pytest
import torch

from more_scvi.annotate import GaussianClassifier, ProbeClassifier

ONE = np.ones((1, 1), bool)  # one modality, measured in every cell


@pytest.fixture
def gaussians():
    """Points of three types with one covariance, codes (of four classes; 2 is absent), and the true posterior."""
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(5, 5))
    classes, prior = np.array([0, 1, 3]), np.array([0.6, 0.3, 0.1])
    centres = 1.5 * rng.normal(size=(3, 5))
    code = rng.choice(3, size=4000, p=prior)
    x = centres[code] + rng.normal(size=(4000, 5)) @ mix
    precision = np.linalg.inv(mix.T @ mix)
    away = x[:, None] - centres
    log_p = np.log(prior) - 0.5 * np.einsum("ntd,de,nte->nt", away, precision, away)
    p = np.exp(log_p - log_p.max(1, keepdims=True))
    posterior = np.zeros((4000, 4))
    posterior[:, classes] = p / p.sum(1, keepdims=True)
    return x, classes[code], posterior


def test_the_gaussian_classifier_knows_the_posterior_of_gaussians(gaussians):
    x, code, posterior = gaussians
    classifier = GaussianClassifier(5, 4, ONE)
    classifier.fit(x[:2000], code[:2000], np.ones((2000, 1), bool))
    p = classifier(torch.from_numpy(x[2000:]).float()).softmax(1).numpy()
    assert np.abs(p - posterior[2000:]).mean() < 0.02
    assert (p[:, 2] == 0).all()  # no label carries class 2


@pytest.mark.parametrize("labels", [np.zeros(40, int), np.arange(40)], ids=["one type", "one cell of each"])
def test_the_gaussian_classifier_stays_out_where_it_cannot_know_a_spread(labels):
    classifier = GaussianClassifier(5, 40, ONE)
    x = np.random.default_rng(0).normal(size=(40, 5))
    for given, knows in ((np.arange(40) % 2, True), (labels, False)):  # nothing is left of an earlier fit
        classifier.fit(x, given, np.ones((40, 1), bool))
        assert classifier.is_fitted == knows


def test_the_gaussian_classifier_serves_cells_with_the_modalities_of_labelled_cells(gaussians):
    x, code, _ = gaussians
    both, first, second = [True, True], [True, False], [False, True]
    classifier = GaussianClassifier(5, 4, np.array([both, first, second]))
    classifier.fit(x, code, np.where(np.arange(len(x))[:, None] % 2, both, first))
    assert classifier.serves(torch.tensor([first, second, both])).tolist() == [True, False, True]


@pytest.mark.parametrize("kind", [GaussianClassifier, ProbeClassifier])
def test_a_probe_is_kept_with_the_weights(gaussians, kind):
    x, code, _ = gaussians
    patterns, measured = ((ONE,), (np.ones((len(x), 1), bool),)) if kind is GaussianClassifier else ((), ())
    classifier, other = kind(5, 4, *patterns), kind(5, 4, *patterns)
    classifier.fit(x, code, *measured)
    other.load_state_dict(classifier.state_dict())
    z = torch.from_numpy(x).float()
    assert other.is_fitted
    torch.testing.assert_close(other(z), classifier(z))
