"""Pictures of the report: PNG inside the page, each with words for those who cannot see it."""

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from more_scvi import pl
from more_scvi.pl._labels import LONGEST, shown

from ._inputs import BASES, ReportInputs

DPI = 180


@dataclass(frozen=True)
class Picture:
    """A PNG as base64, what it shows in words, how to read it, and its size in CSS pixels."""

    data: str
    alt: str
    caption: str
    width: int
    height: int


def pictures(inputs: ReportInputs, summary: dict[str, Any]) -> dict[str, Picture]:
    """All pictures of a report by name; those that the inputs cannot give are left out."""
    per_type = pd.DataFrame.from_dict(summary["per_type"], orient="index")
    out = {**_maps(inputs), **_tables(inputs, summary)}
    if len(per_type):
        worst = per_type["f1"].idxmin()
        out["types"] = _picture(
            lambda: pl.per_type_f1(per_type),
            f"Bars of F1 for {len(per_type)} types; the lowest is {worst} with {per_type['f1'].min():.2f}.",
            "n is the number of scored cells; with few of them F1 is mostly chance.",
        )
        on = inputs.scored
        out["confusion"] = _picture(
            lambda: pl.confusion(inputs.labels[on], inputs.prediction[on]),
            f"Heat map of true against predicted types: {summary['shown']['correct']} of {summary['shown']['scored']}"
            " cells lie on the diagonal.",
            "A row holds the cells of one true type; numbers are percent of them.",
        )
    model = inputs.result.model
    if model is not None and model.history:
        out["losses"] = _picture(
            lambda: pl.history(model, log=True),
            "Loss curves over epochs, one colour per term.",
            "Solid: training cells; dashed: cells held back from training. Terms have their own scales.",
        )
    if summary["modality_weights"]:
        labels = pd.Series(inputs.labels, index=inputs.adata.obs_names, name="type")
        out["weights"] = _picture(
            lambda: pl.modality_weights(model.get_modality_weights(), labels),
            f"Stacked bars: mean weight of each modality in {len(summary['modality_weights'])} types.",
            "Means over cells; a modality that was not measured in a cell has weight 0 there.",
        )
    return out


def _tables(inputs: ReportInputs, summary: dict[str, Any]) -> dict[str, Picture]:
    """Dots per method, and mixing against structure."""
    out = {}
    has = {m for protocol in summary["protocols"].values() for m in protocol["metrics"]}
    for metric in ("LR", "own"):
        if metric in has:
            out[f"scores_{metric}"] = _picture(
                partial(pl.scores, inputs.table, metric),
                f"Dots of {pl._table.words(metric)} per method; the numbers are in the tables above.",
                "A dot is the mean over splits, its line the range over seeds. Grey: controls.",
            )
    table = inputs.table[inputs.table["value"].notna()]
    both = [set(table.loc[table["metric"] == metric, "method"]) for metric in ("CiLISI", "structure")]
    if both[0] & both[1]:
        out["tradeoff"] = _picture(
            lambda: pl.tradeoff(inputs.table, "CiLISI", "structure"),
            "Points of batch mixing against structure, one per method; the numbers are in the tables above.",
            "To the right: batches mixed. Up: distances within types kept. Noise sits at the lower right.",
        )
    return out


def _maps(inputs: ReportInputs) -> dict[str, Picture]:
    """UMAPs of PCA and MoRE by batch, by true type, and by whether hidden cells were named correctly."""
    correct = np.where(inputs.labels == inputs.prediction, "right", "wrong")
    obs = pd.DataFrame(
        {
            "batch": inputs.adata.obs[inputs.batch_key].astype(str).to_numpy(),
            "true type": inputs.labels,
            "prediction": np.where(inputs.scored, correct, "not hidden"),
        },
        index=inputs.adata.obs_names,
    )
    cells = AnnData(obs=obs, obsm={key: np.asarray(inputs.adata.obsm[key]) for key in BASES.values()})
    shown = {
        "batch": (None, "Cells of a type should lie together whatever their batch."),
        "true type": (inputs.unlabeled, "The types as they are, hidden ones included."),
        "prediction": ("not hidden", "Hidden cells whose type MoRE named right or wrong, in both maps."),
    }
    out = {}
    for column, (missing, caption) in shown.items():
        groups = obs[column].nunique()
        if column == "batch" and (cut := [name for name in obs[column].unique() if len(name) > LONGEST]):
            caption += f" In full: {', '.join(cut)}."
        alt = f"UMAP of {len(obs)} cells by PCA (left) and by MoRE (right), coloured by {column} ({groups} groups)."
        out[f"map_{column.split()[-1]}"] = _picture(partial(_map, cells, column, missing), alt, caption)
    return out


def _map(cells: AnnData, column: str, missing: str | None) -> Axes:
    """Two maps side by side, the legend below, so that it is readable on a narrow screen."""
    names = shown(cells.obs[column].unique())
    n_columns = int(np.clip(60 // (max(map(len, names)) + 6), 1, 3))
    n_rows = -(-len(names) // n_columns)
    figure, axes = plt.subplots(1, 2, figsize=(5, 2.7 + 0.2 * n_rows), layout="constrained")
    for ax, (title, basis) in zip(axes, BASES.items(), strict=True):
        pl.embedding(cells, basis, column, ax=ax, title=title, missing=missing, legend=False)
        ax.set_box_aspect(1)
        ax.title.set_fontsize("medium")
    handles, labels = axes[0].get_legend_handles_labels()
    look = {"frameon": False, "fontsize": 9, "markerscale": 2, "handletextpad": 0.1, "columnspacing": 1}
    figure.legend(handles, labels, loc="outside lower center", ncols=min(n_columns, len(labels)), **look)
    return axes[0]


def _picture(draw: Callable[[], Axes], alt: str, caption: str) -> Picture:
    """Draw, encode, close: figures never reach the screen of a notebook."""
    with plt.ioff():
        figure = draw().figure
    assert isinstance(figure, Figure)  # a figure of its own
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, bbox_inches="tight", facecolor="white", metadata={"Software": None})
    plt.close(figure)
    data = buffer.getvalue()
    width, height = (int.from_bytes(data[at : at + 4], "big") for at in (16, 20))  # header of a PNG
    scale = DPI / 96  # a CSS pixel is 1/96 inch
    return Picture(base64.b64encode(data).decode("ascii"), alt, caption, round(width / scale), round(height / scale))
