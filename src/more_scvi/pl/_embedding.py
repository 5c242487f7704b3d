from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes

from ._labels import MISSING, columns_width, legend_beside, new_axes, shown, style

DOTS: dict[str, Any] = {"linewidths": 0, "rasterized": True}  # one vector object per cell makes files huge


def embedding(
    adata: AnnData,
    basis: str = "X_umap",
    color: str | None = None,
    *,
    ax: Axes | None = None,
    title: str | None = None,
    size: float | None = None,
    missing: str | None = None,
    legend: bool = True,
) -> Axes:
    """Scatter the first two columns of an embedding.

    Parameters
    ----------
    adata
        Not changed.
    basis
        Key in ``adata.obsm``.
    color
        Column of ``adata.obs``: categories get a colour (and, from the ninth on, another marker), numbers a colour
        bar. Default: all cells in one colour.
    ax
        Where to draw. Default: a new figure.
    title
        Default: ``color``.
    size
        Marker area in points². Default: smaller with more cells.
    missing
        A category drawn in grey below the others, e.g. ``"Unknown"``; missing values always are.
    legend
        Show the categories beside the plot.

    Returns
    -------
    Axes
        With the scatter drawn in.

    Raises
    ------
    KeyError
        If ``basis`` or ``color`` are not there; the message lists what is.

    Examples
    --------
    >>> import more_scvi as more
    >>> adata = more.data.simulate_batches()
    >>> adata.obsm["X_first_genes"] = adata.X[:, :2].toarray()
    >>> ax = more.pl.embedding(adata, "X_first_genes", color="batch")
    """
    if basis not in adata.obsm:
        raise KeyError(f"adata.obsm has no {basis!r}; it has {sorted(adata.obsm)}.")
    if color is not None and color not in adata.obs:
        raise KeyError(f"adata.obs has no column {color!r}; it has {sorted(adata.obs.columns)}.")
    names = legend_names(adata, color) if legend else []
    ax = ax or new_axes(4 + columns_width(names), 4, names)
    xy = np.asarray(adata.obsm[basis])[:, :2]
    legend = legend and len(xy) > 0
    # one order for all categories, so that none hides another, and always the same
    order = np.random.default_rng(0).permutation(len(xy))
    x, y = xy[order].T
    area = size if size is not None else float(np.clip(12_000 / max(len(x), 1), 2, 20))
    if color is None:
        ax.scatter(x, y, s=area, c=style(0)[0], **DOTS)
    elif pd.api.types.is_numeric_dtype(adata.obs[color]) and not pd.api.types.is_bool_dtype(adata.obs[color]):
        drawn = ax.scatter(x, y, s=area, c=adata.obs[color].to_numpy(float)[order], cmap="viridis", **DOTS)
        if legend:
            ax.figure.colorbar(drawn, ax=ax, shrink=0.7)
    else:
        _categories(ax, x, y, adata.obs[color].iloc[order], area, missing)
        if legend:
            legend_beside(ax, markerscale=2)
    if title is None and color is not None:
        (title,) = shown([color])
    ax.set(title=title, xticks=[], yticks=[], xlabel="", ylabel="")
    ax.spines[:].set_visible(False)
    return ax


def legend_names(adata: AnnData, *columns: str | None) -> list[str]:
    """What the legends of these columns say."""
    obs = adata.obs[[name for name in columns if name is not None]].select_dtypes(exclude="number")
    return [text for name in obs for text in shown(obs[name].unique())]


def _categories(ax: Axes, x: np.ndarray, y: np.ndarray, values: pd.Series, area: float, missing: str | None) -> None:
    """Draw each category with its colour and marker, unknown ones first, so below."""
    unknown = (values.isna() | (values == missing)).to_numpy()
    known = [c for c in values.astype("category").cat.categories if c != missing]
    name, *names = shown([missing or "missing", *known])
    if unknown.any():
        ax.scatter(x[unknown], y[unknown], s=area / 2, c=MISSING, label=name, **DOTS)
    for position, category in enumerate(known):  # unused categories keep their colour for other plots
        cells = (values == category).to_numpy()
        if not cells.any():
            continue
        color, marker = style(position)
        ax.scatter(x[cells], y[cells], s=area, c=color, marker=marker, label=names[position], **DOTS)


def compare(
    adata: AnnData,
    bases: Mapping[str, str],
    color: Sequence[str],
    *,
    axes: np.ndarray | None = None,
    missing: str | None = None,
) -> np.ndarray:
    """Draw embeddings side by side: a column each, a row per column of ``obs``. Before and after, in one picture.

    Parameters
    ----------
    adata
        Not changed.
    bases
        Title to key in ``adata.obsm``, e.g. ``{"PCA": "X_umap_before", "MoRE": "X_umap"}``.
    color
        Columns of ``adata.obs``.
    axes
        ``(len(color), len(bases))`` array of Axes. Default: a new figure.
    missing
        As in :func:`embedding`.

    Returns
    -------
    numpy.ndarray
        The Axes, ``(len(color), len(bases))``.

    Examples
    --------
    >>> import more_scvi as more
    >>> adata = more.data.simulate_batches()
    >>> adata.obsm["X_a"] = adata.obsm["X_b"] = adata.X[:, :2].toarray()
    >>> axes = more.pl.compare(adata, {"before": "X_a", "after": "X_b"}, ["batch", "cell_type"])
    >>> axes.shape
    (2, 2)
    """
    shape = (len(color), len(bases))
    if axes is None:
        names = [legend_names(adata, column) for column in color]
        longest = max((len(name) for of in names for name in of), default=0)
        beside = max(1.6, 0.7 + 0.075 * longest) + max(map(columns_width, names), default=0)
        size = (3.4 * shape[1] + beside, 3.2 * shape[0])
        _, axes = plt.subplots(*shape, figsize=size, layout="constrained", squeeze=False)
    axes = np.asarray(axes)
    if axes.shape != shape:
        raise ValueError(f"axes has shape {axes.shape}; {len(color)} colours of {len(bases)} embeddings need {shape}.")
    titles = shown(bases)
    for row, column in enumerate(color):
        for position, basis in enumerate(bases.values()):
            title, last = titles[position] if row == 0 else "", position == shape[1] - 1
            embedding(adata, basis, column, ax=axes[row, position], title=title, missing=missing, legend=last)
    return axes
