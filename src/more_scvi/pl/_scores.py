"""Plots of evaluations: methods side by side, mixing against structure, a regime, loss weights."""

import re
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ._labels import COLORS, MARKERS, label_points, legend_beside, new_axes, shown, style, tidy
from ._table import CONTROL, is_control, natural, only_protocol, over_seeds, positions, ranked, select, words

MIN_SPAN = 0.1
"""Smallest range of the axis, so that differences of no importance do not look large."""
AXES = {
    "S1": ("cells", "all", "S1"),
    "S4": ("labels per type", "half", "S1"),
    "S5": ("share of the rare type (%)", None, None),
    "S5b": ("share of the rare type, in one batch (%)", None, None),
}
"""Per family of protocols: axis label, and name and protocol of the end of the axis that has no number."""
_FULL = 0.05
_ORANGE_BLUE = plt.matplotlib.colors.LinearSegmentedColormap.from_list("more", [COLORS[1], "white", COLORS[0]])


def scores(
    table: pd.DataFrame, metric: str = "own", *, protocols: Sequence[str] | None = None, ax: Axes | None = None
) -> Axes:
    """Draw one metric of all methods: a row per method, a colour per protocol, a line from lowest to highest seed.

    Parameters
    ----------
    table
        Tidy table of ``more_scvi.evaluation.run``: columns ``protocol``, ``seed``, ``method``, ``metric``, ``value``,
        and ``dataset`` and ``rotation``, which are averaged over.
    metric
        E.g. ``"own"``, ``"LR"``, ``"CiLISI"``. Methods without a value of it are left out.
    protocols
        Default: all that have the metric.
    ax
        Where to draw. Default: a new figure.

    Returns
    -------
    Axes
        Methods from best to worst by their mean over protocols; below a line, in grey, the controls, which show what
        the metric rewards.

    Raises
    ------
    TypeError, KeyError
        If ``table`` is no tidy table; the message names the columns it lacks.
    ValueError
        If no row has the metric, or a protocol; the message lists what is there.

    Examples
    --------
    >>> import pandas as pd
    >>> import more_scvi as more
    >>> rows = [("S1", s, m, "own", v + s / 50) for m, v in [("more", 0.8), ("lr_hvg", 0.7)] for s in (0, 1, 2)]
    >>> table = pd.DataFrame(rows, columns=["protocol", "seed", "method", "metric", "value"])
    >>> ax = more.pl.scores(table, "own")
    >>> [label.get_text() for label in ax.get_yticklabels()]
    ['more', 'lr_hvg']
    """
    rows = select(table, metric)
    chosen = natural(set(rows["protocol"])) if protocols is None else list(protocols)
    for protocol in chosen:
        only_protocol(rows, protocol)
    points = over_seeds(rows[rows["protocol"].isin(chosen)])
    methods = ranked(points["mean"].groupby(level="method").mean())
    ax = ax or new_axes(5.5, 1 + 0.14 * len(methods) * (1.5 + len(chosen)), shown(methods), shown(chosen))
    for shift, protocol in zip(np.linspace(-0.3, 0.3, len(chosen) + 2)[1:-1], chosen, strict=True):
        color, marker = style(chosen.index(protocol))[0], MARKERS[chosen.index(protocol) % len(MARKERS)]
        of = points.xs(protocol, level="protocol").reindex(methods)
        for row, (method, point) in enumerate(of.iterrows()):
            if np.isnan(point["mean"]):
                continue
            tint = CONTROL if is_control(str(method)) else color
            ax.plot(point[["min", "max"]], [row + shift] * 2, color=tint, linewidth=1.5, alpha=0.6)
            ax.plot(point["mean"], row + shift, marker=marker, color=tint, markersize=5)
    _method_axis(ax, methods)
    low, high = points["min"].min(), points["max"].max()
    margin = max(0.05 * (high - low), (MIN_SPAN - (high - low)) / 2)
    ax.set(xlabel=words(metric), xlim=(low - margin, high + margin))
    ax.xaxis.set_major_locator(MaxNLocator(5))
    tidy(ax, "top", "right", "left", grid="x")
    if len(chosen) > 1:
        handles = [
            Line2D([], [], linestyle="", marker=MARKERS[i % len(MARKERS)], color=style(i)[0], label=name, markersize=5)
            for i, name in enumerate(shown(chosen))
        ]
        legend_beside(ax, handles=handles)
    return ax


