from __future__ import annotations

import contextlib
import json
import shlex
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from more_scvi._files import check_writable

from ._backbones import QUICK_REGIMES, compare
from ._shared import Json, choose_layer, quiet, read, refusals, show

if TYPE_CHECKING:
    from more_scvi.evaluation._data import Data
    from more_scvi.evaluation._tasks import Task

QUICK_METHODS = ("more", "pca_raw", "pca", "lr_hvg", "random", "onehot-LR")
SEVERAL_METHODS = ("more", "blocks", "lr_features", "pca", "random", "onehot-LR", "LEAK")
"""Defaults for a quick look, and for several modalities."""
QUICK_CELLS = 2000


def evaluate(
    source: Annotated[Path, typer.Argument(metavar="FILE", help="Labelled cells, raw counts: .h5ad, .h5mu or .zarr.")],
    batch: Annotated[str, typer.Option(help="Column of obs with the batch.")],
    labels: Annotated[str, typer.Option(help="Column of obs with cell types; some are hidden, then predicted.")],
    unlabeled: Annotated[str, typer.Option(help="The value in --labels of cells without a label.")] = "Unknown",
    layer: Annotated[str | None, typer.Option(help="Layer with raw counts instead of X; raw: adata.raw.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="PAGE.html", help="A .json goes beside it.")] = Path(
        "report.html"
    ),
    methods: Annotated[
        str | None, typer.Option(help="Separated by commas; obsm:<key> is an embedding of the file. Default: see docs.")
    ] = None,
    protocols: Annotated[str | None, typer.Option(help="What is hidden, e.g. S1,S2a,S4-3. Default: S1,S2a.")] = None,
    seeds: Annotated[str | None, typer.Option(help="Separated by commas. Default: 0,1,2.")] = None,
    results: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Keep results here; a second call goes on where it stopped.")
    ] = None,
    prefilter: Annotated[str | None, typer.Option(help="scrublet: leave out doublets, for all methods.")] = None,
    backbones: Annotated[
        str | None,
        typer.Option(
            help="Compare MoRE on these instead, separated by commas: none, zeroed, random, shuffled, more-mini,"
            " geneformer:FOLDER, scgpt:FOLDER, obsm:KEY, a folder."
        ),
    ] = None,
    gene_key: Annotated[
        str | None, typer.Option(help="With --backbones: column of var with gene symbols or Ensembl ids.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Few splits, cheap methods, at most 2,000 cells drawn at random.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing report.")] = False,
    as_json: Json = False,
) -> None:
    """Hide known labels, let MoRE and other methods predict them, and write a report (HTML and JSON).

    With --backbones: which frozen backbone helps MoRE on these cells, as one page (HTML).

    The file is not changed. Hidden labels reach no method but those called LEAK.
    """
    start = time.perf_counter()
    with contextlib.redirect_stdout(sys.stderr), refusals():
        _check_backbones(backbones, methods, prefilter, gene_key)
        _check_output(output, overwrite)
        _check_results(results)
        chosen = _names("--methods", methods, QUICK_METHODS if quick else ())
        asked = _names("--protocols", protocols, ("S1",) if quick else ("S1", "S2a"))
        drawn = _numbers("--seeds", seeds, (0,) if quick and backbones is None else (0, 1, 2))
        data, matrix = choose_layer(read(source), layer)
        options = {
            "--batch": batch,
            "--labels": labels,
            "--unlabeled": None if unlabeled == "Unknown" else unlabeled,
            "--layer": layer,
            "--methods": methods,
            "--protocols": protocols,
            "--seeds": seeds,
            "--prefilter": prefilter,
            "--backbones": backbones,
            "--gene-key": gene_key,
        }
        command = ["more-scvi", "evaluate", str(source)]
        command += [text for name, value in options.items() if value is not None for text in (name, value)]
        keys = {"batch_key": batch, "labels_key": labels, "unlabeled_category": unlabeled, "layer": matrix}
        said = shlex.join([*command, *(["--quick"] if quick else [])])
        if backbones is not None:
            summary = compare(
                data,
                {**keys, "gene_key": gene_key},
                _names("--backbones", backbones, ()),
                asked if protocols else QUICK_REGIMES if quick else None,
                drawn,
                source.stem,
                QUICK_CELLS if quick else None,
                results,
                output,
                said,
                as_json,
            )
        else:
            with tempfile.TemporaryDirectory() as nowhere:
                most, folder = QUICK_CELLS if quick else None, results or Path(nowhere)
                plan = _Plan(source.stem, asked, drawn, most, prefilter, folder)
                page, twin = _report(data, keys, chosen, plan, output, said)
            written = json.loads(twin.read_text())
            summary = {
                "report": str(page),
                "json": str(twin),
                "cells": written["data"]["cells"],
                "methods": list(written["methods"]),
                "verdict": written["verdict"],
            }
    show(summary | {"seconds": round(time.perf_counter() - start, 1)}, as_json)


@dataclass(frozen=True)
class _Plan:
    """What is run, which cells take part (``most`` of them, or those that a filter leaves), where results are kept."""

    name: str
    protocols: tuple[str, ...]
    seeds: tuple[int, ...]
    most: int | None
    prefilter: str | None
    folder: Path


