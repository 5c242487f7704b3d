from __future__ import annotations

import contextlib
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from more_scvi._files import check_writable

from ._shared import Json, Seed, check_written, choose_layer, quiet, read, refusals, show, write

if TYPE_CHECKING:
    from anndata import AnnData

    from more_scvi.model._more import MoRE


def integrate(
    source: Annotated[
        Path, typer.Argument(metavar="IN.h5ad", help="Cells × genes, counts or log-normalised; or .zarr.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="OUT.h5ad", help="May be the same file.")],
    batch: Annotated[list[str] | None, typer.Option(help="Column of obs with the batch; may be repeated.")] = None,
    labels: Annotated[str | None, typer.Option(help="Column of obs with cell types, complete or not.")] = None,
    unlabeled: Annotated[str, typer.Option(help="The value in --labels of cells without a label.")] = "Unknown",
    layer: Annotated[str | None, typer.Option(help="Layer to read instead of X; raw: adata.raw.")] = None,
    gene_key: Annotated[str | None, typer.Option(help="Column of var with gene symbols or Ensembl ids.")] = None,
    backbone: Annotated[str, typer.Option(help="Name, folder with weights, or none.")] = "more-mini",
    max_epochs: Annotated[int | None, typer.Option(min=1, help="Default: chosen from the number of cells.")] = None,
    model: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Save the trained model here.")] = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Embed the cells of a file in one space, and annotate the unlabelled ones.

    Writes obsm["X_more"] and, with --labels, obs["more_prediction"] and obs["more_confidence"].
    """
    start = time.perf_counter()
    setup = {"batch_key": batch or None, "labels_key": labels, "unlabeled_category": unlabeled}
    with contextlib.redirect_stdout(sys.stderr):
        with refusals():
            check_writable(output, f"--output {output}")
            if output.suffix != ".h5ad":
                raise ValueError(f"--output {output} must end in .h5ad.")
            if model is not None:
                if model.exists():
                    raise FileExistsError(f"--model {model} exists. Name a new folder.")
                check_writable(model, f"--model {model}")
            adata = read(source)
            check_written(adata)
            obs, uns = adata.obs.copy(), dict(adata.uns)  # without what this process will register
            cells, layer = choose_layer(adata, layer)
            trained = _build(cells, {**setup, "layer": layer, "gene_key": gene_key}, backbone, seed)
        trained.train(max_epochs=max_epochs, enable_progress_bar=sys.stderr.isatty())  # no bars in a log file
        z = trained.get_latent_representation()
        if labels is not None:
            import pandas as pd

            soft = pd.DataFrame(trained.predict(soft=True))
            obs["more_prediction"] = soft.idxmax(axis=1).astype("category").to_numpy()
            obs["more_confidence"] = soft.max(axis=1).to_numpy()
        if model is not None:
            trained.save(str(model))
        adata.obs, adata.uns, adata.obsm["X_more"] = obs, uns, z
        write(adata, output)
    summary = {
        "output": str(output),
        "cells": adata.n_obs,
        "genes": adata.n_vars,
        "latent": adata.obsm["X_more"].shape[1],
        "wrote": ["obsm/X_more"] + (["obs/more_prediction", "obs/more_confidence"] if labels is not None else []),
        "seconds": round(time.perf_counter() - start, 1),
    }
    show(summary, as_json)


def _build(adata: AnnData, setup: dict[str, Any], backbone: str, seed: int) -> MoRE:
    import scvi

    from more_scvi.model._more import MoRE

    quiet()
    scvi.settings.seed = seed
    MoRE.setup_anndata(adata, **setup)
    return MoRE(adata, backbone=None if backbone == "none" else backbone)
