"""Which labels and which cells a method may see: seeded, serialisable splits.

In every protocol but ``S2b`` the expression of the hidden cells stays available, so a joint embedding may use it; their
labels may not reach training, tuning or feature selection.

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

from more_scvi.data._arguments import check_integer, check_type
from more_scvi.metrics._check import check_mask

MIN_TYPE = 20
"""Types with fewer cells are not rotated over: a figure for them would be noise."""

_FIELDS, _MASKS = ("dataset", "protocol", "seed", "rotation", "held_out"), ("hidden", "absent", "kept")
PROTOCOLS = ("S1", "S1-<cells>", "S2a", "S2b", "S3", "S4-<labels>", "S5-<percent>", "S5b-<percent>", "S6-<modality>")


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
        Name of the batch (``S2a``, ``S2b``, ``S6``) or type (``S3``, ``S5``, ``S5b``), else ``None``.
    absent
        Mask of the cells that may not be trained on (``S2b``), else ``None``.
    kept
        Mask of the cells that take part (``S1-n``, ``S5``, ``S5b``); ``None``: all.

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
        Seed of the random draw. ``S2a``, ``S2b`` and ``S6`` have none: their splits are the same for every seed, kept
        for the methods.
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
    kind, _, rest = protocol.partition("-")
    draw, suffix = _DRAWS.get(kind, (None, ""))
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
    names = _largest_first(b)
    if names.size < 2:
        only = str(names[0])
        raise ValueError(f"{split.protocol} holds out a batch, but there is only one ({only!r}). Use S1, S3 or S4.")
    largest = [name for name in names if name in b[known]][:most]
    absent = split.protocol == "S2b"
    return [replace(split, hidden=b == n, held_out=str(n), absent=(b == n) if absent else None) for n in largest]


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
            available = np.flatnonzero(member & (b == _largest_first(b[member])[0]))
        if available.size < n:
            continue
        rows = rng.permutation(available)[:n]
        kept, hidden = ~member, random_half(y.size, rng)
        kept[rows], hidden[rows] = True, np.arange(n) < n // 2
        out.append(replace(split, hidden=hidden & kept, held_out=str(name), kept=kept))
    return out


_NUMBER, _PERCENT = r"[1-9]\d*", r"(?!0+(\.0*)?$)\d{1,2}(\.\d+)?"
_DRAWS: dict[str, tuple[Callable[..., list[Split]], str]] = {
    "S1": (_half, rf"({_NUMBER})?"),
    "S2a": (_batch, ""),
    "S2b": (_batch, ""),
    "S3": (_type, ""),
    "S4": (_few, _NUMBER),
    "S5": (_rare, _PERCENT),
    "S5b": (_rare, _PERCENT),
    "S6": (_batch, ".+"),
}
"""Kind of protocol → what draws its splits, and what may follow after the dash."""


def inner_split(split: Split, labels: ArrayLike, batches: ArrayLike, seed: int = 0) -> tuple[Split, NDArray[np.bool_]]:
    """Split the *visible* cells of ``split`` once more, to choose settings on your own data without the hidden labels.

    The inner cells of one split may be hidden, and so reported, in another seed or rotation: choose on data that you
    do not report where there are any, else let :func:`~more_scvi.evaluation.tune` plan all splits together.

    ``S2a`` hides one further batch (``seed`` picks which, among the batches with visible labels, largest first); the
    other protocols hide a random half of the visible cells.

    Parameters
    ----------
    split
        The outer split.
    labels, batches
        Cell types and batches, ``(n_cells,)``. Labels of cells hidden in ``split`` are never looked at.
    seed
        Seed of the inner draw.

    Returns
    -------
    inner
        A split that hides what ``split`` hides and the inner cells; train with this one.
    scored
        Boolean mask ``(n_cells,)`` of the inner cells, the only ones to score annotation on. Metrics over all cells
        (mixing, structure) must be restricted to ``~split.hidden``.

    Raises
    ------
    ValueError
        If ``S2a`` leaves fewer than two batches with visible labels: use a random half instead, by giving a split
        whose protocol is ``"S1"``.

    Examples
    --------
    >>> outer = make_splits(list("aabbaabb"), list("xxxxyyyy"), "S1")[0]
    >>> inner, scored = inner_split(outer, list("aabbaabb"), list("xxxxyyyy"))
    >>> bool((scored & outer.hidden).any()), int(scored.sum())
    (False, 2)
    """
    check_type("split", split, Split, "one that make_splits returned")
    check_integer("seed", seed, 0)
    b = np.asarray(batches).astype(str)
    if b.shape != split.hidden.shape or np.shape(labels) != split.hidden.shape:
        raise ValueError(f"Split {split.name} covers {split.hidden.size} cells; give as many labels and batches.")
    return split_visible(split, b, seed, ~split.hidden)


def split_visible(
    split: Split, batches: NDArray[np.str_], seed: int, free: NDArray[np.bool_]
) -> tuple[Split, NDArray[np.bool_]]:
    """:func:`inner_split` that scores ``free`` cells only: visible ones that no other split scores."""
    inner = np.zeros_like(free)
    held_out = split.held_out
    if split.protocol == "S2a":
        if np.unique(batches[~split.hidden]).size < 2:
            only = str(batches[~split.hidden][0])
            raise ValueError(f"{split.name}: only batch {only!r} has visible labels; no second one can be hidden.")
        names = _largest_first(batches[free])
        name = names[seed % names.size]
        inner = ~split.hidden & (batches == name)
        held_out = f"{split.held_out}+{name}"
    else:
        half = random_half(int(free.sum()), np.random.default_rng([seed, split.seed]))
        inner[np.flatnonzero(free)[half]] = True
    return replace(split, hidden=split.hidden | inner, held_out=held_out), inner & free


def drawn(protocol: str) -> bool:
    """Whether the splits of a protocol differ between seeds."""
    return protocol in ("S6-half", "S6-third") or protocol.split("-")[0] in ("S1", "S3", "S4", "S5", "S5b")


def about_type(split: Split) -> bool:
    """Whether the split is about one type, which it names."""
    return split.protocol.split("-")[0] in ("S3", "S5", "S5b")


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


def _largest_first(values: NDArray, least: int = 1) -> NDArray:
    """Values that occur ``least`` times or more, the most frequent first."""
    names, sizes = np.unique(values, return_counts=True)
    return names[np.argsort(-sizes, kind="stable")][: np.count_nonzero(sizes >= least)]  # equal sizes: by name


def _spread(types: NDArray, least: int, most: int) -> NDArray:
    """At most ``most`` of the types with ``least`` cells or more, evenly over the range of abundances."""
    names = _largest_first(types, least)
    return names[np.unique(np.linspace(0, names.size - 1, min(most, names.size)).round().astype(int))]
