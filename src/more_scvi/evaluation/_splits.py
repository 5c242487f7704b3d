"""Which labels and which cells a method may see: seeded, serialisable splits.

Unless a batch is mapped (``S2b``, ``S8m``, ``S9``) or added later (``S10``), the expression of the hidden cells is
available, so a joint embedding may use it; their labels may not reach training, tuning or feature selection.

==============  =================================================================================================
protocol        what is hidden
==============  =================================================================================================
``S1``          the labels of a random half of the cells
``S1-n``        the same on ``n`` random cells: how much data does a method need?
``S2a``         all labels of one batch (rotated)
``S2b``         one batch (rotated): absent from training, mapped afterwards
``S3``          the labels of a random half of the cells, and all labels of one type (rotated), scored as *novel*
``S4-n``        all labels but ``n`` per type (few-shot); a type with fewer cells keeps them all
``S5-p``        one type (rotated) is down-sampled to ``p`` % of the cells, then the labels of a random half
``S5b-p``       the same, and the type is left in one batch only: it must not be mixed away
``S6-name``     the labels and the modality ``name`` of one batch (rotated)
``S7``          every label: integration without labels, which are used for scoring only
``S8-how``      all labels of one batch (rotated) whose composition is changed: cut to its ``1``, ``2``, … most frequent
                types or to every second one (``half``), or with its proportions ``reversed``; ``all`` is as it is,
                ``shallow`` are the cells of ``half`` with a tenth of their counts
``S8m-how``     the same batch is absent from training and mapped afterwards
``S9-p``        as ``S2b``, and the query has ``p`` % of the genes, at random; ``S9-antibodies``: it has a panel, the
                genes whose proteins common antibody panels measure
``S10``         the labels of a random half of a reference; further batches join it one after the other, each with 20
                labels per type, one of them with a type (rotated) that occurs nowhere else
==============  =================================================================================================

Batches rotate from the largest to smaller ones, types over the range of abundances, ``max_rotations`` at most.
"""

import base64
import numbers
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from more_scvi.data._arguments import check_type
from more_scvi.metrics._annotation import MIN_SCORED
from more_scvi.metrics._check import check_mask

MIN_TYPE = 20
"""Types with fewer cells are not rotated over: a figure for them would be noise."""

_FIELDS, _MASKS = ("dataset", "protocol", "seed", "rotation", "held_out"), ("hidden", "absent", "kept")
PROTOCOLS = (
    *("S1", "S1-<cells>", "S2a", "S2b", "S3", "S4-<labels>", "S5-<percent>", "S5b-<percent>", "S6-<modality>", "S7"),
    *("S8-<composition>", "S8m-<composition>", "S9-<percent>", "S9-antibodies", "S10"),
)


MAPPED, MOST_ROUNDS = ("S2b", "S8m", "S9"), 3
COMPOSITIONS = ("1", "2", "half", "reversed")
"""Changes of a query's composition that ``S8-all`` is scored on, cell by cell."""
SHALLOW, DEPTH = "shallow", 0.1
"""A query of another composition that has this share of its counts, too."""


