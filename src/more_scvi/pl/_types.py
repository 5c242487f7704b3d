from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from numpy.typing import ArrayLike

from more_scvi.metrics._annotation import confusion as count

from ._labels import COLORS, new_axes, shown, tidy


def per_type_f1(
    scores: pd.DataFrame | Mapping[str, Any], *, classifier: str = "own", rare: int = 20, ax: Axes | None = None
) -> Axes:
    """Draw the F1 of each cell type as bars, with the number of cells it rests on.

    Parameters
    ----------
    scores
        DataFrame with a row per type and columns ``n`` and ``f1``; or a record of ``more_scvi.evaluation.run``, which
        holds them under ``"per_type"``.
    classifier
        Which of a record's classifiers: ``"own"`` or ``"LR"``.
    rare
        Types with fewer cells are hatched: there a few cells make the difference.
    ax
        Where to draw. Default: a new figure.

    Returns
    -------
    Axes
        Types from best to worst.

    Raises
    ------
    TypeError
        If ``scores`` is neither.
    KeyError
        If a column, or the classifier of a record, is not there; the message lists what is.
    ValueError
        If there is no type.

    Examples
    --------
    >>> import pandas as pd
    >>> import more_scvi as more
    >>> frame = pd.DataFrame({"n": [300, 8], "f1": [0.95, 0.4]}, index=["T cell", "mast cell"])
    >>> ax = more.pl.per_type_f1(frame)
    >>> [label.get_text() for label in ax.get_yticklabels()]
    ['T cell', 'mast cell']
    """
    frame = _per_type(scores, classifier).sort_values(["f1", "n"], ascending=False, kind="stable")
    types = shown(frame.index)
    ax = ax or new_axes(5, 0.9 + 0.26 * len(frame), types)
    few = frame["n"].to_numpy() < rare
    bars = ax.barh(np.arange(len(frame)), frame["f1"], height=0.72, color=COLORS[0])
    for bar, is_rare, f1, n in zip(bars, few, frame["f1"], frame["n"], strict=True):
        if is_rare:
            bar.set(facecolor="white", edgecolor=COLORS[0], hatch="////")
        end = f1, bar.get_y() + bar.get_height() / 2
        text = f"{f1:.2f}  n = {int(n):,}"
        ax.annotate(text, end, xytext=(4, 0), textcoords="offset points", va="center", fontsize="small")
    ax.set_yticks(range(len(frame)), types)
    ax.set(xlim=(0, 1.32), xticks=[0, 0.5, 1], xlabel="F1", ylim=(len(frame) - 0.4, -0.6))
    ax.tick_params(axis="y", length=0)
    tidy(ax, "top", "right", "left")
    if few.any():
        key = Patch(facecolor="white", edgecolor=COLORS[0], hatch="////", label=f"fewer than {rare} cells")
        ax.legend(handles=[key], frameon=False, fontsize="small", loc="lower right", bbox_to_anchor=(1, 1))
    return ax


def _per_type(scores: pd.DataFrame | Mapping[str, Any], classifier: str) -> pd.DataFrame:
    if isinstance(scores, Mapping):
        of = scores.get("per_type")
        if not isinstance(of, Mapping) or classifier not in of:
            has = f"'per_type' has {sorted(of)}" if isinstance(of, Mapping) else f"its keys are {sorted(scores)}"
            raise KeyError(f"The record has no F1 per type of classifier {classifier!r}; {has}.")
        frame = pd.DataFrame.from_dict(of[classifier], orient="index", columns=["n", "f1"])
    elif isinstance(scores, pd.DataFrame):
        frame = scores
    else:
        raise TypeError(f"per_type_f1 draws a DataFrame or a record (dict), not a {type(scores).__name__}.")
    if missing := [name for name in ("n", "f1") if name not in frame]:
        raise KeyError(f"The F1 per type needs columns 'n' and 'f1'; {missing} of {list(frame.columns)} missing.")
    frame = frame.astype({"f1": float}).dropna(subset=["f1"])
    if frame.empty:
        raise ValueError("There is no type with an F1; types need at least one scored cell.")
    return frame


