from __future__ import annotations

import contextlib
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ._shared import Json, choose_layer, predictions, quiet, read, read_to_change, refusals, show, write

if TYPE_CHECKING:
    from more_scvi.model._more import MoRE

UNSURE, NOVEL = 0.5, 0.8
"""Confidence below and novelty above which the summary counts a cell: no type has half of the probability; a quarter
of the labelled neighbours that are usual."""


def map_query(
    source: Annotated[Path, typer.Argument(metavar="QUERY", help="New cells: .h5ad, .h5mu or .zarr.")],
    model: Annotated[Path, typer.Option(metavar="FOLDER", help="A saved model.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="OUT", help="Ends as QUERY does; may be QUERY.")],
    batch: Annotated[
        list[str] | None, typer.Option(help="Column of obs with the batch, if its name is not the model's.")
    ] = None,
    layer: Annotated[
        str | None, typer.Option(help="Layer to read; X; raw: adata.raw. Default: as in the model.")
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The cells the model was trained on: novelty by neighbours."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Embed and annotate new cells with a saved model; nothing is trained.

    Writes obsm["X_more"] and, of a model with labels, obs["more_prediction"], obs["more_confidence"] and
    obs["more_novelty"]; of a model with a map obsm["X_more_map"].
    """
    start = time.perf_counter()
    with contextlib.redirect_stdout(sys.stderr):
        with refusals():
            data = read_to_change(source, output)
            trained = _load(model, reference)
            obs, uns = data.obs.copy(), dict(data.uns)
            cells = _as_the_model_reads(trained, data, batch, layer)
            arrays = {"X_more": trained.get_latent_representation(cells, obsm_key=None)}
            if trained.has_map:
                arrays["X_more_map"] = trained.get_map_coordinates(cells, obsm_key=None)
            added = predictions(trained, cells) if len(trained.labels) else {}
            if added:
                added["more_novelty"] = trained.get_novelty(cells).to_numpy()
            summary = {"output": str(output), "cells": data.n_obs, **_coverage(trained, cells)}
        data.obs, data.uns = obs.assign(**added), uns
        for key, values in arrays.items():
            data.obsm[key] = values
        write(data, output)
    if added:
        counts = data.obs["more_prediction"].value_counts()
        summary["types"] = {str(name): int(count) for name, count in counts.items()}
        summary["share_unsure"] = round(float((added["more_confidence"] < UNSURE).mean()), 4)
        if trained.adata is not None:  # else novelty is a distance, whose size has no meaning of its own
            summary["share_novel"] = round(float((added["more_novelty"] > NOVEL).mean()), 4)
    summary["wrote"] = [*(f"obsm/{key}" for key in arrays), *(f"obs/{name}" for name in added)]
    summary["seconds"] = round(time.perf_counter() - start, 1)
    show(summary, as_json)


def _load(folder: Path, reference: Path | None) -> MoRE:
    """The model, with the cells of its reference where there are any."""
    from more_scvi.model._more import MoRE

    quiet()
    if not folder.is_dir():
        raise FileNotFoundError(
            f"--model {folder} is not a folder. Give one that integrate --model or MoRE.save wrote."
        )
    held = any(folder.glob("*data*.h5*"))
    return MoRE.load(str(folder), read(reference) if reference is not None else None if held else False)


def _as_the_model_reads(model: MoRE, data: Any, batch: list[str] | None, layer: str | None) -> Any:
    """The cells with batch and values where the model looks for them."""
    from anndata import AnnData

    from more_scvi.data._batches import batch_keys
    from more_scvi.data._fields import RNA
    from more_scvi.evaluation._data import column_of, named_layers

    if batch:
        keys = batch_keys(model.schema.setup["batch_key"])
        if len(batch) != len(keys):
            named = f"the columns {', '.join(map(repr, keys))}; give --batch once for each" if keys else "no batches"
            raise ValueError(f"--batch is given {len(batch)} times, but the model was trained with {named}.")
        for key, column in zip(keys, [column_of(data, given, "--batch") for given in batch], strict=True):
            data.obs[key] = column
    if layer is None:
        return data
    if not isinstance(data, AnnData):
        raise ValueError("--layer is for cells of one modality. Of several, put the values where the model reads them.")
    chosen, name = choose_layer(data, layer)
    there, wanted = named_layers(chosen), model.schema.layer(RNA)
    if name not in (None, "X", *there):
        raise KeyError(f"--layer: there is no layer {name!r}; there are {', '.join(there) or 'none'}.")
    values = there[name] if name in there else chosen.X
    layers = {} if wanted is None else {wanted: values}
    return AnnData(values, obs=data.obs, var=chosen.var, obsm=dict(data.obsm), layers=layers)


def _coverage(model: MoRE, data: Any) -> dict[str, Any]:
    """How many features of the model, of each of its modalities, the cells have; and what share this is."""
    from more_scvi.modalities._modality import get_modality

    said: dict[str, Any] = {}
    with warnings.catch_warnings(action="ignore"):  # said before
        found = model.get_gene_coverage(data)["found"]
    for name, of in model.features.items():
        what = get_modality(name).features
        said[what] = int(found.get(name, 0))
        said[f"share_of_{what}"] = round(said[what] / len(of), 4)
    return said