def _report(
    data: Any, keys: dict[str, Any], methods: tuple[str, ...], plan: _Plan, output: Path, command: str
) -> tuple[Path, Path]:
    """Run what is missing in the folder, train the model that is shown, write the report."""
    from mudata import MuData

    import more_scvi.model  # noqa: F401 - loads Lightning, so that it can be silenced
    from more_scvi.evaluation._data import BATCH_KEY, LABELS_KEY, UNLABELED, standardise
    from more_scvi.evaluation._evaluate import run_task
    from more_scvi.evaluation._runner import DEFAULT_METHODS, run
    from more_scvi.evaluation._store import load_results, result_path, write_json
    from more_scvi.evaluation._tasks import make_tasks
    from more_scvi.evaluation.methods._method import get_method
    from more_scvi.report._inputs import ReportInputs, add_umaps
    from more_scvi.report._write import write_report

    quiet()
    chosen = methods or (SEVERAL_METHODS if isinstance(data, MuData) else DEFAULT_METHODS)
    chosen = tuple(dict.fromkeys(("more", *chosen)))  # the report is about it
    for method in chosen:
        get_method(method)
    stored = [method.removeprefix("obsm:") for method in chosen if method.startswith("obsm:")]
    bare, known = standardise(data, **keys, obsm_keys=stored)
    bare, known, dataset, notes = _select(bare, known, plan)
    keys = {"batch_key": BATCH_KEY, "labels_key": LABELS_KEY, "unlabeled_category": UNLABELED, "dataset": dataset}
    keys |= {"protocols": plan.protocols, "seeds": plan.seeds, "results_dir": plan.folder}
    run(bare, methods=(), progress=False, **keys)  # refuses what does not fit before anything is trained
    task: Task = next(make_tasks(bare, "S1", plan.seeds[0], known, dataset))
    result, record = run_task(task, get_method("more"))
    if "S1" in plan.protocols and not (path := result_path(plan.folder, task.split, "more")).exists():
        write_json(path, record)  # is not trained again
    table = run(bare, methods=chosen, **keys)
    if silent := [method for method in chosen if method not in set(table["method"])]:
        notes.append(f"Without results, as they failed or do not fit the data: {', '.join(silent)}.")
    plain, _ = run_task(task, get_method("blocks" if isinstance(bare, MuData) else "pca_raw"))
    assert result.z is not None and plain.z is not None  # both embed
    add_umaps(task.data, result.z, plain.z)
    records = [record for record in load_results(plan.folder) if record["dataset"] == dataset]
    records = [r for r in records if r["protocol"] in plan.protocols and r["seed"] in plan.seeds]
    inputs = ReportInputs(
        table,
        [r for r in records if r["method"] in chosen],
        task.data,
        task.split,
        result,
        name=plan.name,
        command=command,
        notes=notes,
    )
    return write_report(inputs, output)


def _select(bare: Data, known: Any, plan: _Plan) -> tuple[Data, Any, str, list[str]]:
    """The cells that take part, whether each has a label, a name for their results, and what a reader must know."""
    import numpy as np

    from more_scvi.evaluation._data import LABELS_KEY, subset
    from more_scvi.evaluation._prefilter import prefilter

    notes, name = [], plan.name
    if plan.most is not None and bare.n_obs > plan.most:
        kept = np.zeros(bare.n_obs, dtype=bool)
        kept[np.random.default_rng(0).permutation(bare.n_obs)[: plan.most]] = True
        notes.append(f"A quick look: {plan.most:,} of {bare.n_obs:,} cells, drawn at random.")
        bare, known, name = subset(bare, kept), known[kept], f"{name}-{plan.most}"
    if plan.prefilter is not None:
        kept, removed = prefilter(bare, labels=bare.obs[LABELS_KEY], kind=plan.prefilter)
        rare = removed["rare"]
        notes.append(
            f"{plan.prefilter} left out {removed['n_removed']:,} of {removed['n_cells']:,} cells as doublets, among"
            f" them {rare['removed']} of {rare['n']} cells of rare types."
        )
        bare, known, name = subset(bare, kept), known[kept], f"{name}-{plan.prefilter}"
    return bare, known, name, notes


def _check_backbones(backbones: str | None, methods: str | None, prefilter: str | None, gene_key: str | None) -> None:
    """Refuse options that would not be read."""
    if backbones is None and gene_key is not None:
        raise ValueError("--gene-key is read with --backbones only; leave it out, or name backbones.")
    for option, value in (("--methods", methods), ("--prefilter", prefilter)):
        if backbones is not None and value is not None:
            raise ValueError(f"{option} does not go with --backbones, which compares MoRE on several; leave one out.")


def _check_output(output: Path, overwrite: bool) -> None:
    """Refuse what the page, and the .json beside it, cannot be written to, before the work."""
    if output.suffix != ".html":
        raise ValueError(f"--output {output} must end in .html; a .json file is written beside it.")
    written = (output, output.with_suffix(".json"))
    for path in written:
        check_writable(path, f"--output {path}")
    old = [path for path in written if path.exists()]
    if old and not overwrite:
        raise FileExistsError(f"{old[0]} exists. Name another --output, or add --overwrite.")


def _check_results(results: Path | None) -> None:
    if results is not None:
        if results.exists() and not results.is_dir():
            raise ValueError(f"--results {results} is a file. Give a folder.")
        there = next(folder for folder in (results.absolute(), *results.absolute().parents) if folder.exists())
        check_writable(there / "a", f"--results {results}")  # any name: the nearest folder that exists is asked


def _names(option: str, text: str | None, default: tuple[str, ...]) -> tuple[str, ...]:
    if text is None:
        return default
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not names:
        raise ValueError(f"{option} {text!r} names nothing. Separate names by commas, or leave it out.")
    return names


def _numbers(option: str, text: str | None, default: tuple[int, ...]) -> tuple[int, ...]:
    if text is None:
        return default
    names = _names(option, text, ())
    if not all(name.isdecimal() for name in names):  # isdigit is true of ², which int() refuses
        raise ValueError(f"{option} {text!r} must be whole numbers from 0 on, separated by commas, e.g. 0,1,2.")
    return tuple(map(int, names))
