"""What the commands share: options, refusals, reading and writing. Imports of ours stay inside: ``--help`` is quick."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from anndata import AnnData

Json = Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")]
Seed = Annotated[int, typer.Option(help="Seed of every random draw.")]


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """Turn what the API refuses into one line on standard error and exit code 2."""
    try:
        yield
    except (ValueError, KeyError, TypeError, FileNotFoundError, FileExistsError, ImportError) as error:
        message = str(error.args[0]) if error.args else type(error).__name__
        typer.echo(f"Error: {error if isinstance(error, OSError) else message}", err=True)
        raise typer.Exit(2) from error


def check_target(path: Path) -> None:
    """Whether ``--output`` can be written: before the work, not after it."""
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(f"The folder of --output {path} does not exist. Create {path.absolute().parent} first.")
    if path.is_dir():
        raise ValueError(f"--output {path} is a folder. Give the path of a file.")


def read(path: Path, several: bool = False) -> Any:
    """An ``.h5ad`` file or, with ``several`` modalities, also an ``.h5mu`` file; or a refusal."""
    kinds = "an .h5ad or .h5mu file" if several else "an .h5ad file"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file. Give the path of {kinds}.")
    kind = ".h5mu" if several and path.suffix == ".h5mu" else ".h5ad"
    try:
        if kind == ".h5mu":
            import mudata

            from more_scvi._compat import no_pull

            with no_pull():
                return mudata.read_h5mu(path)
        import anndata

        return anndata.read_h5ad(path)
    except Exception as error:  # h5py and anndata raise many types
        how = "mdata.write_h5mu" if kind == ".h5mu" else "adata.write_h5ad"
        raise ValueError(f"{path} cannot be read as {kind}: {error}. Write it with {how}.") from error


def write(adata: AnnData, path: Path) -> None:
    """Write without what this process registered."""
    for column in [c for c in adata.obs if c.startswith("_scvi")]:  # the registration of this process
        del adata.obs[column]
    for key in [k for k in adata.uns if k.startswith("_scvi")]:
        del adata.uns[key]
    with replacing(path) as partial:
        adata.write_h5ad(partial)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write beside and rename: a reader sees the old file or the new one, never half of it."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def quiet() -> None:
    """Leave out what Lightning says about itself; it sets its level on import, so call this after."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning")


def show(summary: dict[str, Any], as_json: bool) -> None:
    """Print a summary for people, or as JSON."""
    if as_json:
        typer.echo(json.dumps(summary, indent=2))
        return
    grid = Table.grid(padding=(0, 2))
    for name, value in summary.items():
        grid.add_row(f"[bold]{name}[/bold]", ", ".join(map(str, value)) if isinstance(value, list) else str(value))
    Console().print(grid)
