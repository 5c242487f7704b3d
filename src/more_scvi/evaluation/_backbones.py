"""Which backbone helps on the data at hand: every one's features once, then MoRE on each, split by split."""

import os
import tempfile
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from more_scvi.data._arguments import check_mapping, check_type

from ._backbone_result import METRIC, REGRESSION, BackboneComparison, differences_of, means_of, sentence
from ._compare import split_values
from ._data import LABELS_KEY, batches_of, standardise
from ._fingerprint import method_fingerprint
from ._regimes import REGIMES, check_regimes, plan_regimes, regime_words, with_panel
from ._runner import _chosen, run_data
from ._sources import NONE, Source, compute, default_device, load_backbone, read_source, reads_panel
from ._splits import Split, drawn
from ._store import check_name, load_results, tidy
from ._tasks import query_genes
from .methods._features import Features, OnFeatures
from .methods._method import Method, get_method
from .methods._more import MoRE

PREFIX = "more-on-"
"""Begins the names under which results are stored: methods are called ``random`` and ``shuffled``, too."""
OWN_ARGUMENTS = ("backbone", "backbone_kwargs", "adapter", "adapter_layers", "freeze_backbone", "cache_dir", "seed")
"""Arguments of MoRE that the comparison sets, or that need the network itself and not its features."""


