"""Backbones to compare: what a name means, and the features of all cells, computed once."""

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from anndata import AnnData
from numpy.typing import NDArray

from more_scvi._files import json_object
from more_scvi._threads import one_thread
from more_scvi.backbones._base import Backbone
from more_scvi.backbones._cache import compute_features
from more_scvi.backbones._registry import get_backbone, list_backbones
from more_scvi.base._prepare import MANY_WEIGHTS
from more_scvi.base._schema import obsm_features
from more_scvi.data._arguments import nearest
from more_scvi.data._genes import match_genes

from ._store import write_json
from .methods._features import Features, panel_key

NONE, ZEROED, BUNDLED = "none", "zeroed", "more-mini"
CONTROLS = {ZEROED: "untrained", "random": "random", "shuffled": "pretrained"}
"""Control → weights of ``more-mini`` that it reads."""
GIVEN = "obsm:"
SEED = 0
"""Seed of random weights and of permuted names: features do not depend on the seed of a split."""
TIMED = 256
"""Cells that are timed where the features were computed in several goes. Source: plain value."""


@dataclass(frozen=True, eq=False)
class Source:
    """Where the features of a backbone come from.

    Parameters
    ----------
    name
        What it is called in tables.
    load
        Makes the backbone; ``None`` where there is none, or its features are given.
    given
        Features of all cells ``(n_cells, n_features)`` that the user computed.
    shuffled
        Whether it reads counts under the names of other genes.
    """

    name: str
    load: Callable[[], Backbone] | None = None
    given: NDArray[np.float32] | None = None
    shuffled: bool = False


def read_source(text: Any, adata: AnnData) -> Source:
    """What one entry of ``backbones`` means; whatever does not exist is refused."""
    kinds = [name for name in list_backbones() if name != "precomputed"]
    legal = [NONE, *CONTROLS, *kinds, *(f"{kind}:FOLDER" for kind in kinds), f"{GIVEN}KEY", "a folder with weights"]
    if not isinstance(text, str):
        raise TypeError(f"backbones holds {text!r}, a {type(text).__name__}; give names: {', '.join(legal)}.")
    if text == NONE:
        return Source(text)
    if text in CONTROLS:
        load = partial(get_backbone, BUNDLED, weights=CONTROLS[text], seed=SEED)
        return Source(text, load, shuffled=text == "shuffled")
    if text.startswith(GIVEN):
        key = text.removeprefix(GIVEN)
        if key not in adata.obsm:
            there = ", ".join(f"{GIVEN}{name}" for name in adata.obsm) or "none"
            raise KeyError(f"backbones: {text!r} is not there, adata.obsm has no {key!r}. There are: {there}.")
        return Source(text, given=obsm_features(adata, key))
    if text in kinds:
        return Source(text, partial(get_backbone, text))
    kind, _, place = text.partition(":")
    if kind in kinds and place:
        if not Path(place).is_dir():
            raise ValueError(
                f"backbones: {text!r}: {place} is no folder. Give {kind}:FOLDER, the folder with its weights."
            )
        return Source(f"{kind}:{Path(place).resolve().name}", partial(get_backbone, kind, path=place))
    if Path(text).is_dir():
        return Source(Path(text).resolve().name, partial(get_backbone, text))
    meant = nearest(text, [NONE, *CONTROLS, *kinds])
    raise ValueError(f"backbones: {text!r} is unknown, and no folder. Give one of {', '.join(legal)}.{meant}")


def load_backbone(source: Source, genes: NDArray) -> Backbone | None:
    """The backbone of a source, if it can read these genes; ``None`` where it has none."""
    if source.load is None:
        return None
    try:
        backbone = source.load()
        if backbone.vocabulary is not None:
            match = match_genes(list(genes), backbone.vocabulary)
            if not match.n_matched:
                known = ", ".join(backbone.vocabulary.human_symbol[:3])
                raise ValueError(
                    f"none of the {len(genes)} genes ({', '.join(genes[:3])}, ...) is in its vocabulary, which has"
                    f" {known}, ...; name the column of adata.var that holds symbols or Ensembl ids as gene_key"
                )
            backbone.check_match(match)
    except (ValueError, TypeError, KeyError, OSError) as error:
        said = error.args[0] if error.args else error
        raise ValueError(f"backbones: {source.name!r} cannot be used: {said}") from error
    return backbone


