"""What the scripts of this folder share: arguments, a quiet start on one thread, tables, pages with their command."""

import argparse
import logging
import os
import shlex
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"


def arguments(
    about: str | None,
    positional: Mapping[str, Any] | None = None,
    argv: Sequence[str] | None = None,
    data: bool = True,
    **options: Any,
) -> argparse.Namespace:
    """Arguments, after a quiet start; positional ones are a type or choices.

    The default of an option says its type; a type in its place means that there is no default, a list that several may
    be given.
    """
    made = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, kind in (positional or {}).items():
        made.add_argument(name, **({"type": kind} if isinstance(kind, type) else {"choices": list(kind)}))
    made.add_argument("--data", type=Path, default=os.environ.get("MORE_DATA"), help="default: $MORE_DATA")
    for name, default in ({"results": RESULTS, "threads": 1} | options).items():
        several = isinstance(default, list)
        one = default[0] if several else default
        kind, default = (one, None) if isinstance(one, type) else (type(one), default)
        how = {"type": kind, "default": default, "nargs": "*" if several else None}
        how = {"action": "store_true"} if kind is bool else how
        made.add_argument(f"--{name.replace('_', '-')}", help=f"default: {default}", **how)
    found = made.parse_args(argv)
    if data and not found.data:
        made.error("give --data or set MORE_DATA")
    start(found.threads)
    return found


def start(threads: int) -> None:
    """Threads, and no chatter of libraries."""
    os.environ |= {"OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads), "TQDM_DISABLE": "1"}
    import lightning.pytorch  # noqa: F401 - it sets the level of its loggers when it is imported
    import torch

    torch.set_num_threads(threads)
    warnings.filterwarnings("ignore")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr, force=True)
    for noisy in ("lightning.pytorch", "lightning.fabric", "scvi", "jax"):
        logging.getLogger(noisy).setLevel(logging.ERROR)


def made_by() -> str:
    """The command that runs, without folders of this machine, and the commit: the first line of what it writes."""
    from more_scvi.evaluation._store import commit

    words = iter(sys.argv[1:])
    kept = [w for w in words if w not in ("--data", "--results", "--cache", "--work", "--records") or not next(words)]
    script = f"python benchmarks/{Path(sys.argv[0]).name}"
    return f"Made by `{' '.join([script, *([shlex.join(kept)] if kept else [])])}` at commit {commit() or 'unknown'}."


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table of equal dicts; columns of numbers stand right."""
    header = list(rows[0] if rows else ["not measured yet"])
    cells = [[str(row[name]) for name in header] for row in rows]
    numeric = [all(row[i].lstrip("*")[:1] in tuple("+−-.–<0123456789") for row in cells) for i in range(len(header))]
    rule = ["---:" if right else "---" for right in numeric]
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, rule, *cells))


def write(path: Path, title: str, *parts: str) -> Path:
    """A page, whole or not at all."""
    from more_scvi._files import write_files

    path.parent.mkdir(parents=True, exist_ok=True)
    write_files({path: "\n\n".join([f"# {title}", *parts]) + "\n"})
    print(path.read_text(), flush=True)
    return path
