"""What the scripts of this folder share: their arguments, a quiet start on one thread, tables and pages."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
WORK = HERE / "work"
"""Single results of runs, until they are gathered into the tables; not committed."""


def parser(about: str | None, data: bool = True) -> argparse.ArgumentParser:
    """Arguments that all scripts have."""
    made = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    folder = os.environ.get("MORE_DATA")
    made.add_argument("--data", type=Path, default=folder, required=data and not folder, help="default: $MORE_DATA")
    made.add_argument("--threads", type=int, default=1)
    return made


def start(threads: int) -> None:
    """Threads, and no chatter of libraries."""
    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = str(threads)
    import torch

    torch.set_num_threads(threads)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr, force=True)
    for noisy in ("lightning.pytorch", "lightning.fabric", "scvi", "jax"):
        logging.getLogger(noisy).setLevel(logging.ERROR)


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table of equal dicts; columns of numbers stand right."""
    header = list(rows[0])
    cells = [[str(row[name]) for name in header] for row in rows]
    numeric = [all(row[i].lstrip("*")[:1] in tuple("+−-.–<0123456789") for row in cells) for i in range(len(header))]
    rule = ["---:" if right else "---" for right in numeric]
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, rule, *cells))


def write(path: Path, title: str, *parts: str) -> Path:
    """A page; what made it stands below its title."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n\n".join([f"# {title}", *parts]) + "\n")
    print(path.read_text(), flush=True)
    return path
