from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from more_scvi import pl
from more_scvi.data import simulate_batches
from more_scvi.pl._query import REFERENCE


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


@pytest.fixture
def adata():
    adata = simulate_batches(n_cells=60, n_genes=5, n_types=3)
    adata.obs["sure"] = np.linspace(0, 1, 60)
    return adata


def mapped(labels=("B", "T"), n=20):
    """A model with a map: as many landmarks per label, each label in a row of its own."""
    n_cells = np.arange(1, n * len(labels) + 1) if labels else np.arange(1, n + 1)
    table = pd.DataFrame({"x": n_cells % n * 1.0, "y": n_cells // n * 5.0, "n_cells": n_cells})
    if labels:
        table["label"] = np.repeat(labels, n)
    return SimpleNamespace(
        get_map=lambda: table,
        get_map_coordinates=lambda adata, obsm_key: np.random.default_rng(0).normal(size=(adata.n_obs, 2)),
    )


@pytest.mark.parametrize("color", [None, "cell_type", "sure"])
def test_every_cell_of_the_query_lies_over_the_whole_reference(adata, color):
    ax = pl.query(mapped(), adata, color)
    grey, *others = ax.collections[: None if color != "sure" else 2]
    assert len(grey.get_offsets()) == 40 and plt.matplotlib.colors.to_hex(grey.get_facecolor()[0]) == REFERENCE.lower()
    assert sum(len(c.get_offsets()) for c in others) == adata.n_obs
    assert np.all(np.diff(grey.get_sizes()) >= 0)  # more cells, larger discs
    assert {text.get_text() for text in ax.texts} == {"B", "T"}
    assert "map" not in adata.obsm and "X_more_map" not in adata.obsm


def test_names_of_the_reference_can_be_left_out_and_models_without_labels_have_none(adata):
    assert not pl.query(mapped(), adata, names=False).texts
    assert not pl.query(mapped(labels=()), adata).texts


@pytest.mark.parametrize("n", [0, 1])
def test_a_query_of_hardly_any_cells_is_drawn(adata, n):
    for color in (None, "cell_type", "sure"):
        ax = pl.query(mapped(), adata[:n].copy(), color)
        ax.figure.draw_without_rendering()
        assert sum(len(c.get_offsets()) for c in ax.collections[1:2]) == n


def test_forty_labels_on_a_map_are_all_named_inside(adata):
    labels = [f"T cell of kind {i}" for i in range(40)]
    ax = pl.query(mapped(labels, 4), adata)
    assert sorted(text.get_text() for text in ax.texts) == sorted(labels)


def test_few_cells_stand_above_the_names_many_below(adata):
    _, mine = plt.subplots()
    mine.scatter([0], [0])
    assert pl.query(mapped(), adata, ax=mine) is mine  # 60 cells
    orders = [drawn.get_zorder() for drawn in mine.collections]
    assert max(orders[:2]) < mine.texts[0].get_zorder() < orders[2]
    many = simulate_batches(n_cells=150, n_genes=5)
    ax = pl.query(mapped(), many)
    assert all(drawn.get_zorder() < ax.texts[0].get_zorder() for drawn in ax.collections)


def test_a_column_that_is_not_there_is_named_with_those_that_are(adata):
    with pytest.raises(KeyError, match="'mine'.*'cell_type'"):
        pl.query(mapped(), adata, "mine")


TABLE = pd.DataFrame(
    {"strength": [1.0, 0.0, 0.5, 1.0], "mixing": [0.9, 0.4, 0.8, 0.8], "structure": [0.80, 1.0, 0.97, 0.84]}
)


def test_strength_is_a_curve_from_weak_to_strong_with_means_of_what_repeats():
    ax = pl.strength(TABLE, chosen=0.5)
    line, ring = ax.lines
    assert np.allclose(line.get_xydata(), [[0.4, 1.0], [0.8, 0.97], [0.85, 0.82]])
    assert np.allclose(ring.get_xydata(), [[0.8, 0.97]])
    assert [text.get_text() for text in ax.texts] == ["0", "0.5", "1"]
    assert len(pl.strength(TABLE).lines) == 1


def test_strength_does_not_make_small_differences_look_large():
    ax = pl.strength(TABLE.assign(mixing=0.8, structure=[0.990, 0.992, 0.991, 0.990]))
    for low, high in (ax.get_xlim(), ax.get_ylim()):
        assert high - low > 0.1


@pytest.mark.parametrize(
    ("table", "arguments", "error", "says"),
    [
        ({"strength": 1}, {}, TypeError, "a dict; give a DataFrame"),
        (TABLE.drop(columns="mixing"), {}, KeyError, "no column 'mixing'; it has .*'structure'"),
        (TABLE.assign(mixing=np.nan), {}, ValueError, "no row with a number for each of strength, mixing, structure"),
        (TABLE, {"chosen": 0.7}, ValueError, r"no strength 0.7; it has \[0.0, 0.5, 1.0\]"),
    ],
)
def test_strength_refuses_other_tables(table, arguments, error, says):
    with pytest.raises(error, match=says):
        pl.strength(table, **arguments)
