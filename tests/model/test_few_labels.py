"""Few labels, in unequal numbers: what plain regression on genes gives is the least that is to be expected."""

import anndata as ad
import numpy as np
import pytest

from more_scvi.metrics import macro_f1

from .conftest import fitted, regression_on_genes

pytestmark = pytest.mark.filterwarnings("ignore")


def read(real_data, name):
    data = ad.read_h5ad(real_data(f"dev/{name}.h5ad"))
    data.obs = data.obs[["batch", "cell_type"]].astype(str)
    return data


def drawn(data, seed, n_cells=100):
    """A few cells, every other one labelled; which those are."""
    data = data[np.random.default_rng(seed).permutation(data.n_obs)[:n_cells]].copy()
    seen = np.arange(n_cells) % 2 == 0
    data.obs["label"] = data.obs["cell_type"].where(seen, "Unknown")
    return data, seen


def test_half_of_the_labels_of_a_hundred_cells_tell_the_others_as_well_as_regression_does(real_data):
    ours, plain = [], []
    for name in ("human_gastrula", "mouse_oligo_regions", "mouse_lung_immune"):
        everything = read(real_data, name)
        for seed in range(2):
            data, seen = drawn(everything, seed)
            truth = data.obs["cell_type"].to_numpy()[~seen]
            ours.append(macro_f1(truth, fitted(data).predict(indices=np.flatnonzero(~seen))))
            plain.append(macro_f1(truth, regression_on_genes(data[seen], data[~seen])))
    assert np.mean(ours) >= np.mean(plain)


@pytest.mark.parametrize("equal", [True, False])
def test_rare_types_gain_where_labels_are_unequal_and_nothing_moves_where_they_are_equal(real_data, equal):
    data, _ = drawn(read(real_data, "human_gastrula"), 0)
    types = data.obs["cell_type"].value_counts().index[:3]
    of = [np.flatnonzero(data.obs["cell_type"] == kind) for kind in types]
    taught = np.concatenate([rows[: 4 if equal else 2 ** (3 - at)] for at, rows in enumerate(of)])
    data.obs["label"] = data.obs["cell_type"].where(np.isin(np.arange(data.n_obs), taught), "Unknown")
    model = fitted(data)
    before = model.predict(soft=True)
    counts = data.obs["label"].value_counts().reindex(model.labels).to_numpy()
    assert sorted(counts) == ([4, 4, 4] if equal else [2, 4, 8])
    model.module.annotator.prior.zero_()
    change = (np.log(before) - np.log(model.predict(soft=True))).to_numpy()[:, np.argsort(counts)]
    if equal:
        np.testing.assert_allclose(change, 0, atol=1e-4)
    else:
        assert (np.diff(change, axis=1) < 0).all()
