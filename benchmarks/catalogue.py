"""What the results pages know beside the numbers: data sets, methods, columns, and which rows belong together."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from frame import HERE

CATALOGUE = tomllib.loads((HERE / "catalogue.toml").read_text(encoding="utf-8"))
CONTROLS, CLASSIFIERS = CATALOGUE["roles"]["controls"], CATALOGUE["roles"]["classifiers"]
BACKBONES, METHODS, SHORT, COLUMNS, CHOICES, TEXTS = (
    CATALOGUE[name] for name in ("backbones", "methods", "short", "columns", "choices", "texts")
)


@dataclass(frozen=True)
class DataSet:
    kind: str
    types: int
    words: str
    source: str = ""
    """Data set that holds the same cells; empty: none."""


DATASETS = {name: DataSet(**entry) for name, entry in CATALOGUE["datasets"].items()}
Belongs = Callable[[str, str], bool]
"""Of a data set and a protocol."""


def named(method: str) -> str:
    """Name of a method in tables and figures."""
    return SHORT.get(method, method)


def kind_of(dataset: str) -> str:
    return DATASETS[dataset].kind if dataset in DATASETS else "rna"


def family(protocol: str) -> str:
    """Protocol without its number; ``S1-300`` is ``S1-n``."""
    head, _, rest = protocol.partition("-")
    if head == "S1":
        return "S1-n" if rest else "S1"
    return head if head in ("S3", "S4", "S5", "S5b") else protocol


def rows_of(kind: str = "", families: Sequence[str] = (), elsewhere: Sequence[str] = ()) -> Belongs:
    """Rows of a kind of data (empty: any) and of families of protocols (empty: all but those elsewhere)."""
    return lambda dataset, protocol: (
        kind in ("", kind_of(dataset))
        and (family(protocol) in families if families else family(protocol) not in elsewhere)
    )


@dataclass(frozen=True)
class Group:
    """Rows that belong together: a page, or a regime."""

    words: str
    metric: str
    belongs: Belongs
    file: str = ""
    title: str = ""


def _group(kind: str = "", families: Sequence[str] = (), elsewhere: Sequence[str] = (), **words: str) -> Group:
    return Group(belongs=rows_of(kind, families, elsewhere), **words)


GROUPS, REGIMES = ([_group(**one) for one in CATALOGUE[name]] for name in ("groups", "regimes"))
