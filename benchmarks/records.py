"""Results of the benchmark as tables, ``<data set>.csv.gz``: one row per split and method; see README.md.

python benchmarks/records.py FOLDER     # gather the results of a run into the tables in results/
"""

import gzip
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from frame import arguments

from more_scvi._files import write_files
from more_scvi.evaluation import load_results
from more_scvi.evaluation._store import check_name, file_name, read_json, write_json

KEYS = ("dataset", "protocol", "rotation", "seed", "method")
TEXT = ("dataset", "protocol", "method", "held_out", "split", "split_digest", "data", "fingerprint", "commit", "date")
NESTED = ("scores", "seconds", "wall_seconds", "parameters", "versions")
"""Dicts of numbers or words, a column for each; all other dicts are a column of JSON."""
Record = dict[str, Any]


def load(folder: Path) -> list[Record]:
    """All records of the tables in a folder, ordered by data set, split and method."""
    return [record for path in sorted(folder.glob("*.csv.gz")) for record in _read(path)]


def merge(folder: Path, records: Iterable[Mapping[str, Any]]) -> int:
    """Put records in the tables of a folder, in the place of older ones of split and method; number of changes."""
    changed, files = 0, {}
    of_set: dict[str, dict[tuple, Mapping[str, Any]]] = defaultdict(dict)
    for record in records:
        of_set[record["dataset"]][_key(record)] = record
    for dataset, new in of_set.items():
        path = folder / f"{check_name('dataset', dataset)}.csv.gz"
        old = {_key(record): record for record in _read(path)}
        differ = {key: r for key, r in new.items() if _later(r, old.get(key, {})) and _row(r) != _row(old.get(key, {}))}
        if differ:
            files[path] = _packed([record for _, record in sorted((old | differ).items())])
            changed += len(differ)
    folder.mkdir(parents=True, exist_ok=True)
    write_files(files)
    return changed


def _key(record: Mapping[str, Any]) -> tuple:
    return tuple(record[key] for key in KEYS)


def unpack(folder: Path, work: Path, datasets: Iterable[str]) -> None:
    """Put the records that name their code where a run looks for them, so that it does what is missing or stale."""
    for record in (r for name in set(datasets) for r in _read(folder / f"{check_name('dataset', name)}.csv.gz")):
        split = work / check_name("dataset", record["dataset"]) / check_name("Split", record["split"])
        path = split / f"{file_name(record['method'])}.json"
        if record.get("fingerprint") and not _later(read_json(path), record):
            write_json(path, record)


def _later(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return bool(one) and one.get("date", "") >= other.get("date", "")


def _row(record: Mapping[str, Any]) -> dict[str, str]:
    """Column → text; what does not exist is empty or has no column."""
    row = {}
    for key, value in record.items():
        parts = {f"{key}.{name}": of for name, of in value.items()} if key in NESTED else {key: value}
        for name, of in parts.items():
            if of is not None and of != {}:
                row[name] = of if name in TEXT or key == "versions" else json.dumps(of, separators=(",", ":"))
    return row


def _packed(records: Iterable[Mapping[str, Any]]) -> bytes:
    """The same bytes for the same records."""
    table = pd.DataFrame([_row(record) for record in records])
    text = table[sorted(table, key=_order)].to_csv(index=False, lineterminator="\n")
    return gzip.compress(text.encode(), mtime=0)


def _order(name: str) -> tuple:
    first = (*KEYS, "held_out", "scores", "seconds")
    head = name.split(".")[0]
    return first.index(head) if head in first else len(first), name


def _read(path: Path) -> list[Record]:
    if not path.exists():
        return []
    records = []
    for row in pd.read_csv(path, dtype=str, keep_default_na=False).to_dict("records"):
        record: Record = {"held_out": None, "notes": {}, **{name: {} for name in NESTED}}
        for name, text in row.items():
            head, _, part = name.partition(".")
            value = text if head in (*TEXT, "versions") or not text else json.loads(text)
            if text:
                record |= {head: record[head] | {part: value}} if head in NESTED else {name: value}
        records.append(record)
    return records


if __name__ == "__main__":
    args = arguments(__doc__, {"folder": Path}, data=False)
    print(f"{merge(args.results, load_results(args.folder))} new or changed results in {args.results}")
