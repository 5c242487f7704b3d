"""The last layers of a backbone, and the tokens that enter them."""

import numpy as np
import pytest
import torch

from more_scvi.backbones import Backbone, Precomputed, token_chunks
from more_scvi.data import match_genes


@pytest.fixture
def match(tiny, genes):
    return match_genes(genes, tiny.vocabulary)


@pytest.mark.parametrize("depth", [1, 2])
def test_replaying_the_last_layers_from_the_tokens_equals_the_full_forward(tiny, counts, match, depth):
    values, keep = tiny.tokens(counts, match, depth=depth)
    assert values.dtype == np.float16 and values.shape == (30, 5, 8) and keep.all()
    linear, context = tiny.front.encode(counts.astype(np.float64), np.arange(60))
    residual = tiny.encode(counts, match) - linear
    assert np.abs(residual).max() > 0.1
    top = tiny.top_layers(depth)
    replayed = top(torch.from_numpy(values).float(), torch.from_numpy(keep))
    np.testing.assert_allclose(replayed, residual, atol=5e-3)
    # from tokens that were not rounded to half precision: to the last bit
    inputs = torch.from_numpy(linear), torch.from_numpy(context)
    exact = top(tiny.transformer.tokens(*inputs, depth), torch.from_numpy(keep))
    assert torch.equal(exact, tiny.transformer(*inputs))


def test_the_layers_are_a_frozen_copy(tiny):
    fingerprint = tiny.fingerprint()
    top = tiny.top_layers(2)
    assert not any(p.requires_grad for p in top.parameters())
    for parameter in top.parameters():
        parameter.data.add_(1.0)
    assert tiny.fingerprint() == fingerprint
    assert not top.train().training


def test_tokens_do_not_depend_on_chunks(tiny, counts, genes, match):
    whole, keep = tiny.tokens(counts, match, depth=1)
    parts = list(token_chunks(tiny, counts.tocsc(), genes, depth=1, chunk_size=7, progress=False))
    assert [(rows.start, rows.stop) for rows, _, _ in parts] == [(0, 7), (7, 14), (14, 21), (21, 28), (28, 30)]
    assert np.array_equal(np.concatenate([values for _, values, _ in parts]), whole)
    assert np.array_equal(np.concatenate([kept for _, _, kept in parts]), keep)


@pytest.mark.parametrize("depth", [0, 3, -1])
def test_depth_is_checked(tiny, counts, match, depth):
    for ask in (lambda: tiny.top_layers(depth), lambda: tiny.tokens(counts, match, depth=depth)):
        with pytest.raises(ValueError, match=f"depth={depth} .*'more-mini'.* from 1 to 2"):
            ask()


def test_a_backbone_without_layers_says_so(counts):
    with pytest.raises(ValueError, match="'precomputed' has no layers"):
        Precomputed(2).top_layers(1)
    with pytest.raises(ValueError, match="'precomputed' has no layers"):
        Precomputed(2).tokens(counts, None, depth=1)


def test_a_backbone_that_promises_layers_must_hand_them_out(counts):
    class Promises(Backbone):
        name, n_features, n_layers = "promises", 1, 2

        def encode(self, x, match=None, *, visible=None, normalised=False):
            return np.zeros((x.shape[0], 1), np.float32)

    with pytest.raises(NotImplementedError, match="'promises' has n_layers=2"):
        Promises().top_layers(1)