def reads_panel(source: Source, backbone: Backbone | None, genes: NDArray, panel: NDArray[np.bool_]) -> str:
    """Why a backbone cannot read a part of the genes; empty if it can."""
    if source.name == NONE:
        return ""
    if backbone is None or backbone.vocabulary is None:
        return "its features are those of all genes"
    match = match_genes(list(_names(source, backbone, genes)[panel]), backbone.vocabulary)
    if not match.n_matched:
        return f"it knows none of the {int(panel.sum())} genes of the query"
    try:
        backbone.check_match(match)
    except ValueError as error:
        return str(error)
    return ""


def compute(
    source: Source,
    backbone: Backbone | None,
    adata: AnnData,
    genes: NDArray,
    panels: Sequence[NDArray[np.bool_]],
    cache_dir: Path | None,
    device: str,
    progress: bool,
) -> tuple[Features | None, dict[str, float]]:
    """Features of all cells, from all genes and from each panel of them; and what the former cost.

    Parameters
    ----------
    source, backbone
        What is read, see :func:`load_backbone`.
    adata
        Counts.
    genes
        Names that the backbone reads, ``(n_genes,)``.
    panels
        Genes that a query has, masks ``(n_genes,)``.
    cache_dir
        Where features are kept; what is there is not computed again. ``None``: in memory.
    device, progress
        As in :func:`~more_scvi.backbones.compute_features`.

    Returns
    -------
    Features, ``None`` without a backbone; seconds by the clock and megabytes for 1,000 cells, and number of weights.
    """
    if source.given is not None:
        tables = {"": source.given}
        cost = {"seconds": np.nan, "megabytes": _megabytes(source.given), "frozen": np.nan}
        print_of = hashlib.sha256(repr(source.given.shape).encode() + source.given.tobytes()).hexdigest()
        return Features(adata.obs_names, tables, print_of, any_panel=True), cost
    if backbone is None:
        return None, {"seconds": 0.0, "megabytes": 0.0, "frozen": 0}
    names = _names(source, backbone, genes)
    options: dict[str, Any] = {"cache_dir": cache_dir, "device": device, "progress": progress}
    with one_thread(backbone.n_parameters() < MANY_WEIGHTS):
        before = set() if cache_dir is None or not cache_dir.exists() else {path.name for path in cache_dir.iterdir()}
        start = time.perf_counter()
        cache = compute_features(backbone, adata.X, list(names), **options)
        seconds = (time.perf_counter() - start) / adata.n_obs
        folder = f"{backbone.name}-{cache.fingerprint[:16]}"
        stored = {} if cache_dir is None else json_object(cache_dir / folder / "cost.json")
        if "seconds" in stored:
            seconds = stored["seconds"]
        elif folder in before:  # another call began them
            start, few = time.perf_counter(), adata.X[:TIMED]
            compute_features(backbone, few, list(names), **options | {"cache_dir": None, "progress": False})
            seconds = (time.perf_counter() - start) / few.shape[0]
        if cache_dir is not None and stored.get("seconds") != seconds:
            write_json(cache_dir / folder / "cost.json", {"seconds": seconds})
        blind = backbone.vocabulary is None
        tables = {"" if blind else panel_key(adata.var_names): cache.full}
        for panel in panels:
            part = compute_features(backbone, adata.X[:, panel], list(names[panel]), **options)
            tables[panel_key(adata.var_names[panel])] = part.full
    cost = {"seconds": 1000 * seconds, "megabytes": _megabytes(cache.full), "frozen": backbone.n_parameters()}
    return Features(adata.obs_names, tables, cache.fingerprint, backbone.n_pooled, blind), cost


def default_device(device: str) -> str:
    """``"auto"`` as the accelerator that is there."""
    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device


def _names(source: Source, backbone: Backbone, genes: NDArray) -> NDArray:
    """Names under which the counts are read: those that the backbone knows are permuted for the control."""
    if not source.shuffled or backbone.vocabulary is None:
        return genes
    known = np.flatnonzero(match_genes(list(genes), backbone.vocabulary).vocab_index >= 0)
    out = genes.copy()
    out[known] = genes[np.random.default_rng(SEED).permutation(known)]
    return out


def _megabytes(values: NDArray) -> float:
    """Megabytes for 1,000 cells."""
    return values.shape[1] * values.dtype.itemsize / 1e3
