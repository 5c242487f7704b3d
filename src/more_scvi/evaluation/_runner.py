"""Run methods on tasks; whatever is in the results folder already is not run again."""

import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from numbers import Integral
from pathlib import Path

import numpy as np
import pandas as pd
from mudata import MuData
from numpy.typing import ArrayLike, NDArray

from more_scvi._files import atomic_path
from more_scvi._progress import progress_bar, without_bars
from more_scvi.evaluation.methods._method import Method, get_method

from ._data import LABELS_KEY, Data, batches_of, standardise, subset
from ._datasets import DATASETS, load_dataset
from ._evaluate import run_task
from ._fingerprint import data_fingerprint, method_fingerprint
from ._prefilter import prefilter as find_doublets
from ._splits import PROTOCOLS, Split, drawn, make_splits
from ._store import check_name, file_name, load_results, read_json, result_path, split_folder, tidy, write_json
from ._tasks import BENCH_PROTOCOLS, Task, make_tasks
from .methods._baselines import Stored

logger = logging.getLogger(__name__)

DEFAULT_METHODS = ("more", "pca_raw", "pca", "harmony", "lr_hvg", "random", "onehot-LR", "LEAK")


def run(
    data: Data,
    *,
    batch_key: str,
    labels_key: str,
    methods: Sequence[str | Method] = DEFAULT_METHODS,
    protocols: Sequence[str] = ("S1", "S2a"),
    seeds: Sequence[int] = (0, 1, 2),
    results_dir: str | os.PathLike | None = None,
    cache_dir: str | os.PathLike | None = None,
    unlabeled_category: str = "Unknown",
    layer: str | None = None,
    modalities: Mapping[str, str] | None = None,
    spatial_key: str | None = None,
    prefilter: str | None = None,
    with_scib: bool = False,
    max_rotations: int = 4,
    dataset: str = "data",
    progress: bool = True,
) -> pd.DataFrame:
    """Hide labels of your own data, let methods integrate and annotate them, and score what was hidden.

    Every method is given copies in which the hidden labels read ``"Unknown"``; columns other than batch and label are
    not passed on. With a ``results_dir`` every result is a file: a run that was stopped goes on where it was, and
    results that are there are not computed again, unless the method's settings, its code, or the version of its library
    have changed since.

    Parameters
    ----------
    data
        AnnData with RNA counts, or MuData; not changed.
    batch_key, labels_key
        Columns of ``obs``. Cells without a label (missing, or ``unlabeled_category``) take part and are never scored.
    methods
        Names, see :func:`~more_scvi.evaluation.list_methods`; ``"obsm:<key>"`` scores an embedding that ``data`` hold,
        ``"LEAK:<name>"`` gives a method the hidden labels. Or :class:`~more_scvi.evaluation.Method` objects.
    protocols
        What is hidden, see :func:`~more_scvi.evaluation.make_splits`.
    seeds
        Seeds of splits and methods. Where a split has no randomness (``S2a``, ``S2b``, ``S6`` to ``S8``), methods
        without any run for the first seed only.
    results_dir
        Folder for results: a JSON file each, with versions, commit, settings, seconds, memory and parameters, and all
        of them as ``<dataset>.csv``; ``None`` keeps none.
    cache_dir
        Folder for label-free work that splits share (trained scVI, totalVI and MultiVI models).
    unlabeled_category
        Label of cells without one.
    layer
        Layer with counts (``None``: ``X``).
    modalities
        Of a MuData: ``"rna"``, ``"atac"``, ``"prot"`` → name in ``data.mod``. Default: by these and common names.
    spatial_key
        Key of ``obsm`` with coordinates, for methods that use them.
    prefilter
        ``"scrublet"`` drops predicted doublets of each batch before all methods alike and logs how many cells of rare
        types it took; ``None``: nothing.
    with_scib
        Also the figures of scib-metrics (slow).
    max_rotations
        Most batches or types held out in turn.
    dataset
        Name for tables and folders.
    progress
        Show a progress bar.

    Returns
    -------
    Tidy table: ``dataset``, ``protocol``, ``seed``, ``rotation``, ``held_out``, ``method``, ``metric``, ``value``. A
    method that fails is logged and has no rows.

    Raises
    ------
    KeyError
        For an unknown column, method or modality.
    ValueError
        For data, protocols, seeds, names or labels that cannot be evaluated, or a ``results_dir`` that holds results of
        other data, be it only other counts.
    TypeError
        For a text where a list is due.

    Examples
    --------
    >>> import more_scvi as more
    >>> adata = more.data.simulate_batches()
    >>> table = more.evaluation.run(
    ...     adata, batch_key="batch", labels_key="cell_type", methods=["pca", "lr_hvg"], seeds=[0]
    ... )  # doctest: +SKIP
    >>> table.pivot_table("value", "method", ["protocol", "metric"])  # doctest: +SKIP
    """
    chosen = _chosen(methods, protocols, seeds, max_rotations, results_dir)
    check_name("dataset", dataset)
    seeds = [int(seed) for seed in seeds]
    stored = [str(m.options["key"]) for m in chosen if isinstance(m, Stored)]
    bare, known = standardise(data, batch_key, labels_key, unlabeled_category, layer, modalities, spatial_key, stored)
    if prefilter is not None:
        kept, removed = find_doublets(bare, labels=bare.obs[LABELS_KEY], kind=prefilter)
        logger.info("%s removed %d of %d cells: %s", prefilter, int((~kept).sum()), kept.size, json.dumps(removed))
        bare, known, dataset = subset(bare, kept), known[kept], f"{dataset}-{prefilter}"
    with tempfile.TemporaryDirectory() as nowhere:
        folder = Path(nowhere if results_dir is None else results_dir)
        run_data(bare, known, dataset, chosen, protocols, seeds, folder, cache_dir, with_scib, max_rotations, progress)
        wanted = {m.name for m in chosen}
        records = [r for r in load_results(folder) if r["dataset"] == dataset]
        if results_dir is not None and records:
            with atomic_path(folder / f"{check_name('dataset', dataset)}.csv") as beside:
                tidy(records).to_csv(beside, index=False)
    asked = [r for r in records if r["method"] in wanted and r["protocol"] in protocols and r["seed"] in seeds]
    return tidy(asked)


