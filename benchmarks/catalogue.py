"""What ``plan.toml`` and ``catalogue.toml`` say: what is run by default, and what pages know beside the numbers."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from frame import HERE

PLAN, CATALOGUE = (tomllib.loads((HERE / f"{name}.toml").read_text(encoding="utf-8")) for name in ("plan", "catalogue"))
CONTROLS, CLASSIFIERS = CATALOGUE["roles"]["controls"], CATALOGUE["roles"]["classifiers"]
BACKBONES, METHODS, SHORT, COLUMNS, CHOICES, TEXTS = (
    CATALOGUE[name] for name in ("backbones", "methods", "short", "columns", "choices", "texts")
)
QUICK_CELLS = 2000  # most of a set of the stages in QUICK, which take minutes


@dataclass(frozen=True)
class Stage:
    """Methods that run on the same data sets, protocols and seeds."""

    name: str
    datasets: tuple[str, ...]
    protocols: tuple[str, ...]
    methods: tuple[str, ...]
    seeds: tuple[int, ...] = (0, 1, 2)
    max_rotations: int = 4
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Options of methods that are not known by name."""
    scib: bool = False


@dataclass(frozen=True)
class Group:
    """Rows that belong together, as a page or a regime: of a kind of data, of one data set (empty: any), and of
    families of protocols (empty: all but those ``elsewhere``).
    """

    words: str = ""
    metric: str = ""
    kind: str = ""
    dataset: str = ""
    families: Sequence[str] = ()
    elsewhere: Sequence[str] = ()
    file: str = ""
    title: str = ""

    def belongs(self, dataset: str, protocol: str) -> bool:
        of, kind = family(protocol), DATASETS[dataset].kind if dataset in DATASETS else "rna"
        there = of in self.families if self.families else of not in self.elsewhere
        return there and self.kind in ("", kind) and self.dataset in ("", dataset)


def named(method: str) -> str:
    """Name of a method in tables and figures."""
    return SHORT.get(method, method)


def family(protocol: str) -> str:
    """Protocol without its number; ``S1-300`` is ``S1-n``."""
    head, _, rest = protocol.partition("-")
    if head == "S1":
        return "S1-n" if rest else "S1"
    return head if head in ("S3", "S4", "S5", "S5b", "S8", "S8m", "S9") else protocol


def _members(value: Any) -> Any:
    """A list with groups in the place of their names."""
    if not isinstance(value, list):
        return value
    groups = PLAN["groups"]
    return tuple(one for name in value for one in (_members(groups[name]) if name in groups else [name]))


STAGES, QUICK, EXPERIMENTS = (
    [Stage(**{k: _members(v) for k, v in one.items()}) for one in PLAN[k]] for k in ("stages", "quick", "experiments")
)
DATASETS = {name: SimpleNamespace(**{"source": ""} | entry) for name, entry in CATALOGUE["datasets"].items()}
GROUPS, REGIMES = ([Group(**one) for one in CATALOGUE[name]] for name in ("groups", "regimes"))
