"""Stages of the module: every learned part starts as nothing, gradients go where the design says."""

import numpy as np
import pytest
import scanpy as sc
import scipy.sparse as sp
import torch

from more_scvi.modalities import log_normalise
from more_scvi.modalities.rna import SHALLOW_CELL, SHALLOW_DEPTH, BatchMoments
from more_scvi.module import (
    Classifier,
    DirectPath,
    ExpressionDecoder,
    GatedAdapter,
    ModalitySizes,
    MoREModule,
    PathBase,
    Refinement,
    SpreadStep,
)

RNG = np.random.default_rng(0)


def counts(n=120, genes=60):
    types = RNG.integers(0, 3, n)
    rate = np.exp(RNG.normal(size=(3, genes)))[types] * RNG.gamma(5, 0.3, (n, 1))
    return sp.csr_matrix(RNG.poisson(rate).astype(np.float32)), types


def fitted_direct(x, batch, chunk, n_components=8):
    path = DirectPath(x.shape[1], n_variable=30, n_components=n_components)
    norm = log_normalise(x)
    path.fit(
        lambda: ((norm[i : i + chunk], batch[i : i + chunk]) for i in range(0, x.shape[0], chunk)), batch.max() + 1
    )
    return path, norm


def test_variable_genes_are_those_of_scanpy():
    adata = sc.datasets.pbmc68k_reduced().raw.to_adata()
    adata.X = adata.X.astype(np.float64)
    adata.obs["batch"] = RNG.choice(["a", "b", "c"], adata.n_obs)
    table = sc.pp.highly_variable_genes(adata, flavor="seurat", batch_key="batch", n_top_genes=200, inplace=False)
    moments = BatchMoments(3, adata.n_vars)
    codes = adata.obs["batch"].astype("category").cat.codes.to_numpy()
    for rows in np.array_split(np.arange(adata.n_obs), 4):
        moments.add(sp.csr_matrix(adata.X[rows]), codes[rows])
    expected = set(np.flatnonzero(table["highly_variable"]))
    assert len(expected & set(moments.variable_genes(200))) >= 198


@pytest.mark.parametrize(("share", "n", "chosen"), [(0.1, 200, False), (0.1, 20, True), (1.0, 200, True)])
def test_genes_that_a_shallow_batch_does_not_show_come_last(share, n, chosen):
    """A batch that is as deep as others tells of its types, one of few cells of nothing: they veto no gene."""
    x = RNG.poisson(RNG.uniform(1, 5, 300), (400, 300)).astype(np.int64)
    x[:, 3] = np.where(np.arange(400) % 10 == 9, 30, 0)  # varies most
    batch = np.repeat([0, 1], [400 - n, n])
    x[(batch == 1) & (np.arange(400) < 399), 3] = 0  # but for one cell
    x[batch == 1] = RNG.binomial(x[batch == 1], share)
    moments = BatchMoments(2, 300)
    moments.add(log_normalise(sp.csr_matrix(x)), batch)
    assert (3 in moments.variable_genes(150)) is chosen
    assert sorted(moments.variable_genes(300)) == list(range(300))


def test_for_shallow_cells_one_count_of_the_shallowest_batch_is_one():
    rng = np.random.default_rng(1)
    deep = rng.poisson(rng.gamma(2, 20, 60), (200, 60))
    thin = np.concatenate([deep[:100], rng.binomial(deep[100:], 0.01)])
    batch = np.repeat([0, 1], 100)
    path, norm = fitted_direct(sp.csr_matrix(thin), batch, 70)
    totals = thin.sum(1)
    assert float(path.shallow_scale) == pytest.approx(totals[100:].mean() / 1e4, rel=0.02)
    values = np.log1p(thin / totals[:, None] * float(path.shallow_scale) * 1e4)[:, path.features.numpy()]
    expected = (values - values.mean(0)) @ path.wide_loadings.numpy()
    np.testing.assert_allclose(path.transform_shallow(norm), expected, atol=1e-3)
    everything = np.ones(60, bool)
    np.testing.assert_allclose(path.transform_shallow(norm, everything), expected, atol=1e-3)
    for size, doubt in ((n, path.doubt_shallow(everything, n, rng)) for n in (2, 4)):
        assert doubt.shape == (size, path.n_wide) and not doubt.any()
    usual = fitted_direct(sp.csr_matrix(deep), batch, 70)[0]
    steps = deep.sum(1) / np.where(deep > 0, deep, deep.max()).min(1)
    assert float(usual.shallow_scale) == pytest.approx(SHALLOW_DEPTH * steps.mean() / 1e4, rel=0.02)
    empty = np.concatenate([thin, np.zeros((40, 60), int)])
    for of in (np.repeat([0, 1, 2], [100, 100, 40]), np.repeat([0, 1], [100, 140])):  # says nothing of the others
        assert float(fitted_direct(sp.csr_matrix(empty), of, 70)[0].shallow_scale) == float(path.shallow_scale)
    genes = (thin > 0).sum(1).mean()
    assert path.shallow(norm, genes).tolist() == ((thin > 0).sum(1) < SHALLOW_CELL * genes).tolist()


