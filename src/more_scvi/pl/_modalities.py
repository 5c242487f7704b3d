from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from more_scvi.modalities._modality import list_modalities

from ._labels import legend_beside, new_axes, shown, style, tidy


def modality_weights(model: Any, groupby: str | pd.Series | None = None, *, ax: Axes | None = None) -> Axes:
    """Draw how much each modality counts: mean fusion weights as stacked bars, one bar per group of cells.

    Parameters
    ----------
    model
        A trained :class:`~more_scvi.model.MoRE`, or the DataFrame cells × modalities that its
        :meth:`~more_scvi.model.MoRE.get_modality_weights` returns.
    groupby
        Column of the model's ``obs`` (only with a model), or a Series with a group per cell, matched by cell name.
        Cells without a group are left out. Default: one bar for all cells.
    ax
        Where to draw. Default: a new figure.

    Returns
    -------
    Axes
        With a bar per group, in the order of its categories or else sorted, the first on top. Weights are means over
        the cells of a group: where a modality was measured in half of them, it can reach half of the bar.

    Raises
    ------
    TypeError
        If ``model`` is neither, or ``groupby`` is a column's name beside a DataFrame, which has no ``obs``.
    KeyError
        If ``obs`` has no such column; the message lists those it has.
    ValueError
        If the Series lacks cells, names cells twice, or leaves no group.

    Examples
    --------
    >>> import pandas as pd
    >>> import more_scvi as more
    >>> weights = pd.DataFrame({"rna": [0.4, 0.6, 1.0], "protein": [0.6, 0.4, 0.0]}, index=["c1", "c2", "c3"])
    >>> donors = pd.Series(["a", "a", "b"], index=["c1", "c2", "c3"])
    >>> ax = more.pl.modality_weights(weights, donors)
    >>> [label.get_text() for label in ax.get_yticklabels()]
    ['a', 'b']
    """
    weights, obs = _weights(model)
    groups = _groups(groupby, weights.index, obs)
    means = weights.groupby(groups, observed=True).mean()
    if not len(means):
        raise ValueError("groupby has a value for none of the cells; give a column or Series with at least one group.")
    # by all registered modalities, so that one keeps its colour in models that lack another
    stacked = [*dict.fromkeys([*list_modalities(), *means.columns])]
    colors = {role: style(at)[0] for at, role in enumerate(stacked) if role in means.columns}
    bars = shown(means.index)
    names = shown(colors)
    ax = ax or new_axes(5, 0.9 + 0.32 * len(means), bars, names)
    rows, left = np.arange(len(means)), np.zeros(len(means))
    for (role, color), name in zip(colors.items(), names, strict=True):
        ax.barh(rows, means[role], left=left, height=0.75, color=color, edgecolor="white", linewidth=0.8, label=name)
        left = left + means[role].to_numpy()
    ax.set_yticks(rows, bars)
    ax.invert_yaxis()
    grouped = groupby.name if isinstance(groupby, pd.Series) else groupby
    ax.set(xlim=(0, 1), xlabel="mean weight", ylabel="" if grouped is None else shown([grouped])[0])
    tidy(ax, "top", "right", "left")
    ax.tick_params(axis="y", length=0)
    legend_beside(ax)
    return ax


def _weights(model: Any) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """Weights (cells, modalities) and, from a model, the columns of its cells."""
    if isinstance(model, pd.DataFrame):
        return model, None
    if not hasattr(model, "get_modality_weights"):
        found = type(model).__name__
        raise TypeError(f"modality_weights draws a model or the DataFrame of get_modality_weights(), not a {found}.")
    return model.get_modality_weights(), model.adata.obs


def _groups(groupby: str | pd.Series | None, cells: pd.Index, obs: pd.DataFrame | None) -> pd.Series:
    """Group of each cell, in the order of ``cells``."""
    if groupby is None:
        return pd.Series("all cells", index=cells)
    if isinstance(groupby, pd.Series):
        if not groupby.index.is_unique:
            raise ValueError("groupby names some cells twice; its index must be the cell names, each once.")
        missing = cells[~cells.isin(groupby.index)]
        if len(missing):
            raise ValueError(
                f"groupby has no entry for {len(missing)} of {len(cells)} cells, e.g. {missing[0]!r}; give a Series"
                " with the cell names as index, such as mdata.obs['cell_type']."
            )
        return groupby.loc[cells]
    if obs is None:
        raise TypeError(
            f"groupby={groupby!r} names a column, but a DataFrame of weights has no obs; give the column itself,"
            f" mdata.obs[{groupby!r}], or the model."
        )
    if groupby not in obs:
        raise KeyError(f"obs has no column {groupby!r}; it has {sorted(obs.columns)}.")
    return obs[groupby]
