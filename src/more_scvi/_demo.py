"""What ``more-scvi demo`` does: annotate a second platform, compare with two baselines, draw the cells."""

import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import scanpy as sc
import scvi
from anndata import AnnData
from rich.table import Table

from more_scvi import pl
from more_scvi.backbones._registry import get_backbone
from more_scvi.data._genes import match_genes
from more_scvi.data._simulate import load_demo
from more_scvi.metrics._annotation import linear_probe, macro_f1, scorable
from more_scvi.metrics._mixing import cilisi
from more_scvi.metrics._structure import structure
from more_scvi.model._more import MoRE

N_PCS = 50


def run_demo(seed: int = 0, progress: bool = True) -> tuple[AnnData, dict[str, Any]]:
    """Annotate the simulated platform with MoRE and with two baselines.

    Returns
    -------
    The cells with embeddings, UMAPs and predictions; and ``cells``, ``hidden``, ``types`` and one record per method in
    ``methods``: ``macro_f1`` on the hidden cells, ``cilisi`` and ``structure`` over all, ``trained`` and ``frozen``
    parameters, ``seconds``.
    """
    adata = load_demo(seed)
    types = adata.obs["cell_type"].astype(str).to_numpy()
    platform = adata.obs["platform"].astype(str).to_numpy()
    hidden = platform == "simulated"
    adata.obs["label"] = np.where(hidden, "Unknown", types)
    shown = np.unique(types[~hidden]).size

    rows: list[dict[str, Any]] = []

    def add(name: str, z: np.ndarray, f1: float, trained: int, frozen: int, seconds: float) -> None:
        kept, mixed = structure(z, pcs, types, platform), cilisi(z, types, platform)
        quality = {"macro_f1": f1, "cilisi": mixed, "structure": kept}
        rows.append({"method": name, **quality, "trained": trained, "frozen": frozen, "seconds": seconds})

    def probe(name: str, z: np.ndarray, frozen: int, seconds: float) -> None:
        f1, probing = _timed(lambda: linear_probe(z, types, hidden))
        add(name, z, f1, (z.shape[1] + 1) * shown, frozen, seconds + probing)  # per type an intercept beside weights

    pcs, seconds = _timed(lambda: _principal_components(adata))
    probe("PCA+probe", pcs, 0, seconds)
    backbone = get_backbone("more-mini")
    assert backbone.vocabulary is not None  # more-mini has one
    match = match_genes(adata.var_names, backbone.vocabulary)
    features, seconds = _timed(lambda: backbone.encode(adata.X, match))
    probe("frozen+probe", features, backbone.n_parameters(), seconds)
    (model, z), seconds = _timed(lambda: _train(adata, seed, progress))
    on, counts = scorable(types, hidden), model.parameter_counts().loc["total"]
    prediction = adata.obs["more_prediction"].astype(str).to_numpy()
    f1 = macro_f1(types[on], prediction[on])
    add("MoRE", z, f1, int(counts["trained"]), int(counts["frozen"]), seconds)

    adata.obsm["X_pca"] = pcs
    _add_umaps(adata)
    return adata, {"cells": adata.n_obs, "hidden": int(hidden.sum()), "types": int(shown), "methods": rows}


def table(result: dict[str, Any]) -> Table:
    """The result of :func:`run_demo` as a rich table."""
    out = Table(
        title=f"{result['hidden']} cells of a simulated platform, annotated without labels of their own",
        caption="macro-F1: these cells. CiLISI (mixing within types) and structure (distances kept): all cells. "
        "probe: logistic regression on the embedding. trained, frozen: parameters.",
        title_justify="left",
        caption_justify="left",
    )
    out.add_column("method")
    for name in ("macro-F1", "CiLISI", "structure", "trained", "frozen", "seconds"):
        out.add_column(name, justify="right")
    for row in result["methods"]:
        quality = (f"{row[name]:.3f}" for name in ("macro_f1", "cilisi", "structure"))
        style = "bold" if row["method"] == "MoRE" else None
        out.add_row(
            row["method"], *quality, f"{row['trained']:,}", f"{row['frozen']:,}", f"{row['seconds']:.1f}", style=style
        )
    return out


def draw(adata: AnnData, path: Path) -> None:
    """PCA above, MoRE below, coloured by platform, true type and predicted type."""
    figure, axes = plt.subplots(2, 3, figsize=(11.5, 6.2), layout="constrained")
    columns = {"platform": "platform", "true type": "cell_type", "predicted type": "more_prediction"}
    for row, (name, basis) in zip(axes, {"PCA": "X_umap_pca", "MoRE": "X_umap"}.items(), strict=True):
        for ax, (title, column) in zip(row, columns.items(), strict=True):
            pl.embedding(adata, basis, column, ax=ax, title=title if name == "PCA" else "", size=10, legend=False)
        row[0].set_ylabel(name, fontsize="large")
    axes[0, 0].legend(loc="best", frameon=False, markerscale=2, fontsize="small")
    types = axes[0, 1].get_legend_handles_labels()
    figure.legend(*types, loc="outside right center", frameon=False, markerscale=2, fontsize="small")
    figure.savefig(path, dpi=120, format="png")
    plt.close(figure)


def _timed(function: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    return function(), time.perf_counter() - start  # filled from left to right: the function runs first


def _principal_components(adata: AnnData) -> np.ndarray:
    copy = adata.copy()
    sc.pp.normalize_total(copy, target_sum=1e4)
    sc.pp.log1p(copy)
    copy.X = copy.X.toarray()
    sc.pp.scale(copy, max_value=10)  # cut off as by Wolf 2018 (scanpy)
    sc.pp.pca(copy, n_comps=N_PCS)
    return copy.obsm["X_pca"]


def _train(adata: AnnData, seed: int, progress: bool) -> tuple[MoRE, np.ndarray]:
    scvi.settings.seed = seed  # what MoRE takes its seed from
    cells = adata.copy()  # what scvi-tools registers stays out of the file that is written
    MoRE.setup_anndata(cells, batch_key="platform", labels_key="label")
    model = MoRE(cells)
    model.train(enable_progress_bar=progress)
    adata.obsm["X_more"] = z = model.get_latent_representation()
    soft = pd.DataFrame(model.predict(soft=True))
    types = adata.obs["cell_type"].cat.categories  # one colour per type, true or predicted
    adata.obs["more_prediction"] = pd.Categorical(soft.idxmax(axis=1), categories=types)
    adata.obs["more_confidence"] = soft.max(axis=1)
    return model, z


def _add_umaps(adata: AnnData) -> None:
    """``obsm["X_umap_pca"]`` of the principal components, ``obsm["X_umap"]`` of MoRE."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # umap warns that a seed means one thread
        sc.pp.neighbors(adata, use_rep="X_pca", key_added="pca")
        sc.tl.umap(adata, neighbors_key="pca")
        adata.obsm["X_umap_pca"] = adata.obsm["X_umap"].copy()
        sc.pp.neighbors(adata, use_rep="X_more")
        sc.tl.umap(adata)
