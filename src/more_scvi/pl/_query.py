"""Plots of a query over the reference that it was mapped on, and of what the strength of integration costs."""

from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes

from ._embedding import DOTS, embedding, legend_names
from ._labels import COLORS, columns_width, label_points, new_axes, shown, tidy

REFERENCE = "#E8E8E8"
NAMED = "#333333"
FEW = 100
"""Cells of a query that no name may hide."""
LEAST_SPAN = 0.1
"""Smallest range of an axis, so that differences of no importance do not look large."""


def query(
    model: Any,
    adata: Any,
    color: str | None = None,
    *,
    ax: Axes | None = None,
    title: str | None = None,
    size: float | None = None,
    missing: str | None = None,
    legend: bool = True,
    names: bool = True,
) -> Axes:
    """Draw the cells of a query over the reference, which is grey.

    Parameters
    ----------
    model
        A trained :class:`~more_scvi.model.MoRE` with a map (:meth:`~more_scvi.model.MoRE.fit_map`), with or without
        its data.
    adata
        The query: an AnnData or MuData that the model can embed. Not changed.
    color
        Column of ``adata.obs``, e.g. ``"more_prediction"``, ``"more_confidence"`` or ``"more_novelty"``: categories get
        a colour, numbers a colour bar. Default: all cells in one colour.
    ax
        Where to draw. Default: a new figure.
    title
        Default: ``color``.
    size
        Marker area of the query's cells in points². Default: smaller with more cells.
    missing
        A category drawn in light grey below the others, e.g. ``"Unknown"``; missing values always are.
    legend
        Show the categories beside the plot.
    names
        Write the labels of the reference where most of their cells are.

    Returns
    -------
    Axes
        With the landmarks of the reference as discs, larger for more cells, below the query.

    Raises
    ------
    ValueError
        If the model has no map; :meth:`~more_scvi.model.MoRE.fit_map` makes one.
    KeyError
        If ``color`` is not there; the message lists what is.

    Examples
    --------
    >>> query.obs["more_prediction"] = model.predict(query)  # doctest: +SKIP
    >>> ax = more.pl.query(model, query, color="more_prediction")  # doctest: +SKIP
    """
    if color is not None and color not in adata.obs:
        raise KeyError(f"adata.obs has no column {color!r}; it has {sorted(map(str, adata.obs.columns))}.")
    landmarks = model.get_map()
    places = model.get_map_coordinates(adata, obsm_key=None)
    cells = AnnData(obs=adata.obs[[] if color is None else [color]].copy(), obsm={"map": places})
    listed = legend_names(cells, color) if legend else []
    ax = ax or new_axes(6.4 + columns_width(listed), 4.8, listed)
    area = np.clip(40_000 / landmarks["n_cells"].sum() * landmarks["n_cells"], 4, 400)
    ax.scatter(landmarks["x"], landmarks["y"], s=area, c=REFERENCE, **DOTS)
    below = len(ax.collections)
    embedding(cells, "map", color, ax=ax, title=title, size=size, missing=missing, legend=legend)
    if names and "label" in landmarks:
        _name(ax, landmarks)
    if len(places) <= FEW:
        for drawn in ax.collections[below:]:
            drawn.set_zorder(4)  # above the names, which would hide them
    return ax


def _name(ax: Axes, landmarks: pd.DataFrame) -> None:
    """Write each label at the landmark of it that is nearest to the middle of all of its landmarks."""
    points = []
    for _, of in landmarks.groupby("label", sort=True):
        xy = of[["x", "y"]].to_numpy()
        middle = np.average(xy, axis=0, weights=of["n_cells"])
        points.append(xy[((xy - middle) ** 2).sum(1).argmin()])
    labels = shown(sorted(landmarks["label"].unique()))
    x, y = np.array(points).T
    label_points(ax, x.tolist(), y.tolist(), labels, [NAMED] * len(labels))


def strength(table: pd.DataFrame, *, chosen: float | None = None, ax: Axes | None = None) -> Axes:
    """Draw mixing of batches against structure kept, a point per strength of integration, joined by a line.

    Parameters
    ----------
    table
        Columns ``strength``, ``mixing`` (of batches within types or clusters, 0 to 1) and ``structure`` (distances
        within these that are kept, 0 to 1). Rows of the same strength are averaged.
    chosen
        The strength that was taken; its point gets a ring.
    ax
        Where to draw. Default: a new figure.

    Returns
    -------
    Axes
        Too little strength stands at the upper left, too much at the lower right.

    Raises
    ------
    TypeError, KeyError
        If ``table`` is no DataFrame or lacks a column.
    ValueError
        If no row has all three numbers, or none is of the strength ``chosen``.

    Examples
    --------
    >>> import pandas as pd
    >>> import more_scvi as more
    >>> rows = [(0.0, 0.4, 1.0), (0.5, 0.7, 0.98), (1.0, 0.8, 0.9)]
    >>> table = pd.DataFrame(rows, columns=["strength", "mixing", "structure"])
    >>> ax = more.pl.strength(table, chosen=0.5)
    >>> [text.get_text() for text in ax.texts]
    ['0', '0.5', '1']
    """
    columns = ["strength", "mixing", "structure"]
    if not isinstance(table, pd.DataFrame):
        raise TypeError(f"table is a {type(table).__name__}; give a DataFrame with the columns {', '.join(columns)}.")
    if lacking := [name for name in columns if name not in table]:
        raise KeyError(f"table has no column {', '.join(map(repr, lacking))}; it has {list(map(str, table.columns))}.")
    points = table[columns].astype(float).dropna().groupby("strength").mean().reset_index()
    if points.empty:
        raise ValueError(f"table has no row with a number for each of {', '.join(columns)}.")
    if chosen is not None and chosen not in set(points["strength"]):
        raise ValueError(f"table has no strength {chosen}; it has {points['strength'].tolist()}.")
    ax = ax or new_axes(4.6, 4)
    x, y = points["mixing"], points["structure"]
    ax.plot(x, y, color=COLORS[0], linewidth=1.2, marker="o", markersize=6)
    if chosen is not None:
        at = points[points["strength"] == chosen]
        ax.plot(at["mixing"], at["structure"], "o", markersize=12, markerfacecolor="none", color=COLORS[3])
    for axis, values in ((ax.xaxis, x), (ax.yaxis, y)):
        middle, half = (values.min() + values.max()) / 2, max(values.max() - values.min(), LEAST_SPAN) * 0.6
        axis.axes.set(**{f"{axis.axis_name}lim": (middle - half, middle + half)})
    ax.set(xlabel="mixing of batches", ylabel="structure kept", title="numbers: strength of integration")
    tidy(ax, "top", "right", grid="both")
    label_points(ax, x.tolist(), y.tolist(), [f"{value:g}" for value in points["strength"]], ["#222222"] * len(points))
    return ax
