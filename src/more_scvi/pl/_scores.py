from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ._labels import MARKERS, label_points, legend_beside, new_axes, shown, style, tidy
from ._table import CONTROL, is_control, natural, only_protocol, over_seeds, positions, ranked, select, words

MIN_SPAN = 0.1
"""Smallest range of the axis, so that differences of no importance do not look large."""


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
    table: pd.DataFrame,
    x: str = "CiLISI",
    y: str = "structure",
    *,
    protocol: str | None = None,
    ax: Axes | None = None,
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