def compare_backbones(
    adata: AnnData,
    backbones: Sequence[str] = (NONE, "zeroed", "random", "shuffled", "more-mini"),
    *,
    batch_key: str,
    labels_key: str,
    unlabeled_category: str = "Unknown",
    layer: str | None = None,
    gene_key: str | None = None,
    regimes: Sequence[str] = REGIMES,
    seeds: Sequence[int] = (0, 1, 2),
    max_rotations: int = 4,
    results_dir: str | os.PathLike | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
    train_kwargs: Mapping[str, Any] | None = None,
    device: str = "auto",
    dataset: str = "data",
    progress: bool = True,
) -> BackboneComparison:
    """Measure what frozen backbones add to MoRE on your own cells, and where: few cells, few labels, few genes.

    The features of every backbone are computed once for all cells, as they depend on nothing but the cell; each fit of
    MoRE then reads them as precomputed features, so that fits differ in these alone. Labels are hidden as by
    :func:`~more_scvi.evaluation.run`: no fit is given those that are scored. A logistic regression on the genes
    (``"lr_hvg"``) stands beside.

    Parameters
    ----------
    adata
        Cells × genes, raw counts; not changed.
    backbones
        What is compared; ``"none"``, MoRE without a backbone, is always there.

        ==========================  ================================================================================
        ``"more-mini"``             the bundled backbone, or another one that is registered
        ``"zeroed"``                its linear front with the network off: what is above it is the network's worth
        ``"random"``                the front, and a transformer of random weights
        ``"shuffled"``              ``more-mini`` reading each count under the name of another gene that it knows
        ``"geneformer:FOLDER"``     weights in a folder on this machine
        ``"scgpt:FOLDER"``          the same
        a folder                    the same, recognised by its files
        ``"obsm:KEY"``              features that lie in ``adata.obsm``; whether they saw labels is for you to know
        ==========================  ================================================================================
    batch_key, labels_key
        Columns of ``obs``.
    unlabeled_category
        Label of cells without one; they, and those whose label is missing, take part and are not scored.
    layer
        Layer with counts; ``None``: ``X``.
    gene_key
        Column of ``var`` with gene symbols or Ensembl ids; ``None``: ``var_names``.
    regimes
        Protocols of :func:`~more_scvi.evaluation.make_splits`: ``S1`` (half of the labels), ``S1-<cells>``,
        ``S4-<labels>`` (per type), ``S2a`` and ``S2b`` (a new batch), ``S9-<percent>`` (a new batch with so many of the
        genes). One that the data do not allow is left out and says why.
    seeds
        Seeds of splits and fits.
    max_rotations
        Most batches that are held out in turn.
    results_dir
        Folder for features and results: a second call goes on where the first stopped, and computes nothing twice.
        ``None`` keeps nothing.
    model_kwargs, train_kwargs
        Arguments of :class:`~more_scvi.model.MoRE` and of its ``train``, the same for all.
    device
        Where features are computed; ``"auto"``: a GPU if there is one.
    dataset
        Name for the page and for folders.
    progress
        Show progress bars.

    Returns
    -------
    Table, paired differences with intervals, one sentence per regime, costs; ``write`` makes a page of it.

    Raises
    ------
    TypeError
        If ``adata`` is no AnnData, or a text stands where a list is due.
    KeyError
        For a column, layer or key of ``obsm`` that is not there.
    ValueError
        For a backbone, regime, seed or argument that does not exist, weights that cannot be read, genes that a backbone
        does not know, too few labels, or a ``results_dir`` with results of other data. All before anything is computed.

    Notes
    -----
    The time is that of the fits, one for each backbone and split: with the default regimes, three seeds and four
    batches 57. Reading given features, MoRE does not see what the backbone says of cells whose genes are partly masked,
    which its own training uses; under ``S9`` what the query lacks is completed much as with the backbone itself.

    Examples
    --------
    >>> import more_scvi as more
    >>> adata = more.data.load_demo()
    >>> found = more.evaluation.compare_backbones(
    ...     adata, ["none", "zeroed", "more-mini"], batch_key="platform", labels_key="cell_type", regimes=["S1-100"]
    ... )  # doctest: +SKIP
    >>> print(found.sentences["S1-100"])  # doctest: +SKIP
    >>> found.write("backbones.html")  # doctest: +SKIP
    """
    check_type("adata", adata, AnnData, "an AnnData with RNA counts; of a MuData mdata['rna'] with batches and labels")
    check_name("dataset", dataset)
    sources = _sources(backbones, adata)
    regimes = check_regimes(regimes)
    _chosen([], regimes, seeds, max_rotations, results_dir)  # refuses what would fail late
    seeds = [int(seed) for seed in dict.fromkeys(seeds)]
    options = {"model_kwargs": _model_kwargs(model_kwargs), "train_kwargs": check_mapping("train_kwargs", train_kwargs)}
    genes = _genes(adata, gene_key)
    bare, known = standardise(adata, batch_key, labels_key, unlabeled_category, layer)
    assert isinstance(bare, AnnData)
    plan, left_out = plan_regimes(bare, known, regimes, seeds, max_rotations, dataset)
    loaded = {source.name: load_backbone(source, genes) for source in sources}
    panels = {s.name: query_genes(s, bare.var_names) for r in plan if with_panel(r) for s in plan[r]}
    refused: dict[str, list[str]] = {source.name: [] for source in sources}
    for source, regime in product(sources, filter(with_panel, plan)):
        reasons = (reads_panel(source, loaded[source.name], genes, panels[split.name]) for split in plan[regime])
        if why := next(filter(None, reasons), ""):
            refused[source.name].append(regime)
            left_out.append((regime, source.name, why))
    methods: list[Method] = [get_method(REGRESSION)]
    costs: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as nowhere:
        folder = Path(nowhere if results_dir is None else results_dir)
        cache = None if results_dir is None else folder / "features" / dataset
        run_data(bare, known, dataset, [], list(plan), seeds, folder, progress=False)  # refuses results of other data
        for source in sources:
            asked = {s.name for r in plan if with_panel(r) and r not in refused[source.name] for s in plan[r]}
            unique = {panels[name].tobytes(): panels[name] for name in sorted(asked)}  # rotations share a panel
            backbone = loaded.pop(source.name)  # is not kept longer than it is needed
            features, cost = compute(
                source, backbone, bare, genes, list(unique.values()), cache, default_device(device), progress
            )
            methods.append(_method(source.name, features, refused[source.name], options))
            costs[source.name] = cost
        run_data(bare, known, dataset, methods, list(plan), seeds, folder, None, False, max_rotations, progress)
        records = _records(folder, dataset, methods, plan, bare)
    table = tidy(records)
    table["method"] = table["method"].str.removeprefix(PREFIX)
    if METRIC not in set(table["metric"]):
        raise ValueError("No fit gave a result; what each of them said stands in the log, above.")
    left_out += _failed(table, plan, {**refused, REGRESSION: []})
    done = set(table.loc[table["metric"] == METRIC, "protocol"])
    words = {regime: regime_words(regime) for regime in plan if regime in done}
    found = differences_of(table, list(words), list(costs))
    means = {regime: of.dropna().to_dict() for regime, of in means_of(table).iterrows()}
    trained = table[table["metric"] == "trained"].groupby("method")["value"].mean()
    return BackboneComparison(
        tuple(costs),
        words,
        table,
        found,
        {regime: sentence(regime, text, means[regime], found) for regime, text in words.items()},
        pd.DataFrame.from_dict(costs, orient="index").assign(trained=trained).rename_axis("backbone"),
        pd.DataFrame(left_out, columns=["regime", "backbone", "reason"]),
        {
            "name": dataset,
            "cells": bare.n_obs,
            "genes": bare.n_vars,
            "batches": len(set(batches_of(bare))),
            "types": int(bare.obs.loc[known, LABELS_KEY].nunique()),
            "unlabelled": int((~known).sum()),
        },
    )