@dataclass(frozen=True, eq=False)
class Split:
    """What is hidden from a method.

    Parameters
    ----------
    dataset
        Name of the data set.
    protocol
        One of the table above.
    seed
        Seed of the draw; also the seed a method is run with.
    rotation
        Which batch or type is held out; 0 where there is nothing to rotate.
    hidden
        Boolean mask ``(n_cells,)``, true where the label is hidden.
    held_out
        Name of the batch (``S2a``, ``S2b``, ``S6``, ``S8``, ``S9``) or type (``S3``, ``S5``, ``S5b``, ``S10``), else
        ``None``.
    absent
        Mask of the cells that may not be trained on (``S2b``, ``S8m``, ``S9``, ``S10``), else ``None``.
    kept
        Mask of the cells that take part (``S1-n``, ``S5``, ``S8``, ``S10``); ``None``: all.

    Examples
    --------
    >>> split = make_splits(["a", "a", "b", "b"], ["x", "y", "x", "y"], "S2a")[0]
    >>> split.held_out, split.hidden.tolist()
    ('x', [True, False, True, False])
    """

    dataset: str
    protocol: str
    seed: int
    rotation: int
    hidden: NDArray[np.bool_]
    held_out: str | None = None
    absent: NDArray[np.bool_] | None = None
    kept: NDArray[np.bool_] | None = None

    @property
    def name(self) -> str:
        """Name that is unique within a data set and fit for a file, e.g. ``"S2a_r1_s0"``."""
        return f"{self.protocol}_r{self.rotation}_s{self.seed}"

    def hide(self, labels: ArrayLike, unlabeled: str = "Unknown") -> NDArray[np.object_]:
        """Copy of ``labels`` ``(n_cells,)`` with ``unlabeled`` in place of every hidden label.

        Raises
        ------
        ValueError
            If the number of labels differs from the split's, or ``unlabeled`` is one of the visible labels.
        """
        check_type("unlabeled", unlabeled, str, "the word for a hidden label, e.g. 'Unknown'")
        out = np.asarray(labels).astype(str).astype(object)
        if out.shape != self.hidden.shape:
            raise ValueError(f"Split {self.name} covers {self.hidden.size} cells, but {out.size} labels were given.")
        out[self.hidden] = unlabeled
        if np.any(out[~self.hidden] == unlabeled):
            raise ValueError(f"{unlabeled!r} is one of the labels; name another `unlabeled` category.")
        return out

    def to_json(self) -> dict[str, Any]:
        """JSON-serialisable form; masks are stored as base64 of their packed bits."""
        record = {name: getattr(self, name) for name in _FIELDS} | {"n_cells": int(self.hidden.size)}
        packed = {k: np.packbits(mask).tobytes() for k in _MASKS if (mask := getattr(self, k)) is not None}
        return record | {name: base64.b64encode(bits).decode("ascii") for name, bits in packed.items()}

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Self:
        """Inverse of :meth:`to_json`."""
        packed = {name: np.frombuffer(base64.b64decode(record[name]), np.uint8) for name in _MASKS if name in record}
        n = record["n_cells"]
        masks: dict[str, Any] = {k: np.unpackbits(bits, count=n).astype(bool) for k, bits in packed.items()}
        return cls(**{name: record[name] for name in _FIELDS}, **masks)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Split) and self.to_json() == other.to_json()

    __hash__ = None  # type: ignore[assignment]


def make_splits(
    labels: ArrayLike,
    batches: ArrayLike,
    protocol: str,
    seed: int = 0,
    max_rotations: int = 4,
    dataset: str = "",
    known: ArrayLike | None = None,
) -> list[Split]:
    """Splits of one data set under one protocol.

    Parameters
    ----------
    labels, batches
        Cell types and batches, ``(n_cells,)`` each.
    protocol
        One of the table above, with its number, e.g. ``"S4-10"``.
    seed
        Seed of the random draw. ``S2a``, ``S2b`` and ``S6`` to ``S8`` have none: their splits are the same for every
        seed, kept for the methods.
    max_rotations
        Most batches or types that are held out in turn.
    dataset
        Name written into the splits.
    known
        Mask of the cells ``(n_cells,)`` that have a label at all; the others are hidden in every split and never
        scored. Default: those whose label is neither missing nor ``"Unknown"``.

    Returns
    -------
    One split, or one per held-out batch or type. ``S5`` leaves out types with too few cells, so there may be none.

    Raises
    ------
    ValueError
        For an unknown protocol, unequal lengths, a single batch where one is to be held out, or more cells than there
        are.

    Examples
    --------
    >>> [s.hidden.sum() for s in make_splits(["a"] * 10, ["x"] * 10, "S1")]
    [np.int64(5)]
    """
    y, b = np.asarray(labels).astype(str), np.asarray(batches).astype(str)
    if y.shape != b.shape or y.ndim != 1 or not y.size:
        raise ValueError(f"labels {y.shape} and batches {b.shape} must be one-dimensional, equally long and not empty.")
    if missing := int(pd.isna(np.asarray(batches, dtype=object)).sum()):
        raise ValueError(f"batches: {missing} of {b.size} cells have none; every cell needs a batch.")
    check_type("dataset", dataset, str, "the name of the data set as text")
    for name, value, least in (("seed", seed, 0), ("max_rotations", max_rotations, 1)):
        if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least:
            raise ValueError(f"{name}={value!r} is not a whole number; give {least} or more.")
    has_label = labelled(labels) if known is None else check_mask(known, "known", y.size)
    if not has_label.any():
        raise ValueError(f"None of the {y.size} cells has a label; labels are hidden and scored, so some are needed.")
    if not isinstance(protocol, str):
        raise ValueError(f"protocol {protocol!r} is a {type(protocol).__name__}; use one of {', '.join(PROTOCOLS)}.")
    rest = protocol.partition("-")[2]
    draw, suffix = _DRAWS.get(kind_of(protocol), (None, ""))
    if draw is None or protocol.endswith("-") or not re.fullmatch(suffix, rest):
        raise ValueError(f"protocol {protocol!r} is unknown; use one of {', '.join(PROTOCOLS)}.")
    base = Split(dataset, protocol, seed, 0, ~has_label)
    made = draw(base, y, b, has_label, rest, max_rotations)
    return [replace(split, rotation=i, hidden=split.hidden | ~has_label) for i, split in enumerate(made)]


