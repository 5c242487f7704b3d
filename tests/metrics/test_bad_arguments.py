"""Every public metric, every argument, every kind of value that cannot be scored: named, never a silent number."""

import inspect
import re
import traceback

import numpy as np
import pytest

from more_scvi import metrics

N = 60
Z = np.random.default_rng(0).normal(size=(N, 4))
NAMES, OTHER, HIDDEN = np.repeat(["a", "b", "c"], 20), np.tile(["x", "y"], 30), np.arange(N) % 2 == 0
NAN = Z.copy()
NAN[1, 0] = np.nan


def missing(value):
    names = NAMES.astype(object)
    names[1] = value  # a cell whose label is visible
    return names


GOOD = {
    "matrix": ("z", "reference", "a", "b", "imputed", "observed"),
    "names": ("labels", "batches", "true", "predicted", "reference_labels", "z_labels"),
    "mask": ("hidden", "scored", "visible", "novel", "among", "of_type", "positive"),
    "scores": ("score",),
    "size": ("min_cells", "max_cells", "n_neighbors", "k", "n_components", "min_batch"),
    "seed": ("seed",),
}
KIND = {name: kind for kind, names in GOOD.items() for name in names}
VALUES = {"matrix": Z, "names": NAMES, "mask": HIDDEN, "scores": Z[:, 0]}
BAD = {
    "matrix": {
        "none": None, "text": "abc", "vector": Z[:, 0], "nan": NAN, "no cells": Z[:0], "no columns": Z[:, :0],
        "complex": Z + 1j, "words": np.full((N, 4), "w"), "ragged": [[1, 2], [3]],
    },
    "names": {
        "none": None, "text": "abc", "square": NAMES[:, None], "missing": missing(None), "nan": missing(np.nan),
    },
    "mask": {
        "none": None, "text": "abc", "positions": np.arange(N), "nan": np.full(N, np.nan), "words": NAMES,
        "square": HIDDEN[:, None],
    },
    "scores": {"none": None, "text": "abc", "square": Z, "nan": NAN[:, 0], "words": NAMES},
    "size": {"zero": 0, "negative": -1, "half": 2.5, "text": "5", "none": None, "bool": True, "nan": np.nan},
    "seed": {"negative": -1, "half": 2.5, "text": "5", "none": None},
}  # fmt: skip
FUNCTIONS = [name for name in metrics.__all__ if callable(getattr(metrics, name)) and name != "benchmarker"]
CASES = [
    pytest.param(name, argument, value, id=f"{name}-{argument}-{case}")
    for name in FUNCTIONS
    for argument, parameter in inspect.signature(getattr(metrics, name)).parameters.items()
    if argument in KIND
    for case, value in BAD[KIND[argument]].items()
    if not (value is None and parameter.default is None)
    if (name, argument, case) != ("scib", "max_cells", "none")
]


def arguments_of(name):
    """What a function needs, good values of each."""
    parameters = inspect.signature(getattr(metrics, name)).parameters
    return {k: VALUES[KIND[k]] for k, p in parameters.items() if p.default is inspect.Parameter.empty}


@pytest.fixture(autouse=True)
def _without_jax(monkeypatch):
    monkeypatch.setattr("more_scvi.metrics._scib.import_scib_metrics", lambda: None)  # refusals come before its use


def test_every_argument_has_a_kind():
    found = {k for name in FUNCTIONS for k in inspect.signature(getattr(metrics, name)).parameters}
    assert found - set(KIND) == {"correlation", "trim"}


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name != "scib"])
def test_good_arguments_are_taken(name):
    getattr(metrics, name)(**arguments_of(name))


@pytest.mark.parametrize(("name", "argument", "value"), CASES)
def test_bad_argument_is_named(name, argument, value):
    with pytest.raises((TypeError, ValueError), match=rf"\b{re.escape(argument)}\b") as caught:
        getattr(metrics, name)(**{**arguments_of(name), argument: value})
    assert "more_scvi" in traceback.extract_tb(caught.value.__traceback__)[-1].filename
    assert re.search(r"give|expected|must|leave|cannot be scored|at least", str(caught.value))


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if len(arguments_of(name)) > 1])
def test_lengths_that_differ_are_refused(name):
    for argument, value in arguments_of(name).items():
        with pytest.raises(ValueError, match=r"\b(59|60)\b"):
            getattr(metrics, name)(**{**arguments_of(name), argument: value[:-1]})


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"correlation": None}, ValueError, "correlation=None.*'weighted', 'spearman'"),
        ({"correlation": "spear"}, ValueError, "Did you mean 'spearman'"),
        ({"trim": 0.5}, ValueError, "trim=0.5 .* from 0 to 0.49"),
        ({"trim": -0.1}, ValueError, "trim=-0.1"),
        ({"trim": "a"}, TypeError, "trim='a'"),
    ],
)
def test_options_of_sc_graph(change, error, words):
    with pytest.raises(error, match=words):
        metrics.sc_graph(Z, Z, NAMES, OTHER, **change)


def test_one_cell_has_no_neighbours_and_always_matches():
    one = Z[:1]
    for call in (
        lambda: metrics.knn_overlap(one, one, 1),
        lambda: metrics.neighbour_novelty(one, [True]),
        lambda: metrics.foscttm(one, one),
        lambda: metrics.recall_at(one, one),
    ):
        with pytest.raises(ValueError, match="1 cell.*at least 2"):
            call()


def test_groups_of_two_cells_have_no_ranks():
    with pytest.raises(ValueError, match="min_cells=2 is too small; expected an integer of at least 3"):
        metrics.structure(Z, Z, NAMES, OTHER, min_cells=2)
    with pytest.raises(ValueError, match="max_cells=2 is too small"):
        metrics.structure(Z, Z, NAMES, OTHER, max_cells=2)


def test_hidden_cells_need_no_label():
    """What nobody knows is neither fitted on nor scored, and nothing else changes."""
    labels = NAMES.astype(object)
    labels[:10:2] = None
    kept = np.setdiff1d(np.arange(N), np.arange(0, 10, 2))
    assert metrics.linear_probe(Z, labels, HIDDEN) == metrics.linear_probe(Z[kept], NAMES[kept], HIDDEN[kept])
    assert not metrics.scorable(labels, HIDDEN)[:10].any() and metrics.scorable(labels, HIDDEN)[10:].sum() == 25


def test_benchmarker_says_what_it_needs():
    with pytest.raises(TypeError, match="adata is a ndarray; give an AnnData"):
        metrics.benchmarker(Z, ["X_pca"], "batch", "cell_type")
    with pytest.raises(TypeError, match="embeddings=None must be a list"):
        metrics.benchmarker(None, None, "batch", "cell_type")
