"""Sums over labelled cells: what they say equals what the cells say, whatever the order in which they were added."""

import numpy as np
import torch
from sklearn.covariance import oas

from more_scvi.annotate._statistics import NewTypes, TypeStatistics


def cells(n=300, n_types=3, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(n_types, size=n)
    return rng.normal(size=(n, 6)) @ rng.normal(size=(6, 6)) + 5 * rng.normal(size=(n_types, 6))[labels], labels


def sums(*parts, n_types=3):
    out = TypeStatistics(6, n_types)
    for z, labels in parts:
        out.add(z, labels)
    return out


def test_sums_say_what_cells_say():
    z, labels = cells()
    known = sums((z, labels))
    centres = np.stack([z[labels == t].mean(0) for t in range(3)])
    np.testing.assert_allclose(known.centres, centres)
    np.testing.assert_allclose(
        known.covariance(), oas(z - centres[labels], assume_centered=True)[0], rtol=0.02, atol=0.02
    )
    inverse = np.linalg.inv(known.covariance().numpy())
    away = z[:, None] - centres
    np.testing.assert_allclose(known.distances(torch.from_numpy(z)), np.einsum("ntd,de,nte->nt", away, inverse, away))


def test_parts_add_up_in_any_order_and_can_be_taken_away():
    z, labels = cells()
    parts = [(z[i::3].astype(np.float32), labels[i::3]) for i in range(3)]
    whole = sums(*parts)
    for other in (sums(*parts[::-1]), sums(parts[1]).with_more(sums(parts[2], parts[0]))):
        for name, value in whole.named_buffers():
            np.testing.assert_allclose(getattr(other, name), value, rtol=1e-12, err_msg=name)
    whole.add(*parts[0], -1)
    np.testing.assert_allclose(whole.covariance(), sums(*parts[1:]).covariance(), rtol=1e-9)


def test_precision_is_kept_when_a_module_is_converted():
    assert TypeStatistics(4, 2).half().total.dtype == torch.float64


def test_old_types_share_what_new_ones_leave_in_the_proportion_of_the_old_answer():
    z, labels = cells(n_types=4)
    types = NewTypes(6, 3, 1)
    types.reference.add(z[labels < 3], labels[labels < 3])
    types.added.add(z[labels == 3], labels[labels == 3])
    p = torch.from_numpy(np.random.default_rng(1).dirichlet(np.ones(3), len(z)))
    others = torch.arange(len(z)) % 2 == 0
    out = types.widen(p.log(), torch.from_numpy(z), others).exp()
    assert out.shape == (len(z), 4)
    assert torch.equal(out[~others, :3], p.log().exp()[~others]) and (out[~others, 3] == 0).all()
    torch.testing.assert_close(out.sum(1), torch.ones(len(z), dtype=torch.float64))
    torch.testing.assert_close(out[others, :3] / out[others, :3].sum(1, keepdim=True), p[others])
    found = out[others].argmax(1).numpy() == 3
    assert (found == (labels[others.numpy()] == 3)).mean() > 0.95
