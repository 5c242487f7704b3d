from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from more_scvi import pl
from more_scvi.data import simulate_batches


@pytest.fixture
def adata():
    adata = simulate_batches(n_cells=60, n_genes=20, n_types=3)
    adata.obsm["X_umap"] = adata.obsm["X_other"] = np.random.default_rng(0).normal(size=(60, 2))
    yield adata
    plt.close("all")


def test_embedding_draws_every_cell_once_and_names_each_category(adata):
    ax = pl.embedding(adata, color="cell_type")
    assert sum(len(c.get_offsets()) for c in ax.collections) == adata.n_obs
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["type0", "type1", "type2"]


def test_embedding_draws_unknown_cells_in_grey_below(adata):
    adata.obs["label"] = adata.obs["cell_type"].astype(object).where(adata.obs["batch"] == "batch0", "Unknown")
    ax = pl.embedding(adata, color="label", missing="Unknown")
    assert ax.collections[0].get_label() == "Unknown"
    assert len(ax.collections[0].get_offsets()) == (adata.obs["batch"] == "batch1").sum()


def test_embedding_takes_numbers_and_the_axes_it_is_given(adata):
    _, mine = plt.subplots()
    assert pl.embedding(adata, color="state", ax=mine) is mine


def test_more_than_eight_categories_differ_by_marker(adata):
    adata.obs["many"] = [f"c{i % 12:02d}" for i in range(60)]
    ax = pl.embedding(adata, color="many")
    look = {(tuple(c.get_facecolor()[0]), c.get_paths()[0].vertices.tobytes()) for c in ax.collections}
    assert len(look) == 12


@pytest.mark.parametrize("draw", ["embedding", "compare"])
def test_forty_categories_fit_beside_the_plot(adata, draw):
    adata.obs["many"] = pd.Categorical([f"T cell of kind {i % 40}" for i in range(60)])
    sizes = []
    for color in ("cell_type", "many"):
        if draw == "embedding":
            ax = pl.embedding(adata, color=color)
        else:
            ax = pl.compare(adata, {"before": "X_other", "after": "X_umap"}, [color])[0, -1]
        ax.figure.draw_without_rendering()
        assert ax.figure.bbox.padded(2).count_contains(ax.get_legend().get_window_extent().corners()) == 4
        sizes.append(np.array(ax.get_window_extent().size))
    assert (sizes[1] > 0.75 * sizes[0]).all(), sizes


def test_embedding_lists_what_there_is(adata):
    with pytest.raises(KeyError, match="X_other"):
        pl.embedding(adata, "X_tsne")
    with pytest.raises(KeyError, match="cell_type"):
        pl.embedding(adata, color="louvain")


def test_compare_is_a_row_per_column_of_obs(adata):
    axes = pl.compare(adata, {"before": "X_other", "after": "X_umap"}, ["batch", "cell_type", "state"])
    assert axes.shape == (3, 2)
    assert [ax.get_title() for ax in axes[0]] == ["before", "after"]
    with pytest.raises(ValueError, match=r"\(1, 1\)"):
        pl.compare(adata, {"after": "X_umap"}, ["batch"], axes=axes)


def test_history_draws_a_line_per_curve():
    curve = pd.DataFrame({"x": [3.0, 2.0]}, index=pd.RangeIndex(2, name="epoch"))
    names = ["train_loss", "loss_classify_train", "loss_classify_validation", "loss_keep_train"]
    model = SimpleNamespace(history=dict.fromkeys(names, curve))
    ax = pl.history(model)
    assert [line.get_linestyle() for line in ax.lines] == ["-", "--", "-"]
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["classify", "keep"]
    with pytest.raises(ValueError, match="keep"):
        pl.history(model, ["masked"])
    with pytest.raises(ValueError, match="not trained; call model.train"):
        pl.history(SimpleNamespace(history=None))
    with pytest.raises(ValueError, match="logger= given to train"):
        pl.history(SimpleNamespace(history={}, is_trained=True))
    with pytest.raises(ValueError, match="terms is empty"):
        pl.history(model, [])
    plt.close("all")
