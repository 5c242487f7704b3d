"""Fine-tuning of all weights: the comparison for the frozen backbone."""

import numpy as np
import pytest
import torch
from scipy.sparse import vstack

from more_scvi.backbones import MoreMini, Precomputed, compute_features
from more_scvi.data import GeneMatch, match_genes, simulate_batches, simulate_platform
from more_scvi.metrics import linear_probe
from more_scvi.model import MoRE
from more_scvi.pretraining import finetune, fit_front
from more_scvi.pretraining._finetune import _Network

SMALL = {"n_components": 4, "n_features": 8, "n_tokens": 4, "d_model": 8, "n_layers": 1, "n_heads": 2}
QUICK = {"epochs": 2}


@pytest.fixture(scope="module")
def backbone(pool, gene_sets):
    return fit_front(pool, gene_sets, **SMALL)


@pytest.fixture(scope="module")
def cells(backbone):
    """300 cells of four types on one platform and 300 on another; half of the labels are hidden."""
    names = [*backbone.vocabulary.human_symbol, "NOTHING"]
    adata = simulate_batches(600, len(names), 4, 2, markers=0.2, batch_sd=0.2, gene_names=names, seed=3)
    other = simulate_platform(adata.X[300:], depth=0.3, seed=4)
    adata.X = vstack([adata.X[:300], other]).tocsr()
    labels = adata.obs["cell_type"].astype(str).to_numpy()
    hidden = np.random.default_rng(5).random(600) < 0.5
    return adata, match_genes(names, backbone.vocabulary), np.where(hidden, "Unknown", labels), hidden


def probe(backbone, cells):
    """Macro-F1 of the hidden labels by a linear probe on the features."""
    adata, _, _, hidden = cells
    z = compute_features(backbone, adata.X, list(adata.var_names), dtype="float32", progress=False).full
    return linear_probe(z, adata.obs["cell_type"], hidden)


def test_training_computes_what_encode_computes(backbone, cells):
    adata, match, _, _ = cells
    known = match.vocab_index >= 0
    residual = MoreMini(backbone.sizes, backbone.vocabulary, backbone.state_dict())
    residual.transformer.randomise_readout()
    network = _Network(residual, match.vocab_index[known], seed=0)
    counts = adata.X[:20].tolil()
    counts[3] = 0  # a cell without counts
    counts = counts.tocsr()
    for panel in (0, 2):
        visible = np.zeros(len(known), dtype=bool)
        visible[np.flatnonzero(known)[network.panels[panel].columns]] = True
        with torch.no_grad():
            found = network(counts[:, np.flatnonzero(known)], panel)
        expected = residual.encode(counts, match, visible=visible)
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-4)


def test_hidden_types_are_told_apart_better_than_with_random_weights(backbone, cells):
    adata, match, visible, _ = cells
    drawn = MoreMini(backbone.sizes, backbone.vocabulary, backbone.state_dict())
    torch.manual_seed(0)
    drawn.transformer.randomise_readout()
    tuned = finetune(backbone, adata.X, match, visible, epochs=8, learning_rate=1e-2)
    assert probe(tuned.backbone, cells) > probe(drawn, cells) + 0.05


def test_the_original_stays_and_all_trained_weights_moved(backbone, cells):
    adata, match, visible, _ = cells
    before = backbone.fingerprint()
    tuned = finetune(backbone, adata.X, match, visible, **QUICK)
    assert backbone.fingerprint() == before
    old, new = backbone.state_dict(), tuned.backbone.state_dict()
    moved = {key for key in old if not torch.equal(old[key].half(), new[key].half())}
    assert moved >= {"front.components", "front.whitening", "transformer.readout"}
    assert not moved & {"front.gene_mean", "front.gene_share", "front.member_gene"}
    n_transformer = sum(p.numel() for p in backbone.transformer.parameters())
    assert tuned.trained == n_transformer + old["front.components"].numel() + old["front.whitening"].numel()
    assert not any(p.requires_grad for p in tuned.backbone.parameters())
    with pytest.raises(ValueError, match="frozen"):
        tuned.backbone.requires_grad_(True)


def test_hidden_cells_are_never_read(backbone, cells):
    adata, match, visible, hidden = cells
    whole = finetune(backbone, adata.X, match, visible, **QUICK).backbone.fingerprint()
    shown = finetune(backbone, adata.X[~hidden], match, visible[~hidden], **QUICK).backbone.fingerprint()
    assert whole == shown


def test_the_seed_decides_and_nobody_elses_random_state_is_touched(backbone, cells):
    adata, match, visible, _ = cells
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    first = finetune(backbone, adata.X, match, visible, seed=1, **QUICK).backbone.fingerprint()
    assert torch.equal(torch.rand(1), expected)
    assert finetune(backbone, adata.X, match, visible, seed=1, **QUICK).backbone.fingerprint() == first
    assert finetune(backbone, adata.X, match, visible, seed=2, **QUICK).backbone.fingerprint() != first


def test_more_loads_what_was_saved(backbone, cells, tmp_path):
    adata, match, visible, _ = cells
    tuned = finetune(backbone, adata.X, match, visible, **QUICK)
    tuned.backbone.save(tmp_path / "tuned")
    data = adata.copy()
    MoRE.setup_anndata(data, batch_key="batch", labels_key="cell_type")
    model = MoRE(data, backbone=tmp_path / "tuned", n_components=4)
    assert model.backbone.fingerprint() == tuned.backbone.fingerprint()


def test_the_best_epoch_is_kept_and_training_ends_soon_after(backbone, cells):
    adata, match, visible, _ = cells
    tuned = finetune(backbone, adata.X, match, visible, epochs=20, learning_rate=0.3)
    assert tuned.epoch == int(np.argmin(tuned.validation)) + 1
    assert len(tuned.validation) == min(20, tuned.epoch + 5)


def test_one_label_per_type_trains_without_a_validation_slice(backbone, cells):
    adata, match, _, _ = cells
    labels = adata.obs["cell_type"].astype(str).to_numpy()
    few = np.full(600, "Unknown", dtype=object)
    first = np.unique(labels, return_index=True)[1]
    few[first] = labels[first]
    tuned = finetune(backbone, adata.X, match, few, epochs=3)
    assert (tuned.epoch, tuned.validation) == (3, ())
    assert all(torch.isfinite(v).all() for v in tuned.backbone.state_dict().values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": ["a", "b"]}, "labels have shape"),
        ({"labels": ["a"] * 600}, "1 types are visible"),
        ({"labels": ["Unknown"] * 600}, "0 types are visible"),
        ({"epochs": 0}, "epochs=0"),
        ({"learning_rate": 0.0}, "learning_rate=0.0"),
        ({"x": np.full((600, 61), 0.5)}, "raw counts"),
        ({"x": np.full((600, 61), -1)}, "raw counts"),
        ({"x": np.full((600, 61), np.nan)}, "raw counts"),
        ({"x": np.ones((600, 7))}, "x has 7 genes"),
        ({"match": GeneMatch(np.full(61, -1), "none", "unknown")}, "no gene of x"),
    ],
)
def test_bad_input_says_what_is_wrong(backbone, cells, change, message):
    adata, match, visible, _ = cells
    arguments = {"x": adata.X, "match": match, "labels": visible} | QUICK | change
    with pytest.raises(ValueError, match=message):
        finetune(backbone, **arguments)


def test_only_a_more_mini_can_be_fine_tuned(cells):
    adata, match, visible, _ = cells
    with pytest.raises(TypeError, match="Precomputed"):
        finetune(Precomputed(3), adata.X, match, visible)
