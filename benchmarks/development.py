"""Development sets, on which every default is chosen; README.md says what they are. The sets of ``bench/`` are only
reported, and refused here: by name, by folder, and by their cells under another name.
"""

import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import anndata
import numpy as np
from anndata import AnnData
from scipy import sparse

import more_scvi as more
from more_scvi.evaluation import DATASETS, load_dataset
from more_scvi.evaluation._data import Data, modalities, standardise, subset

SKETCH = Path(__file__).with_name("bench_cells.txt")
"""Of every bench set the cells with the smallest hashes: enough to notice a twentieth of it under another name."""
SKETCH_SIZE = 40


def _pool(file: str, study: str, folder: Path) -> AnnData:
    pool = anndata.read_h5ad(folder / "pretrain" / f"{file}.h5ad", backed="r")
    rows = np.flatnonzero((pool.obs["study"] == study) & (pool.obs["cell_type"] != ""))
    genes = np.asarray(pool.varm["measured"])[:, list(pool.uns["measured_studies"]).index(study)].astype(bool)
    obs = pool.obs.iloc[rows][["batch", "cell_type"]].reset_index(drop=True).rename(index=str)
    return AnnData(sparse.csr_matrix(pool.X[rows])[:, genes].astype(np.float32), obs=obs, var=pool.var[[]][genes])


def _platform(file: str, study: str, folder: Path) -> AnnData:
    """As measured, and a random half by another platform: batches with a known, purely technical difference."""
    adata = _pool(file, study, folder)
    again = np.random.default_rng(0).permutation(adata.n_obs) % 2 == 1
    out = anndata.concat([adata[~again], adata[again]])
    out.X = sparse.vstack([adata.X[~again], more.data.simulate_platform(adata.X[again], seed=0)], format="csr")
    out.obs["batch"] = np.repeat(["measured", "simulated"], [(~again).sum(), again.sum()])
    return out


def _multi(second: str, folder: Path) -> Data:
    names = anndata.read_h5ad(folder / "dev" / "human_gastrula.h5ad", backed="r").var_names
    genes = list(np.random.default_rng(0).choice(names, 1000, replace=False))
    return more.data.simulate_multiomics(
        900, 8, 3, modalities=("rna", second), n_genes=1000, n_peaks=3000, n_proteins=25, gene_names=genes,
        pattern={"batch1": ("rna",)}, depth={"rna": 1000}, markers=0.05, n_factors=2, seed=1,
    )  # fmt: skip


SETS: dict[str, Callable[[Path], Data]] = {
    **{name: partial(load_dataset, name) for name, of in DATASETS.items() if not of.reported},
    "brain_donors": partial(_pool, "human_pool", "Darmanis2015_brain"),
    "liver_panel": partial(_pool, "mouse_pool", "TMS_liver_726genes"),
    "pancreas_platform": partial(_platform, "mouse_pool", "BastidasPonce2019_pancreas"),
    "tumour_platform": partial(_platform, "extra_pool", "Moncada2020_PDAC_A"),
    "cite_mosaic": partial(_multi, "protein"),
    "multiome_mosaic": partial(_multi, "atac"),
}


def load(name: str, data_dir: Path, max_cells: int | None = None) -> Data:
    """A development set, or your own ``.h5ad`` with ``obs["batch"]`` and ``obs["cell_type"]``."""
    path, known = Path(name), dict(line.split()[::-1] for line in SKETCH.read_text().splitlines())
    reported = {key: Path(entry.file).stem for key, entry in DATASETS.items() if entry.reported}
    why = "its name" if name in reported or path.stem in reported.values() else ""
    why = why or "its folder" * (name not in SETS and path.resolve().parent.name == "bench")
    if not why:
        if name not in SETS and not path.is_file():
            raise KeyError(f"Development set {name!r} is unknown; give a .h5ad file or one of {', '.join(SETS)}.")
        data = SETS[name](data_dir) if name in SETS else anndata.read_h5ad(path)
        data = standardise(data[0] if isinstance(data, tuple) else data, "batch", "cell_type")[0]
        cells = (cell for adata in modalities(data).values() for cell in hashes(adata))
        why = next((f"cells of {known[cell]!r}" for cell in cells if cell in known), "")
    if why:
        raise ValueError(
            f"{name!r} is a set of the benchmark ({why}), which is only reported and may choose nothing; tune on "
            f"{', '.join(SETS)}."
        )
    if max_cells is not None and data.n_obs > max_cells:
        return subset(data, np.random.default_rng(0).permutation(data.n_obs) < max_cells)
    return data


def hashes(adata: AnnData) -> list[str]:
    """One hash per cell, of its sorted counts."""
    x = sparse.csr_matrix(adata.X, dtype=np.float32)
    rows = (np.sort(x.data[a:b][x.data[a:b] > 0]) for a, b in zip(x.indptr, x.indptr[1:], strict=False))
    return [hashlib.sha256(row.tobytes()).hexdigest()[:12] for row in rows if row.size >= 20]


def write_sketch(data_dir: Path) -> None:
    """Write :data:`SKETCH` anew; needed when a set comes to the benchmark."""
    lines: dict[str, str] = {}
    for name, stem in sorted((key, Path(of.file).stem) for key, of in DATASETS.items() if of.reported):
        for adata in modalities(load_dataset(name, data_dir)[0]).values():
            lines |= dict.fromkeys(sorted(set(hashes(adata)))[:SKETCH_SIZE], stem)
    SKETCH.write_text("".join(f"{name} {cell}\n" for cell, name in lines.items()))
