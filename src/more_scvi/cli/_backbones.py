"""``more-scvi evaluate --backbones``: which backbone helps on the cells of a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ._shared import quiet

QUICK_REGIMES = ("S1-100", "S4-3")
"""A quick look: few cells and few labels, where a backbone matters first."""


def compare(
    data: Any,
    keys: dict[str, Any],
    backbones: tuple[str, ...],
    regimes: tuple[str, ...] | None,
    seeds: tuple[int, ...],
    name: str,
    most: int | None,
    results: Path | None,
    output: Path,
    command: str,
    as_json: bool,
) -> dict[str, Any]:
    """Run what is missing, write the page, and say what it says.

    ``keys`` name columns and the layer; ``regimes`` None: the usual ones; ``most`` cells take part, drawn at random.
    """
    import numpy as np
    from anndata import AnnData

    import more_scvi.model  # noqa: F401 - loads Lightning, so that it can be silenced
    from more_scvi.evaluation._backbones import compare_backbones

    if not isinstance(data, AnnData):
        raise ValueError(f"--backbones reads one modality; {name} holds several. Write its RNA, with obs, as .h5ad.")
    quiet()
    if most is not None and data.n_obs > most:
        data = data[np.sort(np.random.default_rng(0).permutation(data.n_obs)[:most])].copy()
        name = f"{name}-{most}"
    options: dict[str, Any] = {} if regimes is None else {"regimes": regimes}
    found = compare_backbones(data, backbones, **keys, **options, seeds=seeds, results_dir=results, dataset=name)
    page = found.write(output, overwrite=True, command=command)
    if as_json:
        return {"report": str(page), "json": str(page.with_suffix(".json")), **found.to_json()}
    left_out = [f"{regime}, {backbone}: {reason}" for regime, backbone, reason in found.left_out.to_numpy()]
    return {
        "report": str(page),
        "json": str(page.with_suffix(".json")),
        "cells": found.data["cells"],
        "backbones": list(found.backbones),
        "sentences": "\n".join(found.sentences.values()),
        "left out": "\n".join(left_out) or "nothing",
    }
