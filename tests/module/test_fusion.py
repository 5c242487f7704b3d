"""Fusion: weights over the measured modalities, where they start, and the controls."""

import numpy as np
import pytest
import torch

from more_scvi.base._shared_space import fit_shared_space
from more_scvi.module import ModalitySizes, MoREModule
from more_scvi.module._fusion import Fusion

WIDTHS, N_LATENT = [7, 5, 4], 9
PRESENT = torch.tensor([[1, 1, 1], [1, 1, 0], [0, 1, 1], [1, 0, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1]], dtype=torch.bool)


def make_fusion(kind="attention", seed=0):
    """A fusion as after training: nothing in it is zero."""
    torch.manual_seed(seed)
    fusion = Fusion(WIDTHS, N_LATENT, kind=kind).eval()
    with torch.no_grad():
        for p in fusion.parameters():
            p.normal_()
        fusion.start[0, :4] = fusion.start[1, 4:7] = fusion.start[2, 7:] = 2.0  # whose axis it is
    return fusion


def inputs(seed=0):
    """Bases and embeddings of one cell per pattern; what was not measured is zero in the base."""
    torch.manual_seed(seed)
    base = torch.randn(len(PRESENT), sum(WIDTHS))
    embeddings = torch.randn(len(PRESENT), len(WIDTHS), N_LATENT)
    return base * PRESENT.repeat_interleave(torch.tensor(WIDTHS), 1), embeddings


KINDS = ["attention", "concatenation", "mean"]


