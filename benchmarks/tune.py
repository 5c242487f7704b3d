"""Compare variants of a method on development sets: every default is chosen here, never on the benchmark.

    python benchmarks/tune.py '{"default": {}, "keep20": {"train_kwargs": {"loss_weights": {"keep": 20}}}}' --quick

A variant is a name and what it changes: ``base`` (a method, default ``more``), options of its ``run``, and
``constants``; a file may hold them. Differences are to the first variant, on the same splits; brackets: 95 % interval
of the mean when whole data sets are resampled, a star where it excludes zero. Results in ``--records`` are not computed
again, unless code, options or data changed.
"""

import hashlib
import importlib
import json
import logging
import os
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

import pandas as pd
from frame import HERE, arguments, made_by, markdown, write

COLUMNS = ("own", "LR", "transfer", "NMI", "connectivity", "CiLISI", "structure", "right_1", "right_2", "right_half")
COLUMNS += ("right_reversed", "ECE", "old", "new_type", "drift")  # those that the protocols have


def asked(argv: Sequence[str] | None = None) -> tuple[dict[str, dict], Namespace]:
    """Variants, and where to compare them."""
    args = arguments(
        __doc__, {"variants": str}, argv, datasets=[str], protocols=["S1", "S2a", "S4-3", "S1-200"], seeds=[int],
        rotations=int, quick=False, records=Path(".tune"), output=Path,
    )  # fmt: skip
    args.seeds, args.rotations = args.seeds or ([0] if args.quick else [0, 1, 2]), args.rotations or 3 - 2 * args.quick
    text = Path(args.variants).read_text() if os.path.isfile(args.variants) else args.variants
    return json.loads(text), args


def change(stack: ExitStack, constant: str, value: object) -> None:
    """Give a constant another value in every module that imported it: a copy that keeps the old one would be silent."""
    module, _, name = constant.rpartition(".")
    before = getattr(importlib.import_module(module), name)
    for other in [m for key, m in sys.modules.items() if key.startswith("more_scvi") and getattr(m, name, m) is before]:
        stack.enter_context(patch.object(other, name, value))


def run(variants: dict[str, dict], args: Namespace) -> list[dict]:
    """Records of all variants on all splits, those that are missing computed."""
    from development import SETS, load

    from more_scvi.evaluation import get_method, load_results
    from more_scvi.evaluation._runner import run_data

    code, records = b"".join(file.read_bytes() for file in sorted((HERE.parent / "src").rglob("*.py"))), []
    for name in args.datasets or SETS:
        data, dataset = load(name, args.data, 600 if args.quick else None), Path(name).stem
        known = (data.obs["cell_type"] != "Unknown").to_numpy()
        for variant, options in variants.items():
            what = json.dumps([variant, options, args.quick], sort_keys=True).encode() + code
            folder = args.records / hashlib.sha256(what).hexdigest()[:16]
            options = {"base": "more", **options}
            with ExitStack() as patched:
                for constant, value in options.pop("constants", {}).items():
                    change(patched, constant, value)
                method = get_method(variant, **options)
                for protocol in args.protocols:
                    where = (dataset, [method], [protocol], args.seeds, folder, None, False, args.rotations, False)
                    try:
                        logging.info("%s %s %s: %d results", variant, dataset, protocol, run_data(data, known, *where))
                    except ValueError as error:  # e.g. a single batch, and none to hold out
                        logging.info("%s: left out: %s", dataset, error)
            records += [r for r in load_results(folder) if r["dataset"] == dataset and r["protocol"] in args.protocols]
    return [r for r in records if r["seed"] in args.seeds and r["rotation"] < args.rotations]


def tables(records: list[dict], variants: Sequence[str]) -> str:
    """Means of every set and protocol, over all, and the differences to the first variant."""
    from gathered import Results

    results, first = Results(records), variants[0]
    shown = [column for column in (*COLUMNS, "seconds") if column in set(results.table["metric"])]

    def means(of: Callable[[pd.Series], float]) -> str:
        found = pd.DataFrame({c: [of(results.values(v, c)) for v in variants] for c in shown}).dropna(axis=1, how="all")
        rows = [{"variant": v} | {c: f"{found[c][i]:.4f}" for c in found} for i, v in enumerate(variants)]
        return markdown(rows).replace(" nan ", " – ")

    def difference(name: str, column: str) -> str:
        if (found := results.compare(first, column, ours=name)) is None:
            return "–"
        if column == "seconds":
            return f"× {(found.splits['ours'] / found.splits['other']).groupby(level=[0, 1]).mean().mean():.2f}"
        low, high = found.interval or (float("nan"),) * 2
        return f"{found.difference:+.4f} [{low:+.3f}, {high:+.3f}]{'*' * (low * high > 0)}"

    parts = ["Mean over sets and protocols:", means(lambda of: of.mean())]
    if changed := [{"variant": name} | {c: difference(name, c) for c in shown} for name in variants[1:]]:
        parts += [f"Difference to `{first}`, on splits that both have:", markdown(changed)]
    for key in dict.fromkeys(key for column in shown for key in results.values(first, column).index):
        parts += [f"{', '.join(key)}:", means(lambda of, key=key: of.get(key, float("nan")))]
    return "\n\n".join(parts)


if __name__ == "__main__":
    variants, args = asked()
    logging.getLogger("more_scvi").setLevel(logging.ERROR)
    text = tables(run(variants, args), list(variants))
    print(text)
    if args.output:
        write(args.output, args.output.stem, made_by(), text)
