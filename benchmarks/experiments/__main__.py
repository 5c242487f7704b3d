"""The three experiments of the MoRE description, each resumable and with a report; see ../README.md.

Runs what is missing of one experiment, then writes its page; with ``--report`` only this.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from catalogue import TEXTS
from frame import arguments, write
from run import OPTIONS, run


def main() -> None:
    names = ("backbone", "losses", "transfer")
    args = arguments(__doc__, {"name": names}, data="--report" not in sys.argv, report=False, **OPTIONS)
    experiment = import_module(args.name)
    if not args.report:
        run(experiment.STAGES, args, args.results / experiment.FOLDER)
    results, parts = experiment.report(args.results / "experiments")
    said = [f"`python benchmarks/experiments {args.name} --data $MORE_DATA --cache /tmp/more-cache`."]
    said += [] if all(record.get("fingerprint") for record in results.records) else [experiment.EARLIER]
    path = args.results / "experiments" / f"{args.name}.md"
    write(path, experiment.TITLE, *said, TEXTS[args.name], *parts)


if __name__ == "__main__":
    main()