def run_benchmark(
    datasets: Sequence[str],
    methods: Sequence[str | Method],
    data_dir: str | os.PathLike,
    results_dir: str | os.PathLike,
    protocols: Sequence[str] = ("S1", "S2a"),
    seeds: Sequence[int] = (0, 1, 2),
    cache_dir: str | os.PathLike | None = None,
    with_scib: bool = False,
    max_rotations: int = 4,
    max_cells: int | None = None,
) -> int:
    """Run every missing (data set, split, method) of the benchmark's own sets.

    Parameters
    ----------
    datasets
        Names as in :func:`~more_scvi.evaluation.load_dataset`.
    data_dir
        Where the data are.
    max_cells
        Take a random subset (seeded) of larger sets, for a quick look; their results are called ``<name>-<cells>``.
    methods, results_dir, protocols, seeds, cache_dir, with_scib, max_rotations
        As for :func:`run`; protocols also those of the sets of several modalities (``"S6-half"``, ``"rna-to-prot"``).

    Returns
    -------
    Number of results that were computed; a method that fails is logged and does not stop the others.
    """
    chosen = _chosen(methods, protocols, seeds, max_rotations, results_dir)
    seeds = [int(seed) for seed in seeds]
    done = 0
    for name in datasets:
        data, known = load_dataset(name, data_dir)
        if max_cells is not None and data.n_obs > max_cells:
            cells = np.zeros(data.n_obs, dtype=bool)
            cells[np.random.default_rng(0).permutation(data.n_obs)[:max_cells]] = True
            data, known, name = subset(data, cells), known[cells], f"{name}-{max_cells}"
        done += run_data(
            data, known, name, chosen, protocols, seeds, results_dir, cache_dir, with_scib, max_rotations, False
        )
    return done


