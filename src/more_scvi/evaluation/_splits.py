"""Which labels a method may see: seeded, serialisable splits (protocols S1, S2a and S4).

Every protocol hides *labels* only. The expression of the hidden cells stays available, so a joint embedding may use it;
their labels may not reach training, tuning or feature selection.

==========  =====================================================================================================
protocol    what is hidden
==========  =====================================================================================================
``S1``      the labels of a random half of the cells
``S2a``     all labels of one batch; one split per batch, largest batches first, ``max_rotations`` at most
``S4-n``    all labels but ``n`` per type (few-shot); a type with fewer cells keeps them all
==========  =====================================================================================================
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, eq=False)
class Split:
    """The cells of a data set whose labels are hidden from a method.

    Parameters
    ----------
    dataset
        Name of the data set.
    protocol
        ``"S1"``, ``"S2a"`` or ``"S4-<labels per type>"``.
    seed
        Seed of the draw; also the seed a method is run with.
    rotation
        Which held-out batch (``S2a``); 0 elsewhere.
    hidden
        Boolean mask ``(n_cells,)``, true where the label is hidden.
    held_out
        Name of the held-out batch (``S2a``), else ``None``.

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

    @property
    def name(self) -> str:
        """Name that is unique within a data set and fit for a file, e.g. ``"S2a_r1_s0"``."""
        return f"{self.protocol}_r{self.rotation}_s{self.seed}"

    def hide(self, labels: ArrayLike, unlabeled: str = "Unknown") -> NDArray[np.object_]:
        """Copy of ``labels`` ``(n_cells,)`` with ``unlabeled`` in place of every hidden label.

        Raises
        ------
        ValueError
            If the number of labels differs from the split's, or ``unlabeled`` is itself a label.
        """
        out = np.asarray(labels).astype(str).astype(object)
        if out.shape != self.hidden.shape:
            raise ValueError(f"Split {self.name} covers {self.hidden.size} cells, but {out.size} labels were given.")
        if np.any(out == unlabeled):
            raise ValueError(f"{unlabeled!r} is one of the labels; name another `unlabeled` category.")
        out[self.hidden] = unlabeled
        return out

    def to_json(self) -> dict[str, Any]:
        """JSON-serialisable form; the mask is stored as base64 of its packed bits."""
        bits = base64.b64encode(np.packbits(self.hidden).tobytes()).decode("ascii")
        return {
            "dataset": self.dataset,
            "protocol": self.protocol,
            "seed": self.seed,
            "rotation": self.rotation,
            "held_out": self.held_out,
            "n_cells": int(self.hidden.size),
            "hidden": bits,
        }

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Split:
        """Inverse of :meth:`to_json`."""
        bits = np.frombuffer(base64.b64decode(record["hidden"]), dtype=np.uint8)
        hidden = np.unpackbits(bits, count=record["n_cells"]).astype(bool)
        return cls(
            record["dataset"], record["protocol"], record["seed"], record["rotation"], hidden, record["held_out"]
        )

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
) -> list[Split]:
    """Splits of one data set under one protocol.

    Parameters
    ----------
    labels, batches
        Cell types and batches, ``(n_cells,)`` each.
    protocol
        ``"S1"``, ``"S2a"`` or ``"S4-n"`` with ``n`` labels per type, e.g. ``"S4-10"``.
    seed
        Seed of the random draw. ``S2a`` has none: its splits are the same for every seed, kept for the methods.
    max_rotations
        Most batches that ``S2a`` holds out; the largest ones, ties by name.
    dataset
        Name written into the splits.

    Returns
    -------
    One split (``S1``, ``S4``) or one per held-out batch (``S2a``).

    Raises
    ------
    ValueError
        For an unknown protocol, unequal lengths, or ``S2a`` with a single batch.

    Examples
    --------
    >>> [s.hidden.sum() for s in make_splits(["a"] * 10, ["x"] * 10, "S1")]
    [np.int64(5)]
    """
    y, b = np.asarray(labels).astype(str), np.asarray(batches).astype(str)
    if y.shape != b.shape or y.ndim != 1:
        raise ValueError(f"labels {y.shape} and batches {b.shape} must be one-dimensional and equally long.")
    rng = np.random.default_rng(seed)
    if protocol == "S1":
        return [Split(dataset, protocol, seed, 0, _random_half(y.size, rng))]
    if protocol == "S2a":
        names, sizes = np.unique(b, return_counts=True)
        if names.size < 2:
            raise ValueError(f"S2a holds out a batch, but there is only one ({names[0]!r}). Use S1 or S4.")
        largest = names[np.argsort(-sizes, kind="stable")][:max_rotations]
        return [Split(dataset, protocol, seed, i, b == name, str(name)) for i, name in enumerate(largest)]
    if protocol.startswith("S4-") and protocol[3:].isdigit() and int(protocol[3:]) > 0:
        return [Split(dataset, protocol, seed, 0, _all_but_few(y, int(protocol[3:]), rng))]
    raise ValueError(f"protocol {protocol!r} is unknown; use 'S1', 'S2a' or 'S4-<labels per type>'.")


def inner_split(split: Split, labels: ArrayLike, batches: ArrayLike, seed: int = 0) -> tuple[Split, NDArray[np.bool_]]:
    """Split the *visible* cells of ``split`` once more, for choosing hyper-parameters without the hidden labels.

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
    b = np.asarray(batches).astype(str)
    visible = ~split.hidden
    if b.shape != visible.shape or np.shape(labels) != visible.shape:
        raise ValueError(f"Split {split.name} covers {visible.size} cells; give as many labels and batches.")
    rng = np.random.default_rng([seed, split.seed])
    if split.protocol == "S2a":
        names, sizes = np.unique(b[visible], return_counts=True)
        if names.size < 2:
            raise ValueError(f"{split.name}: only batch {names[0]!r} has visible labels; no second one can be hidden.")
        name = names[np.argsort(-sizes, kind="stable")][seed % names.size]
        scored = visible & (b == name)
        held_out: str | None = f"{split.held_out}+{name}"
    else:
        scored = np.zeros_like(visible)
        scored[np.flatnonzero(visible)[_random_half(int(visible.sum()), rng)]] = True
        held_out = split.held_out
    inner = Split(split.dataset, split.protocol, split.seed, split.rotation, split.hidden | scored, held_out)
    return inner, scored


def _random_half(n: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    mask = np.zeros(n, dtype=bool)
    mask[rng.permutation(n)[: n // 2]] = True
    return mask


def _all_but_few(labels: Sequence[str] | NDArray, n: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    labels = np.asarray(labels)
    hidden = np.ones(labels.size, dtype=bool)
    for name in np.unique(labels):
        hidden[rng.permutation(np.flatnonzero(labels == name))[:n]] = False
    return hidden
