"""Corrupted views, losses, the training loop and its resumption, the command."""

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from torch.nn.functional import one_hot

from more_scvi.backbones import MoreMini
from more_scvi.pretraining import PretrainSettings, fit_front, make_views, pretrain
from more_scvi.pretraining.__main__ import main
from more_scvi.pretraining._train import contrast, denoise, drift, masked, same_cluster
from more_scvi.pretraining._views import Sampler, fit_decoder

SMALL = {"n_components": 4, "n_features": 8, "n_tokens": 4, "d_model": 8, "n_layers": 1, "n_heads": 2}
SETTINGS = PretrainSettings(n_groups=2, n_cells=16, checkpoint_every=3)


@pytest.fixture(scope="module")
def backbone(pool, gene_sets):
    return fit_front(pool, gene_sets, **SMALL)


@pytest.fixture(scope="module")
def views(pool, backbone):
    return make_views(pool, backbone, n_views=2, n_neighbours=3)


def test_views_are_seeded_and_stay_in_their_study(pool, backbone, views):
    again = make_views(pool, backbone, n_views=2, n_neighbours=3)
    np.testing.assert_array_equal(views.features, again.features)
    assert views.features.shape == (3, 200, 8)
    assert np.isfinite(views.features).all()
    assert (pool.study[views.neighbours] == pool.study[:, None]).all()
    assert (views.neighbours != np.arange(200)[:, None]).all()
    assert (views.features[1] != views.features[0]).any()
    for number in np.unique(views.cluster):
        assert len(np.unique(views.block[views.cluster == number])) == 1


def test_clusters_hang_on_no_label(pool, backbone, views):
    other = make_views(replace(pool, labels=np.resize(["a", "b"], 200)), backbone, n_views=4, n_neighbours=3)
    np.testing.assert_array_equal(other.cluster, views.cluster)
    assert 1 < len(np.unique(views.cluster[pool.study == pool.studies.index("A")])) < 40


def test_hidden_genes_are_measured_and_not_shown(pool, backbone, views):
    front = backbone.front
    decoder = fit_decoder(pool, views.features[0], front.gene_mean.numpy(), front.gene_scale.numpy(), front.target_sum)
    sampler = Sampler(pool, views, decoder, 0, 3, n_groups=2, n_cells=16, n_hidden=20, smoothing=0.5, seed=0)
    for block, view in ((0, 1), (1, 2)):
        genes = sampler._hidden(np.random.default_rng(0), block, view)
        study = pool.study[views.block == block][0]
        assert pool.measured[study, genes].all()
        assert not views.panels[block, view, genes].any()
    first, again = sampler.draw(1), sampler.draw(1)
    assert torch.equal(first.hidden, again.hidden)
    assert not torch.equal(first.hidden, sampler.draw(2).hidden)


def test_the_decoder_explains_expression_of_a_study_that_measured_all(pool, backbone, views):
    front = backbone.front
    decoder = fit_decoder(pool, views.features[0], front.gene_mean.numpy(), front.gene_scale.numpy(), front.target_sum)
    cells = np.flatnonzero(pool.study == pool.studies.index("B"))
    x = decoder.expression(pool, cells, np.arange(50))
    x = x - x.mean(0)
    clean = views.features[0][cells].astype(float)
    guess = (clean - clean.mean(0)) @ decoder.weight[:, :50]
    assert np.square(x - guess).sum() < 0.7 * np.square(x).sum()


def test_paired_views_show_different_genes(views):
    assert np.all(views.context[1, :, 1].astype(float) + views.context[2, :, 1] <= 0.01)  # shares of genes sum to <= 1


