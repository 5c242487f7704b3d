"""Protocol S8: are the same cells annotated alike, whichever other cells came along?

Every batch is left out in turn and its labels hidden. The query is all of it, half of its types, two types or one; it
is mapped onto a model of the other batches, or trained with them. Printed: the share annotated right of the same cells
alone and among all (cuts weigh alike), beside logistic regression on genes and discriminant analysis on components,
which look at one cell at a time. Development sets choose, reported sets are only reported.
"""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import sys
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score

import more_scvi as more
from more_scvi.metrics import cilisi, knn_predict, structure

MIN_CELLS, MIN_REFERENCE, MOST_CELLS = 15, 10, 1600
DEVELOPMENT = ("human_gastrula", "mouse_lung_immune", "mouse_oligo_regions", "simulated_weak", "simulated_strong")
REPORTED = ("pbmc_4batch", "pbmc_kang", "bm_vangalen")


def load(name: str, folder: Path) -> ad.AnnData:
    """At most ``MOST_CELLS`` cells of a set, with ``batch`` and ``cell_type``."""
    if name.startswith("simulated"):
        shares = np.random.default_rng(1).dirichlet(np.full(6, 0.6), 3) + 0.05
        genes = list(ad.read_h5ad(folder / "dev" / "human_gastrula.h5ad", backed="r").var_names[:800])
        sizes = {"n_cells": 1200, "n_genes": 800, "n_types": 6, "n_batches": 3, "markers": 0.05, "gene_names": genes}
        return more.data.simulate_batches(proportions=shares, batch_sd=0.3 if name.endswith("weak") else 0.7, **sizes)
    data = ad.read_h5ad(folder / ("bench" if name in REPORTED else "dev") / f"{name}.h5ad")
    data = data[np.sort(np.random.default_rng(0).permutation(data.n_obs)[:MOST_CELLS])].copy()
    data.obs = data.obs[["batch", "cell_type"]].astype(str)
    return data


def normalised(data: ad.AnnData) -> ad.AnnData:
    """Log-normalised copy."""
    return sc.pp.log1p(sc.pp.normalize_total(data, target_sum=1e4, copy=True), copy=True)


def controls(reference: ad.AnnData, query: ad.AnnData) -> dict[str, np.ndarray]:
    """Labels by logistic regression on 2,000 variable genes and by LDA on 50 components, neither centred by batch."""
    both = [normalised(x) for x in (reference, query)]
    sc.pp.highly_variable_genes(both[0], n_top_genes=min(2000, both[0].n_vars))
    train, test = (x.X[:, both[0].var["highly_variable"].to_numpy()].toarray() for x in both)
    labels, pca = reference.obs["cell_type"].astype(str), PCA(50, random_state=0).fit(train)
    lda = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(pca.transform(train), labels)
    regression = LogisticRegression(max_iter=200).fit(train, labels)
    return {"LR": regression.predict(test), "LDA": lda.predict(pca.transform(test))}


def fit(data: ad.AnnData, hidden: np.ndarray, labelled: bool = True) -> more.MoRE:
    """MoRE with the labels of ``hidden`` cells removed."""
    data.obs["label"] = np.where(hidden, "Unknown", data.obs["cell_type"].astype(str))
    keys = {"labels_key": "label", "unlabeled_category": "Unknown"} if labelled else {}
    more.MoRE.setup_anndata(data, batch_key="batch", **keys)
    model = more.MoRE(data, seed=0)
    model.train(accelerator="cpu", enable_progress_bar=False, logger=False)
    return model


def answers(model: more.MoRE, among: ad.AnnData, new: np.ndarray, joint: bool, labelled: bool) -> np.ndarray:
    """What is said of the ``new`` cells: by the model, or without labels by 15 neighbours among the others."""
    if labelled:
        return model.predict()[new] if joint else model.predict(among[new].copy())
    parts = [model.get_latent_representation()]
    if not joint:
        parts.append(model.get_latent_representation(among[new].copy(), obsm_key=None))
    return knn_predict(np.concatenate(parts), among.obs["cell_type"].to_numpy(), new)[new]


