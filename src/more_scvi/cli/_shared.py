"""What the commands share: options, refusals, reading and writing. Imports of ours stay inside: ``--help`` is quick."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from more_scvi._files import atomic_path, check_writable
from more_scvi._progress import without_bars

if TYPE_CHECKING:
    from more_scvi.model._more import MoRE

P = ParamSpec("P")
Json = Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of every random draw.")]  # NumPy: 32 bits


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """Turn what the API refuses into one line on standard error and exit code 2."""
    try:
        yield
    except (ValueError, KeyError, TypeError, OSError, ImportError) as error:
        said = error if isinstance(error, OSError) or not error.args else error.args[0]  # str() quotes a KeyError's
        typer.echo(f"Error: {said or type(error).__name__}", err=True)
        raise typer.Exit(2) from error


def plainly(command: Callable[P, None]) -> Callable[P, None]:
    """A command that says in one line why it could not finish."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        cause: BaseException
        try:
            with without_bars(not sys.stderr.isatty()):  # in a log file
                return command(*args, **kwargs)
        except typer.Exit:  # is a RuntimeError
            raise
        except (KeyboardInterrupt, SystemExit) as error:  # Lightning turns the first into the second
            cause, code, text = error, 130, "Interrupted; no output was written."
        except (MemoryError, OSError, RuntimeError) as error:
            cause, code, text = error, 1, f"Error: {error}"
            if isinstance(error, MemoryError) or re.search(r"allocate|out of memory|new thread", text):
                text = f"Error: not enough memory. {error}\nUse fewer cells or genes, or a machine with more."
            elif not isinstance(error, OSError):
                raise
        typer.echo(text, err=True)
        raise typer.Exit(code) from cause

    return run


def read(path: Path) -> Any:
    """An AnnData (``.h5ad``) or MuData (``.h5mu``), either also from a zarr store; or a refusal."""
    kind = path.suffix if path.suffix in (".h5mu", ".zarr") else ".h5ad"
    if not (path.is_dir() if kind == ".zarr" else path.is_file()):
        a = "folder" if kind == ".zarr" else "file"
        raise FileNotFoundError(f"{path} is not a {a}. Give the path of .h5ad, .h5mu or .zarr.")
    several = kind == ".h5mu" or (kind == ".zarr" and (path / "mod").is_dir())
    try:
        import anndata
        import mudata

        from more_scvi._compat import no_pull

        with no_pull():
            return getattr(mudata if several else anndata, f"read_{kind[1:]}")(path)
    except (ImportError, MemoryError):  # zarr may not be installed
        raise
    except Exception as error:  # h5py and anndata raise many types
        how = "mdata" if several else "adata"
        raise ValueError(f"{path} cannot be read as {kind}: {error}. Write it with {how}.write_{kind[1:]}.") from error


def choose_layer(data: Any, layer: str | None) -> tuple[Any, str | None]:
    """What ``--layer raw`` means where no layer has that name: the cells of ``adata.raw``."""
    from anndata import AnnData

    if layer == "raw" and isinstance(data, AnnData) and "raw" not in data.layers and data.raw is not None:
        return data.raw.to_adata(), None
    return data, layer


def write(data: Any, path: Path) -> None:
    """Write the file whole or not at all. Nullable strings stay what they are."""
    import anndata

    from more_scvi._compat import no_pull

    nullable = anndata.settings.override(allow_write_nullable_strings=True)
    with atomic_path(path) as partial, nullable, no_pull():
        getattr(data, f"write_{ending(data)[1:]}")(partial)


def ending(data: Any) -> str:
    """The ending of a file that holds these cells."""
    return ".h5ad" if type(data).__name__ == "AnnData" else ".h5mu"


def read_to_change(source: Path, output: Path) -> Any:
    """Cells that will be written to ``output`` with something added; a refusal before the work, not after it."""
    check_writable(output, f"--output {output}")
    if output.suffix not in (".h5ad", ".h5mu"):
        raise ValueError(f"--output {output} must end in .h5ad, or in .h5mu for cells of several modalities.")
    data = read(source)
    if output.suffix != ending(data):
        kind = "one modality" if ending(data) == ".h5ad" else "several modalities"
        raise ValueError(f"--output {output} must end in {ending(data)}: {source} holds cells of {kind}.")
    if data.n_obs == 0:
        raise ValueError(f"{source} holds no cells. Check the filter that came before.")
    check_written(data)
    return data


def check_written(data: Any) -> None:
    """Raise if ``data`` cannot be written, by writing one of its cells."""
    from more_scvi._compat import no_pull

    with tempfile.TemporaryDirectory() as folder, no_pull():
        try:
            write(data[:1].copy(), Path(folder) / f"a{ending(data)}")
        except Exception as error:  # h5py and anndata raise many types
            said = " ".join([str(error), *getattr(error, "__notes__", [])])  # the notes name the entry
            raise ValueError(f"The file could not be written again: {said}. Mend or drop what is named.") from error


def predictions(model: MoRE, data: Any = None) -> dict[str, Any]:
    """Columns of ``obs``: predicted types and how sure they are. ``data``: None for the registered cells."""
    import pandas as pd

    soft = pd.DataFrame(model.predict(data, soft=True))
    return {"more_prediction": pd.Categorical(soft.idxmax(axis=1)), "more_confidence": soft.max(axis=1).to_numpy()}


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
        if isinstance(value, dict):
            value = [f"{key} {number:,}" for key, number in value.items()]
        text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        grid.add_row(f"[bold]{escape(name)}[/bold]", escape(text))  # names and paths may hold brackets
    Console().print(grid)
