"""A task: one question to a method, and what is needed to score its answer.

Only the benchmark's own sets of several modalities have these, beside the protocols of every data set:

=====================  ================================================================================================
protocol               what is hidden
=====================  ================================================================================================
``S6``                 pbmc_cite_multi: proteins and labels of one 10x batch
``S6-half``            snareseq_multi: every library keeps RNA or chromatin; labels of all but the RNA-only libraries
                       are hidden, those of cells without RNA are scored
``S6-third``           the same, but a third of the libraries keep both
``hide-rna``,          mosaics: the labels of all cells with that modality alone
``hide-prot``
``rna-to-prot``,       mosaic and diagonal sets: only cells with the first alone keep their labels, cells with the
``prot-to-rna``        second alone are scored
=====================  ================================================================================================
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from mudata import MuData
from numpy.typing import ArrayLike, NDArray

from more_scvi.data._arguments import check_type
from more_scvi.data._fields import RNA
from more_scvi.data._simulate import keep_molecules
from more_scvi.metrics._check import check_mask
from more_scvi.modalities._antibodies import _guess_species, _table

from ._data import (
    ATAC,
    BATCH_KEY,
    LABELS_KEY,
    UNLABELED,
    Data,
    batches_of,
    give_labels,
    hide_modalities,
    modalities,
    pattern,
    prepare,
    present,
    project,
    subset,
)
from ._splits import DEPTH, SHALLOW, Split, about_type, kind_of, labelled, largest_first, make_splits, order_of


@dataclass(eq=False)
class Task:
    """One question to a method.

    Arrays have one row per cell that takes part, those of ``data`` followed by those of ``query``.

    Parameters
    ----------
    split
        What is hidden; its masks cover all cells of the data set.
    data
        The cells to train on, with the true labels; hidden modalities and cells that do not take part are gone.
    hidden
        Cells whose label is hidden.
    scored
        Hidden cells that annotation is scored on.
    groups
        What should mix within types: batches, or which modalities a cell has.
    cells
        Cells that mixing and structure are scored on: those with a label.
    query
        Cells to map afterwards (``S2b``), or to add to a reference (``S10``).
    full
        The same cells with no modality hidden, to score imputation and matching against.
    transfer
        Whether labels are carried to another kind of cell, so that balanced accuracy is given too.
    whole
        Prepared data of all these cells, in their order, whose views are the yardstick of structure (``None``: those
        of ``data``).
    """

    split: Split
    data: Data
    hidden: NDArray[np.bool_]
    scored: NDArray[np.bool_]
    groups: NDArray
    cells: NDArray[np.bool_] = field(repr=False)
    query: Data | None = None
    full: MuData | None = None
    transfer: bool = False
    whole: Data | None = None

    @property
    def rounds(self) -> tuple[str, ...]:
        """Batches of the query in the order in which they are added (``S10``)."""
        added = self.query is not None and kind_of(self.split.protocol) == "S10"
        return tuple(map(str, largest_first(batches_of(self.query)))) if added and self.query is not None else ()

    @property
    def unlabelled(self) -> bool:
        """Whether no label is visible (``S7``)."""
        return bool(self.hidden.all())

    @cached_property
    def labels(self) -> NDArray:
        """True labels ``(n_cells,)``."""
        return np.concatenate([part.obs[LABELS_KEY].to_numpy().astype(str) for part in self._parts])

    @cached_property
    def batches(self) -> NDArray:
        """Batches ``(n_cells,)``."""
        return np.concatenate([batches_of(part) for part in self._parts])

    @property
    def _parts(self) -> list[Data]:
        return [self.data] if self.query is None else [self.data, self.query]

    def prepare(self) -> Self:
        """Compute the shared features once, those of the query by way of the trained cells; returns itself."""
        prepare(self.data)
        query = self.query
        if query is not None and list(query.var_names) == list(self.data.var_names) and "view" not in query.obsm:
            project(query, self.data)
        return self

    def given(self, sees_hidden: bool = False) -> Data:
        """What a method receives: hidden labels read ``"Unknown"``, and no other annotation is left."""
        labels = self.labels if sees_hidden else np.where(self.hidden, UNLABELED, self.labels)
        return give_labels(self.data, labels[: self.data.n_obs])

    def given_query(self) -> Data | None:
        """The cells to map; labels are hidden, but for those that come with a batch that is added (``S10``)."""
        if self.query is None:
            return None
        return give_labels(self.query, np.where(self.hidden, UNLABELED, self.labels)[self.data.n_obs :])

    def counterparts(self) -> MuData | None:
        """Nothing hidden but all labels: shown to a method after training, one modality at a time."""
        return None if self.full is None else _without_labels(self.full)

    def views(self) -> dict[str, tuple[NDArray[np.float32], NDArray[np.bool_]]]:
        """Per modality the yardstick of structure, and which cells ``(n_cells,)`` have it."""
        whole = self.data if self.whole is None else self.whole
        viewed = {name: adata.obsm["view"] for name, adata in modalities(whole).items() if "view" in adata.obsm}
        return {name: (view, present(whole, name)) for name, view in viewed.items()}

    @property
    def target(self) -> NDArray[np.bool_] | None:
        """Cells of the type that the split is about (``S3``, ``S5``, ``S5b``)."""
        return self.labels == self.split.held_out if about_type(self.split) else None


def make_tasks(
    data: Data,
    protocol: str,
    seed: int = 0,
    known: ArrayLike | None = None,
    dataset: str = "",
    max_rotations: int = 4,
    splits: Sequence[Split] | None = None,
) -> Iterator[Task]:
    """Tasks of one data set under one protocol, see :func:`~more_scvi.evaluation.make_splits`.

    Parameters
    ----------
    data
        Counts, ``obs["batch"]`` and ``obs["cell_type"]``; never changed but for :func:`prepare`.
    protocol, seed, dataset, max_rotations
        As for ``make_splits``.
    known
        Cells that have a label. Default: all whose label is neither missing nor ``"Unknown"``.
    splits
        These splits instead of those of the protocol.

    Raises
    ------
    TypeError, KeyError
        If the data are neither AnnData nor MuData, or lack ``obs["batch"]`` or ``obs["cell_type"]``.
    ValueError
        If the protocol does not fit the data; the message says which do.
    """
    if not isinstance(data, AnnData | MuData):
        raise TypeError(f"data is a {type(data).__name__}; give an AnnData with RNA counts or a MuData.")
    if missing := [key for key in (BATCH_KEY, LABELS_KEY) if key not in data.obs]:
        there = ", ".join(map(str, data.obs)) or "none"
        raise KeyError(f"obs has no column {missing[0]!r}; it has {there}. Rename the column, or use evaluation.run.")
    known = labelled(data.obs[LABELS_KEY]) if known is None else check_mask(known, "known", data.n_obs)
    labels = data.obs[LABELS_KEY].to_numpy().astype(str)
    check_type("protocol", protocol, str, "one of make_splits, e.g. 'S1'")
    if splits is not None and not (
        isinstance(splits, Sequence) and splits and all(isinstance(s, Split) for s in splits)
    ):
        raise TypeError(
            f"splits={splits!r:.60} must be a list of Split, e.g. of make_splits; None makes those of protocol."
        )
    made = splits or make_splits(labels, batches_of(data), protocol, seed, max_rotations, dataset, known)
    for split in made:
        if split.hidden.size != data.n_obs:
            raise ValueError(f"Split {split.name} covers {split.hidden.size} cells, but the data hold {data.n_obs}.")
    for split in made:
        cells = thinned(data, split) if protocol in (f"S8-{SHALLOW}", f"S8m-{SHALLOW}") else data
        if protocol.startswith("S6-"):
            yield _hidden_modality(cells, split, known)
        elif split.absent is not None:
            yield _mapped(cells, split, known)
        elif split.kept is not None:
            part, kept = subset(cells, split.kept), split.kept
            yield _labels_only(part, split, split.hidden[kept], known[kept])
        else:
            yield _labels_only(cells, split, split.hidden, known)


def _without_labels(data: Any) -> Any:
    return give_labels(data, np.full(data.n_obs, UNLABELED))


def _labels_only(data: Data, split: Split, hidden: NDArray[np.bool_], known: NDArray[np.bool_]) -> Task:
    return Task(split, data, hidden, hidden & known, batches_of(data), known)


def _mapped(data: Data, split: Split, known: NDArray[np.bool_]) -> Task:
    if isinstance(data, MuData):
        raise ValueError(
            f"{split.protocol} maps RNA; of a MuData give mdata.mod['rna'] with batches and labels in its obs, or S2a."
        )
    assert split.absent is not None
    order, taken = order_of(split), True if split.kept is None else split.kept
    trained, query = subset(data, taken & ~split.absent), subset(data, taken & split.absent)
    whole = prepare(anndata.concat([trained, query]))
    if kind_of(split.protocol) == "S9":
        query = AnnData(query.X[:, genes := query_genes(split, data.var_names)], query.obs, query.var[genes])
    hidden, known = split.hidden[order], known[order]
    return Task(split, trained, hidden, hidden & known, batches_of(data)[order], known, query=query, whole=whole)


def thinned(data: Data, split: Split) -> AnnData:
    """Copy of the data in which the held-out batch has a tenth of its counts, drawn by batch and not by seed."""
    if isinstance(data, MuData):
        raise ValueError(f"{split.protocol} thins RNA; give mdata.mod['rna'] with batches and labels in obs.")
    out = subset(data, np.ones(data.n_obs, dtype=bool))
    x = sp.csr_matrix(out.X)
    share = np.where(batches_of(data) == split.held_out, DEPTH, 1.0)
    kept = keep_molecules(x, np.repeat(share, np.diff(x.indptr)), np.random.default_rng(split.rotation))
    out.X = sp.csr_matrix(kept, dtype=np.float32)
    out.X.eliminate_zeros()
    return out


def query_genes(split: Split, names: pd.Index) -> NDArray[np.bool_]:
    """Which genes the query of ``S9`` has: a share of them at random, or those that an antibody panel measures."""
    share = split.protocol.partition("-")[2]
    if share == "antibodies":
        panel = [gene for genes in _table()[_guess_species(list(names))].values() for gene in genes]
        if not (measured := np.asarray(names.isin(panel))).any():
            raise ValueError(
                f"S9-antibodies: none of the genes ({names[0]!r}, …) codes for the protein of an antibody."
            )
        return measured
    rng = np.random.default_rng([split.seed, round(float(share) * 1000)])
    measured = np.zeros(names.size, dtype=bool)
    measured[rng.permutation(names.size)[: max(1, round(float(share) / 100 * names.size))]] = True
    return measured


def _hidden_modality(mdata: Data, split: Split, known: NDArray[np.bool_]) -> Task:
    name = split.protocol.removeprefix("S6-")
    if isinstance(mdata, AnnData) or name not in mdata.mod:
        raise ValueError(f"{split.protocol} hides a modality; these data have {', '.join(modalities(mdata))}.")
    masked = hide_modalities(mdata, {name: split.hidden & (batches_of(mdata) == split.held_out)})
    return Task(split, masked, split.hidden, split.hidden & known, pattern(masked), known, full=mdata)


TENX_BATCHES = ("10x_pbmc10k_v3", "10x_pbmc5k_v3")


def mosaic_libraries(mdata: MuData, n_paired: int, seed: int) -> MuData:
    """Keep both modalities in ``n_paired`` batches; of the others half keep RNA, half chromatin (drawn by ``seed``)."""
    names = np.random.default_rng(seed).permutation(np.unique(batches_of(mdata)))
    rna_only, atac_only = np.array_split(names[n_paired:], 2)
    batches = batches_of(mdata)
    return hide_modalities(mdata, {"atac": np.isin(batches, rna_only), "rna": np.isin(batches, atac_only)})


def _hidden_protein(mdata: MuData, protocol: str, seed: int, dataset: str) -> Iterator[Task]:
    everywhere = np.ones(mdata.n_obs, dtype=bool)
    for rotation, batch in enumerate(TENX_BATCHES):
        hidden = batches_of(mdata) == batch
        masked = hide_modalities(mdata, {"prot": hidden})
        split = Split(dataset, protocol, seed, rotation, hidden, batch)
        yield Task(split, masked, hidden, hidden, pattern(masked), everywhere, full=mdata)


def _split_libraries(mdata: MuData, protocol: str, seed: int, dataset: str) -> Iterator[Task]:
    n_paired = np.unique(batches_of(mdata)).size // 3 if protocol == "S6-third" else 0
    masked = mosaic_libraries(mdata, n_paired, seed)
    kinds, everywhere = pattern(masked), np.ones(mdata.n_obs, dtype=bool)
    hidden = kinds != RNA
    split = Split(dataset, protocol, seed, 0, hidden, "atac")
    yield Task(split, masked, hidden, kinds == ATAC, kinds, everywhere, full=mdata, transfer=True)


def _between(mdata: MuData, protocol: str, seed: int, dataset: str) -> Iterator[Task]:
    kinds, everywhere = pattern(mdata), np.ones(mdata.n_obs, dtype=bool)
    source, target = protocol.split("-")[0], protocol.split("-")[-1]
    hidden = kinds == target if source == "hide" else kinds != source
    split = Split(dataset, protocol, seed, 0, hidden, target)
    yield Task(split, mdata, hidden, kinds == target, kinds, everywhere, transfer=True)


BENCH_PROTOCOLS: dict[str, Callable[[MuData, str, int, str], Iterator[Task]]] = {
    "S6": _hidden_protein,
    "S6-half": _split_libraries,
    "S6-third": _split_libraries,
    "hide-rna": _between,
    "hide-prot": _between,
    "rna-to-prot": _between,
    "prot-to-rna": _between,
}
"""Protocol → function of the data, the protocol, the seed and the data set's name that yields its tasks."""
