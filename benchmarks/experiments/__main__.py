"""The three experiments of the MoRE description, each resumable and with a report; see ../README.md.

Runs what is missing of one experiment, then writes its table and figure; with ``--report`` only these.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from frame import arguments
from run import OPTIONS, run

NAMES = ("backbone", "losses", "transfer")


def main() -> None:
    args = arguments(__doc__, {"name": NAMES}, data="--report" not in sys.argv, report=False, **OPTIONS)
    experiment = import_module(args.name)
    if not args.report:
        run(experiment.STAGES, args, args.results / experiment.FOLDER)
    for path in experiment.report(args.results / "experiments"):
        print(path)


if __name__ == "__main__":
    main()