def left_out(name: str, data: ad.AnnData, batch: str, labelled: bool = True) -> list[dict]:
    """Rows of one left-out batch; of single types, only the most frequent is also trained with the others."""
    kind, here = data.obs["cell_type"].astype(str).to_numpy(), (data.obs["batch"] == batch).to_numpy()
    there, counts = (pd.Series(kind[mask]).value_counts() for mask in (~here, here))
    counts = counts[(counts >= MIN_CELLS) & (there.reindex(counts.index).fillna(0) >= MIN_REFERENCE)]
    if len(counts) < 2:
        return []
    reference, query = data[~here].copy(), data[here & np.isin(kind, there.index)].copy()
    truth, fixed, rows = query.obs["cell_type"].astype(str).to_numpy(), controls(reference, query), []
    order = list(counts.index)
    cuts = {"all": list(there.index), "half": order[::2], "two": order[:2]} | {f"one: {t}": [t] for t in order}
    mapped = fit(reference, np.zeros(reference.n_obs, bool), labelled)
    for way in ("mapped", "joint"):
        for cut, types in cuts.items():
            if way == "joint" and cut.startswith("one") and types != order[:1]:
                continue
            chosen = np.isin(truth, types)
            among = ad.concat([reference, query[chosen]])
            among.obs = among.obs.astype(str)
            new = (among.obs["batch"] == batch).to_numpy()
            model = mapped if way == "mapped" else fit(among, new, labelled)
            predicted = answers(model, among, new, way == "joint", labelled)
            row = {"set": name, "batch": batch, "way": way, "cut": cut.split(":")[0], "types": ", ".join(types)}
            if cut == "all":
                full, said = predicted, {"F1": predicted} | {f"F1 {k}": v for k, v in fixed.items()}
                how = {"labels": order, "average": "macro", "zero_division": 0}
                row |= {k: f1_score(truth, v, **how) for k, v in said.items()}
                if way == "joint":
                    z, t, b = model.get_latent_representation(), among.obs["cell_type"], among.obs["batch"]
                    row |= {"CiLISI": cilisi(z, t, b), "structure": structure(z, sc.pp.pca(normalised(among).X), t, b)}
            row |= {"n": chosen.sum(), "alone": (predicted == truth[chosen]).mean()}
            row |= {k: (v == truth)[chosen].mean() for k, v in ({"among": full} | fixed).items()}
            rows.append(row)
            print(row, file=sys.stderr, flush=True)
    return rows


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Per set and way: the cuts, and the whole query."""
    cut, whole = rows[rows["cut"] != "all"], rows[rows["cut"] == "all"]
    by = ["set", "way"]
    difference = (cut["alone"] - cut["among"]).abs().groupby([cut[k] for k in by])
    table = cut.groupby(by)[["alone", "among", "LR", "LDA"]].mean()
    table["mean |d|"], table["max |d|"], table["cuts"] = difference.mean(), difference.max(), difference.size()
    columns = [c for c in ("F1", "F1 LR", "F1 LDA", "CiLISI", "structure") if c in whole]
    return table.join(whole.groupby(by)[columns].mean()).round(3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", default=",".join(DEVELOPMENT), help="comma-separated")
    folder = os.environ.get("MORE_DATA")
    parser.add_argument("--data", default=folder, required=not folder, help="data folder (default: $MORE_DATA)")
    parser.add_argument("--batches", type=int, default=3, help="batches left out, at most")
    parser.add_argument("--unlabelled", action="store_true", help="no labels: 15-NN transfer on the embedding instead")
    parser.add_argument("--output", type=Path, default=None, help="also append the table and this command to a file")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    for noisy in ("lightning.pytorch", "scvi", "jax", "more_scvi"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    rows = []
    for name in arguments.sets.split(","):
        print(f"{name}: {'reported' if name in REPORTED else 'development'}", file=sys.stderr)
        data = load(name, Path(arguments.data))
        for batch in sorted(data.obs["batch"].unique())[: arguments.batches]:
            rows += left_out(name, data, batch, not arguments.unlabelled)
    text = summary(pd.DataFrame(rows)).to_string()
    print(text)
    if arguments.output:
        command = f"python benchmarks/composition.py {shlex.join(sys.argv[1:])}"
        with arguments.output.open("a") as file:
            file.write(f"```\n{command}\n```\n\n```\n{text}\n```\n\n")


if __name__ == "__main__":
    main()
