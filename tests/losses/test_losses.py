"""Each loss against what it promises: exact values where there is a formula, and the direction of its pull."""

import numpy as np
import pytest
import torch
from scipy.stats import nbinom, norm

from more_scvi import losses

G = torch.Generator().manual_seed(0)


def randn(*shape):
    return torch.randn(*shape, generator=G)


def test_masked_negative_binomial_is_the_likelihood_of_hidden_genes_only():
    counts, mean = torch.tensor([[0.0, 3.0, 7.0]]), torch.tensor([[0.5, 2.0, 9.0]])
    theta = torch.tensor([1.0, 2.0, 4.0])
    hidden = torch.tensor([True, False, True])
    got = losses.masked_negative_binomial(counts, mean, theta.log(), hidden)
    expected = [-nbinom.logpmf(x, t, t / (t + m)) for x, m, t in ((0, 0.5, 1.0), (7, 9.0, 4.0))]
    assert got.item() == pytest.approx(np.mean(expected), rel=1e-4)


def test_masked_gaussian_is_the_likelihood_up_to_its_constant():
    values, mean, log_scale = torch.tensor([[1.0, 4.0]]), torch.tensor([[0.0, 5.0]]), torch.tensor([0.3, -0.2])
    got = losses.masked_gaussian(values, mean, log_scale, torch.tensor([True, True])).item()
    expected = -np.mean(norm.logpdf([1.0, 4.0], [0.0, 5.0], np.exp([0.3, -0.2]))) - 0.5 * np.log(2 * np.pi)
    assert got == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("term", [losses.masked_negative_binomial, losses.masked_gaussian])
def test_nothing_hidden_costs_nothing(term):
    x = torch.ones(2, 3)
    assert term(x, x, torch.zeros(3), torch.zeros(3, dtype=torch.bool)).tolist() == [0.0, 0.0]


def test_classify_ignores_unlabelled_cells_and_closed_classes():
    logits = torch.tensor([[2.0, 0.0, -torch.inf], [0.0, 5.0, -torch.inf], [9.0, 0.0, -torch.inf]], requires_grad=True)
    got = losses.classify(logits, torch.tensor([0, -1, -1]))
    assert got.item() == pytest.approx(np.log1p(np.exp(-2.0)), rel=1e-5)
    got.backward()
    assert logits.grad[1:].abs().sum() == 0
    assert losses.classify(logits, torch.full((3,), -1)).item() == 0
    assert torch.isfinite(losses.classify(logits, torch.tensor([0, 1, 0]), smoothing=0.1))


def test_contrast_prefers_positives_from_other_batches():
    labels, batches = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])
    by_label = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    by_batch = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    assert losses.contrast_labels(by_label, labels, batches) < losses.contrast_labels(by_batch, labels, batches)
    # a third cell of the label in the anchor's own batch must not matter as a positive
    near_own = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    near_other = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    y, b = torch.tensor([0, 0, 0]), torch.tensor([0, 1, 0])
    assert losses.contrast_labels(near_other, y, b) < losses.contrast_labels(near_own, y, b)


@pytest.mark.parametrize("labels", [[-1, -1, -1], [0, 1, 2], [0, -1, -1]])
def test_contrast_without_positives_is_zero_with_a_gradient(labels):
    p = randn(3, 2).requires_grad_()
    loss = losses.contrast_labels(p, torch.tensor(labels), torch.tensor([0, 1, 0]))
    loss.backward()
    assert loss.item() == 0 and p.grad.abs().sum() == 0


def test_contrast_of_views_matches_cells_within_their_batch():
    z = randn(6, 4)
    batch = torch.tensor([0, 0, 0, 1, 1, 1])
    assert losses.contrast_views(z, z, batch) < losses.contrast_views(z, z.flip(0), batch)
    # moving a whole batch changes nothing: other batches are no negatives
    assert losses.contrast_views(z[:3], z[:3], batch[:3]) == pytest.approx(
        losses.contrast_views(torch.cat([z[:3], -z[:3]]), torch.cat([z[:3], -z[:3]]), batch).item(), abs=1e-6
    )


