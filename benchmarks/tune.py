"""Inner scores of method variants: choose defaults here, never on the benchmark; see README.md in this folder."""

from __future__ import annotations

import argparse
import ast
import json
import logging
import os
import shlex
import sys
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "variants",
        help="JSON or Python dict: name → options of the base method (default base: more), "
        'e.g. \'{"default": {}, "keep20": {"train_kwargs": {"loss_weights": {"keep": 20}}}}\'; or a file that holds it',
    )
    parser.add_argument("--data", default=os.environ.get("MORE_DATA"), help="data folder (default: $MORE_DATA)")
    parser.add_argument("--cache", type=Path, default=None, help="folder for trained scVI models")
    parser.add_argument("--datasets", default="bm_vangalen,pbmc_kang,pbmc_4batch", help="comma-separated names")
    parser.add_argument("--protocols", default="S1,S2a")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--rotations", type=int, default=1, help="outer S2a splits per data set")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=None, help="also write the tables and this command to a file")
    arguments = parser.parse_args()
    if not arguments.data:
        parser.error("give --data or set MORE_DATA")
    return arguments


def _variants(text: str) -> dict[str, dict]:
    if os.path.isfile(text):
        text = Path(text).read_text()
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return ast.literal_eval(text)


def main() -> None:
    arguments = _arguments()
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    import pandas as pd
    import torch

    from more_scvi.evaluation import get_method, tune

    torch.set_num_threads(arguments.threads)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr, force=True)
    for noisy in ("lightning.pytorch", "scvi", "jax", "more_scvi"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    tables = []
    for name, options in _variants(arguments.variants).items():
        with ExitStack() as patched:
            for constant, value in options.pop("constants", {}).items():
                patched.enter_context(patch(constant, value))
            table = tune(
                arguments.datasets.split(","),
                [get_method(name, **{"base": "more", **options})],
                arguments.data,
                arguments.protocols.split(","),
                [int(seed) for seed in arguments.seeds.split(",")],
                arguments.rotations,
                arguments.cache,
            )
        tables.append(table)
    table = pd.concat(tables)
    columns = ["own", "LR", "kNN", "CiLISI", "structure", "dimension", "seconds"]
    names = list(dict.fromkeys(table["method"]))
    per_row = table.groupby(["dataset", "protocol", "method"])[columns].mean()
    means = per_row.groupby("method").mean().reindex(names)
    text = "\n".join([
        per_row.reindex(names, level="method").round(3).to_string(),
        "\nmean over data sets and protocols",
        means.round(3).to_string(),
    ])  # fmt: skip
    print(text)
    if arguments.output:
        options = [f"--{name} {getattr(arguments, name)}" for name in ("datasets", "protocols", "seeds", "rotations")]
        command = f"python benchmarks/tune.py {shlex.quote(arguments.variants)} {' '.join(options)}"
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(f"```\n{command}\n```\n\n```\n{text}\n```\n")


if __name__ == "__main__":
    main()
