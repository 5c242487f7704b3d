"""Protocol S8: are the same cells annotated alike, whichever other cells came along? Writes tuning/composition.md.

    python benchmarks/composition.py [--sets human_gastrula ...] [--batches 1] [--labels yes no]

Batches are left out in turn and their labels hidden. The query is all of one, half of its types, two types or one; it
is mapped onto a model of the other batches, or trained with them. ``--labels no``: the model sees no label, and 15
neighbours among the other cells answer. Development sets choose, sets of the benchmark are only reported.
"""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
from catalogue import TEXTS
from frame import arguments, made_by, markdown, write
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score

import more_scvi as more
from more_scvi.evaluation import load_dataset
from more_scvi.metrics import cilisi, knn_predict, structure

MIN_CELLS, MIN_REFERENCE, MOST_CELLS = 15, 10, 1600
SETS = ["human_gastrula", "mouse_lung_immune", "mouse_oligo_regions", "simulated_weak", "simulated_strong"]


def load(name: str, folder: Path) -> ad.AnnData:
    """At most ``MOST_CELLS`` cells of a set, with ``batch`` and ``cell_type``."""
    if name.startswith("simulated"):
        shares = np.random.default_rng(1).dirichlet(np.full(6, 0.6), 3) + 0.05
        genes = list(ad.read_h5ad(folder / "dev" / "human_gastrula.h5ad", backed="r").var_names[:800])
        sizes = {"n_cells": 1200, "n_genes": 800, "n_types": 6, "n_batches": 3, "markers": 0.05, "gene_names": genes}
        return more.data.simulate_batches(proportions=shares, batch_sd=0.3 if name.endswith("weak") else 0.7, **sizes)
    data = load_dataset(name, folder)[0]
    data = data[np.sort(np.random.default_rng(0).permutation(data.n_obs)[:MOST_CELLS])].copy()
    data.obs = data.obs[["batch", "cell_type"]].astype(str)
    return data


def normalised(data: ad.AnnData) -> ad.AnnData:
    return sc.pp.log1p(sc.pp.normalize_total(data, target_sum=1e4, copy=True), copy=True)


def controls(reference: ad.AnnData, query: ad.AnnData) -> dict[str, np.ndarray]:
    """Labels by regression on 2,000 variable genes and by LDA on 50 components, neither centred by batch."""
    both = [normalised(x) for x in (reference, query)]
    sc.pp.highly_variable_genes(both[0], n_top_genes=min(2000, both[0].n_vars))
    train, test = (x.X[:, both[0].var["highly_variable"].to_numpy()].toarray() for x in both)
    labels, pca = reference.obs["cell_type"], PCA(50, random_state=0).fit(train)
    lda = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(pca.transform(train), labels)
    regression = LogisticRegression(max_iter=200).fit(train, labels)
    return {"LR": regression.predict(test), "LDA": lda.predict(pca.transform(test))}


def fit(data: ad.AnnData, hidden: np.ndarray, labelled: bool) -> more.MoRE:
    data.obs["label"] = np.where(hidden, "Unknown", data.obs["cell_type"].astype(str))
    keys = {"labels_key": "label", "unlabeled_category": "Unknown"} if labelled else {}
    more.MoRE.setup_anndata(data, batch_key="batch", **keys)
    model = more.MoRE(data, seed=0)
    model.train(accelerator="cpu", enable_progress_bar=False, logger=False)
    return model


def answers(model: more.MoRE, among: ad.AnnData, new: np.ndarray, joint: bool, labelled: bool) -> np.ndarray:
    """What is said of the ``new`` cells."""
    if labelled:
        return model.predict()[new] if joint else model.predict(among[new].copy())
    parts = [model.get_latent_representation()]
    if not joint:
        parts.append(model.get_latent_representation(among[new].copy(), obsm_key=None))
    return knn_predict(np.concatenate(parts), among.obs["cell_type"].to_numpy(), new)[new]


def left_out(name: str, data: ad.AnnData, batch: str, labelled: bool) -> list[dict]:
    """Rows of one left-out batch; of single types, only the most frequent is also trained with the others."""
    kind, here = data.obs["cell_type"].to_numpy(), (data.obs["batch"] == batch).to_numpy()
    there, counts = (pd.Series(kind[mask]).value_counts() for mask in (~here, here))
    order = list(counts.index[(counts >= MIN_CELLS) & (there.reindex(counts.index).fillna(0) >= MIN_REFERENCE)])
    if len(order) < 2:
        return []
    reference, query = data[~here].copy(), data[here & np.isin(kind, there.index)].copy()
    truth, fixed, rows = query.obs["cell_type"].to_numpy(), controls(reference, query), []
    cuts = {"all": list(there.index), "half": order[::2], "two": order[:2]} | {f"one: {t}": [t] for t in order}
    mapped = fit(reference, np.zeros(reference.n_obs, bool), labelled)
    for way, cut in [("mapped", c) for c in cuts] + [("joint", c) for c in [*cuts][:4]]:
        chosen = np.isin(truth, cuts[cut])
        among = ad.concat([reference, query[chosen]])
        among.obs = among.obs.astype(str)
        new = (among.obs["batch"] == batch).to_numpy()
        model = mapped if way == "mapped" else fit(among, new, labelled)
        said = answers(model, among, new, way == "joint", labelled)
        row = {"set": name, "labels": "yes" if labelled else "no", "way": way, "cut": cut}
        if cut == "all":
            full = said
            for key, labels in ({"F1": said} | {f"F1 {k}": v for k, v in fixed.items()}).items():
                row[key] = f1_score(truth, labels, labels=order, average="macro", zero_division=0)
            if way == "joint":
                z, t, b = model.get_latent_representation(), among.obs["cell_type"], among.obs["batch"]
                row |= {"CiLISI": cilisi(z, t, b), "structure": structure(z, sc.pp.pca(normalised(among).X), t, b)}
        row |= {k: (v == truth)[chosen].mean() for k, v in ({"among": full} | fixed).items()}
        rows.append(row | {"alone": (said == truth[chosen]).mean()})
        logging.info("%s", rows[-1])
    return rows


def summary(rows: pd.DataFrame) -> str:
    """Per set and way: the cuts, and the whole query."""
    by, whole = ["set", "labels", "way"], rows[rows["cut"] == "all"]
    cut = rows[rows["cut"] != "all"].assign(change=(rows["alone"] - rows["among"]).abs())
    table = cut.groupby(by)[["alone", "among", "LR", "LDA"]].mean()
    for words in ("mean", "max"):
        table[f"{words} change"] = cut.groupby(by)["change"].agg(words)
    table["cuts"] = cut.groupby(by).size().astype(str)
    table = table.join(whole.groupby(by)[["F1", "F1 LR", "F1 LDA", "CiLISI", "structure"]].mean())
    return markdown(table.round(3).fillna("–").reset_index().to_dict("records"))


def main() -> None:
    args = arguments(__doc__, sets=SETS, batches=3, labels=["yes", "no"])
    warnings.filterwarnings("ignore")
    logging.getLogger("more_scvi").setLevel(logging.ERROR)
    rows = []
    for name in args.sets:
        data = load(name, args.data)
        for batch in sorted(data.obs["batch"].unique())[: args.batches]:
            rows += [row for how in args.labels for row in left_out(name, data.copy(), batch, how == "yes")]
    write(
        args.results / "tuning" / "composition.md",
        "Composition",
        made_by(),
        TEXTS["composition"],
        summary(pd.DataFrame(rows)),
    )


if __name__ == "__main__":
    main()
