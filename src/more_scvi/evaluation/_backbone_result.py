"""What a comparison of backbones says: paired differences, one sentence per regime, what features cost, the page."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import t

from more_scvi._files import check_writable, write_files

from ._backbone_page import interval_text, render, signed
from ._compare import TIE, split_values
from ._sources import BUNDLED, NONE, ZEROED

METRIC = "own"
"""Macro-F1 of the hidden labels by the method's own classifier."""
REGRESSION = "lr_hvg"
COLUMNS = ("regime", "backbone", "against", "macro_f1", "difference", "low", "high", "n", "verdict")


@dataclass(frozen=True, eq=False)
class BackboneComparison:
    """What backbones are worth on the data at hand, see :func:`compare_backbones`.

    Parameters
    ----------
    backbones
        Names, in the order in which they were asked for; a folder is called by its last part.
    regimes
        Regime → what it is in words; those that were left out are not here.
    table
        Tidy table of every split as :func:`~more_scvi.evaluation.run` returns it: ``method`` is the backbone, or
        ``"lr_hvg"``; ``protocol`` the regime; ``metric`` ``"own"`` the macro-F1 of the hidden labels.
    differences
        One row per regime, backbone and what it is compared ``against`` (``"none"``, ``"zeroed"``): ``macro_f1`` of the
        backbone and its ``difference``, means over the ``n`` splits that both have; ``low`` and ``high``, the 95 %
        interval of the mean difference by Student's t; and a ``verdict``: ``"better"`` or ``"worse"`` where the
        interval excludes zero, ``"level"`` below 0.005, else ``"not shown"``. Splits of one data set overlap in their
        cells, so the interval is one for these cells and not for others; it is not widened for the number of backbones.
        Of one split there is no interval (NaN), and nothing is shown.
    sentences
        Regime → one sentence: which backbone is best, by how much over ``none``, whether that is shown, and what the
        network of ``more-mini`` adds to its linear front.
    cost
        By backbone: ``seconds`` by the clock to compute the features of 1,000 cells and their ``megabytes``, numbers of
        ``frozen`` and of ``trained`` weights (mean over splits). NaN: not known.
    left_out
        ``regime``, ``backbone`` (``"all"``: the regime as a whole) and ``reason``.
    data
        Name, and numbers of cells, genes, batches, types and cells without a label.
    """

    backbones: tuple[str, ...]
    regimes: Mapping[str, str]
    table: pd.DataFrame
    differences: pd.DataFrame
    sentences: Mapping[str, str]
    cost: pd.DataFrame
    left_out: pd.DataFrame
    data: Mapping[str, Any]

    def write(self, path: str | os.PathLike, *, overwrite: bool = False, command: str = "") -> Path:
        """Write the comparison as one HTML page that needs no other file and no network, and as JSON beside it.

        Parameters
        ----------
        path
            Where; must end in ``.html``. Its twin ends in ``.json`` and holds :meth:`to_json`. Both are written beside
            and renamed.
        overwrite
            Replace files that exist.
        command
            How to make it again, shown at the end.

        Returns
        -------
        The path.

        Raises
        ------
        ValueError
            If ``path`` does not end in ``.html``.
        FileExistsError
            If one of them exists and ``overwrite`` is not set.
        OSError
            If its folder does not exist or cannot be written.

        Examples
        --------
        >>> found.write("backbones.html")  # doctest: +SKIP
        """
        page = Path(path)
        if page.suffix != ".html":
            raise ValueError(f"The comparison is a page: give a path that ends in .html, not {str(path)!r}.")
        twin, summary = page.with_suffix(".json"), self.to_json()
        for path in (page, twin):
            check_writable(path)
            if path.exists() and not overwrite:
                raise FileExistsError(f"{path} exists. Name another path, or give overwrite=True.")
        write_files({page: render(summary, command), twin: json.dumps(summary, indent=2) + "\n"})
        return page

    def to_json(self) -> dict[str, Any]:
        """All but the tidy table as plain JSON types; NaN becomes ``None``."""
        frames = {"differences": self.differences, "cost": self.cost.reset_index(), "left_out": self.left_out}
        records = {name: json.loads(frame.to_json(orient="records")) for name, frame in frames.items()}
        plain = {name: dict(getattr(self, name)) for name in ("data", "regimes", "sentences")}
        return {**plain, "backbones": list(self.backbones), **records, "means": self._means()}

    def _means(self) -> dict[str, dict[str, float]]:
        """Regime → backbone → mean macro-F1 of its splits."""
        values = means_of(self.table)
        return {regime: values.loc[regime].dropna().round(4).to_dict() for regime in self.regimes}