def test_losses_know_what_is_good():
    torch.manual_seed(0)
    target = torch.randn(2, 12, 5)
    assert denoise(target + 3, target) < 1e-6  # a shift of the whole group is free
    assert denoise(torch.zeros_like(target), target).item() == pytest.approx(1, abs=1e-4)
    label = torch.arange(12).remainder(3).repeat(2, 1)
    grouped = one_hot(label, 5).float()
    positive = same_cluster(label)
    assert contrast(grouped, grouped, positive, 0.2) < contrast(target, target, positive, 0.2)
    assert drift(torch.ones(1, 4, 5)) == 0
    decoder = torch.randn(2, 5, 7)
    assert masked(target, decoder, target @ decoder + 1) < 1e-6
    assert masked(torch.zeros_like(target), decoder, target @ decoder).item() == pytest.approx(1, abs=1e-4)


def test_training_lowers_the_loss_and_leaves_the_front(pool, backbone, views, tmp_path):
    losses = []
    before = backbone.fingerprint()
    trained = pretrain(
        pool, views, backbone, checkpoint=tmp_path / "c.pt", n_steps=60, settings=SETTINGS,
        on_step=lambda _, terms: losses.append(terms["denoise"]),
    )  # fmt: skip
    assert np.mean(losses[-10:]) < np.mean(losses[:10])
    assert backbone.fingerprint() == before
    assert all(torch.equal(v, trained.front.state_dict()[k]) for k, v in backbone.front.state_dict().items())
    assert not any(p.requires_grad for p in trained.parameters())


def test_a_killed_run_goes_on_as_if_nothing_had_happened(pool, backbone, views, tmp_path):
    def run(name, **kwargs):
        return pretrain(pool, views, backbone, checkpoint=tmp_path / name, n_steps=8, settings=SETTINGS, **kwargs)

    def die(step, terms):
        if step == 5:
            raise RuntimeError("killed")

    whole = run("a.pt")
    with pytest.raises(RuntimeError, match="killed"):
        run("b.pt", on_step=die)
    steps = []
    resumed = run("b.pt", resume=True, on_step=lambda step, _: steps.append(step))
    assert steps == [4, 5, 6, 7, 8]  # the checkpoint was of step 3
    assert resumed.fingerprint() == whole.fingerprint()


def test_resume_refuses_other_settings(pool, backbone, views, tmp_path):
    pretrain(pool, views, backbone, checkpoint=tmp_path / "c.pt", n_steps=3, settings=SETTINGS)
    other = PretrainSettings(n_groups=3, n_cells=16)
    with pytest.raises(ValueError, match="written with settings"):
        pretrain(pool, views, backbone, checkpoint=tmp_path / "c.pt", n_steps=3, settings=other, resume=True)


OF_ANOTHER = {"settings": asdict(SETTINGS), "n_steps": 3, "network": {}, "averaged": {}, "step": 1, "optimiser": {}}


@pytest.mark.parametrize(
    "content", [b"", b"half", torch.zeros(2), {"step": 3}, {"settings": 3, "n_steps": 3}, OF_ANOTHER]
)
def test_resume_refuses_what_is_no_checkpoint(pool, backbone, views, tmp_path, content):
    path = tmp_path / "c.pt"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(ValueError, match=r"c\.pt"):
        pretrain(pool, views, backbone, checkpoint=path, n_steps=3, settings=SETTINGS, resume=True)


def test_the_command_writes_a_folder_that_loads(files, tmp_path):
    where = {"pool": files / "pool", "annotation": files / "annotation"}
    where |= {"out": tmp_path / "w", "checkpoint": tmp_path / "c.pt"}
    numbers = {"steps": 2, "views": 2, "components": 16, "features": 16, "tokens": 8, "width": 32, "layers": 2}
    options = [word for key, value in (where | numbers).items() for word in (f"--{key}", str(value))]
    main([*options, "--hold-out", "C"])
    backbone = MoreMini.load(tmp_path / "w")
    assert len(backbone.vocabulary) == 60
    assert backbone.n_features == 16
    assert (backbone.sizes.n_tokens, backbone.sizes.d_model, backbone.n_layers) == (8, 32, 2)
