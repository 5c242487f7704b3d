"""Splits, tasks, comparisons and scores: what cannot be used is named with its value and the next step."""

import traceback

import numpy as np
import pandas as pd
import pytest

from more_scvi.data import simulate_batches
from more_scvi.evaluation import compare, evaluate, inner_split, make_splits, make_tasks

Y, B = np.repeat(["a", "b", "c"], 20), np.tile(["x", "y"], 30)
SPLIT = make_splits(Y, B, "S1")[0]
OTHER = make_splits(Y[:-1], B[:-1], "S1")
ADATA = simulate_batches(60, 10)
ROWS = [("d", "S1", s, 0, m, "own", 0.8 + s / 10) for s in (0, 1) for m in ("a", "b")]
TABLE = pd.DataFrame(ROWS, columns=["dataset", "protocol", "seed", "rotation", "method", "metric", "value"])
Z = np.random.default_rng(0).normal(size=(60, 4))


def without(key):
    adata = ADATA.copy()
    del adata.obs[key]
    return adata


CALLS = {
    "make_splits": (make_splits, {"labels": Y, "batches": B, "protocol": "S1"}),
    "hide": (SPLIT.hide, {"labels": Y}),
    "inner_split": (inner_split, {"split": SPLIT, "labels": Y, "batches": B}),
    "make_tasks": (lambda **kwargs: list(make_tasks(**kwargs)), {"data": ADATA, "protocol": "S1"}),
    "compare": (compare, {"table": TABLE, "ours": "a", "other": "b"}),
    "evaluate": (evaluate, {"embeddings": {"m": Z}, "split": SPLIT, "labels": Y, "batches": B}),
}
PROBABILITY = pd.DataFrame(np.full((60, 3), 1 / 3), columns=list("abc"))
CASES = {
    "make_splits": [
        ({"labels": None}, ["labels ()"]),
        ({"labels": Y[:-1]}, ["labels (59,)", "batches (60,)"]),
        ({"labels": []}, ["labels (0,)"]),
        ({"labels": [None] * 60}, ["None of the 60 cells has a label"]),
        ({"batches": np.where(B == "x", None, "y")}, ["batches: 30 of 60 cells"]),
        ({"protocol": None}, ["protocol None", "S2a"]),
        ({"protocol": "S11"}, ["'S11'", "S1-<cells>"]),
        ({"protocol": "S4-0"}, ["'S4-0'"]),
        ({"protocol": "S1-61"}, ["61 of 60 cells", "from 4 to 60"]),
        ({"seed": -1}, ["seed=-1", "0 or more"]),
        ({"seed": 1.5}, ["seed=1.5"]),
        ({"seed": None}, ["seed=None"]),
        ({"max_rotations": 0}, ["max_rotations=0"]),
        ({"dataset": None}, ["dataset", "NoneType", "as text"]),
        ({"known": np.arange(60)}, ["known", "mask of booleans"]),
        ({"known": np.ones(59, bool)}, ["known (59,)", "60 cells"]),
    ],
    "hide": [
        ({"labels": Y[:-1]}, ["covers 60 cells", "59 labels"]),
        ({"unlabeled": "a"}, ["'a' is one of the labels"]),
        ({"unlabeled": None}, ["unlabeled", "None", "'Unknown'"]),
    ],
    "inner_split": [
        ({"split": "S1"}, ["split", "'S1'", "make_splits"]),
        ({"labels": Y[:-1]}, ["covers 60 cells"]),
        ({"batches": None}, ["covers 60 cells"]),
        ({"seed": -1}, ["seed=-1"]),
        ({"seed": "0"}, ["seed='0'"]),
    ],
    "make_tasks": [
        ({"data": "a.h5ad"}, ["data is a str", "AnnData"]),
        ({"data": without("batch")}, ["'batch'", "cell_type"]),
        ({"protocol": 1}, ["protocol", "int", "make_splits"]),
        ({"protocol": "S6-prot"}, ["rna"]),
        ({"known": np.arange(60)}, ["known"]),
        ({"splits": "S1"}, ["splits='S1'", "list of Split"]),
        ({"splits": SPLIT}, ["splits=", "list of Split"]),
        ({"splits": []}, ["splits=[]", "None makes"]),
        ({"splits": OTHER}, ["59 cells", "hold 60"]),
        ({"dataset": 3}, ["dataset", "int"]),
    ],
    "compare": [
        ({"table": ROWS}, ["table is a list", "evaluation.run"]),
        ({"table": TABLE.drop(columns="seed")}, ["'seed'"]),
        ({"table": TABLE[:0]}, ["metric 'own'"]),
        ({"table": TABLE.assign(value="high")}, ["table['value']", "high", "NaN for no value"]),
        ({"ours": ["a"]}, ["ours is a list", "name of a method"]),
        ({"ours": "c"}, ["'c'", "a, b"]),
        ({"other": "a"}, ["ours and other are both 'a'"]),
        ({"metric": ["own"]}, ["metric is a list", "'own'"]),
        ({"metric": "F2"}, ["'F2'", "own"]),
        ({"sources": ["d"]}, ["sources=['d']", "dict"]),
    ],
    "evaluate": [
        ({"embeddings": Z}, ["embeddings is a ndarray", "dictionary"]),
        ({"embeddings": {"m": 3}}, ["embeddings['m'] has no rows", "60 cells"]),
        ({"embeddings": {"m": None}}, ["embeddings['m'] has no rows"]),
        ({"embeddings": {"m": np.full((60, 2), "w")}}, ["embeddings['m']", "real numbers"]),
        ({"embeddings": {}}, ["Nothing to evaluate"]),
        ({"split": None}, ["split is a NoneType"]),
        ({"labels": Y[:-1]}, ["59 labels"]),
        ({"reference": 3}, ["reference has no rows"]),
        ({"predictions": {"m": None}}, ["predictions['m'] has no rows"]),
        ({"probabilities": {"m": PROBABILITY.to_numpy()}}, ["probabilities['m']", "DataFrame"]),
        ({"probabilities": {"m": PROBABILITY * np.nan}}, ["probabilities['m'] holds 180 values", "not finite"]),
        ({"probabilities": {"m": PROBABILITY.astype(str) + "w"}}, ["probabilities['m']", "real numbers"]),
    ],
}


@pytest.mark.parametrize("name", CALLS)
def test_good_arguments_are_taken(name):
    function, arguments = CALLS[name]
    function(**arguments)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "change", "words"), [(name, *case) for name, cases in CASES.items() for case in cases]
)
def test_bad_argument_is_named(name, change, words):
    function, arguments = CALLS[name]
    with pytest.raises((TypeError, ValueError, KeyError)) as caught:
        function(**{**arguments, **change})
    assert "more_scvi" in traceback.extract_tb(caught.value.__traceback__)[-1].filename
    missing = [word for word in words if word not in str(caught.value)]
    assert not missing, f"{missing} not in: {caught.value}"
