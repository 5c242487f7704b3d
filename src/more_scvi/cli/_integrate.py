from __future__ import annotations

import contextlib
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from more_scvi._files import check_writable

from ._shared import Json, Seed, choose_layer, predictions, quiet, read_to_change, refusals, show, write

if TYPE_CHECKING:
    from more_scvi.model._more import MoRE


def integrate(
    source: Annotated[
        Path, typer.Argument(metavar="IN", help="Cells × genes (.h5ad) or of several modalities (.h5mu); or .zarr.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="OUT", help="Ends as IN does; may be IN.")],
    batch: Annotated[list[str] | None, typer.Option(help="Column of obs with the batch; may be repeated.")] = None,
    labels: Annotated[str | None, typer.Option(help="Column of obs with cell types, complete or not.")] = None,
    unlabeled: Annotated[str, typer.Option(help="The value in --labels of cells without a label.")] = "Unknown",
    layer: Annotated[str | None, typer.Option(help="Layer to read instead of X; raw: adata.raw.")] = None,
    modality: Annotated[
        list[str] | None, typer.Option(metavar="ROLE=NAME", help="Of .h5mu, e.g. atac=peaks. Default: by usual names.")
    ] = None,
    gene_key: Annotated[str | None, typer.Option(help="Column of var with gene symbols or Ensembl ids.")] = None,
    backbone: Annotated[str, typer.Option(help="Name, folder with weights, or none.")] = "more-mini",
    max_epochs: Annotated[int | None, typer.Option(min=1, help="Default: chosen from the number of cells.")] = None,
    model: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Save the trained model here, with a map.")
    ] = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Embed the cells of a file in one space, and annotate the unlabelled ones.

    Writes obsm["X_more"] and, with --labels, obs["more_prediction"] and obs["more_confidence"].
    """
    start = time.perf_counter()
    setup = {"batch_key": batch or None, "labels_key": labels, "unlabeled_category": unlabeled, "gene_key": gene_key}
    with contextlib.redirect_stdout(sys.stderr):
        with refusals():
            if model is not None:
                if model.exists():
                    raise FileExistsError(f"--model {model} exists. Name a new folder.")
                check_writable(model, f"--model {model}")
            data = read_to_change(source, output)
            obs, uns = data.obs.copy(), dict(data.uns)  # without what this process will register
            trained = _build(data, setup, layer, modality or [], backbone, seed)
        trained.train(max_epochs=max_epochs, enable_progress_bar=sys.stderr.isatty())  # no bars in a log file
        z = trained.get_latent_representation()
        added = {} if labels is None else predictions(trained)
        if model is not None:
            trained.fit_map()
            trained.save(str(model))
        data.obs, data.uns, data.obsm["X_more"] = obs.assign(**added), uns, z
        write(data, output)
    size: dict[str, Any] = {"genes": data.n_vars}
    if trained.schema.is_mudata:
        size = {"modalities": [f"{role} ({name})" for role, name in trained.schema.names.items()]}
    summary = {
        "output": str(output),
        "cells": data.n_obs,
        **size,
        "latent": z.shape[1],
        "wrote": ["obsm/X_more", *(f"obs/{name}" for name in added)],
        "seconds": round(time.perf_counter() - start, 1),
    }
    show(summary, as_json)


def _build(data: Any, setup: dict[str, Any], layer: str | None, modality: list[str], backbone: str, seed: int) -> MoRE:
    import scvi
    from anndata import AnnData

    from more_scvi.model._more import MoRE

    quiet()
    scvi.settings.seed = seed
    if isinstance(data, AnnData):
        if modality:
            raise ValueError("--modality names the modalities of a .h5mu file; these cells have one. Leave it out.")
        data, layer = choose_layer(data, layer)
        MoRE.setup_anndata(data, layer=layer, **setup)
    else:
        roles = _roles(data, modality)
        MoRE.setup_mudata(data, roles, layers=_layers(data, roles, layer), **setup)
    return MoRE(data, backbone=None if backbone == "none" else backbone)


def _roles(mdata: Any, given: list[str]) -> dict[str, str]:
    """Role → name in the MuData, as said or by the names that are usual."""
    from more_scvi.evaluation._data import ALIASES
    from more_scvi.evaluation.methods._more import ROLES
    from more_scvi.modalities._modality import list_modalities

    named = dict(text.partition("=")[::2] for text in given)
    if not all(named.values()):
        raise ValueError(f"--modality {' '.join(given)} must be ROLE=NAME, e.g. --modality atac=peaks.")
    if named:
        return named  # setup_mudata says what is wrong with it
    lower = {name.lower(): name for name in mdata.mod}
    usual = {ROLES.get(role, role): names for role, names in ALIASES.items()}
    found = {role: lower[name] for role, names in usual.items() for name in names if name in lower}
    if left := [name for name in mdata.mod if name not in found.values()]:
        raise ValueError(
            f"What are the modalities {', '.join(map(repr, left))}? Name all that shall be read, e.g. --modality"
            f" rna={next(iter(mdata.mod))}; roles are {', '.join(list_modalities())}."
        )
    return found


def _layers(mdata: Any, roles: dict[str, str], layer: str | None) -> dict[str, str] | None:
    """The layer, for those modalities that have it."""
    if layer is None:
        return None
    having = {role: layer for role, name in roles.items() if name in mdata.mod and layer in mdata.mod[name].layers}
    if not having:
        there = sorted({str(key) for part in mdata.mod.values() for key in part.layers if key is not None})
        raise ValueError(f"--layer: no modality has a layer {layer!r}; there are {', '.join(there) or 'none'}.")
    return having
