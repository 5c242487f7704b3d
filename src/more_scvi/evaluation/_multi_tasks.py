"""Tasks with several modalities: what is hidden, what is scored, which cells should mix.

=====================  ================================================================================================
task                   what is hidden (labels, unless said otherwise)
=====================  ================================================================================================
``<set>/S1``           a random half of the cells
``<set>/S2a``          one batch (rotated); of spatial sets a section
``<set>/S6``           pbmc_cite: proteins and labels of one 10x batch. snareseq: every library keeps RNA or chromatin
                       (``S6-half``), or a third of the libraries keep both (``S6-third``); labels of all but the
                       RNA-only libraries are hidden, those of cells without RNA are scored
``<set>/transfer``     mosaic and diagonal sets: ``hide-rna`` and ``hide-prot`` (all cells with that modality alone),
                       ``rna-to-prot`` and ``prot-to-rna`` (only cells with the first alone keep their labels, cells
                       with the second alone are scored)
=====================  ================================================================================================
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from mudata import MuData
from numpy.typing import NDArray

from ._multi_data import (
    LABELS_KEY,
    UNLABELED,
    Data,
    batches_of,
    give_labels,
    hide_modalities,
    load_multi,
    load_spatial,
    pattern,
)
from ._splits import Split, make_splits

TENX_BATCHES = ("10x_pbmc10k_v3", "10x_pbmc5k_v3")


@dataclass(frozen=True, eq=False)
class Task:
    """One question to a method, and what is needed to score its answer.

    Parameters
    ----------
    split
        The cells whose labels are hidden.
    data
        The data with the true labels; hidden modalities are gone.
    scored
        Hidden cells that annotation is scored on ``(n_cells,)``.
    groups
        What should mix within types ``(n_cells,)``: batches, or which modalities a cell has.
    cells
        Cells that mixing and structure are scored on; spots without a label of the authors are left out.
    full
        The same cells with nothing hidden, to score imputation and matching against.
    transfer
        Whether labels are carried to another kind of cell, so that balanced accuracy is given too.
    """

    split: Split
    data: Data
    scored: NDArray[np.bool_]
    groups: NDArray[np.str_]
    cells: NDArray[np.bool_] = field(repr=False)
    full: MuData | None = None
    transfer: bool = False

    @property
    def labels(self) -> NDArray[np.str_]:
        """True labels ``(n_cells,)``."""
        return self.data.obs[LABELS_KEY].to_numpy().astype(str)

    def given(self, sees_hidden: bool = False) -> Data:
        """What a method receives: hidden labels read ``"Unknown"``, and no other annotation is left."""
        return give_labels(self.data, self.labels if sees_hidden else self.split.hide(self.labels, UNLABELED))

    def counterparts(self) -> MuData | None:
        """Nothing hidden but all labels: shown to a method after training, one modality at a time."""
        if self.full is None:
            return None
        unlabelled = give_labels(self.full, np.full(self.full.n_obs, UNLABELED))
        assert isinstance(unlabelled, MuData)
        return unlabelled


def hide_protein(mdata: MuData, batch: str) -> MuData:
    """The data without the proteins of one batch."""
    return hide_modalities(mdata, {"prot": batches_of(mdata) == batch})


def mosaic_libraries(mdata: MuData, n_paired: int, seed: int = 0) -> MuData:
    """Keep both modalities in ``n_paired`` batches; of the others half keep RNA, half chromatin (drawn by ``seed``)."""
    names = np.random.default_rng(seed).permutation(np.unique(batches_of(mdata)))
    rna_only, atac_only = np.array_split(names[n_paired:], 2)
    batches = batches_of(mdata)
    return hide_modalities(mdata, {"atac": np.isin(batches, rna_only), "rna": np.isin(batches, atac_only)})


def _labels_only(
    data: Data, name: str, protocol: str, seeds: Sequence[int], known: NDArray | None = None
) -> Iterator[Task]:
    """S1 for every seed, or S2a once."""
    known = np.ones(data.n_obs, dtype=bool) if known is None else known
    batches = batches_of(data)
    for seed in seeds if protocol == "S1" else seeds[:1]:
        for split in make_splits(data.obs[LABELS_KEY], batches, protocol, seed, dataset=name):
            split = replace(split, hidden=split.hidden | ~known)
            yield Task(split, data, split.hidden & known, batches, known)


def _hidden_protein(mdata: MuData, name: str, seed: int) -> Iterator[Task]:
    everywhere = np.ones(mdata.n_obs, dtype=bool)
    for rotation, batch in enumerate(TENX_BATCHES):
        masked, hidden = hide_protein(mdata, batch), batches_of(mdata) == batch
        split = Split(name, "S6", seed, rotation, hidden, batch)
        yield Task(split, masked, hidden, pattern(masked), everywhere, full=mdata)


def _split_libraries(mdata: MuData, name: str, seed: int) -> Iterator[Task]:
    n_batches = np.unique(batches_of(mdata)).size
    for protocol, n_paired in (("S6-half", 0), ("S6-third", n_batches // 3)):
        masked = mosaic_libraries(mdata, n_paired, seed)
        kinds, everywhere = pattern(masked), np.ones(mdata.n_obs, dtype=bool)
        split = Split(name, protocol, seed, 0, kinds != "rna", "atac")
        yield Task(split, masked, kinds == "atac", kinds, everywhere, full=mdata, transfer=True)


def _between(mdata: MuData, name: str, seed: int) -> Iterator[Task]:
    kinds, everywhere = pattern(mdata), np.ones(mdata.n_obs, dtype=bool)
    hidden = {"rna-to-prot": kinds != "rna", "prot-to-rna": kinds != "prot"}
    if np.any(kinds == "rna+prot"):
        hidden = {"hide-rna": kinds == "rna", "hide-prot": kinds == "prot", "rna-to-prot": kinds != "rna"}
    for protocol, mask in hidden.items():
        target = protocol.split("-")[-1]
        split = Split(name, protocol, seed, 0, mask, target)
        yield Task(split, mdata, kinds == target, kinds, everywhere, transfer=True)


def _spatial(name: str, column: str, title: str, data_dir: str | os.PathLike, seeds: Sequence[int]) -> Iterator[Task]:
    adata, known = load_spatial(name, data_dir, column)
    return _labels_only(adata, title, "S2a", seeds, known)


def _paired(name: str, protocol: str) -> Callable[[str | os.PathLike, Sequence[int]], Iterator[Task]]:
    return lambda data_dir, seeds: _labels_only(load_multi(name, data_dir), name, protocol, seeds)


TASKS: dict[str, Callable[[str | os.PathLike, Sequence[int]], Iterator[Task]]] = {
    "pbmc_cite/S1": _paired("pbmc_cite", "S1"),
    "pbmc_cite/S2a": _paired("pbmc_cite", "S2a"),
    "pbmc_cite/S6": lambda d, s: _hidden_protein(load_multi("pbmc_cite", d), "pbmc_cite", s[0]),
    "snareseq/S1": _paired("snareseq", "S1"),
    "snareseq/S2a": _paired("snareseq", "S2a"),
    "snareseq/S6": lambda d, s: _split_libraries(load_multi("snareseq", d), "snareseq", s[0]),
    "pbmc_mosaic/transfer": lambda d, s: _between(load_multi("pbmc_mosaic", d), "pbmc_mosaic", s[0]),
    "pbmc_mosaic_hao/transfer": lambda d, s: _between(load_multi("pbmc_mosaic_hao", d), "pbmc_mosaic_hao", s[0]),
    "sln_diagonal/transfer": lambda d, s: _between(load_multi("sln_diagonal", d), "sln_diagonal", s[0]),
    "her2_breast_st/S2a": lambda d, s: _spatial("her2_breast_st", "cell_type", "her2_breast_st", d, s),
    "starmap_mpfc/S2a": lambda d, s: _spatial("starmap_mpfc", "cell_type", "starmap_mpfc", d, s),
    "starmap_mpfc_layer/S2a": lambda d, s: _spatial("starmap_mpfc", "layer", "starmap_mpfc_layer", d, s),
}
"""Name → function of the data folder and the seeds that yields the tasks; only ``S1`` uses more than the first seed."""
