"""A report on simulated cells: the scores are made up, the cells and their predictions are not trained on."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from more_scvi.data import simulate_batches
from more_scvi.evaluation import make_splits
from more_scvi.report import ReportInputs

METRICS = ("own", "LR", "kNN", "CiLISI", "structure")
SCORES = {
    "more": (0.86, 0.85, 0.83, 0.78, 0.86),
    "pca": (None, 0.78, 0.74, 0.35, 0.99),
    "lr_hvg": (0.81, None, None, None, None),
    "random": (None, 0.12, 0.10, 0.97, 0.01),
    "onehot-LR": (0.81, 0.81, 0.80, 0.60, 0.04),
    "LEAK:more": (0.97, 0.98, 0.97, 0.79, 0.83),
}


def tidy(scores=SCORES, protocols=("S1", "S2a"), seeds=(0, 1)):
    """Tidy table with the given means; each seed adds 0.01, the second protocol loses 0.1."""
    rows = [
        ("blood", protocol, seed, 0, None, method, metric, None if v is None else v + seed / 100 - p / 10)
        for p, protocol in enumerate(protocols)
        for seed in seeds
        for method, values in scores.items()
        for metric, v in zip(METRICS, values, strict=True)
    ]
    names = ["dataset", "protocol", "seed", "rotation", "held_out", "method", "metric", "value"]
    return pd.DataFrame(rows, columns=names).astype({"value": float})


def record(protocol, seed, method):
    return {
        "dataset": "blood",
        "protocol": protocol,
        "seed": seed,
        "rotation": 0,
        "held_out": "batch1" if protocol == "S2a" else None,
        "method": method,
        "scores": {"n_scored": 100.0},
        "per_type": {},
        "seconds": {"setup": 1.0, "training": 2.0 + seed},
        "peak_memory": 5e8,
        "parameters": {"trained": 1000, "frozen": 2000} if method == "more" else {},
        "versions": {"python": "3.12.1", "torch": "2.5.0"},
    }


class FakeModel:
    """What a report asks of a trained model."""

    history = {f"loss_{term}_train": pd.DataFrame({"x": [2.0, 1.0]}) for term in ("classify", "masked")}

    @staticmethod
    def diagnose():
        row = {
            "check": "too_short",
            "status": "warning",
            "value": 3,
            "limit": 5.0,
            "message": "<b>",
            "remedy": "More.",
        }
        return SimpleNamespace(table=pd.DataFrame([row]), to_dict=lambda: {"checks": [row]})


def made_up():
    """200 cells; of the hidden ones, the first five are named wrongly."""
    adata = simulate_batches(n_cells=200, n_genes=30, n_types=4)
    rng = np.random.default_rng(0)
    adata.obsm["X_umap_more"], adata.obsm["X_umap_pca"] = rng.normal(size=(2, 200, 2))
    labels = adata.obs["cell_type"].astype(str).to_numpy()
    split = make_splits(labels, adata.obs["batch"], "S1", 0, dataset="blood")[0]
    prediction = labels.copy()
    wrong = np.flatnonzero(split.hidden)[:5]
    prediction[wrong] = np.where(labels[wrong] == "type0", "type1", "type0")
    result = SimpleNamespace(z=None, prediction=prediction, probability=None, model=FakeModel())
    records = [record(p, s, m) for p in ("S1", "S2a") for s in (0, 1) for m in SCORES]
    return ReportInputs(tidy(), records, adata, split, result, name="blood", command="more-scvi evaluate cells.h5ad")


@pytest.fixture
def inputs():
    return made_up()
