"""Pictures and tables of two pages of the docs: python docs/pictures.py [strength labels condition curve]

Pages: which column is the batch; too little, too much. Minutes, offline: all is made from cells that ship with scanpy
and simulated ones. It writes strength.png, strength.csv, strength_curve.png, strength_labels.csv, condition.png,
condition.csv and condition_curve.csv to docs/_static.
"""

import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import scanpy as sc
import scvi
from anndata import AnnData
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

import more_scvi as more
from more_scvi.metrics import cilisi, structure

STATIC = Path(__file__).parent / "_static"
STRENGTHS = (0, 1, 4, 16)
SEEDS = (0, 1)
ONE = "CD19+ B"  # the type of one batch alone
OTHERS = "types of both platforms"
RESPOND = ("type0", "type1")  # the types that a condition changes
KEYS: list[tuple[str, Any, Any]] = [
    ("nothing is removed (strength=0)", "donor", 0.0),
    ('batch_key="donor"', "donor", 1.0),
    ('batch_key="condition"', "condition", 1.0),
    ('batch_key=["condition", "donor"]', ["condition", "donor"], 1.0),
    ('the same, strength={"condition": 0}', ["condition", "donor"], {"condition": 0}),
]


def embed(
    adata: AnnData, key: str | list[str], strength: Any, labels_key: str | None = None, **arguments: Any
) -> tuple[more.MoRE, np.ndarray]:
    """A trained model and its embedding."""
    scvi.settings.seed = 0
    cells = adata.copy()
    more.MoRE.setup_anndata(cells, batch_key=key, labels_key=labels_key)
    model = more.MoRE(cells, strength=strength, **arguments)
    model.train(enable_progress_bar=False)
    return model, model.get_latent_representation()


def umap(adata: AnnData, name: str, z: np.ndarray) -> None:
    adata.obsm["X_z"] = z
    sc.pp.neighbors(adata, use_rep="X_z")
    sc.tl.umap(adata)
    adata.obsm[name] = adata.obsm["X_umap"].copy()


def platforms(seed: int) -> AnnData:
    """700 blood cells, half of them on a simulated, shallower platform; only that one has B cells."""
    adata = more.data.load_demo(seed)
    adata.obs = adata.obs.astype(str)
    first = adata[(adata.obs["platform"] == "10x") & (adata.obs["cell_type"] != ONE)].copy()
    second = adata[adata.obs["platform"] != "10x"].copy()
    second.X = more.data.simulate_platform(second.X, depth=0.7, capture_sd=0.8, ambient=0.1, seed=seed + 3)
    return anndata.concat([first, second])


def apart(z: np.ndarray, group: np.ndarray) -> float:
    """Share of the 15 nearest neighbours of the cells of a group that belong to it."""
    near = NearestNeighbors(n_neighbors=15).fit(z).kneighbors(return_distance=False)
    return float(group[near[group]].mean())


def strengths() -> None:
    rows, measured = [], np.empty(0)
    for seed in SEEDS:
        adata = platforms(seed)
        types, batches = adata.obs["cell_type"].to_numpy(), adata.obs["platform"].to_numpy()
        for value in STRENGTHS:
            model, z = embed(adata, "platform", value)
            measured = z if value == 0 else measured
            found = model.diagnose().table.set_index("check")["value"]
            rows.append(
                {
                    "strength": value,
                    "platforms mixed": cilisi(z, types, batches),
                    "structure kept": structure(z, measured, types, batches),
                    "B cells apart": apart(z, types == ONE),
                    "diagnose: groups_dissolve": found["groups_dissolve"],
                }
            )
            if seed == 0:
                umap(adata, f"{value}", z)
            if seed == 0 and value == 1:
                table = model.strength_curve(STRENGTHS)
                more.pl.strength(table, chosen=1).figure.savefig(STATIC / "strength_curve.png", dpi=110)
        if seed == 0:
            adata.obs["type"] = np.where(types == ONE, "B cells", OTHERS)
            axes = more.pl.compare(
                adata, {f"strength={v}": f"{v}" for v in STRENGTHS}, ["platform", "type"], missing=OTHERS
            )
            axes[0, 0].figure.savefig(STATIC / "strength.png", dpi=100)
    write("strength.csv", pd.DataFrame(rows).groupby("strength").mean().reset_index())