@pytest.mark.parametrize("kind", KINDS)
def test_weights_add_up_to_one_over_the_measured_modalities(kind):
    base, _ = inputs()
    weights = make_fusion(kind).weights(base, PRESENT).detach()
    assert weights.shape == (len(PRESENT), len(WIDTHS), N_LATENT)
    assert torch.allclose(weights.sum(1), torch.ones(len(PRESENT), N_LATENT), atol=1e-6)
    assert (weights[~PRESENT] == 0).all()
    assert (weights >= 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_cell_with_one_modality_has_its_embedding(kind):
    base, embeddings = inputs()
    fused = make_fusion(kind)(embeddings, base, PRESENT)
    single = PRESENT.sum(1) == 1
    assert torch.equal(fused[single], embeddings[PRESENT & single[:, None]])


@pytest.mark.parametrize("kind", KINDS)
def test_what_stands_in_place_of_an_absent_modality_is_not_read(kind):
    fusion, (base, embeddings) = make_fusion(kind), inputs()
    absent = ~PRESENT
    other_base = base + 50.0 * absent.repeat_interleave(torch.tensor(WIDTHS), 1)
    other = torch.where(absent[:, :, None], 1e6, embeddings)
    assert torch.allclose(fusion(embeddings, base, PRESENT), fusion(other, other_base, PRESENT), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_dropping_a_modality_of_a_cell_leaves_the_others_unchanged(kind):
    fusion, (base, embeddings) = make_fusion(kind), inputs()
    fewer = PRESENT.clone()
    fewer[0, 2] = False
    before, after = fusion(embeddings, base, PRESENT), fusion(embeddings, base, fewer)
    assert torch.equal(before[1:], after[1:])
    assert not torch.allclose(before[0], after[0])


def test_weights_depend_on_the_cell():
    base, _ = inputs()
    everything = torch.ones(2, 3, dtype=torch.bool)
    weights = make_fusion().weights(torch.randn(2, sum(WIDTHS)), everything)
    assert not torch.allclose(weights[0], weights[1])
    assert not torch.allclose(weights[0, :, 0], weights[0, :, 1]), "and on the axis"


def test_controls_have_fixed_weights():
    """``mean``: all measured modalities alike. ``concatenation``: an axis is its own modality's where measured."""
    base, _ = inputs()
    n = PRESENT.sum(1)[:, None, None]
    mean, own = make_fusion("mean"), make_fusion("concatenation")
    assert not list(mean.parameters()) and not list(own.parameters())
    assert torch.allclose(mean.weights(base, PRESENT), (PRESENT[:, :, None] / n).expand(-1, -1, N_LATENT))
    weights = own.weights(base, PRESENT)
    for m, axes in enumerate((slice(0, 4), slice(4, 7), slice(7, 9))):
        assert torch.allclose(weights[PRESENT[:, m], m, axes], torch.tensor(1.0))


def test_training_starts_at_the_fixed_weights():
    """Before the first step weights do not depend on the cell."""
    fusion = Fusion(WIDTHS, N_LATENT)
    everything = torch.ones(5, 3, dtype=torch.bool)
    weights = fusion.weights(torch.randn(5, sum(WIDTHS)), everything)
    assert torch.allclose(weights, torch.full_like(weights, 1 / 3))


def shared_states(n_cells=400, n_own=4, n_common=5, seed=0):
    """Bases of three modalities that see the same five states, each with axes of its own."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(n_cells, n_common))
    bases = []
    for width in (20, 16, 12):
        signal = np.c_[common, rng.normal(size=(n_cells, n_own))]
        base = signal @ rng.normal(size=(signal.shape[1], width)) + 0.3 * rng.normal(size=(n_cells, width))
        base -= base.mean(0)
        bases.append((base * np.sqrt(50 / (base**2).sum(1).mean())).astype(np.float32))
    return bases


def test_no_modality_is_ignored_on_its_own_axes():
    """Every modality owns axes of the shared space and has most weight there before training, and some elsewhere."""
    bases = shared_states()
    present = np.ones((400, 3), bool)
    space = fit_shared_space(bases, present, 24, [None] * 3)
    start = torch.from_numpy(space.trust).softmax(0).numpy()
    owner = start.argmax(0)
    for m in range(3):
        assert (owner == m).sum() >= 3
        assert (start[m, owner == m] > 0.5).all()
        assert (start[m, owner != m] > 0.05).all()
    assert start.mean(1).max() < 2.5 * start.mean(1).min()


def test_modalities_agree_where_they_speak_of_the_same_cells():
    """Each modality alone puts a cell nearer to where another puts it than to where it puts other cells."""
    bases = shared_states()
    space = fit_shared_space(bases, np.ones((400, 3), bool), 24, [None] * 3)
    first, second = (base @ rotation for base, rotation in zip(bases[:2], space.rotations[:2], strict=True))
    distance = np.linalg.norm(first[:, None] - second[None], axis=2)
    assert (distance < np.diag(distance)[:, None]).mean() < 0.1


def test_absent_cells_do_not_enter_the_shared_space():
    """Rows of cells that lack a modality are zero in its base; what is fitted does not depend on how many there are."""
    bases = shared_states()
    present = np.ones((400, 3), bool)
    present[200:, 1] = False
    rows = [np.where(present[:, [m]], base, 0.0).astype(np.float32) for m, base in enumerate(bases)]
    more = [np.concatenate([base, np.zeros_like(base)]) for base in rows]
    hidden = np.zeros_like(present)
    once = fit_shared_space(rows, present, 24, [None] * 3)
    again = fit_shared_space(more, np.concatenate([present, hidden]), 24, [None] * 3)
    for a, b in zip(once.rotations, again.rotations, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3)
    np.testing.assert_array_equal(once.trust, again.trust)


def test_one_modality_has_a_fusion_without_weights():
    module = MoREModule([ModalitySizes("rna", 40)], n_batch=2, n_labels=0, n_latent=8, n_components=5, n_variable=30)
    assert not list(module.fusion.parameters())
    base = torch.randn(6, module.layout.width)
    present = torch.ones(6, 1, dtype=torch.bool)
    assert torch.equal(module.eval().adapt(base, present), module.embeddings(base)[:, 0])


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_the_weights_of_attention_only(kind):
    sizes = [ModalitySizes("rna", 40), ModalitySizes("protein", 12)]
    module = MoREModule(sizes, n_batch=2, n_labels=0, n_latent=8, n_components=5, n_variable=30, fusion=kind)
    base = torch.randn(6, module.layout.width)
    module.adapt(base, torch.ones(6, 2, dtype=torch.bool)).pow(2).sum().backward()
    learned = [p for p in module.fusion.parameters() if p.grad is not None and p.grad.abs().sum() > 0]
    assert bool(learned) == (kind == "attention")
