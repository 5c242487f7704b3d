"""Compare MoRE with its peers under hidden labels, unattended and resumable; see README.md in this folder."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

from plan import QUICK, QUICK_CELLS, STAGES, Stage

HERE = Path(__file__).parent


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default=os.environ.get("MORE_DATA"), help="data folder (default: $MORE_DATA)")
    parser.add_argument("--results", type=Path, default=None, help="default: results beside this file")
    parser.add_argument("--cache", type=Path, default=None, help="folder for trained models of scvi-tools")
    parser.add_argument("--quick", action="store_true", help=f"sets of {QUICK_CELLS} cells, one seed: minutes")
    parser.add_argument("--stages", nargs="+", default=None, help=f"of {', '.join(s.name for s in STAGES)} (all)")
    parser.add_argument("--datasets", nargs="+", default=None, help="only these")
    parser.add_argument("--protocols", nargs="+", default=None, help="only these; with --methods also further ones")
    parser.add_argument("--methods", nargs="+", default=None, help="instead of those of the stages")
    parser.add_argument("--seeds", nargs="+", type=int, default=None, help="only these")
    parser.add_argument(
        "--variants", default="{}", help='JSON, e.g. \'{"more:no-keep": {"base": "more", "train_kwargs": {...}}}\''
    )
    parser.add_argument("--scib", action="store_true", help="also the figures of scib-metrics (slow)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1, help="processes; each takes a data set of a stage")
    arguments = parser.parse_args()
    if not arguments.data:
        parser.error("give --data or set MORE_DATA")
    known = [stage.name for stage in STAGES]
    if unknown := sorted(set(arguments.stages or ()) - set(known)):
        parser.error(f"--stages: {unknown[0]!r} is unknown; there are {', '.join(known)}")
    if arguments.results is None:
        arguments.results = HERE / ("results-quick" if arguments.quick else "results")
    return arguments


def jobs(arguments: argparse.Namespace) -> list[Stage]:
    """Parts of the plan, one data set and seed each; the first seed of everything comes first."""
    stages = QUICK if arguments.quick else [s for s in STAGES if not arguments.stages or s.name in arguments.stages]
    parts = []
    for order, stage in enumerate(stages):
        datasets = [d for d in stage.datasets if not arguments.datasets or d in arguments.datasets]
        protocols = tuple(p for p in stage.protocols if not arguments.protocols or p in arguments.protocols)
        if arguments.methods and arguments.protocols:
            protocols = tuple(arguments.protocols)
        methods = tuple(arguments.methods or stage.methods) + tuple(json.loads(arguments.variants))
        for seed in stage.seeds if arguments.seeds is None else arguments.seeds:
            for dataset in datasets:
                part = replace(stage, datasets=(dataset,), protocols=protocols, methods=methods, seeds=(seed,))
                parts.append((seed, order, part))
    return [part for *_, part in sorted(parts, key=lambda item: item[:2])]


def _run(stage: Stage, arguments: argparse.Namespace) -> int:
    import torch

    from more_scvi.evaluation import get_method, run_benchmark

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr, force=True)
    for noisy in ("lightning.pytorch", "lightning.fabric", "scvi", "jax"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    torch.set_num_threads(arguments.threads)
    variants = json.loads(arguments.variants)
    methods = [get_method(name, **variants.get(name, {})) for name in stage.methods]
    start = time.perf_counter()
    done = run_benchmark(
        stage.datasets,
        methods,
        arguments.data,
        arguments.results,
        stage.protocols,
        stage.seeds,
        arguments.cache,
        arguments.scib,
        stage.max_rotations,
        QUICK_CELLS if arguments.quick else None,
    )
    if done:
        print(
            f"{stage.name} {stage.datasets[0]} seed {stage.seeds[0]}: {done} results in "
            f"{time.perf_counter() - start:.0f} s",
            flush=True,
        )
    return done


def main() -> None:
    """Run whatever is missing."""
    arguments = _arguments()
    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = str(arguments.threads)
    parts = jobs(arguments)
    if arguments.jobs == 1:
        done = sum(_run(part, arguments) for part in parts)
    else:
        with ProcessPoolExecutor(arguments.jobs, mp_context=get_context("spawn")) as pool:
            done = sum(pool.map(_run, parts, [arguments] * len(parts)))
    print(f"{done} new results in {arguments.results}")


if __name__ == "__main__":
    main()
