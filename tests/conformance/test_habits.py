"""What a user of scvi-tools does without thinking about it."""

import warnings

import numpy as np
import pytest
import scvi


def test_counts_in_a_layer(case, data, z):
    """`layer="counts"` gives what the same counts in X give, whatever X holds."""
    adata = data()
    adata.layers["counts"] = adata.X.copy()
    adata.X = adata.X.log1p()
    scvi.settings.seed = 0
    case.setup(adata, layer="counts")
    np.testing.assert_allclose(case.latent(case.fit(case.build(adata))), z, atol=1e-4)


def test_embedding_is_float32_with_one_row_per_cell(case, trained, z):
    assert z.shape[0] == trained.adata.n_obs
    assert z.dtype == np.float32


def test_history_has_one_row_per_epoch(case, trained):
    for name, curve in trained.history.items():
        assert len(curve) == 2, name
        assert np.isfinite(curve.to_numpy(dtype=float)).all(), name


def test_early_stopping_stops(case, data):
    model_data = data()
    case.setup(model_data)
    model = case.build(model_data)
    stop = {"early_stopping": True, "early_stopping_monitor": "validation_loss", "early_stopping_patience": 1}
    case.fit(model, max_epochs=30, train_size=0.7, plan_kwargs={"lr": 1e-8}, early_stopping_min_delta=1.0, **stop)
    assert len(model.history["validation_loss"]) < 30


def test_sets_of_cells_add_up(case, data):
    adata = data()
    case.setup(adata)
    model = case.fit(case.build(adata), train_size=0.7, validation_size=0.2)
    sets = [model.train_indices, model.validation_indices, model.test_indices]
    assert [len(s) for s in sets] == [105, 30, 15]
    assert len(np.unique(np.concatenate(sets))) == 150


def test_training_on_a_learning_rate(case, data):
    """`plan_kwargs` reach the optimiser: without a learning rate nothing moves."""
    adata = data()
    case.setup(adata)
    model = case.build(adata)
    before = {name: p.detach().clone() for name, p in model.module.named_parameters()}
    case.fit(model, max_epochs=1, plan_kwargs={"lr": 0.0, "weight_decay": 0.0})
    assert all((before[name] == p).all() for name, p in model.module.named_parameters())


def test_an_untrained_model_says_so(case, data):
    adata = data()
    case.setup(adata)
    model = case.build(adata)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        with pytest.raises((UserWarning, RuntimeError), match="(?i)train"):
            case.latent(model)


def test_printing_a_model(case, trained, capsys):
    print(trained)
    repr(trained)
    assert case.name in capsys.readouterr().out


def test_gradients_of_bf16_training_stay_finite(case, data):
    adata = data()
    case.setup(adata)
    model = case.fit(case.build(adata), precision="bf16-mixed")
    latent = case.latent(model)
    assert latent.dtype == np.float32
    assert np.isfinite(latent).all()