def tradeoff(
    table: pd.DataFrame, x: str = "CiLISI", y: str = "structure", *, protocol: str | None = None, ax: Axes | None = None
) -> Axes:
    """Draw one metric against another, a labelled point per method: what a method pays for what it gains.

    Parameters
    ----------
    table
        As in :func:`scores`.
    x, y
        Metrics; e.g. batch mixing against structure, where over-correction shows as a point at the lower right.
    protocol
        Default: the mean over all protocols.
    ax
        Where to draw. Default: a new figure.

    Returns
    -------
    Axes
        Points are means, thin lines the range over seeds; controls are grey. Methods that lack one of the metrics are
        left out.

    Raises
    ------
    TypeError, KeyError
        If ``table`` is no tidy table; the message names the columns it lacks.
    ValueError
        If no row has a metric or the protocol, or no method has both metrics.

    Examples
    --------
    >>> import pandas as pd
    >>> import more_scvi as more
    >>> rows = [("S1", 0, "more", "CiLISI", 0.8), ("S1", 0, "more", "structure", 0.9)]
    >>> rows += [("S1", 0, "pca", "CiLISI", 0.3), ("S1", 0, "pca", "structure", 1.0)]
    >>> table = pd.DataFrame(rows, columns=["protocol", "seed", "method", "metric", "value"])
    >>> ax = more.pl.tradeoff(table)
    >>> sorted(text.get_text() for text in ax.texts)
    ['more', 'pca']
    """
    rows = only_protocol(table, protocol)
    one, other = (over_seeds(select(rows, metric)).groupby(level="method").mean() for metric in (x, y))
    methods = [m for m in ranked(one["mean"]) if m in other.index]
    if not methods:
        raise ValueError(f"No method has both {x!r} and {y!r}: {sorted(one.index)} and {sorted(other.index)}.")
    one, other = one.loc[methods], other.loc[methods]
    ax = ax or new_axes(5, 4.2)
    place = positions(table)
    colors = [CONTROL if is_control(method) else style(place[method])[0] for method in methods]
    for i, color in enumerate(colors):
        at = one["mean"].iloc[i], other["mean"].iloc[i]
        ax.plot(one[["min", "max"]].iloc[i], [at[1]] * 2, color=color, linewidth=1, alpha=0.5)
        ax.plot([at[0]] * 2, other[["min", "max"]].iloc[i], color=color, linewidth=1, alpha=0.5)
        ax.plot(*at, marker="o", color=color, markersize=7)
    ax.margins(0.15)
    ax.set(xlabel=words(x), ylabel=words(y))
    tidy(ax, "top", "right", grid="both")
    dark = [color if color == CONTROL else "#222222" for color in colors]
    label_points(ax, one["mean"].tolist(), other["mean"].tolist(), shown(methods), dark)
    return ax


def _method_axis(ax: Axes, methods: Sequence[str]) -> None:
    """Methods from top to bottom, controls grey and below a line."""
    ax.set_yticks(range(len(methods)), shown(methods))
    ax.set_ylim(len(methods) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0)
    controls = [is_control(method) for method in methods]
    for label, control in zip(ax.get_yticklabels(), controls, strict=True):
        label.set_color(CONTROL if control else "black")
    if any(controls) and not all(controls):
        ax.axhline(controls.index(True) - 0.5, color="#BBBBBB", linewidth=0.8, linestyle=":")


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
        at[str(whole)] = at[protocols[-1]] + (float(np.median(steps)) if len(steps) else 0.5)  # it has no number
        protocols, names = [*protocols, str(whole)], [*names, str(end)]
    points = over_seeds(rows[rows["protocol"].isin(protocols)])
    last = points["mean"].unstack()[protocols].ffill(axis=1).iloc[:, -1]  # a curve may end before the axis does
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
