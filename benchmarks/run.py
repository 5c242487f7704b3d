"""Compare MoRE with its peers under hidden labels, unattended and resumable; see README.md in this folder."""

from __future__ import annotations

import argparse
import json
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

from frame import HERE, RESULTS, WORK, parser, start
from plan import QUICK, QUICK_CELLS, STAGES, Stage
from records import merge, unpack


def _arguments() -> argparse.Namespace:
    options = parser(__doc__)
    options.add_argument("--results", type=Path, default=None, help="folder of the tables (default: results)")
    options.add_argument("--cache", type=Path, default=None, help="folder for trained models of scvi-tools")
    options.add_argument("--quick", action="store_true", help=f"sets of {QUICK_CELLS} cells, one seed: minutes")
    options.add_argument("--stages", nargs="+", default=None, help=f"of {', '.join(s.name for s in STAGES)} (all)")
    options.add_argument("--datasets", nargs="+", default=None, help="only these")
    options.add_argument("--protocols", nargs="+", default=None, help="only these; with --methods also further ones")
    options.add_argument("--methods", nargs="+", default=None, help="instead of those of the stages")
    options.add_argument("--seeds", nargs="+", type=int, default=None, help="only these")
    options.add_argument(
        "--variants", default="{}", help='JSON, e.g. \'{"more:no-keep": {"base": "more", "train_kwargs": {...}}}\''
    )
    options.add_argument("--scib", action="store_true", help="also the figures of scib-metrics (slow)")
    options.add_argument("--jobs", type=int, default=1, help="processes; each takes a data set of a stage")
    arguments = options.parse_args()
    if unknown := sorted(set(arguments.stages or ()) - {stage.name for stage in STAGES}):
        options.error(f"--stages: {unknown[0]!r} is unknown; there are {', '.join(s.name for s in STAGES)}")
    if arguments.results is None:
        arguments.results = HERE / "results-quick" if arguments.quick else RESULTS
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
            for dataset in datasets if protocols else ():
                part = replace(stage, datasets=(dataset,), protocols=protocols, methods=methods, seeds=(seed,))
                parts.append((seed, order, part))
    return [part for *_, part in sorted(parts, key=lambda item: item[:2])]


def _work(arguments: argparse.Namespace) -> Path:
    return WORK if arguments.results.resolve() == RESULTS else arguments.results / "work"


def _run(stage: Stage, arguments: argparse.Namespace) -> int:
    start(arguments.threads)
    from more_scvi.evaluation import get_method, run_benchmark

    variants = json.loads(arguments.variants)
    methods = [get_method(name, **variants.get(name, {})) for name in stage.methods]
    since, work = time.perf_counter(), _work(arguments)
    given = (arguments.data, work, stage.protocols, stage.seeds, arguments.cache, arguments.scib, stage.max_rotations)
    done = run_benchmark(stage.datasets, methods, *given, QUICK_CELLS if arguments.quick else None)
    if done:
        seconds = time.perf_counter() - since
        print(f"{stage.name} {stage.datasets[0]} seed {stage.seeds[0]}: {done} results in {seconds:.0f} s", flush=True)
    return done


def main() -> None:
    """Run whatever is missing, or was made by other code, and gather it into the tables after every part."""
    arguments = _arguments()
    start(arguments.threads)
    from more_scvi.evaluation import load_results

    parts, work, done = jobs(arguments), _work(arguments), 0
    unpack(arguments.results, work, {path.name.removesuffix(".csv.gz") for path in arguments.results.glob("*.csv.gz")})
    with ProcessPoolExecutor(arguments.jobs, mp_context=get_context("spawn")) as pool:
        for part in pool.map(_run, parts, [arguments] * len(parts)):
            done += part
            if part:
                merge(arguments.results, load_results(work))
    merge(arguments.results, load_results(work))  # also what a killed run had left
    print(f"{done} new results in {arguments.results}")


if __name__ == "__main__":
    main()
