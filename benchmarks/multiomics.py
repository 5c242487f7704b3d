"""Compare MoRE with totalVI, MultiVI and linear baselines on several modalities; see README.md in this folder."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from pathlib import Path

HERE = Path(__file__).parent


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default=os.environ.get("MORE_DATA"), help="data folder (default: $MORE_DATA)")
    parser.add_argument("--results", type=Path, default=HERE / "results" / "multiomics")
    parser.add_argument("--cache", type=Path, default=None, help="folder for fits of totalVI and MultiVI")
    parser.add_argument("--task", nargs="+", default=None, help="names, or how they begin (default: all)")
    parser.add_argument("--method", nargs="+", default=None, help="names (default: those of each task)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument(
        "--variants", default="{}", help='JSON, e.g. \'{"more:k8": {"base": "more", "model_kwargs": {...}}}\''
    )
    parser.add_argument("--report", action="store_true", help="write multiomics.md from the results and run nothing")
    arguments = parser.parse_args()
    if not arguments.report and not arguments.data:
        parser.error("give --data or set MORE_DATA")
    return arguments


def main() -> None:
    """Run what is missing, or write the report."""
    arguments = _arguments()
    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"
    import torch

    from more_scvi.evaluation import load_results
    from more_scvi.evaluation._multi_methods import MULTI_METHODS
    from more_scvi.evaluation._multi_runner import report_multi, run_multi

    if arguments.report:
        path = HERE / "results" / "multiomics.md"
        text = report_multi(load_results(arguments.results))
        path.write_text(f"# Several modalities\n\nWritten by `benchmarks/multiomics.py`; do not edit.\n\n{text}")
        print(f"report in {path}")
        return
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr, force=True)
    for noisy in ("lightning.pytorch", "lightning.fabric", "scvi", "jax"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    torch.set_num_threads(1)
    variants = {
        name: MULTI_METHODS[options.pop("base")].variant(name, **options)
        for name, options in json.loads(arguments.variants).items()
    }
    done = run_multi(
        arguments.data, arguments.results, arguments.task, arguments.method, arguments.seeds, arguments.cache, variants
    )
    print(f"{done} new results in {arguments.results}")


if __name__ == "__main__":
    main()
