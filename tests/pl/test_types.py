import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from more_scvi import pl

FRAME = pd.DataFrame({"n": [300, 8, 40], "f1": [0.9, 0.95, 0.2]}, index=["T cell", "mast cell", "B cell"])


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def names(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def test_bars_go_from_best_to_worst_and_say_how_many_cells():
    ax = pl.per_type_f1(FRAME)
    assert names(ax.yaxis) == ["mast cell", "T cell", "B cell"]
    assert [bar.get_width() for bar in ax.patches] == [0.95, 0.9, 0.2]
    assert [text.get_text().split("n = ")[1] for text in ax.texts] == ["8", "300", "40"]
    assert ax.yaxis_inverted()


def test_rare_types_are_hatched_and_the_legend_says_why():
    ax = pl.per_type_f1(FRAME, rare=50)
    assert [bar.get_hatch() is not None for bar in ax.patches] == [True, False, True]
    assert ax.get_legend().get_texts()[0].get_text() == "fewer than 50 cells"
    assert pl.per_type_f1(FRAME, rare=1).get_legend() is None


def test_a_record_is_as_good_as_a_frame():
    record = {"per_type": {"own": FRAME.to_dict("index"), "LR": {"T cell": {"n": 300, "f1": 0.5}}}}
    assert names(pl.per_type_f1(record).yaxis) == names(pl.per_type_f1(FRAME).yaxis)
    assert [bar.get_width() for bar in pl.per_type_f1(record, classifier="LR").patches] == [0.5]


def test_errors_of_per_type_f1_say_what_there_is():
    with pytest.raises(KeyError, match=r"'own'.*\['LR'\]"):
        pl.per_type_f1({"per_type": {"LR": {}}})
    with pytest.raises(KeyError, match=r"'scores'"):
        pl.per_type_f1({"scores": {}})
    with pytest.raises(KeyError, match=r"\['n'\]"):
        pl.per_type_f1(FRAME[["f1"]])
    with pytest.raises(TypeError, match="not a list"):
        pl.per_type_f1([])
    with pytest.raises(ValueError, match="no type"):
        pl.per_type_f1(FRAME.assign(f1=np.nan))


def image(ax):
    return np.asarray(ax.images[0].get_array())


def test_rows_of_the_confusion_are_percent_of_a_true_type():
    ax = pl.confusion(["T", "T", "T", "T", "B"], ["T", "B", "T", "NK", "B"])
    assert names(ax.yaxis) == ["B (1)", "T (4)"]
    assert names(ax.xaxis) == ["B", "T", "NK"]  # same order, then what is only predicted
    np.testing.assert_allclose(image(ax), [[100, 0, 0], [25, 50, 25]])
    assert sorted(text.get_text() for text in ax.texts) == ["100", "25", "25", "50"]


def test_counts_are_taken_as_they_are():
    counts = pd.DataFrame({"B": [3, 1], "T": [1, 1]}, index=["T", "B"])
    ax = pl.confusion(counts)
    assert names(ax.yaxis) == ["T (4)", "B (2)"] and names(ax.xaxis) == ["T", "B"]
    np.testing.assert_allclose(image(ax), [[25, 75], [50, 50]])


@pytest.mark.parametrize("n_types", [5, 30])
def test_names_of_types_do_not_overlap(n_types):
    types = [f"a type of number {i}" for i in range(n_types)]
    ax = pl.confusion(types * 3, types * 3)
    ax.figure.canvas.draw()
    for labels in (ax.get_yticklabels(), ax.get_xticklabels()):
        boxes = [label.get_window_extent() for label in labels]
        assert not any(a.overlaps(b) for a, b in zip(boxes[:-1], boxes[1:], strict=True))
    assert bool(ax.texts) == (n_types == 5)  # many types: colours alone


def test_errors_of_confusion_say_what_is_wrong():
    with pytest.raises(TypeError, match="needs predicted"):
        pl.confusion(["T"])
    with pytest.raises(TypeError, match="not both"):
        pl.confusion(pd.DataFrame({"T": [1]}, index=["T"]), ["T"])
    with pytest.raises(ValueError, match=r"\(2,\).*\(1,\)"):
        pl.confusion(["T", "B"], ["T"])
    with pytest.raises(ValueError, match="no cells"):
        pl.confusion([], [])
