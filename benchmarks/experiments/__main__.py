"""The three experiments of the MoRE description, each resumable and with a report; see ../README.md."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from importlib import import_module
from pathlib import Path

NAMES = ("backbone", "losses", "transfer")
RESULTS = Path(__file__).resolve().parent.parent / "results" / "experiments"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python benchmarks/experiments", description=__doc__)
    parser.add_argument("name", choices=NAMES, help="which experiment")
    parser.add_argument("--data", default=os.environ.get("MORE_DATA"), help="data folder (default: $MORE_DATA)")
    parser.add_argument("--cache", type=Path, default=None, help="folder for trained models of scvi-tools")
    parser.add_argument("--datasets", nargs="+", default=None, help="instead of those of the experiment")
    parser.add_argument("--protocols", nargs="+", default=None, help="instead of those of the experiment")
    parser.add_argument("--seeds", nargs="+", type=int, default=None, help="instead of those of the experiment")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--report", action="store_true", help="only write table and figure from what is there")
    arguments = parser.parse_args()
    if not arguments.report and not arguments.data:
        parser.error("give --data or set MORE_DATA")
    return arguments


def main() -> None:
    """Run what is missing of one experiment, then write its table and figure."""
    arguments = _arguments()
    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = str(arguments.threads)
    import torch

    torch.set_num_threads(arguments.threads)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr, force=True)
    logging.getLogger("more_scvi.evaluation").setLevel(logging.DEBUG)  # names each result as it starts
    for noisy in ("lightning.pytorch", "lightning.fabric", "scvi", "jax"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    experiment = import_module(arguments.name)
    if not arguments.report:
        experiment.run(
            arguments.data,
            RESULTS / arguments.name,
            arguments.cache,
            arguments.datasets or experiment.DATASETS,
            arguments.protocols or experiment.PROTOCOLS,
            experiment.SEEDS if arguments.seeds is None else arguments.seeds,
        )
    for path in experiment.report(RESULTS):
        print(path)


if __name__ == "__main__":
    main()
