import contextlib
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from more_scvi._files import atomic_path, check_writable

from ._shared import Json, Seed, quiet, refusals, show, write


def demo(
    folder: Annotated[Path, typer.Option("--folder", "-o", help="Where demo.h5ad and demo.png go.")] = Path(),
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Annotate cells of a second, simulated platform and compare with PCA and with the frozen backbone alone."""
    with refusals():
        for name in ("demo.h5ad", "demo.png"):
            check_writable(folder / name)
    with contextlib.redirect_stdout(sys.stderr):  # libraries print, too, but --json promises JSON alone
        from more_scvi._demo import draw, run_demo, table

        quiet()
        adata, result = run_demo(seed, progress=sys.stderr.isatty())
        write(adata, folder / "demo.h5ad")
        with atomic_path(folder / "demo.png") as partial:
            draw(adata, partial)
    if as_json:
        show(result, True)
    else:
        Console().print(table(result))
        typer.echo(f"Wrote {folder / 'demo.h5ad'} and {folder / 'demo.png'}.")
