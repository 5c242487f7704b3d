"""What the benchmark runs by default, as ``plan.toml`` says."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from frame import HERE

PLAN = tomllib.loads((HERE / "plan.toml").read_text(encoding="utf-8"))
QUICK_CELLS = 2000
"""Most cells of a set of the stages in ``QUICK``, which take minutes."""


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


def _members(value: Any) -> Any:
    """A list with groups in the place of their names."""
    if not isinstance(value, list):
        return value
    groups = PLAN["groups"]
    return tuple(one for name in value for one in (_members(groups[name]) if name in groups else [name]))


STAGES, QUICK = (
    [Stage(**{k: _members(v) for k, v in one.items()}) for one in PLAN[key]] for key in ("stages", "quick")
)
