"""Data sets of the benchmark, and of development."""

import os
from dataclasses import dataclass
from pathlib import Path

import h5py
import mudata
import numpy as np
import pandas as pd
from anndata import AnnData
from anndata.io import read_elem
from mudata import MuData
from numpy.typing import NDArray
from scipy import sparse

from more_scvi.data._fields import RNA
from more_scvi.modalities._antibodies import match_antibodies

from ._data import BATCH_KEY, LABELS_KEY, PROTEIN, Data, assemble, quiet


@dataclass(frozen=True)
class BenchSet:
    """A file below the data folder."""

    file: str
    kind: str = "rna"  # of a MuData file the RNA is taken; or "multi", "spatial"
    labels_key: str = LABELS_KEY

    @property
    def reported(self) -> bool:
        """Whether it is a set of the benchmark: such scores are reported, and choose nothing."""
        return Path(self.file).parts[0] == "bench"


DATASETS: dict[str, BenchSet] = {
    "bm_vangalen": BenchSet("bench/bm_vangalen.h5ad"),
    "pbmc_kang": BenchSet("bench/pbmc_kang.h5ad"),
    "pbmc_4batch": BenchSet("bench/pbmc_4batch.h5ad"),
    "snareseq": BenchSet("bench/snareseq.h5mu"),
    "pbmc_cite": BenchSet("bench/pbmc_cite.h5mu"),
    "pbmc_cite_multi": BenchSet("bench/pbmc_cite.h5mu", "multi"),
    "snareseq_multi": BenchSet("bench/snareseq.h5mu", "multi"),
    "pbmc_mosaic_hao": BenchSet("bench/pbmc_mosaic_hao.h5mu", "multi"),
    "pbmc_mosaic": BenchSet("bench/pbmc_mosaic.h5mu", "multi"),
    "sln_diagonal": BenchSet("bench/sln_diagonal.h5mu", "multi"),
    "her2_breast_st": BenchSet("bench/her2_breast_st.h5ad", "spatial"),
    "starmap_mpfc": BenchSet("bench/starmap_mpfc.h5ad", "spatial"),
    "starmap_mpfc_layer": BenchSet("bench/starmap_mpfc.h5ad", "spatial", "layer"),
    **{name: BenchSet(f"dev/{name}.h5ad") for name in ("human_gastrula", "mouse_lung_immune", "mouse_oligo_regions")},
}
"""Sets of the benchmark, and those in ``dev/`` on which defaults are chosen. The same file may be read as RNA alone and
with all its modalities."""


def load_dataset(name: str, data_dir: str | os.PathLike) -> tuple[Data, NDArray[np.bool_]]:
    """Read one data set: raw counts, ``obs["batch"]`` and ``obs["cell_type"]`` as text, spots' ``obsm["spatial"]``.

    Nothing else is kept: other annotation columns would give hidden labels away. Proteins get the gene that codes for
    them in ``var["gene"]`` (empty where none is known or measured).

    Parameters
    ----------
    name
        A key of :data:`DATASETS`.
    data_dir
        Folder that holds ``bench/`` and ``dev/``.

    Returns
    -------
    The data, and which cells ``(n_cells,)`` have a label of the authors (all but some spots).

    Raises
    ------
    KeyError
        If there is no such data set.
    FileNotFoundError
        If its file is not there.

    Examples
    --------
    >>> adata, known = load_dataset("pbmc_kang", "data")  # doctest: +SKIP
    """
    if name not in DATASETS:
        raise KeyError(f"Data set {name!r} is unknown; known are {', '.join(DATASETS)}.")
    entry = DATASETS[name]
    path = Path(data_dir) / entry.file
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file. Is data_dir the folder that holds {Path(entry.file).parent}/?")
    return _several(path) if entry.kind == "multi" else _single(path, entry)


def _single(path: Path, entry: BenchSet) -> tuple[AnnData, NDArray[np.bool_]]:
    with h5py.File(path, "r") as file:
        full = read_elem(file["mod/rna"] if path.suffix == ".h5mu" else file)
    obs = pd.DataFrame({BATCH_KEY: full.obs[BATCH_KEY].astype(str), LABELS_KEY: full.obs[entry.labels_key].astype(str)})
    spots = {"spatial": np.asarray(full.obsm["spatial"], dtype=np.float32)} if entry.kind == "spatial" else None
    known = full.obs["label_known"] if "label_known" in full.obs else np.ones(full.n_obs)
    adata = AnnData(sparse.csr_matrix(full.X), obs=obs, var=full.var[[]].copy(), obsm=spots)
    return adata, np.asarray(known, dtype=bool)


def _several(path: Path) -> tuple[MuData, NDArray[np.bool_]]:
    with quiet():
        full = mudata.read_h5mu(path)
    if {RNA, PROTEIN} <= set(full.mod) and "antibody" in full.mod[PROTEIN].var:
        prot, measured = full.mod[PROTEIN], full.mod[RNA].var_names
        match = match_antibodies(prot.var["antibody"].tolist(), known_genes=measured.tolist())
        of = [match.genes[row.indices] for row in match.matrix]
        prot.var["gene"] = [next((gene for gene in genes if gene in measured), "") for genes in of]
    data = assemble(full.mod, full.obs[[BATCH_KEY, LABELS_KEY]].astype(str))
    return data, np.ones(data.n_obs, dtype=bool)