def run_data(
    data: Data,
    known: NDArray[np.bool_],
    dataset: str,
    methods: Sequence[Method],
    protocols: Sequence[str],
    seeds: Sequence[int],
    results_dir: str | os.PathLike,
    cache_dir: str | os.PathLike | None = None,
    with_scib: bool = False,
    max_rotations: int = 4,
    progress: bool = True,
) -> int:
    """Run what is missing or was made by other code on standardised data; the number of results computed."""
    print_of_data = data_fingerprint(data)
    prints = {method.name: method_fingerprint(method, data) for method in methods}

    def done_as(path: Path, method: Method) -> bool:
        found = read_json(path)
        return found.get("fingerprint") == prints[method.name] and found.get("data", print_of_data) == print_of_data

    pending, again = [], 0
    for split, make in list(_plan(data, known, dataset, protocols, seeds, max_rotations)):
        folder = split_folder(results_dir, split)
        if (found := read_json(folder / "split.json").get("data", print_of_data)) != print_of_data:
            raise ValueError(
                f"{folder} holds results of other data, be it only other counts (fingerprint {found}, now"
                f" {print_of_data}). Name another results_dir or dataset."
            )
        # where nothing is drawn, a method without randomness gives every seed the same result: one is enough
        same = "" if drawn(split.protocol) else f"{split.protocol}_r{split.rotation}_s*"
        of_split = []
        for method in methods:
            path = result_path(results_dir, split, method.name)
            fits = method.suits(data, split.absent is not None) and method.answers(split.protocol)
            if done_as(path, method) or not fits:
                continue
            others = path.parent.parent.glob(f"{same}/{path.name}") if same else ()
            first = not same or split.seed == seeds[0]
            if method.seeded or (first and not any(done_as(other, method) for other in others)):
                of_split.append(method)
                again += path.exists()
        if of_split:
            pending.append((split, make, of_split))
    if again:
        logger.info("%d results of %s were made by other code or settings and are computed again", again, dataset)
    done = 0
    with progress_bar(total=sum(len(m) for *_, m in pending), show=progress, unit="result") as bar:
        for split, make, of_split in pending:
            task = make().prepare()
            write_json(split_folder(results_dir, split) / "split.json", split.to_json() | {"data": print_of_data})
            for method in of_split:
                if not method.suits(task.data, task.query is not None):  # a hidden modality leaves cells without it
                    bar.update()
                    continue
                bar.set_description(f"{split.protocol} {method.name}")
                logger.debug("%s %s %s", dataset, split.name, method.name)
                try:
                    with without_bars():  # one is enough
                        _, record = run_task(task, method, cache_dir, with_scib)
                except Exception as error:  # one failing method must not end hours of work
                    logger.error("%s failed on %s, %s; the others go on: %s", method.name, dataset, split.name, error)
                    logger.debug("Traceback of %s", method.name, exc_info=True)
                else:
                    record |= {"data": print_of_data, "fingerprint": prints[method.name]}
                    write_json(result_path(results_dir, split, method.name), record)
                    done += 1
                bar.update()
    return done


def _chosen(
    methods: Sequence[str | Method],
    protocols: Sequence[str],
    seeds: Sequence[int],
    max_rotations: int,
    results_dir: str | os.PathLike | None,
) -> list[Method]:
    """The methods, after a look at what would otherwise fail late or in other words."""
    for name, given in (("methods", methods), ("protocols", protocols), ("seeds", seeds)):
        if isinstance(given, str) or not isinstance(given, Iterable):
            raise TypeError(f"{name} is {given!r}; give a list, e.g. {name}=[{given!r}].")
    if wrong := [m for m in methods if not isinstance(m, str | Method)]:
        raise TypeError(f"methods holds {wrong[0]!r}; give names (list_methods() has them) or Method objects.")
    if wrong := [p for p in protocols if not isinstance(p, str)]:
        raise TypeError(f"protocols holds {wrong[0]!r}; give names such as {', '.join(PROTOCOLS[:3])}.")
    if not len(protocols) or not len(seeds):
        raise ValueError(f"{'seeds' if len(protocols) else 'protocols'} is empty, so nothing would be run.")
    if bad := [s for s in seeds if isinstance(s, bool) or not isinstance(s, Integral) or s < 0]:
        raise ValueError(f"seeds holds {bad[0]!r}; give whole numbers from 0.")
    if isinstance(max_rotations, bool) or not isinstance(max_rotations, Integral) or max_rotations < 1:
        raise ValueError(f"max_rotations is {max_rotations!r}; give a whole number from 1.")
    if results_dir is not None and Path(results_dir).exists() and not Path(results_dir).is_dir():
        raise NotADirectoryError(f"results_dir {results_dir} is a file; give a folder, which need not exist.")
    chosen = [get_method(m) if isinstance(m, str) else m for m in methods]
    files: dict[str, str] = {}
    for method in chosen:
        if (other := files.setdefault(file_name(method.name).lower(), method.name)) != method.name:  # disks ignore case
            raise ValueError(f"Methods {other!r} and {method.name!r} would share a file; rename one of them.")
    return list({method.name: method for method in chosen}.values())


def _plan(
    data: Data, known: ArrayLike, dataset: str, protocols: Sequence[str], seeds: Sequence[int], max_rotations: int
) -> Iterator[tuple[Split, Callable[[], Task]]]:
    """Splits, and how to make their task: most are there already when a run goes on."""
    labels, batches = data.obs[LABELS_KEY].to_numpy().astype(str), batches_of(data)
    for seed, protocol in product(seeds, protocols):
        if isinstance(data, MuData) and protocol in BENCH_PROTOCOLS and dataset.split("-")[0] in DATASETS:
            for task in BENCH_PROTOCOLS[protocol](data, protocol, seed, dataset):
                yield task.split, task.prepare  # returns the task
            continue
        for split in make_splits(labels, batches, protocol, seed, max_rotations, dataset, known):
            yield split, partial(next, make_tasks(data, protocol, known=known, splits=[split]))
