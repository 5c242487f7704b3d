"""Tasks that only the benchmark's own sets of several modalities have, beside the protocols of every data set.

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

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from mudata import MuData

from more_scvi.data._fields import RNA

from ._data import ATAC, batches_of, hide_modalities, pattern
from ._splits import Split
from ._tasks import Task

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