def _half(split: Split, y: NDArray, b: NDArray, known: NDArray, rest: str, most: int) -> list[Split]:
    rng = np.random.default_rng(split.seed)
    if not rest:
        return [replace(split, hidden=random_half(y.size, rng))]
    if int(rest) > y.size or int(rest) < 4:
        raise ValueError(f"{split.protocol} asks for {rest} of {y.size} cells; give a number from 4 to {y.size}.")
    rows = rng.permutation(y.size)[: int(rest)]
    kept, hidden = np.zeros(y.size, dtype=bool), np.zeros(y.size, dtype=bool)
    kept[rows], hidden[rows[: rows.size // 2]] = True, True
    return [replace(split, hidden=hidden, kept=kept)]


def _batch(split: Split, y: NDArray, b: NDArray, known: NDArray, rest: str, most: int) -> list[Split]:
    names = largest_first(b)
    if names.size < 2:
        only = str(names[0])
        raise ValueError(f"{split.protocol} holds out a batch, but there is only one ({only!r}). Use S1, S3 or S4.")
    largest = [name for name in names if name in b[known]][:most]
    absent = kind_of(split.protocol) in MAPPED
    return [replace(split, hidden=b == n, held_out=str(n), absent=(b == n) if absent else None) for n in largest]


def _unlabelled(split: Split, y: NDArray, b: NDArray, known: NDArray, rest: str, most: int) -> list[Split]:
    return [replace(split, hidden=np.ones(y.size, dtype=bool))]


def _composed(split: Split, y: NDArray, b: NDArray, known: NDArray, rest: str, most: int) -> list[Split]:
    made = []
    for one in _batch(split, y, b, known, rest, most):
        kept = (b != one.held_out) | composed(y, b == one.held_out, known, rest)
        cut = one.absent if one.absent is None else one.absent & kept
        made.append(replace(one, hidden=one.hidden & kept, absent=cut, kept=kept))
    return made


def composed(labels: NDArray, query: NDArray[np.bool_], known: NDArray[np.bool_], how: str) -> NDArray[np.bool_]:
    """Cells that a query of another composition holds: the same ones wherever it is asked.

    ``how`` is one of :data:`COMPOSITIONS`, another number of types, :data:`SHALLOW` or ``"all"``. Types count that also
    occur outside of the query. ``"reversed"`` makes a type's share proportional to one over its number of cells, 5
    cells at least; types with fewer than :data:`MIN_TYPE` cells are left out.
    """
    if how == "all":
        return query
    here = query & known & np.isin(labels, labels[known & ~query])
    names = largest_first(labels[here], MIN_TYPE if how == "reversed" else 1)
    if how != "reversed":
        return here & np.isin(labels, names[::2] if how in ("half", SHALLOW) else names[: int(how)])
    kept, rng = np.zeros_like(query), np.random.default_rng(0)
    for name in names:
        cells, least = np.flatnonzero(here & (labels == name)), int((here & (labels == names[-1])).sum())
        kept[rng.permutation(cells)[: max(MIN_SCORED, round(least**2 / cells.size))]] = True
    return kept


def _rounds(split: Split, y: NDArray, b: NDArray, known: NDArray, rest: str, most: int) -> list[Split]:
    names = largest_first(b)
    if names.size < 2:
        raise ValueError(f"S10 adds batches to a reference, but there is only one ({str(names[0])!r}). Use S1 or S7.")
    joining = np.isin(b, names[names.size // 2 :][:MOST_ROUNDS])
    sizes = pd.crosstab(y[joining & known], b[joining & known])
    large = joining & known & np.isin(y, sizes.index[sizes.max(axis=1) >= 2 * MIN_TYPE])
    out = []
    for name in _spread(y[large], 1, most):
        member, rng = (y == name) & known, np.random.default_rng(split.seed)
        kept = ~member | (b == sizes.loc[name].idxmax())  # the one batch where the type occurs
        hidden = random_half(y.size, rng) | joining
        for batch in np.unique(b[joining]):
            for of in np.unique(y[known & (b == batch)]):
                cells = np.flatnonzero(known & kept & (b == batch) & (y == of))
                hidden[rng.permutation(cells)[: min(MIN_TYPE, cells.size // 2)]] = False
        out.append(replace(split, hidden=hidden & kept, held_out=str(name), absent=joining & kept, kept=kept))
    return out


def _type(split: Split, y: NDArray, b: NDArray, known: NDArray, rest: str, most: int) -> list[Split]:
    names = np.unique(y[known])
    if names.size < 3:
        raise ValueError(f"S3 hides a type and needs two others; the labels are {', '.join(names)}. Use S1 or S4.")
    half = random_half(y.size, np.random.default_rng(split.seed))
    chosen = _spread(y[known], MIN_TYPE, most)
    return [replace(split, hidden=half | (y == name), held_out=str(name)) for name in chosen]


def _few(split: Split, y: NDArray, b: NDArray, known: NDArray, rest: str, most: int) -> list[Split]:
    rng = np.random.default_rng(split.seed)
    hidden = np.ones(y.size, dtype=bool)
    for name in np.unique(y[known]):
        hidden[rng.permutation(np.flatnonzero((y == name) & known))[: int(rest)]] = False
    return [replace(split, hidden=hidden)]


def _rare(split: Split, y: NDArray, b: NDArray, known: NDArray, rest: str, most: int) -> list[Split]:
    share, single = float(rest) / 100, split.protocol.startswith("S5b")
    out = []
    for name in _spread(y[known], 2 * MIN_TYPE, most):
        member = (y == name) & known
        rng = np.random.default_rng([split.seed, int(round(share * 1e5))])  # shares do not share their cells
        n = max(4, round(share / (1 - share) * int((~member).sum())))  # the type's share of what remains, not of all
        available = np.flatnonzero(member)
        if single:
            available = np.flatnonzero(member & (b == largest_first(b[member])[0]))
        if available.size < n:
            continue
        rows = rng.permutation(available)[:n]
        kept, hidden = ~member, random_half(y.size, rng)
        kept[rows], hidden[rows] = True, np.arange(n) < n // 2
        out.append(replace(split, hidden=hidden & kept, held_out=str(name), kept=kept))
    return out


_NUMBER, _PERCENT = r"[1-9]\d*", r"(?!0+(\.0*)?$)\d{1,2}(\.\d+)?"
_HOW = rf"all|half|reversed|{SHALLOW}|{_NUMBER}"
_DRAWS: dict[str, tuple[Callable[..., list[Split]], str]] = {
    "S1": (_half, rf"({_NUMBER})?"),
    "S2a": (_batch, ""),
    "S2b": (_batch, ""),
    "S3": (_type, ""),
    "S4": (_few, _NUMBER),
    "S5": (_rare, _PERCENT),
    "S5b": (_rare, _PERCENT),
    "S6": (_batch, ".+"),
    "S7": (_unlabelled, ""),
    "S8": (_composed, _HOW),
    "S8m": (_composed, _HOW),
    "S9": (_batch, f"{_PERCENT}|antibodies"),
    "S10": (_rounds, ""),
}
"""Kind of protocol → what draws its splits, and what may follow after the dash."""


def kind_of(protocol: str) -> str:
    """Protocol without its number."""
    return protocol.partition("-")[0]


def drawn(protocol: str) -> bool:
    """Whether the splits of a protocol differ between seeds."""
    if protocol == "S9-antibodies":
        return False
    return protocol in ("S6-half", "S6-third") or kind_of(protocol) in ("S1", "S3", "S4", "S5", "S5b", "S9", "S10")


def about_type(split: Split) -> bool:
    """Whether the split is about one type, which it names and which its scores are of."""
    return kind_of(split.protocol) in ("S3", "S5", "S5b")


def order_of(split: Split) -> NDArray[np.intp]:
    """Cells that take part, those that are mapped afterwards last."""
    kept = np.ones(split.hidden.size, dtype=bool) if split.kept is None else split.kept
    absent = np.zeros_like(kept) if split.absent is None else split.absent
    return np.concatenate([np.flatnonzero(kept & ~absent), np.flatnonzero(kept & absent)])


def labelled(labels: ArrayLike, unlabeled: str = "Unknown") -> NDArray[np.bool_]:
    """Mask ``(n_cells,)`` of the cells that have a label: neither missing nor ``unlabeled``."""
    values = np.asarray(labels, dtype=object)
    return ~pd.isna(values) & (values.astype(str) != unlabeled)


def random_half(n: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Mask ``(n,)`` that is true for a random half."""
    mask = np.zeros(n, dtype=bool)
    mask[rng.permutation(n)[: n // 2]] = True
    return mask


def largest_first(values: NDArray, least: int = 1) -> NDArray:
    """Values that occur ``least`` times or more, the most frequent first."""
    names, sizes = np.unique(values, return_counts=True)
    return names[np.argsort(-sizes, kind="stable")][: np.count_nonzero(sizes >= least)]  # equal sizes: by name


def _spread(types: NDArray, least: int, most: int) -> NDArray:
    """At most ``most`` of the types with ``least`` cells or more, evenly over the range of abundances."""
    names = largest_first(types, least)
    return names[np.unique(np.linspace(0, names.size - 1, min(most, names.size)).round().astype(int))]
