"""Compare MoRE with its peers under hidden labels; see README.md in this folder."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

HERE = Path(__file__).parent
DEFAULT_METHODS = "pca_raw,pca,lr_hvg,lda,random,onehot-LR,LEAK,harmony,scvi,scanvi,more"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default=os.environ.get("MORE_DATA"), help="data folder (default: $MORE_DATA)")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--cache", type=Path, default=None, help="folder for trained scVI models and embeddings")
    parser.add_argument("--methods", default=DEFAULT_METHODS, help="comma-separated names")
    parser.add_argument(
        "--variants", default="{}", help='JSON, e.g. \'{"more-nokeep": {"base": "more", "plan_kwargs": {...}}}\''
    )
    parser.add_argument("--datasets", default=None, help="comma-separated names (default: all)")
    parser.add_argument("--protocols", default="S1,S2a")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1, help="processes; each takes whole data sets")
    parser.add_argument("--report", action="store_true", help="write table.md from the results and run nothing")
    arguments = parser.parse_args()
    if not arguments.report and not arguments.data:
        parser.error("give --data or set MORE_DATA")
    return arguments


def _run(dataset: str, arguments: argparse.Namespace) -> int:
    import torch

    from more_scvi.evaluation import get_method, run_benchmark

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr, force=True)
    for noisy in ("lightning.pytorch", "scvi", "jax"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    torch.set_num_threads(arguments.threads)
    variants = json.loads(arguments.variants)
    methods = [get_method(name) for name in arguments.methods.split(",") if name]
    methods += [get_method(name, **options) for name, options in variants.items()]
    return run_benchmark(
        [dataset],
        methods,
        arguments.data,
        arguments.results,
        arguments.protocols.split(","),
        [int(seed) for seed in arguments.seeds.split(",")],
        cache_dir=arguments.cache,
    )


def main() -> None:
    arguments = _arguments()
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    from more_scvi.evaluation import DATASETS, load_results, report

    if not arguments.report:
        datasets = arguments.datasets.split(",") if arguments.datasets else list(DATASETS)
        if arguments.jobs == 1:
            done = sum(_run(dataset, arguments) for dataset in datasets)
        else:
            with ProcessPoolExecutor(arguments.jobs, mp_context=get_context("spawn")) as pool:
                done = sum(pool.map(_run, datasets, [arguments] * len(datasets)))
        print(f"{done} new results in {arguments.results}")
    table = arguments.results / "table.md"
    text = report(load_results(arguments.results))
    table.write_text(f"# Benchmark\n\nWritten by `benchmarks/run_benchmark.py`; do not edit.\n\n{text}")
    print(f"report in {table}")


if __name__ == "__main__":
    main()
