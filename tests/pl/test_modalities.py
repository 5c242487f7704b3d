from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from more_scvi import pl

CELLS = [f"cell{i}" for i in range(6)]
WEIGHTS = pd.DataFrame(
    {"rna": [0.2, 0.4, 1, 0, 0.6, 0.8], "protein": [0.8, 0.6, 0, 1, 0.4, 0.2]}, index=CELLS, dtype="float32"
)
OBS = pd.DataFrame({"donor": list("bbaacc"), "cell_type": ["T", "B"] * 3}, index=CELLS)


@pytest.fixture
def model():
    yield SimpleNamespace(get_modality_weights=lambda: WEIGHTS, adata=SimpleNamespace(obs=OBS))
    plt.close("all")


def bars(ax):
    """Group, modality and width of every bar, and where it starts."""
    groups = [label.get_text() for label in ax.get_yticklabels()]
    rows = [
        (group, bar.get_label(), patch.get_width(), patch.get_x())
        for bar in ax.containers
        for group, patch in zip(groups, bar.patches, strict=True)
    ]
    return pd.DataFrame(rows, columns=["group", "modality", "width", "start"]).set_index(["group", "modality"])


def test_bars_are_the_means_of_sorted_groups_and_stack_up_to_one(model):
    drawn = bars(ax := pl.modality_weights(model, "donor"))
    expected = WEIGHTS.groupby(OBS["donor"]).mean()
    assert list(drawn["width"].unstack().index) == ["a", "b", "c"]
    np.testing.assert_allclose(drawn["width"].unstack()[expected.columns], expected, atol=1e-6)
    np.testing.assert_allclose(drawn.xs("protein", level=1)["start"], drawn.xs("rna", level=1)["width"], atol=1e-6)
    first, last = (ax.transData.transform((0, y))[1] for y in ax.get_yticks()[[0, -1]])
    assert first > last  # read from top to bottom


def test_draws_on_the_axes_it_is_given_with_labels_and_no_title(model):
    _, mine = plt.subplots()
    assert pl.modality_weights(model, "donor", ax=mine) is mine
    assert (mine.get_title(), mine.get_xlabel(), mine.get_ylabel()) == ("", "mean weight", "donor")
    assert [t.get_text() for t in mine.get_legend().get_texts()] == ["rna", "protein"]


def test_without_groups_there_is_one_bar_for_all_cells(model):
    np.testing.assert_allclose(bars(pl.modality_weights(model))["width"], WEIGHTS.mean(), atol=1e-6)


def test_weights_and_a_series_do_without_the_model(model):
    shuffled = OBS["donor"].sample(frac=1, random_state=0)  # matched by name, not by position
    drawn = bars(pl.modality_weights(WEIGHTS, shuffled))
    pd.testing.assert_frame_equal(drawn, bars(pl.modality_weights(model, "donor")))


def test_categories_keep_their_order_and_cells_without_a_group_are_left_out(model):
    groups = pd.Series(pd.Categorical(["late", "early", None, "late", "early", None], ["early", "late"]), CELLS)
    drawn = bars(pl.modality_weights(model, groups))
    assert list(dict.fromkeys(drawn.index.get_level_values(0))) == ["early", "late"]
    assert drawn.loc[("early", "rna"), "width"] == pytest.approx(0.5)


def test_a_modality_keeps_its_colour_beside_others(model):
    three = WEIGHTS.assign(atac=0.0)
    colours = [
        {bar.get_label(): bar.patches[0].get_facecolor() for bar in pl.modality_weights(weights).containers}
        for weights in (WEIGHTS, three)
    ]
    assert list(colours[1]) == ["rna", "atac", "protein"]
    assert colours[0].items() <= colours[1].items()


def test_errors_say_what_there_is(model):
    with pytest.raises(KeyError, match=r"'louvain'.*'cell_type', 'donor'"):
        pl.modality_weights(model, "louvain")
    with pytest.raises(TypeError, match=r"mdata\.obs\['donor'\]"):
        pl.modality_weights(WEIGHTS, "donor")
    with pytest.raises(TypeError, match="not a dict"):
        pl.modality_weights({})
    with pytest.raises(ValueError, match=r"2 of 6 cells, e\.g\. 'cell4'"):
        pl.modality_weights(model, OBS["donor"].iloc[:4])
    with pytest.raises(ValueError, match="twice"):
        pl.modality_weights(model, pd.concat([OBS["donor"], OBS["donor"]]))
    with pytest.raises(ValueError, match="none of the cells"):
        pl.modality_weights(model, pd.Series(pd.NA, index=CELLS, dtype=object))
