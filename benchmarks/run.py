"""Compare MoRE with its peers under hidden labels, unattended and resumable; see README.md in this folder.

``--datasets``, ``--protocols``, ``--seeds``: only these (with ``--methods`` also further protocols); ``--methods``:
instead of those of the stages; ``--cache``: folder for trained models of scvi-tools; ``--jobs``: processes.
"""

import json
import logging
from argparse import Namespace
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import product, repeat
from multiprocessing import get_context
from pathlib import Path

from catalogue import QUICK, QUICK_CELLS, STAGES, Stage
from frame import HERE, RESULTS, arguments, start
from records import merge, unpack

OPTIONS = {"cache": Path, "variants": "{}", "scib": False, "jobs": 1, "seeds": [int]}
OPTIONS |= {"datasets": [str], "protocols": [str], "methods": [str]}


def parts_of(stages: Sequence[Stage], args: Namespace) -> list[Stage]:
    """Parts of the plan, one data set and seed each; the first seed of everything comes first."""
    parts, given = [], json.loads(args.variants)
    for stage in stages:
        protocols = tuple(p for p in stage.protocols if not args.protocols or p in args.protocols)
        if args.methods and args.protocols:
            protocols = tuple(args.protocols)
        what = {"protocols": protocols, "methods": tuple(args.methods or stage.methods) + tuple(given)}
        what |= {"variants": {**stage.variants, **given}, "scib": stage.scib or args.scib}
        datasets = [d for d in stage.datasets if protocols and d in (args.datasets or stage.datasets)]
        for seed, dataset in product(args.seeds or stage.seeds, datasets):
            parts.append(replace(stage, datasets=(dataset,), seeds=(seed,), **what))
    return sorted(parts, key=lambda part: part.seeds)


def _run(part: Stage, work: Path, args: Namespace, cells: int | None) -> int:
    start(args.threads)
    from more_scvi.evaluation import get_method, run_benchmark

    methods = [get_method(name, **part.variants.get(name, {})) for name in part.methods]
    given = (args.data, work, part.protocols, part.seeds, args.cache, part.scib, part.max_rotations, cells)
    done = run_benchmark(part.datasets, methods, *given)
    logging.info("%s %s seed %d: %d results", part.name, part.datasets[0], part.seeds[0], done)
    return done


def run(stages: Sequence[Stage], args: Namespace, results: Path, cells: int | None = None) -> None:
    """Run whatever is missing, or was made by other code, and gather it into the tables after every part."""
    from more_scvi.evaluation import load_results

    work, done = results / "work", 0  # single results, until they are gathered into the tables; not committed
    unpack(results, work, {path.name.removesuffix(".csv.gz") for path in results.glob("*.csv.gz")})
    with ProcessPoolExecutor(args.jobs, mp_context=get_context("spawn")) as pool:
        for part in pool.map(_run, parts_of(stages, args), repeat(work), repeat(args), repeat(cells)):
            done += part
            if part:
                merge(results, load_results(work))
    merge(results, load_results(work))  # also what a killed run had left
    print(f"{done} new results in {results}")


if __name__ == "__main__":
    args = arguments(__doc__, results=RESULTS, quick=False, stages=[str], **OPTIONS)
    known = {stage.name: stage for stage in STAGES}
    if unknown := sorted(set(args.stages or ()) - set(known)):
        raise SystemExit(f"--stages: {unknown[0]!r} is unknown; there are {', '.join(known)}")
    if args.quick:
        run(QUICK, args, HERE / "results-quick" if args.results == RESULTS else args.results, QUICK_CELLS)
    else:
        run([known[name] for name in args.stages or known], args, args.results)
