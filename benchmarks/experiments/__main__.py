"""The three experiments of the MoRE description, each resumable and with a report; see ../README.md.

Runs what is missing of one experiment, then writes its page; with ``--report`` only this.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import comparisons
import losses
from catalogue import EXPERIMENTS, TEXTS
from frame import arguments, write
from run import OPTIONS, run

WHAT = {
    "backbone": (comparisons.backbone, "experiments/backbone", "Frozen, fine-tuned or random backbone", TEXTS["first"]),
    "losses": (losses.report, "experiments/losses", "Weights of the loss terms", TEXTS["first"]),
    "transfer": (comparisons.transfer, "", "Labels across modalities", TEXTS["earlier"]),
}
"""Name → parts of its page, folder of its records, title, and what to say of records that name no code."""


if __name__ == "__main__":
    args = arguments(__doc__, {"name": WHAT}, data="--report" not in sys.argv, report=False, **OPTIONS)
    report, folder, title, earlier = WHAT[args.name]
    if not args.report:
        stages = [stage for stage in (*EXPERIMENTS, *losses.STAGES) if stage.name == args.name]
        run(stages, args, args.results / folder)
    results, parts = report(args.results / "experiments")
    said = [f"`python benchmarks/experiments {args.name} --data $MORE_DATA --cache /tmp/more-cache`."]
    said += [] if all(record.get("fingerprint") for record in results.records) else [earlier]
    write(args.results / "experiments" / f"{args.name}.md", title, *said, TEXTS[args.name], *parts)
