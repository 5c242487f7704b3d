"""Compare variants of a method on development sets: every default is chosen here, never on the benchmark.

    python benchmarks/tune.py '{"default": {}, "keep20": {"train_kwargs": {"loss_weights": {"keep": 20}}}}' --quick

A variant is a name and what it changes: ``base`` (a method, default ``more``), options of its ``run``
(``setup_kwargs``, ``model_kwargs``, ``train_kwargs``), and ``constants``
(``{"more_scvi.base._shares.EVIDENCE_CELLS": 3000}``). What the sets are stands in ``development.py``. ``--quick``
(600 cells of each set, one seed, one rotation) takes some 4 CPU minutes per variant; the whole some 40.

Labels that a split hides are scored; sets and protocols count alike. Differences are to the first variant, on the same
splits; brackets: 95 % interval of the mean when the splits are resampled, and a star where it excludes zero also when
whole data sets are. Finished results are kept in ``--records`` and not computed again, unless the code, the options or
the data changed.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import importlib
import json
import logging
import os
import shlex
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

SOURCE = Path(__file__).parents[1] / "src" / "more_scvi"
COLUMNS = {"own": "own", "LR": "LR", "CiLISI": "CiLISI", "structure": "structure", "seconds": "CPU s"}


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", help="JSON or Python dict: name → what it changes; or a file that holds it")
    parser.add_argument("--data", default=os.environ.get("MORE_DATA"), help="data folder (default: $MORE_DATA)")
    parser.add_argument("--datasets", default=None, help="comma-separated development sets or files (default: all)")
    parser.add_argument("--protocols", default="S1,S2a,S4-3,S1-200", help="S1-200: of 200 cells")
    parser.add_argument("--seeds", default=None, help="default: 0,1,2 (quick: 0)")
    parser.add_argument("--rotations", type=int, default=None, help="batches held out in turn (default: 3; quick: 1)")
    parser.add_argument("--quick", action="store_true", help="600 cells of each set, seed 0, one rotation")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--records", type=Path, default=Path(".tune.jsonl"), help="finished results (JSON lines)")
    parser.add_argument("--output", type=Path, default=None, help="also write the table and its command to a file")
    arguments = parser.parse_args(argv)
    if not arguments.data:
        parser.error("give --data or set MORE_DATA")
    arguments.seeds = [int(s) for s in (arguments.seeds or ("0" if arguments.quick else "0,1,2")).split(",")]
    arguments.rotations = arguments.rotations or (1 if arguments.quick else 3)
    return arguments


def _variants(text: str) -> dict[str, dict]:
    if os.path.isfile(text):
        text = Path(text).read_text()
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return ast.literal_eval(text)


def _finished(path: Path) -> dict[str, dict]:
    """Records by key; a line that was cut off by a kill counts for nothing."""
    found = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        found[record["key"]] = record
    return found


def _code() -> str:
    files = sorted(SOURCE.rglob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


def _change(stack: ExitStack, constant: str, value: object) -> None:
    """Give a constant another value in every module that imported it: a copy that keeps the old one would be silent."""
    module, _, name = constant.rpartition(".")
    before = getattr(importlib.import_module(module), name)
    for other in [m for key, m in sys.modules.items() if key.startswith("more_scvi") and getattr(m, name, m) is before]:
        stack.enter_context(patch.object(other, name, value))


def run(variants: dict[str, dict], arguments: argparse.Namespace) -> list[dict]:
    """Records of all variants on all splits, those that are missing computed."""
    from development import SETS, load

    from more_scvi.evaluation import get_method, make_splits, make_tasks, run_task
    from more_scvi.evaluation._compare import drawn
    from more_scvi.evaluation._data import LABELS_KEY, batches_of
    from more_scvi.evaluation._fingerprint import data_fingerprint as fingerprint

    finished, code, records = _finished(arguments.records), _code(), []
    names = arguments.datasets.split(",") if arguments.datasets else list(SETS)
    for dataset in names:
        data = load(dataset, arguments.data, 600 if arguments.quick else None)
        labels, batches = data.obs[LABELS_KEY].to_numpy(), batches_of(data)
        for protocol in arguments.protocols.split(","):
            for seed in arguments.seeds:
                try:
                    splits = make_splits(labels, batches, protocol, seed, arguments.rotations, dataset)
                except ValueError as error:
                    logging.info("%s: left out: %s", dataset, error)
                    continue
                for split in splits:
                    task = None
                    for name, options in variants.items():
                        what = [fingerprint(data), split.to_json(), options, code]
                        key = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:20]
                        if key not in finished:
                            task = task or next(make_tasks(data, protocol, splits=[split]))
                            options = dict(options)
                            with ExitStack() as patched:
                                for constant, value in options.pop("constants", {}).items():
                                    _change(patched, constant, value)
                                _, record = run_task(task, get_method(name, **{"base": "more", **options}))
                            scores = {k: record["scores"].get(k) for k in ("own", "LR", "CiLISI", "structure")}
                            scores["seconds"] = round(sum(record["seconds"].values()), 3)
                            finished[key] = {"key": key, "scores": scores}
                            arguments.records.parent.mkdir(parents=True, exist_ok=True)
                            with arguments.records.open("a") as file:  # a cut line before it stays alone
                                file.write("\n" + json.dumps(finished[key]) + "\n")
                            logging.info("%s %s %s %s", dataset, split.name, name, scores)
                        keys = {"dataset": dataset, "protocol": protocol, "rotation": split.rotation, "method": name}
                        keys["draw"] = seed if drawn(protocol) else 0
                        records.append({**keys, **finished[key]["scores"]})
    return records


def tables(records: list[dict], variants: list[str]) -> str:
    """Means of every set and protocol, over all, and the differences to the first variant."""
    import pandas as pd

    from more_scvi.evaluation._compare import ROW, SPLIT, cluster_interval

    table = pd.DataFrame(records).astype(dict.fromkeys(COLUMNS, float)).rename(columns=COLUMNS)
    values = table.groupby([*SPLIT, "method"], sort=False)[list(COLUMNS.values())].mean()
    rows = values.groupby([*ROW, "method"], sort=False).mean()
    parts = [rows.round(3).to_string(), "\nmean over sets and protocols"]
    parts.append(rows.groupby("method").mean().reindex(variants).round(4).to_string())
    first, changed = variants[0], {}
    for name in variants[1:]:
        for column in COLUMNS.values():
            wide = values[column].unstack("method")
            difference = (wide[name] / wide[first] - 1) if column == "CPU s" else (wide[name] - wide[first])
            difference = difference.dropna()
            per_row = difference.groupby(level=ROW).transform("size")
            weighted = difference / per_row * len(difference) / max(difference.groupby(level=ROW).ngroups, 1)
            splits = cluster_interval(weighted.to_numpy(), range(len(weighted)))
            sets = cluster_interval(weighted.to_numpy(), difference.index.get_level_values("dataset"))
            text = f"{weighted.mean():+.4f}"
            if splits:
                text += f" [{splits[0]:+.3f}, {splits[1]:+.3f}]"
                text += "*" if sets and splits[0] * splits[1] > 0 and sets[0] * sets[1] > 0 else ""
            changed.setdefault(name, {})[column] = text
    if changed:
        parts.append(f"\ndifference to {first!r} over {len(values) // len(variants)} splits (CPU s: relative)")
        parts.append(pd.DataFrame(changed).T.to_string())
    return "\n".join(parts)


def main(argv: list[str] | None = None) -> None:
    """Run, print, write."""
    arguments = _arguments(argv)
    os.environ |= {"OMP_NUM_THREADS": str(arguments.threads), "TQDM_DISABLE": "1"}
    import lightning.pytorch  # noqa: F401 - it sets the level of its loggers when it is imported
    import torch

    torch.set_num_threads(arguments.threads)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr, force=True)
    for noisy in ("lightning.pytorch", "lightning.fabric", "scvi", "jax", "more_scvi"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    variants = _variants(arguments.variants)
    text = tables(run(variants, arguments), list(variants))
    print(text)
    if arguments.output:
        sets, seeds = arguments.datasets, ",".join(map(str, arguments.seeds))
        command = f"python benchmarks/tune.py {shlex.quote(json.dumps(variants))}{' --quick' * arguments.quick}"
        command += f" --protocols {arguments.protocols} --seeds {seeds} --rotations {arguments.rotations}"
        command += f" --datasets {sets}" if sets else ""
        git = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=SOURCE, capture_output=True, text=True)
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        beside = arguments.output.with_name(f".{arguments.output.name}.{os.getpid()}")
        beside.write_text(f"```\n{command}\n```\n\nCommit {git.stdout.strip() or 'unknown'}.\n\n```\n{text}\n```\n")
        beside.replace(arguments.output)


if __name__ == "__main__":
    main()
