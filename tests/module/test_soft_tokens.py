"""A modality without genes reaches the frozen layers by learned tokens."""

import numpy as np
import pytest
import torch

import more_scvi as more
from more_scvi.backbones import MoreMini
from more_scvi.module import SoftTokens


@pytest.fixture(scope="module")
def backbone():
    return MoreMini.load()


def simulate(genes):
    return more.data.simulate_multiomics(160, n_genes=80, n_peaks=150, modalities=("rna", "atac"), gene_names=genes)


def test_nothing_is_added_before_training_and_gradients_pass_the_frozen_layers(backbone):
    torch.manual_seed(0)
    soft = SoftTokens(backbone.read_tokens, 10, 6, backbone.token_width, backbone.token_width)
    base = torch.randn(5, 10)
    assert torch.equal(soft(base), torch.zeros(5, 6))
    torch.nn.init.ones_(soft.out.weight)
    soft(base).pow(2).sum().backward()
    assert soft.write.weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in backbone.parameters())
    assert {name.split(".")[0] for name in soft.state_dict()} == {"write", "out"}, "no frozen weight is saved here"


def test_cells_do_not_see_each_other(backbone):
    soft = SoftTokens(backbone.read_tokens, 10, 6, backbone.token_width, backbone.token_width)
    torch.nn.init.normal_(soft.out.weight)
    base = torch.randn(8, 10)
    assert torch.allclose(soft(base)[:3], soft(base[:3]), atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_peaks_without_genes_are_trained_through_the_frozen_layers(tmp_path):
    genes = MoreMini.load().vocabulary.human_symbol[:80]
    mdata = more.data.simulate_multiomics(
        n_cells=160, n_genes=80, n_peaks=150, modalities=("rna", "atac"), gene_names=genes
    )
    more.MoRE.setup_mudata(mdata, {"rna": "rna", "atac": "atac"}, batch_key="batch", labels_key="cell_type")
    model = more.MoRE(mdata, n_views=1)
    assert list(model.module.soft_tokens) == ["atac"]
    before = {k: v.clone() for k, v in model.backbone.state_dict().items()}
    model.train(max_epochs=3, enable_progress_bar=False)
    assert model.module.soft_tokens["atac"].out.weight.abs().sum() > 0
    assert all(torch.equal(v, before[k]) for k, v in model.backbone.state_dict().items())
    assert model.parameter_counts().loc["soft_tokens_atac", "trained"] > 0
    model.save(tmp_path / "model")
    again = more.MoRE.load(tmp_path / "model", mdata)
    z = model.get_latent_representation(obsm_key=None)
    np.testing.assert_allclose(again.get_latent_representation(obsm_key=None), z, atol=1e-4)


def test_modalities_with_genes_have_none():
    genes = MoreMini.load().vocabulary.human_symbol[:80]
    mdata = more.data.simulate_multiomics(
        n_cells=120, n_genes=80, n_peaks=150, modalities=("rna", "atac"), gene_names=genes
    )
    more.MoRE.setup_mudata(mdata, {"rna": "rna", "atac": "atac"}, batch_key="batch", peak_genes="gene")
    assert not len(more.MoRE(mdata).module.soft_tokens)