def _sources(backbones: Any, adata: AnnData) -> list[Source]:
    """What is compared, ``none`` first; every name once."""
    if isinstance(backbones, str) or not isinstance(backbones, Sequence):
        raise TypeError(f"backbones is {backbones!r}; give a list, e.g. backbones=['none', 'more-mini'].")
    sources: dict[str, Source] = {}
    texts: dict[str, str] = {}
    for text in dict.fromkeys((NONE, *backbones) if NONE not in backbones else backbones):
        source = read_source(text, adata)
        if source.name in (*sources, REGRESSION):
            other = texts.get(source.name, "a method of this comparison")
            raise ValueError(
                f"backbones: {text!r} and {other!r} would both be called {source.name!r}; rename a folder."
            )
        check_name("Backbone", source.name.replace(":", "-"))
        sources[source.name], texts[source.name] = source, text
    return list(sources.values())


def _model_kwargs(given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Arguments of the model without those that the comparison sets."""
    arguments = check_mapping("model_kwargs", given)
    if own := [name for name in OWN_ARGUMENTS if name in arguments]:
        raise ValueError(f"model_kwargs holds {own[0]!r}, which the comparison sets or which needs more than features.")
    return arguments


def _genes(adata: AnnData, gene_key: str | None) -> NDArray:
    """Names that backbones read ``(n_genes,)``."""
    if gene_key is None:
        return adata.var_names.to_numpy().astype(str)
    if gene_key not in adata.var:
        raise KeyError(f"gene_key: var has no column {gene_key!r}; it has {', '.join(map(str, adata.var)) or 'none'}.")
    return adata.var[gene_key].astype(str).to_numpy().astype(str)


def _method(name: str, features: Features | None, refused: Sequence[str], options: Mapping[str, Any]) -> Method:
    """MoRE on these features, or without a backbone."""
    if features is None:
        model = {**options["model_kwargs"], "backbone": None}
        return MoRE(f"{PREFIX}{name}", **{**options, "model_kwargs": model})
    return OnFeatures(f"{PREFIX}{name}", features, refused, **options)


def _records(
    folder: Path, dataset: str, methods: Sequence[Method], plan: Mapping[str, Sequence[Split]], bare: AnnData
) -> list[dict[str, Any]]:
    """Results of these methods as they are now, on the splits that were asked for."""
    prints = {method.name: method_fingerprint(method, bare) for method in methods}
    seeded = {method.name: method.seeded for method in methods}
    wanted = {(split.protocol, split.rotation, split.seed) for splits in plan.values() for split in splits}
    anywhere = {(protocol, rotation) for protocol, rotation, _ in wanted if not drawn(protocol)}

    def is_asked(record: Mapping[str, Any]) -> bool:
        place = record["protocol"], record["rotation"]
        once = not seeded[record["method"]] and place in anywhere  # is run for one seed, whichever came first
        return once or (*place, record["seed"]) in wanted

    found = [r for r in load_results(folder) if r["dataset"] == dataset and r["method"] in prints]
    return [r for r in found if r["fingerprint"] == prints[r["method"]] and is_asked(r)]


def _failed(
    table: pd.DataFrame, plan: Mapping[str, Sequence[Split]], refused: Mapping[str, Sequence[str]]
) -> list[tuple[str, str, str]]:
    """Regimes in which fits of a backbone gave no result, and of how many."""
    counts = split_values(table, METRIC).groupby(level="protocol").count()
    out = []
    for regime, splits in plan.items():
        n = len({(split.rotation, split.seed if drawn(regime) else 0) for split in splits})
        for name in [name for name in refused if regime not in refused[name]]:
            there = name in counts and regime in counts.index
            if (lost := n - (int(counts.loc[regime, name]) if there else 0)) > 0:
                out.append((regime, name, f"{lost} of {n} splits gave no result; the log says why"))
    return out