@pytest.mark.parametrize("size", [1.0, 1e6])
def test_what_is_made_for_shallow_cells_does_not_depend_on_what_values_were_normalised_to(size):
    x, _ = counts()
    mean = [None, None]
    for at, own in enumerate((1e4, size)):
        norm, path = log_normalise(x, size=own), DirectPath(x.shape[1], n_variable=60, normalised=True)
        path.fit(lambda norm=norm: [(norm, np.zeros(x.shape[0], int))], 1)
        mean[at] = path.shallow_mean.numpy()[np.argsort(path.features)]
    np.testing.assert_allclose(*mean, rtol=1e-3)


def test_direct_path_is_the_pca_of_scaled_genes():
    x, _ = counts()
    path, norm = fitted_direct(x, np.zeros(x.shape[0], dtype=int), 1000)
    dense = norm[:, path.features.numpy()].toarray()
    z = np.clip((dense - dense.mean(0)) / dense.std(0), -10, 10)
    v = np.linalg.svd(z, full_matrices=False)[2][:8]
    assert np.linalg.svd(v @ path.loadings.numpy())[1] == pytest.approx(np.ones(8), abs=1e-2)


def test_direct_path_does_not_depend_on_chunks():
    x, _ = counts()
    batch = RNG.integers(0, 2, x.shape[0])
    (one, norm), (many, _) = fitted_direct(x, batch, 1000), fitted_direct(x, batch, 7)
    assert np.array_equal(one.features, many.features)
    assert np.allclose(one.transform(norm), many.transform(norm), atol=1e-3)


def test_direct_view_ignores_hidden_genes_and_approaches_the_full_projection():
    x, _ = counts()
    path, norm = fitted_direct(x, np.zeros(x.shape[0], dtype=int), 1000, n_components=4)
    visible = np.ones(x.shape[1], dtype=bool)
    visible[path.features.numpy()[:10]] = False
    other = norm.toarray()
    other[:, ~visible] = 99.0
    view = path.transform(norm, visible)
    assert np.allclose(view, path.transform(sp.csr_matrix(other), visible))
    full = path.transform(norm)
    assert np.corrcoef(view.ravel(), full.ravel())[0, 1] > 0.7


def test_base_removes_batch_and_covariates_and_reads_new_batches_cell_by_cell():
    n = 300
    batch, covariate = RNG.integers(0, 3, n), RNG.normal(size=(n, 1)).astype(np.float32)
    features = RNG.normal(size=(n, 6)) + 5.0 * batch[:, None] + 2.0 * covariate
    base = PathBase(6, 4, n_batch=3, n_covariates=1)
    out = base.fit(features.astype(np.float32), batch, covariate)
    assert out.shape == (n, 4)
    assert np.abs([out[batch == b].mean(0) for b in range(3)]).max() < 1e-3
    assert abs(np.corrcoef(out[:, 0], covariate[:, 0])[0, 1]) < 0.05
    again = base.transform(features.astype(np.float32), batch, covariate)
    assert np.allclose(out, again, atol=1e-3)
    new = base.transform(features.astype(np.float32), np.full(n, -1), covariate)
    known = [base.transform(features.astype(np.float32), np.full(n, code), covariate) for code in range(3)]
    assert np.allclose(new, np.mean(known, 0), atol=1e-3), "a new batch lies where the known ones do in the mean"
    one_cell = base.transform(features[:1].astype(np.float32), np.array([-2]), covariate[:1])
    assert np.allclose(one_cell, new[:1], atol=1e-4), "a cell does not depend on the others of its batch"


def test_every_learned_part_starts_as_nothing():
    adapter = GatedAdapter([4, 3], n_latent=5).eval()
    base = torch.randn(10, 7)
    assert torch.allclose(adapter(base), base @ adapter.rotation)
    assert torch.allclose(adapter.gate(), torch.ones(7))
    offset, sizes = Refinement(5, n_domains=3)(torch.randn(10, 5), torch.randint(0, 3, (10,)))
    assert offset.abs().sum() == 0 and all(s == 0 for s in sizes)
    decoder = ExpressionDecoder(5, 6)
    decoder.fit_average(sp.csr_matrix(np.ones((3, 6))), np.full(3, 6.0))
    assert decoder(torch.randn(2, 5), torch.full((2, 1), 6.0)).detach() == pytest.approx(
        np.full((2, 6), 3.5 / 3), rel=1e-5
    )


