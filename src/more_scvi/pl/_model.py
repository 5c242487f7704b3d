"""Plots of one model: its losses, the weights of its modalities, its diagnosis."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from more_scvi.diagnosis._result import Check, Diagnosis
from more_scvi.modalities._modality import list_modalities

from ._labels import COLORS, MISSING, legend_beside, new_axes, shown, style, tidy

SPLITS = {"train": "-", "validation": "--"}
CURVE = re.compile(r"loss_(.*)_(train|validation)", re.DOTALL)
LOOKS = {"ok": (COLORS[2], "o"), "warning": (COLORS[3], "X")}


def history(model: Any, terms: Sequence[str] | None = None, *, ax: Axes | None = None, log: bool = False) -> Axes:
    """Draw the loss curves of a trained model: a colour per term, training solid, validation dashed.

    Parameters
    ----------
    model
        A trained :class:`~more_scvi.model.MoRE`; its ``history`` holds ``loss_<term>_train`` and, with validation,
        ``loss_<term>_validation``.
    terms
        E.g. ``["masked", "classify"]``. Default: all.
    ax
        Where to draw. Default: a new figure.
    log
        Logarithmic y axis, for terms of different size.

    Returns
    -------
    Axes
        With one line per curve.

    Raises
    ------
    ValueError
        If the model has no such curves, e.g. before training; the message lists those it has.

    Examples
    --------
    >>> import more_scvi as more
    >>> ax = more.pl.history(model, ["classify"])  # doctest: +SKIP
    """
    curves: Mapping[str, pd.DataFrame] = model.history or {}
    known = list(dict.fromkeys(match[1] for name in curves if (match := CURVE.fullmatch(name))))
    chosen = known if terms is None else list(terms)
    if not known:
        why = "the model is not trained; call model.train() first."
        if getattr(model, "is_trained", False):
            why = "a logger= given to train() takes the curves; read them there, or train without it."
        raise ValueError(f"model.history holds no loss curves: {why}")
    if unknown := [term for term in chosen if term not in known]:
        raise ValueError(f"The history has no term {', '.join(map(repr, unknown))}; it has {known}.")
    if not chosen:
        raise ValueError(f"terms is empty; give some of {known}, or None for all.")
    names = shown(chosen)
    ax = ax or new_axes(5, 3.2, names)
    for position, (term, name) in enumerate(zip(chosen, names, strict=True)):
        for split, line in SPLITS.items():
            if (curve := curves.get(f"loss_{term}_{split}")) is not None:
                values = curve.iloc[:, 0].astype(float)
                label = name if split == "train" or f"loss_{term}_train" not in curves else None  # one entry per term
                ax.plot(curve.index, values, line, color=style(position)[0], label=label, linewidth=1.5)
    ax.set(xlabel="epoch", ylabel="loss", yscale="log" if log else "linear")
    tidy(ax, "top", "right")
    legend_beside(ax)
    return ax


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


def diagnosis(result: Diagnosis | Any, *, ax: Axes | None = None) -> Axes:
    """Draw the checks of a model: how far each value is from its limit, on the healthy side or beyond it.

    The checks have units of their own. Each is drawn on a scale from -1 to 1: 0 is the limit, 1 the best value there
    is, -1 the worst.

    Parameters
    ----------
    result
        What :meth:`more_scvi.model.MoRE.diagnose` returns, or a trained model, which is then diagnosed.
    ax
        Where to draw. Default: a new figure.

    Returns
    -------
    Axes
        A row per check, the first on top, with its value and limit written beside it; what was not checked is grey.

    Raises
    ------
    TypeError
        If ``result`` is neither.

    Examples
    --------
    >>> import more_scvi as more
    >>> ax = more.pl.diagnosis(model.diagnose())  # doctest: +SKIP
    """
    if not isinstance(result, Diagnosis):
        if not hasattr(result, "diagnose"):
            raise TypeError(f"diagnosis draws model.diagnose(), or a model, not a {type(result).__name__}.")
        result = result.diagnose()
    checks = result.checks
    names = shown(check.check.replace("_", " ") for check in checks)
    ax = ax or new_axes(6.5, 0.9 + 0.3 * len(checks), names)
    rows = np.arange(len(checks))
    ax.axvspan(-1, 0, color=COLORS[3], alpha=0.08, linewidth=0)
    ax.axvline(0, color="black", linewidth=0.8)
    for row, check in zip(rows, checks, strict=True):
        if check.value is None:
            ax.annotate("not checked", (0.03, row), va="center", fontsize="small", color="grey")
            continue
        at, (color, marker) = margin(check), LOOKS[check.status]
        ax.hlines(row, 0, at, color=MISSING, linewidth=2, zorder=1)
        ax.scatter(at, row, s=45, color=color, marker=marker, zorder=2)
        sign = "≥" if check.healthy == "above" else "≤"
        ax.text(1.08, float(row), f"{check.value:.2g} ({sign} {check.limit:g})", va="center", fontsize="small")
    ax.set_yticks(rows, names)
    ax.invert_yaxis()
    ax.set(xlim=(-1.05, 1.05))
    ax.set_xticks([-0.5, 0, 0.5], ["warning", "limit", "ok"])
    tidy(ax, "top", "right", "left")
    ax.tick_params(length=0)
    return ax


def margin(check: Check) -> float:
    """Where a value lies between its limit (0), the best value (1) and the worst (-1); all checks live in [0, 1]."""
    assert check.value is not None
    value = min(max(check.value, 0.0), 1.0)
    room = 1.0 - check.limit if value >= check.limit else check.limit
    distance = (value - check.limit) / room if room else 0.0
    return distance if check.healthy == "above" else -distance
