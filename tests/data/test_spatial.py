"""Spatial neighbours: those of a search by hand, never across sections, whatever the order of the rows."""

import numpy as np
import pandas as pd
import pytest
from scipy.spatial.distance import cdist

from more_scvi.data._spatial import neighbours, niche_means

RNG = np.random.default_rng(0)


def by_hand(points, sections, k=None, radius=None):
    distance = cdist(points, points)
    distance[sections[:, None] != sections[None, :]] = np.inf
    np.fill_diagonal(distance, np.inf)
    if radius is None:
        reach = [np.sort(d)[min(k, np.isfinite(d).sum()) - 1] if np.isfinite(d).any() else -1 for d in distance]
    else:
        reach = [radius] * len(points)
    near = (distance <= np.array(reach)[:, None] * (1 + 1e-9)) & np.isfinite(distance)
    return near / np.maximum(near.sum(1, keepdims=True), 1)


def grid(side):
    return np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1).reshape(-1, 2) * 0.1


@pytest.mark.parametrize("rule", [{"k": 1}, {"k": 6}, {"k": 40}, {"radius": 0.2}, {"radius": 1e-6}])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_neighbours_are_those_found_by_hand(rule, dimensions):
    points, sections = RNG.random((90, dimensions)), RNG.choice(["a", "b", "c"], 90)
    assert neighbours(points, sections, **rule).toarray() == pytest.approx(by_hand(points, sections, **rule))


@pytest.mark.parametrize("k", [4, 6])
def test_ties_all_count_and_do_not_depend_on_the_order(k):
    points, sections = grid(7), np.repeat(["a"], 49)
    weights = neighbours(points, sections, k=k)
    assert weights.toarray() == pytest.approx(by_hand(points, sections, k=k))
    centre = 24
    assert len(weights[centre].indices) == {4: 4, 6: 8}[k]
    order = RNG.permutation(49)
    assert np.array_equal(neighbours(points[order], sections, k=k).toarray(), weights.toarray()[order][:, order])


def test_six_neighbours_unless_said_otherwise():
    points = RNG.random((30, 2))
    assert np.all(np.diff(neighbours(points, ["a"] * 30).indptr) == 6)


def test_no_edge_crosses_sections_that_lie_on_each_other():
    points = np.vstack([RNG.random((20, 2))] * 2)
    sections = pd.Series(np.repeat([1, 2], 20)).astype("category")
    row, column = neighbours(points, sections, k=6).nonzero()
    assert np.array_equal(row < 20, column < 20)
    assert np.all(np.diff(neighbours(points, sections, k=6).indptr) == 6)


def test_small_sections_and_lonely_cells():
    points, sections = RNG.random((6, 2)), list("aaabbc")
    weights = neighbours(points, sections, k=6)
    assert np.diff(weights.indptr).tolist() == [2, 2, 2, 1, 1, 0]
    features = RNG.random((6, 3)).astype(np.float32)
    means = niche_means(features, weights)
    assert means[0] == pytest.approx(features[1:3].mean(0)) and means[3] == pytest.approx(features[4])
    assert np.array_equal(means[5], features[5]) and means.dtype == np.float32
    assert neighbours(np.empty((0, 2)), []).shape == (0, 0)


def test_cells_at_one_place_are_neighbours_and_not_their_own():
    weights = neighbours(np.array([[0.0, 0], [0, 0], [5, 5]]), ["a"] * 3, k=1).toarray()
    assert weights.tolist() == [[0, 1, 0], [1, 0, 0], [0.5, 0.5, 0]]


P = np.random.default_rng(1).random((10, 2))
S = ["a"] * 10


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((None, S), TypeError, "obsm"),
        ((P.astype(str).tolist()[:9] + [["x", "y"]], S), TypeError, "not numbers"),
        ((P[:, 0], S), ValueError, r"\(10,\)"),
        ((np.random.default_rng(0).random((10, 5)), S), ValueError, r"\(10, 5\)"),
        ((np.where(np.arange(20).reshape(10, 2) == 7, np.nan, P), S), ValueError, "row 3"),
        ((P * 1e300, S), ValueError, "coordinates reach .*e[+](299|300).*another unit"),
        ((P, S[:9]), ValueError, r"\(9,\)"),
        ((P, [*S[:9], None]), ValueError, "row 9"),
        ((P, S, 3, 1.0), ValueError, "both"),
        ((P, S, 0), ValueError, "k=0"),
        ((P, S, 2.5), TypeError, "k=2.5"),
        ((P, S, None, -1.0), ValueError, "radius=-1.0"),
        ((P, S, None, 0.0), ValueError, "radius=0.0"),
        ((P, S, None, np.nan), ValueError, "radius=nan"),
        ((np.zeros((1500, 2)), ["a"] * 1500), ValueError, "coincide"),
    ],
)
def test_what_is_refused(arguments, error, words):
    with pytest.raises(error, match=words):
        neighbours(*arguments)


def test_features_of_other_cells_are_refused():
    with pytest.raises(ValueError, match="do not fit"):
        niche_means(np.ones((9, 2)), neighbours(P, S))
