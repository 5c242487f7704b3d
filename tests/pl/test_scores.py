import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from more_scvi import pl

MEANS = {"pca": (0.3, 0.99), "more": (0.8, 0.9), "harmony": (0.79, 0.9), "random": (1.0, 0.0), "LEAK:more": (0.8, 0.91)}


def tidy(protocols=("S1", "S2a"), seeds=(0, 1), means=MEANS):
    """The second seed is 0.02 higher, the second protocol 0.1 lower."""
    rows = [
        ("blood", protocol, seed, 0, method, metric, value + 0.02 * seed - 0.1 * p)
        for p, protocol in enumerate(protocols)
        for seed in seeds
        for method, values in means.items()
        for metric, value in zip(("CiLISI", "structure"), values, strict=True)
    ]
    return pd.DataFrame(rows, columns=["dataset", "protocol", "seed", "rotation", "method", "metric", "value"])


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def names(ax):
    return [label.get_text() for label in ax.get_yticklabels()]


def points(ax):
    """x of every dot, by row."""
    dots = [line for line in ax.lines if len(line.get_xdata()) == 1 and line.get_marker() not in ("None", None)]
    return {round(float(dot.get_ydata()[0]), 2): float(dot.get_xdata()[0]) for dot in dots}


def test_methods_go_from_best_to_worst_and_controls_come_last_in_grey():
    ax = pl.scores(tidy(), "CiLISI")
    assert names(ax) == ["more", "harmony", "pca", "random", "LEAK:more"]
    colors = [label.get_color() for label in ax.get_yticklabels()]
    assert colors[:3] == ["black"] * 3 and len(set(colors[3:])) == 1 and colors[3] != "black"
    assert ax.yaxis_inverted()


def test_dots_are_means_and_lines_the_range_over_seeds():
    ax = pl.scores(tidy(), "CiLISI", protocols=["S2a"])
    assert points(ax)[0] == pytest.approx(0.71)
    spans = [line.get_xdata() for line in ax.lines if len(line.get_xdata()) == 2]
    assert any(np.allclose(span, [0.70, 0.72]) for span in spans)


def test_every_protocol_has_a_dot_and_a_name():
    ax = pl.scores(tidy(), "CiLISI")
    assert len(points(ax)) == 2 * len(MEANS)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["S1", "S2a"]


def test_rotations_and_data_sets_are_averaged_and_weigh_the_same():
    one = tidy(["S1"], [0], {"more": (0.2, 0)})
    other = tidy(["S1"], [0], {"more": (0.8, 0)}).assign(dataset="lung")
    table = pd.concat([one, other, other.assign(rotation=1), other.assign(rotation=2)])
    assert points(pl.scores(table, "CiLISI"))[0] == pytest.approx(0.5)


def test_equal_scores_do_not_blow_up_the_axis():
    low, high = pl.scores(tidy(["S1"], [0], {"a": (0.5, 0), "b": (0.501, 0)}), "CiLISI").get_xlim()
    assert high - low > 0.09


def test_tradeoff_names_each_method_once_and_no_text_hides_another():
    ax = pl.tradeoff(tidy(["S1"], [0]))
    assert sorted(text.get_text() for text in ax.texts) == sorted(MEANS)
    ax.figure.canvas.draw()
    boxes = [text.get_window_extent() for text in ax.texts]
    assert not [(i, j) for i, a in enumerate(boxes) for j, b in enumerate(boxes) if i < j and a.overlaps(b)]
    assert all(ax.bbox.containsx(x) for box in boxes for x in (box.x0, box.x1))


def test_tradeoff_leaves_out_methods_without_one_of_the_metrics():
    table = tidy(["S1"], [0])
    table = table[~((table["method"] == "pca") & (table["metric"] == "structure"))]
    assert "pca" not in {text.get_text() for text in pl.tradeoff(table).texts}


def test_a_method_keeps_its_colour_where_others_are_missing():
    table = tidy(["S1"], [0])

    def color_of(table, y):
        ax = pl.tradeoff(table, "CiLISI", y)
        (dot,) = [line for line in ax.lines if line.get_marker() == "o" and np.isclose(line.get_xdata()[0], 0.79)]
        return dot.get_color()

    fewer = table[(table["method"] != "pca") | (table["metric"] == "CiLISI")]
    assert color_of(table, "structure") == color_of(fewer, "structure")


def test_draws_on_the_axes_it_is_given():
    _, mine = plt.subplots()
    assert pl.scores(tidy(), "CiLISI", ax=mine) is mine
    assert pl.tradeoff(tidy(), ax=mine) is mine


@pytest.mark.parametrize("plot", [pl.scores, pl.tradeoff, pl.regimes])
def test_errors_name_what_the_table_lacks_and_has(plot):
    with pytest.raises(TypeError, match=r"is a dict.*evaluation\.run"):
        plot({})
    with pytest.raises(KeyError, match="'metric', 'value'"):
        plot(tidy().drop(columns=["metric", "value"]))
    with pytest.raises(ValueError, match=r"'F2'.*CiLISI.*structure"):
        plot(tidy(), "F2")
    with pytest.raises(ValueError, match="'structure'"):
        plot(tidy().assign(value=lambda t: t["value"].where(t["metric"] == "structure")), "CiLISI")


def test_an_unknown_protocol_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"'S9'.*S1.*S2a"):
        pl.scores(tidy(), "CiLISI", protocols=["S9"])
    with pytest.raises(ValueError, match=r"'S9'.*S1.*S2a"):
        pl.tradeoff(tidy(), protocol="S9")
