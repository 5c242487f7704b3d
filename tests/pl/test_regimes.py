import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from more_scvi import pl


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def curve(values, method="more", metric="own", seeds=(0, 1)):
    """A table of protocol → score; the second seed is 0.1 higher."""
    rows = [(protocol, seed, method, metric, v + 0.1 * seed) for protocol, v in values.items() for seed in seeds]
    return pd.DataFrame(rows, columns=["protocol", "seed", "method", "metric", "value"])


def ticks(ax):
    return [label.get_text() for label in ax.get_xticklabels()]


def test_numbers_are_in_order_and_on_a_log_scale():
    ax = pl.regimes(curve({"S4-10": 0.7, "S4-1": 0.3, "S4-3": 0.5, "S2a": 0.9}), "own", "S4")
    assert ticks(ax) == ["1", "3", "10"]
    (line,) = ax.lines
    np.testing.assert_allclose(line.get_ydata(), [0.35, 0.55, 0.75])
    np.testing.assert_allclose(line.get_xdata(), np.log10([1, 3, 10]))
    assert ax.get_xlabel() == "labels per type"


@pytest.mark.parametrize(("x", "end"), [("S4", "half"), ("S1", "all")])
def test_plain_s1_closes_the_axis(x, end):
    ax = pl.regimes(curve({"S1": 0.9, f"{x}-100": 0.6, f"{x}-300": 0.7}), "own", x)
    assert ticks(ax) == ["100", "300", end]
    assert ax.lines[0].get_ydata()[-1] == pytest.approx(0.95)


def test_families_are_not_mixed_and_shares_keep_their_points():
    table = curve({"S5-0.1": 0.2, "S5-2": 0.6, "S5b-0.1": 0.1, "S5b-0.5": 0.3}, metric="target_own")
    assert ticks(pl.regimes(table, "target_own", "S5")) == ["0.1", "2"]
    assert ticks(pl.regimes(table, "target_own", "S5b")) == ["0.1", "0.5"]


def test_methods_are_named_from_best_to_worst_and_gaps_stay_gaps():
    table = pd.concat(
        [
            curve({"S4-1": 0.3, "S4-3": 0.4}, "pca"),
            curve({"S4-1": 0.5}, "more"),
            curve({"S4-1": 0.9, "S4-3": 0.9}, "LEAK"),
        ]
    )
    ax = pl.regimes(table, "own", "S4")
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["more", "pca", "LEAK"]
    assert [len(line.get_xdata()) for line in ax.lines] == [1, 2, 2]


def test_a_missing_regime_lists_the_protocols():
    with pytest.raises(ValueError, match=r"S4-<number>.*'S1'"):
        pl.regimes(curve({"S1": 0.9}), "own", "S4")


FRAME = pd.DataFrame({0.1: [0.80, np.nan], 1.0: [0.82, 0.80], 10.0: [0.90, 0.70]}, index=["classify", "align"])


def test_sensitivity_writes_values_and_colours_their_change():
    ax = pl.sensitivity(FRAME, "own")
    assert [text.get_text() for text in ax.texts] == ["0.80", "0.82", "0.90", "0.80", "0.70"]
    change = np.ma.filled(ax.images[0].get_array().astype(float), np.nan)
    np.testing.assert_allclose(change, [[-0.02, 0, 0.08], [np.nan, 0, -0.1]], atol=1e-9)
    assert ticks(ax) == ["0.1", "1", "10"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["classify", "align"]


def test_errors_of_sensitivity_say_what_there_is():
    with pytest.raises(TypeError, match="not a dict"):
        pl.sensitivity({})
    with pytest.raises(KeyError, match=r"1 .*\[0\.1, 10\.0\]"):
        pl.sensitivity(FRAME[[0.1, 10.0]])
    with pytest.raises(ValueError, match="needs numbers"):
        pl.sensitivity(FRAME.astype(str))
    with pytest.raises(ValueError, match=r"\(0, 0\)"):
        pl.sensitivity(pd.DataFrame())
