"""How the embedding is shared between frozen features and the data's own components, and how it is reported."""

import numpy as np
import pytest

import more_scvi as more
from more_scvi.backbones import get_backbone
from more_scvi.base._shares import covered, path_shares
from more_scvi.data import simulate_batches


def cells(thin: bool = False):
    symbols = get_backbone("more-mini").vocabulary.human_symbol[:300]
    adata = simulate_batches(n_cells=600, seed=0, gene_names=symbols)
    if thin:  # the backbone reads noise
        adata.X.data = np.random.default_rng(0).binomial(adata.X.data.astype(int), 0.03).astype(np.float32)
        adata.X.eliminate_zeros()
    more.MoRE.setup_anndata(adata, batch_key="batch", labels_key="cell_type", unlabeled_category="Unknown")
    return adata


def fitted(adata, **kwargs):
    model = more.MoRE(adata, **kwargs)
    model.train(max_epochs=0)
    return model


@pytest.fixture(scope="module")
def model():
    model = more.MoRE(cells())
    model.train(max_epochs=2)
    return model


def test_weights_of_paths_sum_to_one_and_gates_stay_in_their_range(model):
    table = model.get_path_weights()
    assert list(table.index) == [("rna", "frozen"), ("rna", "direct")]
    assert table["start"].sum() == pytest.approx(1, abs=1e-5)
    assert table["weight"].sum() == pytest.approx(1, abs=1e-5)
    assert (table["least_gate"] <= table["gate"]).all() and (table["gate"] <= table["most_gate"]).all()
    assert (table["least_gate"] > 0).all() and (table["most_gate"] < 2).all()
    assert not np.allclose(table["gate"], 1)  # training moved them


def test_before_training_the_gates_are_open():
    table = fitted(cells()).get_path_weights()
    np.testing.assert_allclose(table[["gate", "least_gate", "most_gate"]], 1)


def test_without_a_backbone_all_weight_is_on_the_data():
    table = fitted(cells(), backbone=None).get_path_weights()
    assert list(table.index) == [("rna", "direct")]
    assert table["weight"].item() == pytest.approx(1)


def test_features_that_the_data_do_not_support_get_less_weight(model):
    known, noise = model.get_path_weights(), fitted(cells(thin=True)).get_path_weights()
    assert noise.loc[("rna", "frozen"), "start"] < known.loc[("rna", "frozen"), "start"]


def test_the_fewer_the_cells_the_more_the_frozen_features_count():
    shares = [path_shares(["frozen", "direct"], n, overlap=1.0, coverage=1.0)[0] for n in (100, 1000, 10_000)]
    assert shares[0] > 0.95 and shares[1] == pytest.approx(0.5) and 0 < shares[2] < 0.05


def test_coverage_is_one_for_a_linear_map_and_small_for_noise():
    rng = np.random.default_rng(0)
    direct, batch = rng.normal(size=(1000, 10)), np.repeat([0, 1], 500)
    frozen = direct @ rng.normal(size=(10, 30)) + 5 * batch[:, None]
    assert covered(frozen, direct, batch, seed=0) > 0.95
    assert covered(rng.normal(size=(1000, 30)), direct, batch, seed=0) < 0.2


def test_a_model_without_data_says_what_to_do(model, tmp_path):
    model.save(tmp_path / "m")
    with pytest.raises(ValueError, match=r"loaded without data.*MoRE.load\(dir, adata=adata\)"):
        more.MoRE.load(tmp_path / "m", adata=False).get_path_weights()
