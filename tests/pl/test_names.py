"""Names that files really hold: no plot hides one, reads one as a formula or is squeezed by one."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.cbook import is_math_text
from matplotlib.text import Text

from more_scvi import pl
from more_scvi.data import simulate_batches
from more_scvi.diagnosis import Check, Diagnosis
from more_scvi.pl._labels import LONGEST, shown

LONG = "CD4-positive, alpha-beta memory T cell of the lamina propria of the colon, donor 1"
UGLY = ["_hidden", "$x_{1}$", LONG, LONG[:-1] + "2", LONG[:40] + "?" + LONG[41:], "a\nb", "", "50$", "US$ and CA$"]
PLAIN = [f"type{i}" for i in range(len(UGLY))]


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def frame(names):
    """Scores of methods and protocols with these names."""
    rows = [
        (protocol, 0, method, metric, 0.5 + i / 50)
        for protocol in ("S4-1", "S4-3", names[0], names[2])
        for i, method in enumerate(names)
        for metric in ("own", "CiLISI", names[1])
    ]
    return pd.DataFrame(rows, columns=["protocol", "seed", "method", "metric", "value"])


def cells(names):
    adata = simulate_batches(n_cells=90, n_genes=5)
    adata.obs[names[0]] = adata.obs[names[2]] = np.resize(names, 90)
    adata.obsm["X_umap"] = np.random.default_rng(0).normal(size=(90, 2))
    return adata


def modality_weights(names):
    index = [f"c{i}" for i in range(len(names))]
    weights = pd.DataFrame(np.full((len(names), len(names)), 1 / len(names)), index, names)
    return pl.modality_weights(weights, pd.Series(names, index, name=names[0]))


def diagnosis(names):
    checks = tuple(Check(name, "ok", 0.5, 0.2, "above", "") for name in names)
    return pl.diagnosis(Diagnosis(checks, 9, 9))


def history(names):
    curve = pd.DataFrame({"x": [3.0, 2.0]})
    return pl.history(type("Model", (), {"history": {f"loss_{name}_train": curve for name in names}}))


class Mapped:
    """A model with a map whose labels have these names, three landmarks each."""

    def __init__(self, names):
        self.names = names

    def get_map(self):
        x, y = np.random.default_rng(1).normal(size=(2, 3 * len(self.names)))
        return pd.DataFrame({"x": x, "y": y, "n_cells": 9, "label": self.names * 3})

    def get_map_coordinates(self, adata, obsm_key):
        return adata.obsm["X_umap"]


PLOTS = {
    "compare": lambda n: pl.compare(cells(n), {n[0]: "X_umap", n[2]: "X_umap"}, [n[0], n[2]])[0, 0],
    "confusion": lambda n: pl.confusion(n, n[1:] + n[:1]),
    "diagnosis": diagnosis,
    "embedding": lambda n: pl.embedding(cells(n), color=n[2], missing=n[0]),
    "history": history,
    "modality_weights": modality_weights,
    "per_type_f1": lambda n: pl.per_type_f1(pd.DataFrame({"n": 9, "f1": 0.5}, index=n)),
    "query": lambda n: pl.query(Mapped(n), cells(n), n[2]),
    "regimes": lambda n: pl.regimes(frame(n), n[1], "S4"),
    "scores": lambda n: pl.scores(frame(n), n[1]),
    "sensitivity": lambda n: pl.sensitivity(pd.DataFrame([range(len(n))] * len(n), n, n), n[1], reference=n[2]),
    "tradeoff": lambda n: pl.tradeoff(frame(n), "CiLISI", n[1]),
}


def test_every_plot_is_here():
    assert {*PLOTS, "strength"} == set(pl.__all__)  # which shows numbers alone


@pytest.mark.parametrize("name", PLOTS)
@pytest.mark.filterwarnings("error", "ignore:.*(infer_string|chained_assignment)")  # anndata's own
def test_any_name_is_shown_and_leaves_the_plot_its_size(name):
    named, sizes = [], []
    for names in (PLAIN, UGLY):
        ax = PLOTS[name](names)
        ax.figure.draw_without_rendering()
        texts = [text.get_text() for text in ax.figure.findobj(Text)]
        assert not [text for text in texts if is_math_text(text) or len(text) > LONGEST + 12]
        short = {*shown(names), *shown(text.replace("_", " ") for text in names)}  # diagnosis reads _ as a blank
        named.append(sum(any(part in text for part in short) for text in texts))
        sizes.append(np.array(ax.get_window_extent().size))
    assert named[1] == named[0] >= len(PLAIN)
    assert (sizes[1] > 0.75 * sizes[0]).all(), sizes


def test_names_that_differ_are_shown_differently_and_equal_ones_alike():
    assert len(set(shown(UGLY))) == len(UGLY)
    assert shown(["a", LONG, "a", LONG])[:2] == shown(["a", LONG, "a", LONG])[2:]
    assert shown(PLAIN) == PLAIN and shown([3, "µ", "T cell (CD4+)"]) == ["3", "µ", "T cell (CD4+)"]
    first = shown([LONG])[0]
    assert len(first) == LONGEST and LONG.startswith(first.split("…")[0]) and LONG.endswith(first.split("…")[1])