def confusion(
    true: ArrayLike | pd.DataFrame,
    predicted: ArrayLike | None = None,
    *,
    ax: Axes | None = None,
    numbers: bool | None = None,
) -> Axes:
    """Draw which types are taken for which: a row per true type, in percent of its cells.

    Parameters
    ----------
    true
        True types ``(n_cells,)``; or a DataFrame of counts, rows true, columns predicted types.
    predicted
        Predicted types ``(n_cells,)``; not with a DataFrame.
    ax
        Where to draw. Default: a new figure that grows with the number of types.
    numbers
        Write percentages into the cells. Default: for up to 15 types.

    Returns
    -------
    Axes
        Rows carry the number of cells; types that are only predicted are columns without a row.

    Raises
    ------
    TypeError
        If ``predicted`` is missing, or given beside a DataFrame.
    ValueError
        If lengths differ, or there are no cells.

    Examples
    --------
    >>> import more_scvi as more
    >>> ax = more.pl.confusion(["T", "T", "B", "B"], ["T", "B", "B", "B"])
    >>> [label.get_text() for label in ax.get_yticklabels()]
    ['B (2)', 'T (2)']
    """
    counts = _counts(true, predicted)
    sums = counts.sum(axis=1)
    shares = counts.div(sums, axis=0) * 100
    n_rows, n_columns = shares.shape
    columns = shown(shares.columns)
    rows = [f"{name} ({int(n):,})" for name, n in zip(shown(sums.index), sums, strict=True)]
    if ax is None:
        size = min(2.2 + 0.36 * n_columns, 12.0)
        ax = new_axes(size, max(2.0, size * (n_rows + 3) / (n_columns + 5)), rows, below=columns)
    drawn = ax.imshow(shares, cmap="Blues", vmin=0, vmax=100, aspect="auto")
    ax.set_xticks(range(n_columns), columns, rotation=90, fontsize="small")
    ax.set_yticks(range(n_rows), rows, fontsize="small")
    ax.set(xlabel="predicted", ylabel="true (cells)")
    ax.set_xticks(np.arange(n_columns + 1) - 0.5, minor=True)
    ax.set_yticks(np.arange(n_rows + 1) - 0.5, minor=True)
    ax.grid(which="minor", color="white", linewidth=1)
    ax.tick_params(which="both", length=0)
    ax.spines[:].set_visible(False)
    if numbers if numbers is not None else n_columns <= 15:
        for row, column in zip(*np.nonzero(shares.to_numpy() >= 0.5), strict=True):  # less would read 0
            share = shares.iloc[row, column]
            color = "white" if share > 55 else "black"
            ax.text(column, row, f"{share:.0f}", ha="center", va="center", fontsize="small", color=color)
    else:
        ax.figure.colorbar(drawn, ax=ax, shrink=0.6, label="% of the true type", aspect=30)
    return ax


def _counts(true: ArrayLike | pd.DataFrame, predicted: ArrayLike | None) -> pd.DataFrame:
    """Counts, rows true types with cells, columns all types in the same order."""
    if isinstance(true, pd.DataFrame):
        if predicted is not None:
            raise TypeError("Give a DataFrame of counts alone, or true and predicted types; not both.")
        counts = true
    else:
        if predicted is None:
            raise TypeError("confusion needs predicted types beside the true ones, or a DataFrame of counts.")
        counts = count(true, predicted)
    counts = counts.loc[counts.sum(axis=1) > 0]
    if counts.empty:
        raise ValueError("There are no cells to compare.")
    names = [*counts.index, *(name for name in counts.columns if name not in counts.index)]
    return counts.reindex(columns=names, fill_value=0)