def labels() -> None:
    """The same at strength 1 with labels of half of the cells, with and without those of the type of one batch."""
    rows = []
    for seed in SEEDS:
        adata = platforms(seed)
        types, batches = adata.obs["cell_type"].to_numpy(), adata.obs["platform"].to_numpy()
        half = np.random.default_rng(seed).random(len(types)) < 0.5
        for name, visible in {"half": half, "half, of B cells none": half & (types != ONE)}.items():
            adata.obs["label"] = np.where(visible, types, "Unknown")
            model, z = embed(adata, "platform", 1, labels_key="label")
            found = model.diagnose().table.set_index("check")["value"]["groups_dissolve"]
            scores = {"platforms mixed": cilisi(z, types, batches), "B cells apart": apart(z, types == ONE)}
            rows.append({"labels": name} | scores | {"diagnose: groups_dissolve": found})
    write("strength_labels.csv", pd.DataFrame(rows).groupby("labels").mean().reset_index())


def study(nested: bool, seed: int, n: int = 800) -> AnnData:
    """Four donors; stimulation moves some genes of two of the four types. Nested: a donor has one condition only."""
    rng = np.random.default_rng(seed)
    adata = more.data.simulate_batches(n, n_genes=500, n_batches=1, depth=2500, type_sd=0.8, seed=seed)
    donor = rng.integers(4, size=n)
    stimulated = donor >= 2 if nested else rng.random(n) < 0.5
    response = np.exp(rng.normal(0, 0.7, 500) * (rng.random(500) < 0.1))
    x = adata.X.toarray().astype(int)
    moved = stimulated & adata.obs["cell_type"].isin(RESPOND).to_numpy()
    x[moved] = rng.poisson(x[moved] * response)
    for k in range(4):
        of = donor == k
        changed = more.data.simulate_platform(
            x[of], depth=0.6 + 0.1 * k, capture_sd=0.3, ambient=0.02, seed=10 * seed + k
        )
        x[of] = changed.toarray()
    adata.X = csr_matrix(x, dtype=np.float32)
    adata.obs["donor"] = [f"donor {k + 1}" for k in donor]
    adata.obs["condition"] = np.where(stimulated, "stimulated", "control")
    return adata


def told(z: np.ndarray, obs: pd.DataFrame) -> float:
    """AUROC of the condition within the types that respond, by a linear rule that was learned on other donors."""
    stimulated, z, values = (obs["condition"] == "stimulated").to_numpy(), z / z.std(), []
    for left_out in (["donor 1", "donor 3"], ["donor 2", "donor 4"]):
        asked = obs["donor"].isin(left_out).to_numpy()
        for name in RESPOND:
            of = (obs["cell_type"] == name).to_numpy()
            rule = LogisticRegression(max_iter=2000).fit(z[of & ~asked], stimulated[of & ~asked])
            values.append(roc_auc_score(stimulated[of & asked], rule.decision_function(z[of & asked])))
    return float(np.mean(values))


def conditions() -> None:
    rows = []
    for seed in SEEDS:
        for nested in (True, False):
            adata = study(nested, seed)
            obs = adata.obs.astype(str)
            within = (obs["cell_type"] + obs["condition"]).to_numpy()
            where = "one per donor" if nested else "both in each donor"
            for name, key, strength in KEYS:
                _, z = embed(adata, key, strength, backbone=None)
                of = {"condition": where, "batch": name}
                donors = cilisi(z, within, obs["donor"].to_numpy())
                rows.append(of | {"condition told": told(z, obs), "donors mixed": donors})
                if nested and seed == 0 and name in (KEYS[0][0], KEYS[1][0], KEYS[4][0]):
                    umap(adata, name, z)
            if nested and seed == 0:
                shown = {
                    "nothing removed": KEYS[0][0],
                    "batch: donor": KEYS[1][0],
                    "condition: 0, donor: 1": KEYS[4][0],
                }
                axes = more.pl.compare(adata, shown, ["cell_type", "condition", "donor"])
                axes[0, 0].figure.savefig(STATIC / "condition.png", dpi=100)
    table = pd.DataFrame(rows).groupby(["condition", "batch"], sort=False).mean().reset_index()
    write("condition.csv", table.sort_values("condition", ascending=False, kind="stable"))


def curve() -> None:
    """Of the condition as a key of its own, by a model that knows the types."""
    scvi.settings.seed = 0
    adata = study(True, 0)
    more.MoRE.setup_anndata(adata, batch_key=["condition", "donor"], labels_key="cell_type")
    model = more.MoRE(adata, strength={"condition": 0}, backbone=None)
    model.train(enable_progress_bar=False)
    table = model.strength_curve((0, 0.3, 1), key="condition")
    write("condition_curve.csv", table.rename(columns={"mixing": "conditions mixed", "structure": "structure kept"}))


def write(name: str, table: pd.DataFrame) -> None:
    table.to_csv(STATIC / name, index=False, float_format="%.2f")
    print(table.round(3).to_string(index=False))


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    for name, make in {"strength": strengths, "labels": labels, "condition": conditions, "curve": curve}.items():
        if name in (sys.argv[1:] or [name]):
            make()
