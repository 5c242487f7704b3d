"""Peak memory and CPU seconds of MoRE on RNA + ATAC with many peaks; all stays sparse. See README.md in this folder."""

from __future__ import annotations

import argparse
import os
import resource
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import mudata
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData


def simulate(n_cells: int, n_peaks: int, n_genes: int, open_peaks: int, n_types: int = 8) -> mudata.MuData:
    """Counts of cell types in two batches; each type opens its own tenth of the peaks three times as often."""
    rng = np.random.default_rng(0)
    types = rng.integers(n_types, size=n_cells)
    names = [f"cell{i}" for i in range(n_cells)]
    modalities = {}
    for modality, width, per_cell in (("rna", n_genes, 1500), ("atac", n_peaks, open_peaks)):
        own = rng.random((n_types, width)) < 0.1
        rate = rng.lognormal(0, 1, width) * np.where(own, 3.0, 1.0)
        rate /= rate.sum(1, keepdims=True)
        blocks = []
        for start in range(0, n_cells, 500):  # small, so that the peak measured later is not that of the simulation
            part = types[start : start + 500]
            columns = np.concatenate([rng.choice(width, size=per_cell, p=rate[t]) for t in part])
            rows = np.repeat(np.arange(len(part), dtype=np.int32), per_cell)
            block = sp.csr_matrix((np.ones(len(rows), np.float32), (rows, columns)), shape=(len(part), width))
            block.sum_duplicates()
            blocks.append(block)
        x = sp.vstack(blocks, "csr")
        modalities[modality] = AnnData(
            x, obs=pd.DataFrame(index=names), var=pd.DataFrame(index=[f"{modality}{i}" for i in range(width)])
        )
    out = mudata.MuData(modalities)
    out.obs["batch"] = pd.Categorical(rng.choice(["a", "b"], n_cells))
    out.obs["cell_type"] = pd.Categorical([f"type{t}" for t in types])
    return out


def peak_gigabytes() -> float:
    """Largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2


def main() -> None:
    """Simulate, train, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=10_000)
    parser.add_argument("--peaks", type=int, default=120_000)
    parser.add_argument("--genes", type=int, default=4_000)
    parser.add_argument("--open", type=int, default=3_000, help="open peaks per cell")
    arguments = parser.parse_args()
    import torch

    import more_scvi as more

    torch.set_num_threads(1)
    mdata = simulate(arguments.cells, arguments.peaks, arguments.genes, arguments.open)
    sparse = sum(a.X.data.nbytes + a.X.indices.nbytes + a.X.indptr.nbytes for a in mdata.mod.values()) / 1024**3
    dense = 4.0 * arguments.cells * arguments.peaks / 1024**3
    before, start = peak_gigabytes(), time.process_time()
    more.MoRE.setup_mudata(mdata, {"rna": "rna", "atac": "atac"}, batch_key="batch", labels_key="cell_type")
    model = more.MoRE(mdata, backbone=None)
    model.train(enable_progress_bar=False)
    model.get_latent_representation()
    report = (
        "# Many peaks\n\nWritten by `benchmarks/atac_memory.py`; do not edit.\n\n"
        f"MoRE (no backbone) on simulated RNA + ATAC, {arguments.cells:,} cells × {arguments.peaks:,} peaks,"
        f" {mdata['atac'].X.nnz / 1e6:.0f} million open: the data take {sparse:.2f} GB sparse ({dense:.2f} GB if the"
        f" peaks were dense). Peak memory of the process {before:.2f} GB before setup, {peak_gigabytes():.2f} GB after"
        f" training and embedding; {time.process_time() - start:.0f} CPU seconds on one thread.\n"
    )
    (Path(__file__).parent / "results" / "atac_memory.md").write_text(report)
    print(report)


if __name__ == "__main__":
    main()