def means_of(table: pd.DataFrame) -> pd.DataFrame:
    """Mean macro-F1 over splits, regimes × backbones."""
    return split_values(table, METRIC).groupby(level="protocol").mean()


def differences_of(table: pd.DataFrame, regimes: Sequence[str], backbones: Sequence[str]) -> pd.DataFrame:
    """Paired differences, see :class:`BackboneComparison`; ``table`` as there."""
    values = split_values(table, METRIC)
    rows = []
    for regime in regimes:
        of = values.xs(regime, level="protocol")
        for name in (*backbones, REGRESSION):
            for against in (NONE, ZEROED):
                if name == against or not {name, against} <= set(of):
                    continue
                both = of[[name, against]].dropna()
                if len(both):
                    gain = (both[name] - both[against]).to_numpy()
                    low, high = interval(gain)
                    mean = float(gain.mean())
                    verdict = judge(mean, low, high)
                    rows.append([regime, name, against, both[name].mean(), mean, low, high, len(gain), verdict])
    return pd.DataFrame(rows, columns=list(COLUMNS))


def interval(values: NDArray, level: float = 0.95) -> tuple[float, float]:
    """Student's interval of the mean of ``values`` ``(n,)``; NaN of fewer than two."""
    if values.size < 2:
        return float("nan"), float("nan")
    half = float(t.ppf((1 + level) / 2, values.size - 1) * values.std(ddof=1) / np.sqrt(values.size))
    return float(values.mean()) - half, float(values.mean()) + half


def judge(mean: float, low: float, high: float) -> str:
    """``"level"``, ``"better"``, ``"worse"`` or ``"not shown"``."""
    if abs(mean) < TIE:
        return "level"
    if np.isnan(low) or low <= 0 <= high:
        return "not shown"
    return "better" if mean > 0 else "worse"


def sentence(regime: str, words: str, means: Mapping[str, float], differences: pd.DataFrame) -> str:
    """What a regime says, made by rule of the means of its splits and of :func:`differences_of`."""
    rows = differences[differences["regime"] == regime].set_index(["backbone", "against"])
    ranked = sorted((name for name in means if name != REGRESSION), key=lambda name: -means[name])
    if not ranked:
        return f"With {words} ({regime}), no backbone has a result."
    best = ranked[0]
    text = f"With {words} ({regime}), {best if best != NONE else 'MoRE without a backbone'} is best"
    text += f" (macro-F1 {means[best]:.2f})"
    if (best, NONE) in rows.index:
        text += f", {_against(rows.loc[(best, NONE)], NONE)}"
    elif best == NONE and len(ranked) > 1 and (ranked[1], NONE) in rows.index:
        text += f"; the next, {ranked[1]}, is {_against(rows.loc[(ranked[1], NONE)], 'it')}"
    if (BUNDLED, ZEROED) in rows.index:
        row = rows.loc[(BUNDLED, ZEROED)]
        text += f"; the network of {BUNDLED} adds {signed(row['difference'])} to its linear front ({_shown(row)})"
    if REGRESSION in means and means[REGRESSION] >= means[best] + TIE:
        text += f"; a logistic regression on the genes is better still ({means[REGRESSION]:.2f})"
    return text + "."


def _against(row: pd.Series, other: str) -> str:
    """By how much a backbone is above or below another, and whether that is shown."""
    if row["verdict"] == "level":
        return f"level with {other} ({_shown(row)})"
    return f"{abs(row['difference']):.2f} {'above' if row['difference'] > 0 else 'below'} {other} ({_shown(row)})"


def _shown(row: pd.Series) -> str:
    """Whether a difference is shown, and by what."""
    if row["n"] < 2:
        return "of one split, not shown"
    said = {"better": "shown, ", "worse": "shown, ", "not shown": "not shown, "}.get(row["verdict"], "")
    return f"{said}{interval_text(row)} in {int(row['n'])} splits"
