"""Regimes of a comparison: which protocols they are, what they are in words, and which of them the data allow."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from anndata import AnnData
from numpy.typing import NDArray

from more_scvi.metrics._annotation import MIN_SCORED, scorable

from ._data import LABELS_KEY, batches_of
from ._splits import _DRAWS, Split, kind_of, make_splits

REGIMES = ("S1-100", "S1-300", "S4-1", "S4-3", "S4-10", "S4-30", "S2a", "S9-50", "S9-10", "S1")
"""Where backbones are asked by default: few cells, few labels, a new batch, few genes, and all cells."""
LEGAL = ("S1", "S1-<cells>", "S4-<labels>", "S2a", "S2b", "S9-<percent>", "S9-antibodies")
EVERY = "all"
"""Stands for all backbones where a regime is left out."""


def check_regimes(regimes: Any) -> list[str]:
    """The regimes, each once, if all are legal."""
    if isinstance(regimes, str) or not isinstance(regimes, Iterable):
        raise TypeError(f"regimes is {regimes!r}; give a list, e.g. regimes=[{regimes!r}].")
    chosen = list(dict.fromkeys(regimes))
    if not chosen:
        raise ValueError(f"regimes is empty, so nothing would be run. Give some of {', '.join(LEGAL)}.")
    kinds = {name.partition("-")[0] for name in LEGAL}
    for regime in chosen:
        known = isinstance(regime, str) and kind_of(regime) in kinds and not regime.endswith("-")
        if not known or not re.fullmatch(_DRAWS[kind_of(regime)][1], regime.partition("-")[2]):
            raise ValueError(f"regimes holds {regime!r}; give some of {', '.join(LEGAL)}, e.g. 'S4-10'.")
    return chosen


def regime_words(regime: str) -> str:
    """What there is in a regime, in words that follow on "with"."""
    kind, _, rest = regime.partition("-")
    if kind == "S1":
        return f"{rest} cells, half of them labelled" if rest else "labels for half of the cells"
    if kind == "S4":
        return f"{rest} label{'' if rest == '1' else 's'} per type"
    if kind == "S9":
        share = "the genes of an antibody panel" if rest == "antibodies" else f"{rest} % of the genes"
        return f"a new batch that has {share}"
    return "a new batch without labels" if kind == "S2a" else "a new batch that is mapped afterwards"


def with_panel(regime: str) -> bool:
    """Whether the query of a regime has a part of the genes."""
    return kind_of(regime) == "S9"


def plan_regimes(
    data: AnnData, known: NDArray[np.bool_], regimes: Sequence[str], seeds: Sequence[int], most: int, dataset: str
) -> tuple[dict[str, list[Split]], list[tuple[str, str, str]]]:
    """Regime → splits that can be scored, and those that the data do not allow: regime, ``"all"``, reason.

    A split can be scored if two types have visible labels and enough hidden cells. ``most``: batches held out at most.
    """
    labels, batches = data.obs[LABELS_KEY].to_numpy().astype(str), batches_of(data)
    plan: dict[str, list[Split]] = {}
    left_out = []
    for regime in regimes:
        try:
            made = [s for seed in seeds for s in make_splits(labels, batches, regime, seed, most, dataset, known)]
        except ValueError as error:  # says why
            left_out.append((regime, EVERY, str(error)))
            continue
        usable = [split for split in made if _scored_types(split, labels, known) >= 2]
        if usable:
            plan[regime] = usable
        if lost := len(made) - len(usable):
            where = f"in {lost} of {len(made)} splits " if usable else ""
            why = f"{where}fewer than two types have visible labels and {MIN_SCORED} hidden cells to score"
            left_out.append((regime, EVERY, why))
    if not plan:
        reasons = "; ".join(f"{regime}: {why}" for regime, _, why in left_out)
        raise ValueError(f"These data allow none of the regimes. {reasons}. Ask for others of {', '.join(LEGAL)}.")
    return plan, left_out


def _scored_types(split: Split, labels: NDArray, known: NDArray[np.bool_]) -> int:
    """Types that macro-F1 would be a mean of."""
    kept = np.ones(labels.size, dtype=bool) if split.kept is None else split.kept
    y, hidden, scored = labels[kept], split.hidden[kept], (split.hidden & known)[kept]
    if hidden.all():
        return 0
    return int((np.unique(y[scorable(y, hidden, scored)], return_counts=True)[1] >= MIN_SCORED).sum())
