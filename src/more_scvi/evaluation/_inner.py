"""Splits within splits: settings are chosen on visible cells, never on those that a split scores."""

from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from more_scvi.data._arguments import check_integer, check_type

from ._splits import Split, largest_first, random_half


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
        If every label is hidden (``S7``), or ``S2a`` leaves fewer than two batches with visible labels: use a random
        half instead, by giving a split whose protocol is ``"S1"``.

    Examples
    --------
    >>> from more_scvi.evaluation import make_splits
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
    if not free.any():
        raise ValueError(f"{split.name} hides every label, so nothing visible is left to choose on; use S1 or S2a.")
    inner = np.zeros_like(free)
    held_out = split.held_out
    if split.protocol == "S2a":
        if np.unique(batches[~split.hidden]).size < 2:
            only = str(batches[~split.hidden][0])
            raise ValueError(f"{split.name}: only batch {only!r} has visible labels; no second one can be hidden.")
        names = largest_first(batches[free])
        name = names[seed % names.size]
        inner = ~split.hidden & (batches == name)
        held_out = f"{split.held_out}+{name}"
    else:
        half = random_half(int(free.sum()), np.random.default_rng([seed, split.seed]))
        inner[np.flatnonzero(free)[half]] = True
    return replace(split, hidden=split.hidden | inner, held_out=held_out), inner & free