def test_refinement_moves_known_batches_only():
    refinement = Refinement(5, n_domains=2)
    for embedding in refinement.embedding:
        torch.nn.init.ones_(embedding.weight)
    offset, sizes = refinement(torch.randn(3, 5), torch.tensor([0, 1, -1]))
    assert (offset[:2].abs().sum(1) > 0).all() and offset[2].abs().sum() == 0
    assert len(sizes) == 2 and sizes[0] > 0
    assert Refinement(5, n_domains=1).n_steps == 0


def test_closed_classes_are_never_predicted():
    head = Classifier(4, 3)
    head.open_classes[1] = False
    assert head(torch.randn(50, 4)).argmax(1).ne(1).all()


def minibatch(module, n=24):
    batch, labels = torch.arange(n) % 2, torch.arange(n) % 3
    out = {
        "base": torch.randn(n, module.layout.width),
        "present": torch.ones(n, len(module.modalities), dtype=torch.bool),
        "guess": torch.randn(n, 3).log_softmax(1),
        "share": torch.full((n, 1), 0.5),
        "view": torch.randn(n, module.layout.width),
        "domain": batch[:, None],
        "labels": torch.where(batch == 0, labels, -1)[:, None],
    }
    for name in module.modalities:
        n_targets = len(module.base(name).targets)
        out[f"hidden_{name}"] = torch.arange(n_targets) % 2 == 0
        out[f"target_{name}"] = torch.poisson(torch.ones(n, n_targets))
        out[f"totals_{name}"] = torch.full((n, 1), 30.0)
    return out


TERMS = ("masked", "classify", "contrast", "align_batch", "align_modality", "variance", "keep")


def loss_of(module, **weights):
    torch.manual_seed(0)
    weights = dict.fromkeys(TERMS, 0.0) | weights
    for parameter in module.parameters():
        parameter.grad = None
    _, _, out = module(minibatch(module), loss_kwargs={"weights": weights, "certainty": 0.2, "refinement_penalty": 0.0})
    return out


def make_module(*names):
    torch.manual_seed(1)
    sizes = {
        "rna": ModalitySizes("rna", 40, 6),
        "atac": ModalitySizes("atac", 60, 0),
        "protein": ModalitySizes("protein", 12, 0),
    }
    module = MoREModule([sizes[n] for n in names], n_batch=2, n_labels=3, n_latent=8, n_components=5, n_variable=30)
    parts = [*module.refinement.embedding, *(d.map.write for d in module.decoders.values())]
    for part in parts:  # as after some steps: nothing is zero
        torch.nn.init.ones_(part.weight)
    module.kept.fill_(1.0)
    return module


@pytest.fixture(params=[("rna",), ("rna", "atac", "protein")], ids=["rna", "three"])
def module(request):
    return make_module(*request.param)


def has_gradient(part):
    return any(p.grad is not None and p.grad.abs().sum() > 0 for p in part.parameters())


@pytest.mark.parametrize("term", ["classify", "contrast", "variance", "masked"])
def test_label_and_reconstruction_losses_never_reach_the_refinement(module, term):
    loss_of(module, **{term: 1.0}).loss.backward()
    assert not has_gradient(module.refinement)
    assert has_gradient(module.adapters)


def test_alignment_reaches_the_refinement(module):
    loss_of(module, align_batch=1.0).loss.backward()
    assert has_gradient(module.refinement)


@pytest.mark.parametrize("term", ["masked", "classify", "contrast", "align_batch", "variance", "keep"])
def test_each_term_is_logged_and_removable(module, term):
    logged = loss_of(module, **{term: 1.0}).extra_metrics
    assert f"loss_{term}" in logged and [k for k in logged if k.startswith("loss_")] == [f"loss_{term}"]
    assert "refinement_step_1" in logged and "refinement_step_2" in logged


def test_spread_step_equalises_scatter_and_keeps_the_pattern_of_distances():
    types, batch = torch.arange(400) % 2, torch.arange(400) // 200
    z = torch.randn(400, 5) * (1.0 + 2.0 * batch[:, None]) + 10.0 * types[:, None]
    step = SpreadStep(5, n_batch=2, n_labels=2)
    p = torch.nn.functional.one_hot(types, 2).float()
    assert torch.equal(step(z, p, batch), z), "the identity until fitted"
    step.fit(z, types, batch)
    out = step(z, p, batch)
    for t in (0, 1):
        tight, wide = (out[(types == t) & (batch == b)] for b in (0, 1))
        assert tight.std(0).mean() == pytest.approx(wide.std(0).mean().item(), rel=0.15)
        before, after = torch.pdist(z[(types == t) & (batch == 1)]), torch.pdist(wide)
        assert torch.corrcoef(torch.stack([before, after]))[0, 1] > 0.9999
    assert torch.equal(step(z, p, torch.full((400,), -1)), z), "batches that were not seen stay as they are"
