"""Protocol S8: are the same cells annotated alike, whichever other cells came along? Writes tuning/composition.md.

    python benchmarks/composition.py [--sets human_gastrula ...] [--batches 1] [--methods more lda]

Batches are left out in turn and their labels hidden. The query is all of one, half of its types, or one type; it is
trained with the others (S2a), or mapped onto a model of these (S2b). Methods answer by their own classifier, those
that see no label by 15 neighbours among the other cells.
"""

from __future__ import annotations

import logging
from itertools import product
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from catalogue import TEXTS
from development import load
from frame import arguments, made_by, markdown, write

import more_scvi as more
from more_scvi.evaluation import make_splits, make_tasks, run_task
from more_scvi.evaluation._data import subset
from more_scvi.metrics import knn_predict

MIN_CELLS, MIN_REFERENCE, MOST_CELLS = 15, 10, 1600
SETS = ["human_gastrula", "mouse_lung_immune", "mouse_oligo_regions", "simulated_weak", "simulated_strong"]
METHODS = ["more", "more:label-free", "lr_hvg", "lda"]
WAYS = {"joint": "S2a", "mapped": "S2b"}


def simulated(name: str, folder: Path) -> ad.AnnData:
    """Batches of different composition, with a weak or a strong effect."""
    shares = np.random.default_rng(1).dirichlet(np.full(6, 0.6), 3) + 0.05
    genes = list(ad.read_h5ad(folder / "dev" / "human_gastrula.h5ad", backed="r").var_names[:800])
    sizes = {"n_cells": 1200, "n_genes": 800, "n_types": 6, "n_batches": 3, "markers": 0.05, "gene_names": genes}
    return more.data.simulate_batches(proportions=shares, batch_sd=0.3 if name.endswith("weak") else 0.7, **sizes)


def ask(data: ad.AnnData, batch: str, protocol: str, method: str) -> tuple[pd.Series, dict[str, float | None]]:
    """Which cells of the batch are annotated right, and the scores of its task."""
    splits = make_splits(data.obs["cell_type"], data.obs["batch"], protocol, max_rotations=data.n_obs)
    task = next(make_tasks(data, protocol, splits=[split for split in splits if split.held_out == batch]))
    result, record = run_task(task, method)
    said = knn_predict(result.z, task.labels, task.hidden) if result.prediction is None else result.prediction
    right = pd.Series((said == task.labels)[task.hidden], data.obs_names[data.obs["batch"] == batch])
    scores = record["scores"]
    return right, {"F1": scores["kNN" if result.prediction is None else "own"]} | scores


def left_out(name: str, data: ad.AnnData, batch: str, methods: list[str]) -> list[dict]:
    """Rows of one left-out batch; none where it shares fewer than two types with the others."""
    kind, here = data.obs["cell_type"].to_numpy(), (data.obs["batch"] == batch).to_numpy()
    counts = pd.Series(kind[here]).value_counts()
    there = pd.Series(kind[~here]).value_counts().reindex(counts.index, fill_value=0)
    types = list(counts.index[(counts >= MIN_CELLS) & (there >= MIN_REFERENCE)])
    cuts = {"all": list(there.index[there > 0]), "half": types[::2], "one": types[:1]}
    rows: list[dict] = []
    for method, (way, protocol) in product(methods if len(types) > 1 else (), WAYS.items()):
        for cut, chosen in cuts.items():
            right, scores = ask(subset(data, ~here | np.isin(kind, chosen)), batch, protocol, method)
            row = {"set": name, "method": method, "way": way, "cut": cut}
            if cut == "all":
                whole = right
                row |= {key: scores.get(key) for key in ("F1", "CiLISI", "structure")}
            rows.append(row | {"alone": right.mean(), "among": whole[right.index].mean()})
            logging.info("%s", rows[-1])
    return rows


def summary(rows: pd.DataFrame) -> str:
    """Per set, method and way: the cuts, and the whole query."""
    by, whole = ["set", "method", "way"], rows[rows["cut"] == "all"]
    cut = rows[rows["cut"] != "all"].assign(change=(rows["alone"] - rows["among"]).abs())
    table = cut.groupby(by)[["alone", "among"]].mean()
    table["mean change"], table["max change"] = (cut.groupby(by)["change"].agg(how) for how in ("mean", "max"))
    table = table.join(whole.groupby(by)[["F1", "CiLISI", "structure"]].agg(lambda of: of.astype(float).mean()))
    return markdown(table.round(3).astype(object).fillna("–").reset_index().to_dict("records"))


def main() -> None:
    args = arguments(__doc__, sets=SETS, batches=3, methods=METHODS)
    logging.getLogger("more_scvi").setLevel(logging.ERROR)
    rows = []
    for name in args.sets:
        data = simulated(name, args.data) if name.startswith("simulated") else load(name, args.data, MOST_CELLS)
        for batch in sorted(data.obs["batch"].unique())[: args.batches]:
            rows += left_out(name, data, batch, args.methods)
    path = args.results / "tuning" / "composition.md"
    write(path, "Composition", made_by(), TEXTS["composition"], summary(pd.DataFrame(rows)))


if __name__ == "__main__":
    main()
