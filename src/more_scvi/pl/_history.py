import re
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from ._labels import legend_beside, new_axes, shown, style, tidy

SPLITS = {"train": "-", "validation": "--"}
CURVE = re.compile(r"loss_(.*)_(train|validation)", re.DOTALL)


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
                label = name if split == "train" or f"loss_{term}_train" not in curves else None
                ax.plot(curve.index, values, line, color=style(position)[0], label=label, linewidth=1.5)
    ax.set(xlabel="epoch", ylabel="loss", yscale="log" if log else "linear")
    tidy(ax, "top", "right")
    legend_beside(ax)
    return ax
