"""The ``more-scvi`` command. Thin: each command is a few calls of the Python API.

Results go to standard output, progress and warnings to standard error. Exit codes: 0 done, 2 refused (nothing was
written; the message says what to change), 1 anything else.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import sys
import time
import warnings
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from anndata import AnnData

    from more_scvi.model import MoRE

app = typer.Typer(
    help="MoRE: one embedding for single-cell data from several batches.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_show_locals=False,
)

Json = Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")]
Seed = Annotated[int, typer.Option(help="Seed of every random draw.")]


@app.command()
def integrate(
    source: Annotated[Path, typer.Argument(metavar="IN.h5ad", help="Cells × genes, raw counts or log-normalised.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="OUT.h5ad", help="May be the same file.")],
    batch: Annotated[str | None, typer.Option(help="Column of obs with the batch.")] = None,
    labels: Annotated[str | None, typer.Option(help="Column of obs with cell types, complete or not.")] = None,
    unlabeled: Annotated[str, typer.Option(help="The value in --labels of cells without a label.")] = "Unknown",
    layer: Annotated[str | None, typer.Option(help="Layer to read instead of X.")] = None,
    gene_key: Annotated[str | None, typer.Option(help="Column of var with gene symbols or Ensembl ids.")] = None,
    backbone: Annotated[str, typer.Option(help="Name of a backbone, or a folder with its weights.")] = "more-mini",
    max_epochs: Annotated[int | None, typer.Option(help="Default: chosen from the number of cells.")] = None,
    model: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Save the trained model here.")] = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Embed the cells of a file in one space, and annotate the unlabelled ones.

    Writes obsm["X_more"] and, with --labels, obs["more_prediction"] and obs["more_confidence"].
    """
    start = time.perf_counter()
    setup = {"batch_key": batch, "labels_key": labels, "unlabeled_category": unlabeled, "layer": layer}
    with contextlib.redirect_stdout(sys.stderr):
        with _refusals():
            _check_targets(output, model)
            adata = _read(source)
            trained = _build(adata, {**setup, "gene_key": gene_key}, backbone, seed)
        trained.train(max_epochs=max_epochs, enable_progress_bar=sys.stderr.isatty())
        trained.get_latent_representation()
        if labels is not None:
            import pandas as pd

            soft = pd.DataFrame(trained.predict(soft=True))
            adata.obs["more_prediction"] = soft.idxmax(axis=1).astype("category")
            adata.obs["more_confidence"] = soft.max(axis=1)
        if model is not None:
            trained.save(str(model))
        _write(adata, output)
    summary = {
        "output": str(output),
        "cells": adata.n_obs,
        "genes": adata.n_vars,
        "latent": adata.obsm["X_more"].shape[1],
        "wrote": ["obsm/X_more"] + (["obs/more_prediction", "obs/more_confidence"] if labels is not None else []),
        "seconds": round(time.perf_counter() - start, 1),
    }
    _show(summary, as_json)


@app.command()
def demo(
    folder: Annotated[Path, typer.Option("--folder", "-o", help="Where demo.h5ad and demo.png go.")] = Path(),
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Annotate cells of a second, simulated platform and compare with PCA and with the frozen backbone alone."""
    with _refusals():
        if not folder.is_dir():
            raise FileNotFoundError(f"--folder {folder} does not exist. Create it, or choose another.")
    with contextlib.redirect_stdout(sys.stderr):
        from more_scvi._demo import draw, run_demo, table

        _quiet()
        adata, result = run_demo(seed, progress=sys.stderr.isatty())
        _write(adata, folder / "demo.h5ad")
        with _replacing(folder / "demo.png") as partial:
            draw(adata, partial)
    if as_json:
        _show(result, True)
    else:
        Console().print(table(result))
        typer.echo(f"Wrote {folder / 'demo.h5ad'} and {folder / 'demo.png'}.")


@app.command()
def doctor(as_json: Json = False) -> None:
    """Show versions, devices and backbones: what a bug report should hold."""
    with contextlib.redirect_stdout(sys.stderr):
        import torch

        from more_scvi.backbones import get_backbone, list_backbones

        mini = get_backbone("more-mini")
    packages = ("more-scvi", "scvi-tools", "torch", "lightning", "anndata", "mudata", "scanpy", "numpy", "scib-metrics")
    summary: dict[str, Any] = {"python": platform.python_version(), "platform": platform.platform()}
    for package in packages:
        try:
            summary[package] = version(package)
        except PackageNotFoundError:
            summary[package] = "not installed"
    summary["devices"] = ["cpu", *(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))]
    summary["backbones"] = list(list_backbones())
    summary["more-mini"] = {"fingerprint": mini.fingerprint()[:16], "parameters": mini.n_parameters()}
    _show(summary, as_json)


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    """Turn what the API refuses into one line on standard error and exit code 2."""
    try:
        yield
    except (ValueError, KeyError, TypeError, FileNotFoundError, FileExistsError) as error:
        message = str(error.args[0]) if error.args else type(error).__name__
        typer.echo(f"Error: {error if isinstance(error, OSError) else message}", err=True)
        raise typer.Exit(2) from error


def _read(path: Path) -> AnnData:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file. Give the path of an .h5ad file.")
    import anndata

    try:
        return anndata.read_h5ad(path)
    except Exception as error:  # h5py and anndata raise many types
        raise ValueError(f"{path} cannot be read as .h5ad: {error}. Write it with adata.write_h5ad.") from error


def _check_targets(output: Path, model: Path | None) -> None:
    """Before the work, not after it."""
    if not output.absolute().parent.is_dir():
        raise FileNotFoundError(
            f"The folder of --output {output} does not exist. Create {output.absolute().parent} first."
        )
    if output.is_dir():
        raise ValueError(f"--output {output} is a folder. Give the path of a file.")
    if model is not None and model.exists():
        raise FileExistsError(f"--model {model} exists. Name a new folder.")


def _build(adata: AnnData, setup: dict[str, Any], backbone: str, seed: int) -> MoRE:
    import scvi

    from more_scvi.model import MoRE

    _quiet()
    scvi.settings.seed = seed
    MoRE.setup_anndata(adata, **setup)
    return MoRE(adata, backbone=backbone)


def _write(adata: AnnData, path: Path) -> None:
    for column in [c for c in adata.obs if c.startswith("_scvi")]:  # the registration of this process
        del adata.obs[column]
    for key in [k for k in adata.uns if k.startswith("_scvi")]:
        del adata.uns[key]
    with _replacing(path) as partial:
        adata.write_h5ad(partial)


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Write beside and rename: a reader sees the old file or the new one, never half of it."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _quiet() -> None:
    """Leave out what Lightning says about itself; it sets its level on import, so call this after."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning")


def _show(summary: dict[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(summary, indent=2))
        return
    grid = Table.grid(padding=(0, 2))
    for name, value in summary.items():
        grid.add_row(f"[bold]{name}[/bold]", ", ".join(map(str, value)) if isinstance(value, list) else str(value))
    Console().print(grid)
