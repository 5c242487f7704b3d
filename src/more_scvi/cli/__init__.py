"""The ``more-scvi`` command. Thin: each command is a few calls of the Python API.

Results go to standard output, progress and warnings to standard error. Exit codes: 0 done, 2 refused (nothing was
written; the message says what to change), 130 interrupted, 1 anything else.
"""

import typer

from ._demo import demo
from ._doctor import doctor
from ._evaluate import evaluate
from ._integrate import integrate
from ._map import map_query
from ._shared import plainly

__all__ = ["app"]

app = typer.Typer(
    help="MoRE: one embedding for single-cell data from several batches.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_show_locals=False,
)
for _command in (integrate, map_query, evaluate, demo, doctor):
    app.command(_command.__name__.removesuffix("_query"))(plainly(_command))
