import re

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from ._labels import COLORS, MARKERS, legend_beside, new_axes, shown, style, tidy
from ._table import CONTROL, is_control, over_seeds, positions, ranked, select, words

AXES = {
    "S1": ("cells", "all", "S1"),
    "S4": ("labels per type", "half", "S1"),
    "S5": ("share of the rare type (%)", None, None),
    "S5b": ("share of the rare type, in one batch (%)", None, None),
}
"""Per family of protocols: axis label, and name and protocol of the end of the axis that has no number."""


def regimes(table: pd.DataFrame, metric: str = "own", x: str = "S4", *, ax: Axes | None = None) -> Axes:
    """Draw a metric along a regime, e.g. the number of labels per type: a curve per method.

    Parameters
    ----------
    table
        As in :func:`scores`, with protocols such as ``S4-1``, ``S4-3``, ``S4-10``.
    metric
        E.g. ``"own"``, ``"LR"``; ``"target_own"`` for rare types.
    x
        What stands before the number: ``"S4"`` (labels per type), ``"S1"`` (cells), ``"S5"`` (percent of a rare type).
        Protocol ``S1`` without a number closes the axis of ``"S4"`` (half of the labels) and of ``"S1"`` (all cells).
    ax
        Where to draw. Default: a new figure.

    Returns
    -------
    Axes
        Numbers on a logarithmic axis, bands the range over seeds; controls are grey.

    Raises
    ------
    TypeError, KeyError
        If ``table`` is no tidy table; the message names the columns it lacks.
    ValueError
        If it has no such metric or no such protocol.

    Examples
    --------
    >>> import pandas as pd
    >>> import more_scvi as more
    >>> rows = [(f"S4-{n}", 0, "more", "own", v) for n, v in [(1, 0.5), (3, 0.7), (10, 0.8)]]
    >>> table = pd.DataFrame(rows, columns=["protocol", "seed", "method", "metric", "value"])
    >>> ax = more.pl.regimes(table, "own", "S4")
    >>> [label.get_text() for label in ax.get_xticklabels()]
    ['1', '3', '10']
    """
    rows = select(table, metric)
    known = set(rows["protocol"])
    label, end, whole = AXES.get(x, (*shown([x]), None, None))
    found = {p: float(m[1]) for p in known if (m := re.fullmatch(rf"{re.escape(x)}-(\d+\.?\d*)", p))}
    if not found:
        raise ValueError(f"table has no protocol {x}-<number> with metric {metric!r}; with it are {sorted(known)}.")
    protocols = sorted(found, key=found.__getitem__)
    at = {protocol: float(np.log10(found[protocol])) for protocol in protocols}
    names = [f"{found[protocol]:,g}" for protocol in protocols]
    if whole in known:
        steps = np.diff(list(at.values()))
        at[str(whole)] = at[protocols[-1]] + (float(np.median(steps)) if len(steps) else 0.5)
        protocols, names = [*protocols, str(whole)], [*names, str(end)]
    points = over_seeds(rows[rows["protocol"].isin(protocols)])
    last = points["mean"].unstack()[protocols].ffill(axis=1).iloc[:, -1]
    color_of = positions(table)
    methods = ranked(last)
    curves = shown(methods)
    ax = ax or new_axes(5.5, 3.6, curves)
    for method, name in zip(methods, curves, strict=True):
        of = points.loc[method].reindex([p for p in protocols if p in points.loc[method].index])
        place = [at[protocol] for protocol in of.index]
        number = color_of.get(method, 0)
        color, line = (CONTROL, ":") if is_control(method) else (style(number)[0], "-")
        marker = "." if is_control(method) else MARKERS[number % len(MARKERS)]
        ax.plot(place, of["mean"], line, color=color, marker=marker, markersize=5, linewidth=1.6, label=name)
        ax.fill_between(place, of["min"], of["max"], color=color, alpha=0.15, linewidth=0)
    ax.set_xticks([at[protocol] for protocol in protocols], names)
    ax.set(xlabel=label, ylabel=words(metric))
    tidy(ax, "top", "right", grid="y")
    legend_beside(ax)
    return ax


def sensitivity(
    frame: pd.DataFrame, metric: str = "own", *, reference: float | str = 1, ax: Axes | None = None
) -> Axes:
    """Draw how a metric answers to loss weights: a row per term, a column per factor on its weight.

    Parameters
    ----------
    frame
        Values, rows terms (e.g. ``"align"``), columns factors (e.g. ``0.1, 1, 10``). NaN cells stay empty.
    metric
        Name of what the values are.
    reference
        Column that colours compare with: blue is more, orange is less.
    ax
        Where to draw. Default: a new figure.

    Returns
    -------
    Axes
        Values are written into the cells; a change of 0.05 or more has full colour.

    Raises
    ------
    TypeError
        If ``frame`` is no DataFrame.
    ValueError
        If it is empty or not numeric.
    KeyError
        If it has no column ``reference``; the message lists those it has.

    Examples
    --------
    >>> import pandas as pd
    >>> import more_scvi as more
    >>> frame = pd.DataFrame({0.1: [0.80, 0.85], 1: [0.86, 0.86], 10: [0.84, 0.70]}, index=["classify", "align"])
    >>> ax = more.pl.sensitivity(frame, "own")
    >>> ax.get_xlabel()
    'factor on the weight'
    """
    if not isinstance(frame, pd.DataFrame):
        raise TypeError(f"sensitivity draws a DataFrame, terms × factors, not a {type(frame).__name__}.")
    if frame.empty or not all(pd.api.types.is_numeric_dtype(dtype) for dtype in frame.dtypes):
        raise ValueError(f"sensitivity needs numbers, terms × factors; got shape {frame.shape}, {set(frame.dtypes)}.")
    if reference not in frame:
        raise KeyError(f"frame has no column {reference!r} to compare with; it has {list(frame.columns)}.")
    change = frame.sub(frame[reference], axis=0).to_numpy(float)
    terms = shown(frame.index)
    factors = shown(f"{c:g}" if isinstance(c, int | float) else c for c in frame.columns)
    if ax is None:
        width = max(0.75, 0.1 * max(map(len, factors)))  # names of columns stand side by side
        ax = new_axes(1.8 + width * frame.shape[1], 1.1 + 0.36 * len(frame), terms)
    ax.set_facecolor("#E6E6E6")  # shows where there is no value
    ax.imshow(change, cmap=_ORANGE_BLUE, vmin=-_FULL, vmax=_FULL, aspect="auto")
    for row, column in zip(*np.nonzero(frame.notna().to_numpy()), strict=True):
        color = "white" if change[row, column] > 0.7 * _FULL else "black"
        ax.text(column, row, f"{frame.iloc[row, column]:.2f}", ha="center", va="center", fontsize="small", color=color)
    ax.set_xticks(range(frame.shape[1]), factors)
    ax.set_yticks(range(len(frame)), terms)
    ax.set(xlabel="factor on the weight", title=words(metric))
    ax.title.set_fontsize("medium")
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return ax


_FULL = 0.05
_ORANGE_BLUE = plt.matplotlib.colors.LinearSegmentedColormap.from_list("more", [COLORS[1], "white", COLORS[0]])
