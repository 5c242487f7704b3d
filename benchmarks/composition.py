"""Protocol S8: are the same cells annotated alike, whichever other cells came along?

Every batch is left out in turn and its labels hidden. The query is all of it, half of its types, two types or one;
it is mapped onto a model of the other batches, or trained with them. Printed per set: the share of the cells of one
type that is annotated right, alone and among all, beside logistic regression on genes and discriminant analysis on
components, which look at one cell at a time. Development sets choose, reported sets are only reported.
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
    """A set with ``batch`` and ``cell_type``, its rare types dropped."""
    if name.startswith("simulated"):
        shares = np.random.default_rng(1).dirichlet(np.full(6, 0.6), 3) + 0.05
        sd = 0.3 if name.endswith("weak") else 0.7
        genes = ad.read_h5ad(folder / "dev" / "human_gastrula.h5ad", backed="r").var_names[:800]
        return more.data.simulate_batches(
            1200, 800, 6, 3, proportions=shares, markers=0.05, batch_sd=sd, gene_names=list(genes)
        )
    path = folder / ("bench" if name in REPORTED else "dev") / f"{name}.h5ad"
    data = ad.read_h5ad(path)
    if data.n_obs > MOST_CELLS:
        data = data[np.sort(np.random.default_rng(0).permutation(data.n_obs)[:MOST_CELLS])].copy()
    data.obs = data.obs[["batch", "cell_type"]].astype(str)
    return data


def controls(reference: ad.AnnData, query: ad.AnnData) -> dict[str, np.ndarray]:
    """Labels by logistic regression on 2,000 variable genes and by LDA on 50 components, neither centred by batch."""
    both = [sc.pp.log1p(sc.pp.normalize_total(x, target_sum=1e4, copy=True), copy=True) for x in (reference, query)]
    sc.pp.highly_variable_genes(both[0], n_top_genes=min(2000, both[0].n_vars))
    train, test = (x.X[:, both[0].var["highly_variable"].to_numpy()].toarray() for x in both)
    labels = reference.obs["cell_type"].astype(str)
    pca = PCA(50, random_state=0).fit(train)
    return {
        "LR": LogisticRegression(max_iter=200).fit(train, labels).predict(test),
        "LDA": LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
        .fit(pca.transform(train), labels)
        .predict(pca.transform(test)),
    }


def fit(data: ad.AnnData, hidden: np.ndarray, labelled: bool = True) -> more.MoRE:
    """MoRE with the labels of ``hidden`` cells removed."""
    data.obs["label"] = np.where(hidden, "Unknown", data.obs["cell_type"].astype(str))
    keys = {"labels_key": "label", "unlabeled_category": "Unknown"} if labelled else {}
    more.MoRE.setup_anndata(data, batch_key="batch", **keys)
    model = more.MoRE(data, seed=0)
    model.train(accelerator="cpu", enable_progress_bar=False, logger=False)
    return model


def cuts(types: np.ndarray, counts: pd.Series) -> dict[str, list[str]]:
    """Types that a query consists of: all, half, the two most frequent, each alone."""
    order = list(counts.index)
    return {"all": list(types), "half": order[::2], "two": order[:2]} | {f"one: {t}": [t] for t in order}


def left_out(name: str, data: ad.AnnData, batch: str, joint: int, labelled: bool = True) -> list[dict]:
    """Rows of one left-out batch."""
    kind, here = data.obs["cell_type"].astype(str).to_numpy(), (data.obs["batch"] == batch).to_numpy()
    there = pd.Series(kind[~here]).value_counts()
    counts = pd.Series(kind[here]).value_counts()
    counts = counts[(counts >= MIN_CELLS) & (there.reindex(counts.index).fillna(0) >= MIN_REFERENCE)]
    if len(counts) < 2:
        return []
    reference, query = data[~here].copy(), data[here & np.isin(kind, there.index)].copy()
    truth, rows = query.obs["cell_type"].astype(str).to_numpy(), []
    fixed = controls(reference, query)

    def answers(model, cells, among):
        if among is None:
            return model.predict(cells) if labelled else _nearest(model, reference, cells)
        own = (among.obs["batch"] == batch).to_numpy()
        if labelled:
            return model.predict()[own]
        z = model.get_latent_representation()
        return knn_predict(z, among.obs["cell_type"].astype(str).to_numpy(), own)[own]

    mapped = fit(reference, np.zeros(reference.n_obs, bool), labelled)
    for way in ("mapped", "joint"):
        full = None
        for cut, types in cuts(there.index, counts).items():
            chosen = np.isin(truth, types)
            if way == "joint" and cut.startswith("one") and types[0] not in counts.index[:joint]:
                continue
            cells = query[chosen].copy()
            row = {"set": name, "batch": batch, "way": way, "cut": cut.split(":")[0], "types": ", ".join(types)}
            if way == "mapped":
                predicted = answers(mapped, cells, None)
            else:
                among = ad.concat([reference, cells])
                among.obs["batch"] = among.obs["batch"].astype(str)
                model = fit(among, (among.obs["batch"] == batch).to_numpy(), labelled)
                predicted = answers(model, None, among)
            if cut == "all":
                full = predicted
                given = {"F1": predicted} | {f"F1 {k}": v for k, v in fixed.items()}
                only = {"labels": list(counts.index), "average": "macro", "zero_division": 0}
                row |= {k: f1_score(truth, v, **only) for k, v in given.items()}
                if way == "joint":
                    z = model.get_latent_representation()
                    t, b = among.obs["cell_type"].astype(str).to_numpy(), among.obs["batch"].to_numpy()
                    x = sc.pp.log1p(sc.pp.normalize_total(among, target_sum=1e4, copy=True), copy=True)
                    sc.pp.pca(x, n_comps=50)
                    row |= {"CiLISI": cilisi(z, t, b), "structure": structure(z, x.obsm["X_pca"], t, b)}
            right = predicted == truth[chosen]
            row |= {"n": len(right), "alone": right.mean(), "among": (full == truth)[chosen].mean()}
            row |= {k: (v == truth)[chosen].mean() for k, v in fixed.items()}
            rows.append(row)
            print({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()}, file=sys.stderr, flush=True)
    return rows


def _nearest(model: more.MoRE, reference: ad.AnnData, query: ad.AnnData) -> np.ndarray:
    z = np.concatenate([model.get_latent_representation(), model.get_latent_representation(query, obsm_key=None)])
    hidden = np.arange(len(z)) >= reference.n_obs
    labels = np.concatenate([x.obs["cell_type"].astype(str) for x in (reference, query)])
    return knn_predict(z, labels, hidden)[hidden]


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Per set and way: the same cells alone and among all (cuts weigh alike), and the whole query."""
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
    parser.add_argument("--data", default=os.environ.get("MORE_DATA"), help="data folder (default: $MORE_DATA)")
    parser.add_argument("--joint", type=int, default=1, help="types that are trained with the others, each alone")
    parser.add_argument("--batches", type=int, default=3, help="batches left out, at most")
    parser.add_argument("--unlabelled", action="store_true", help="no labels: 15-NN transfer on the embedding instead")
    parser.add_argument("--output", type=Path, default=None, help="also append the table and this command to a file")
    arguments = parser.parse_args()
    if not arguments.data:
        parser.error("give --data or set MORE_DATA")
    warnings.filterwarnings("ignore")
    for noisy in ("lightning.pytorch", "scvi", "jax", "more_scvi"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    rows = []
    for name in arguments.sets.split(","):
        print(f"{name}: {'reported' if name in REPORTED else 'development'}", file=sys.stderr)
        data = load(name, Path(arguments.data))
        for batch in sorted(data.obs["batch"].unique())[: arguments.batches]:
            rows += left_out(name, data, batch, arguments.joint, not arguments.unlabelled)
    text = summary(pd.DataFrame(rows)).to_string()
    print(text)
    if arguments.output:
        command = f"python benchmarks/composition.py {shlex.join(sys.argv[1:])}"
        with arguments.output.open("a") as file:
            file.write(f"```\n{command}\n```\n\n```\n{text}\n```\n\n")


if __name__ == "__main__":
    main()
