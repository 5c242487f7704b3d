"""The three experiments of the MoRE description, each resumable and with a report; see ../README.md."""

from __future__ import annotations

import sys
from importlib import import_module
from itertools import product
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from frame import RESULTS, WORK, parser, start
from records import merge, unpack

NAMES = ("backbone", "losses", "transfer")


def main() -> None:
    """Run what is missing of one experiment, then write its table and figure."""
    options = parser(__doc__, data=False)
    options.add_argument("name", choices=NAMES, help="which experiment")
    options.add_argument("--cache", type=Path, default=None, help="folder for trained models of scvi-tools")
    for name in ("datasets", "protocols", "seeds"):
        kind = int if name == "seeds" else str
        options.add_argument(f"--{name}", nargs="+", type=kind, help="instead of those of the experiment")
    options.add_argument("--report", action="store_true", help="only write table and figure from what is there")
    arguments = options.parse_args()
    if not arguments.report and not arguments.data:
        options.error("give --data or set MORE_DATA")
    start(arguments.threads)
    from more_scvi.evaluation import load_results, run_benchmark

    experiment = import_module(arguments.name)
    datasets, protocols = arguments.datasets or experiment.DATASETS, arguments.protocols or experiment.PROTOCOLS
    tables, work = RESULTS / experiment.FOLDER, WORK / experiment.FOLDER
    for seed, dataset in product(arguments.seeds or experiment.SEEDS, () if arguments.report else datasets):
        of_set = [protocol for protocol in protocols if experiment.has(dataset, protocol)]
        unpack(tables, work, [dataset])
        methods = experiment.methods(dataset)
        given = (arguments.data, work, of_set, [seed], arguments.cache, experiment.SCIB, experiment.ROTATIONS)
        if of_set:
            run_benchmark([dataset], methods, *given)
            merge(tables, load_results(work))
    for path in experiment.report(RESULTS / "experiments"):
        print(path)


if __name__ == "__main__":
    main()
