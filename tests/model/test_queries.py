"""Other data than the registered: genes that are not there or were padded with zeros, and what answers cost."""

import logging

import numpy as np
import pytest
import scipy.sparse as sp
import torch


@pytest.fixture(scope="module")
def cells(demo_cells):
    return demo_cells


@pytest.fixture(scope="module")
def model(demo_model):
    return demo_model


@pytest.fixture(scope="module")
def student(model):
    return model.distill(max_steps=300, n_hidden=64, progress=False)


@pytest.fixture(params=["model", "student"])
def either(request):
    """The model or its student, which know the same genes."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def query(cells):
    return cells[1::2].copy()


def padded(query, measured):
    """Zero where a gene was not measured, as scvi-tools' ``prepare_query_anndata`` leaves it."""
    out = query.copy()
    out.X = sp.csr_matrix(query.X.multiply(measured[None]))
    return out


def right(which, data) -> float:
    return float((which.predict(data) == data.obs["truth"]).mean())


@pytest.mark.filterwarnings("ignore:adata (lacks|has)")
@pytest.mark.parametrize("share", [0.7, 0.4])
def test_genes_that_were_not_measured_are_missing_not_zero(either, query, caplog, share):
    """Padded with zeros or left out, they cost little, and both are said."""
    measured = np.random.default_rng(0).random(query.n_vars) < share
    whole, lacking = right(either, query), right(either, query[:, measured].copy())
    assert lacking > whole - 0.08
    caplog.clear()
    with caplog.at_level(logging.WARNING, "more_scvi"):
        filled = right(either, padded(query, measured))
    assert "taken as missing" in caplog.text
    assert filled > lacking - 0.03


def test_the_share_of_genes_that_are_there_is_said(model, query):
    with pytest.warns(UserWarning, match=r"lacks 265 of the 765 genes.*65% are read"):
        model.predict(query[:, :500].copy())


def test_too_few_genes_are_refused(either, query):
    with pytest.raises(ValueError, match="(are needed|needed:)"):
        either.predict(query[:, :5].copy())


def test_cells_of_one_type_and_single_cells_are_read_as_they_are(either, query, caplog):
    """Genes that a type does not express are measured zeros: alone its cells get the same answers."""
    whole = either.predict(query, soft=True)
    with caplog.at_level(logging.WARNING, "more_scvi"):
        for name, rows in query.obs.groupby("truth", observed=True).indices.items():
            part = either.predict(query[rows].copy(), soft=True)
            np.testing.assert_allclose(part, whole.iloc[rows], atol=2e-3, err_msg=name)
        one = either.predict(query[3:4].copy(), soft=True)
        np.testing.assert_allclose(one, whole.iloc[3:4], atol=2e-3)
    assert "missing" not in caplog.text


@pytest.mark.filterwarnings("ignore:.*no counts")
def test_cells_without_counts_are_answered(either, query):
    query.X = sp.csr_matrix(query.shape, dtype=np.float32)
    p = either.predict(query, soft=True)
    np.testing.assert_allclose(p.sum(1), 1, atol=1e-4)
    assert np.isfinite(either.get_latent_representation(query, obsm_key=None)).all()


# ---- what answers cost, and what they change: nothing


QUESTIONS = {
    "latent": lambda model, data: model.get_latent_representation(data, obsm_key=None),
    "predict": lambda model, data: model.predict(data),
    "soft": lambda model, data: model.predict(data, soft=True),
    "novelty": lambda model, data: model.get_novelty(data),
    "paths": lambda model, data: model.get_path_weights(),
    "layers": lambda model, data: model.get_layer_weights(),
    "modalities": lambda model, data: model.get_modality_weights(data),
    "parameters": lambda model, data: model.parameter_counts(),
    "diagnose": lambda model, data: model.diagnose(),
    "impute": lambda model, data: model.impute("protein", data),
}


def test_all_questions_about_a_query_cost_one_pass_of_the_backbone(model, query, monkeypatch):
    seen, encode = [], type(model.backbone).encode

    def count(self, x, *args, **kwargs):
        seen.append(x.shape[0])
        return encode(self, x, *args, **kwargs)

    monkeypatch.setattr(type(model.backbone), "encode", count)
    for name in ("latent", "predict", "soft", "modalities"):
        QUESTIONS[name](model, query)
    assert sum(seen) == query.n_obs
    QUESTIONS["predict"](model, query[:9].copy())
    assert sum(seen) == query.n_obs + 9


@pytest.mark.parametrize("kind", ["AnnData", "MuData"])
def test_questions_fit_nothing_and_need_training(make_model, make_multi, kind):
    make = {"AnnData": make_model, "MuData": make_multi}[kind]
    model, fresh = make(epochs=1), make()
    own = set(QUESTIONS) - ({"layers"} if kind == "MuData" else {"impute", "layers"})
    before = {k: v.clone() for k, v in model.module.state_dict().items()}
    data = model.adata.copy()
    for name in own:
        for given in (None, data):
            QUESTIONS[name](model, given)
            changed = [k for k, v in model.module.state_dict().items() if not torch.equal(v, before[k])]
            assert changed == [], name
            assert not model.module.training
        if name != "parameters":
            with pytest.raises(RuntimeError, match="call model.train"):
                QUESTIONS[name](fresh, None)
