"""Compare variants of a method on development sets: every default is chosen here, never on the benchmark.

    python benchmarks/tune.py '{"default": {}, "keep20": {"train_kwargs": {"loss_weights": {"keep": 20}}}}' --quick

A variant is a name and what it changes: ``base`` (a method, default ``more``), options of its ``run``, and
``constants``; a file may hold them. Labels that a split hides are scored; sets and protocols count alike. Differences
are to the first variant, on the same splits; brackets: 95 % interval of the mean when whole data sets are resampled, a
star where it excludes zero. Finished results are kept in ``--records`` and not computed again, unless code, options or
data changed. README.md in this folder says more.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import json
import logging
import os
import sys
from argparse import Namespace
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

from frame import HERE, arguments, made_by, markdown, write

COLUMNS = ("own", "LR", "CiLISI", "structure")


def asked(argv: Sequence[str] | None = None) -> tuple[dict[str, dict], Namespace]:
    """Variants, and where to compare them."""
    args = arguments(
        __doc__, {"variants": str}, argv, datasets=[str], protocols=["S1", "S2a", "S4-3", "S1-200"], seeds=[int],
        rotations=int, quick=False, records=Path(".tune"), output=Path,
    )  # fmt: skip
    args.seeds, args.rotations = args.seeds or ([0] if args.quick else [0, 1, 2]), args.rotations or 3 - 2 * args.quick
    text = Path(args.variants).read_text() if os.path.isfile(args.variants) else args.variants
    return ast.literal_eval(text.replace("null", "None").replace("true", "True").replace("false", "False")), args


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
    from more_scvi.evaluation import tidy
    from more_scvi.evaluation._compare import ROW, compare_columns, split_values

    table = tidy(records)
    values = {c: split_values(table, c) for c in (*COLUMNS, "seconds") if c in set(table["metric"])}
    means = {column: of.groupby(level=ROW).mean() for column, of in values.items()}

    def rows(of) -> str:
        said = [{"variant": v} | {c: f"{of(m)[v]:.4f}" if v in m else "–" for c, m in means.items()} for v in variants]
        return markdown(said)

    def change_of(name: str, column: str) -> str:
        of = values[column]
        if not {name, variants[0]} <= set(of):
            return "–"
        if column == "seconds":
            return f"× {(of[name] / of[variants[0]]).groupby(level=ROW).mean().mean():.2f}"
        found = compare_columns(of, name, variants[0], column)
        low, high = found.interval or (float("nan"),) * 2
        return f"{found.difference:+.4f} [{low:+.3f}, {high:+.3f}]{'*' * (low * high > 0)}"

    parts = ["Mean over sets and protocols:", rows(lambda m: m.mean())]
    changed = [{"variant": name} | {c: change_of(name, c) for c in values} for name in variants[1:]]
    if changed:
        parts += [f"Difference to `{variants[0]}` over {len(values['LR'])} splits:", markdown(changed)]
    for key in means["LR"].index:
        parts += [f"{', '.join(key)}:", rows(lambda m, key=key: m.reindex([key]).iloc[0])]
    return "\n\n".join(parts)


def main() -> None:
    """Run, print, write."""
    variants, args = asked()
    logging.getLogger("more_scvi").setLevel(logging.ERROR)
    text = tables(run(variants, args), list(variants))
    print(text)
    if args.output:
        write(args.output, args.output.stem, made_by(), text)


if __name__ == "__main__":
    main()