def mmd_two_groups(a, b, scale, bandwidths):
    def k(x, y):
        d = ((x[:, None] - y[None]) ** 2).sum(-1)
        return np.mean([np.exp(-d / (2 * scale * w)) for w in bandwidths], 0)

    n, m = len(a), len(b)
    return (k(a, a).sum() - n) / (n * (n - 1)) + (k(b, b).sum() - m) / (m * (m - 1)) - 2 * k(a, b).mean()


def test_alignment_is_the_unbiased_mmd():
    z = randn(12, 3)
    batch = torch.tensor([0] * 5 + [1] * 7)
    got = losses.align_batches(z, batch, None, n_batches=2).item()
    a, b = z[:5].numpy(), z[5:].numpy()
    d = [((x[:, None] - x[None]) ** 2).sum(-1) for x in (a, b)]
    scale = sum(v.sum() for v in d) / (5 * 4 + 7 * 6)
    assert got == pytest.approx(mmd_two_groups(a, b, scale, (0.25, 0.5, 1.0, 2.0, 4.0)), rel=1e-4)


def test_alignment_never_touches_a_type_that_only_one_batch_has():
    z = randn(8, 3).requires_grad_()
    batch, types = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1]), torch.tensor([0, 0, 1, 1, 0, 0, 2, 2])
    losses.align_batches(z, batch, types, n_batches=2, n_types=3).backward()
    moved = z.grad.abs().sum(1) > 0
    assert moved.tolist() == [True, True, False, False, True, True, False, False]
    none = torch.full((8,), -1)
    assert losses.align_batches(z, batch, none, n_batches=2, n_types=3).item() == 0


def test_variance_is_hinged():
    labels = torch.tensor([0, 0, 1, 1])
    wide = torch.tensor([[0.0, 0], [0, 4], [1, 0], [1, 4]])
    tight = torch.tensor([[0.0, 0], [0, 0.1], [9, 0], [9, 0.1]])
    assert losses.intra_class_variance(wide, labels, 2, floor=0.3) > 0.5
    assert losses.intra_class_variance(tight, labels, 2, floor=0.3) == 0
    assert losses.intra_class_variance(tight, torch.full((4,), -1), 2) == 0


def test_keep_is_free_of_scale_and_sees_changes_of_pattern():
    base, groups = randn(20, 5), torch.tensor([0] * 10 + [1] * 10)
    assert losses.keep_distances(3.0 * base, base, groups).item() == pytest.approx(0.0, abs=1e-4)
    shifted = base + 7.0 * groups[:, None]
    assert losses.keep_distances(shifted, base, groups).item() == pytest.approx(0.0, abs=1e-4)
    one_group_collapsed = torch.cat([0.01 * base[:10], base[10:]])
    assert losses.keep_distances(one_group_collapsed, base, groups).item() > 0.3
    other_pattern = base[torch.randperm(10, generator=G).repeat(2) + 10 * groups]
    assert losses.keep_distances(other_pattern, base, groups).item() > 0.03
    assert losses.keep_distances(one_group_collapsed, base, torch.full((20,), -1)).item() == 0


@pytest.mark.parametrize("n", [1, 2])
def test_every_term_is_defined_for_minibatches_of_one_or_two_cells(n):
    z, code = randn(n, 4).requires_grad_(), torch.zeros(n, dtype=torch.long)
    terms = [
        losses.classify(z, code),
        losses.contrast_labels(z, code, code),
        losses.contrast_views(z, z, code),
        losses.align_batches(z, code, code, 2, 1),
        losses.intra_class_variance(z, code, 1),
        losses.keep_distances(z, z.detach(), code),
    ]
    sum(terms).backward()
    assert all(torch.isfinite(t) for t in terms) and torch.isfinite(z.grad).all()
