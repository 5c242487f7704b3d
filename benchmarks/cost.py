"""What MoRE costs.

    python benchmarks/cost.py methods [--dataset bm_vangalen]   # seconds and memory, MoRE against scVI + scANVI
    python benchmarks/cost.py methods --queries 20000 --methods more scarches    # the same of mapping so many cells
    python benchmarks/cost.py speed [--dataset pbmc_4batch]     # how much of feature extraction is matrix products
    python benchmarks/cost.py peaks [--cells 10000]             # memory and time on 120,000 simulated peaks

Each method runs in a fresh process. Its seconds count from after the loading of the data; its memory is the peak of the
whole process. Writes ``cost.md``, ``mapping.md``, ... into ``results/``.
"""

import sys
import time
from argparse import Namespace
from multiprocessing import get_context
from resource import RUSAGE_SELF, getrusage

import numpy as np
import scipy.sparse as sp
from anndata import AnnData, concat
from frame import arguments, made_by, markdown, start, write

PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "attention")  # what the profiler calls them, in part


def measure(method: str, args: Namespace) -> dict[str, str]:
    start(args.threads)
    from more_scvi.evaluation import load_dataset, make_tasks, run_task

    data, known = load_dataset(args.dataset, args.data)
    if args.queries:  # cells of the largest batch, drawn again and again
        large = data.obs["batch"] == data.obs["batch"].value_counts().index[0]
        query = data[np.random.default_rng(0).choice(np.flatnonzero(large), args.queries)]
        data, known = concat([data[~large], query.copy()]), None
        data.obs_names_make_unique()
    _, record = run_task(next(make_tasks(data, "S2b" if args.queries else "S1", known=known)), method)
    of, peak = record["seconds"], f"{getrusage(RUSAGE_SELF).ru_maxrss / 2**20:.2f}"
    row = {"method": method, "CPU seconds": f"{sum(of.values()):.1f}", "peak memory (GB)": peak}
    row["of mapping and embedding"] = f"{of.get('growing', 0.0) + of['embedding']:.1f}"
    return row | {f"{kind} parameters": f"{record['parameters'][kind]:,}" for kind in ("trained", "frozen")}


def methods(args: Namespace) -> None:
    with get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        rows = pool.starmap(measure, [(method, args) for method in args.methods], 1)
    about = "CPU seconds of set-up, features, training and embedding; peak memory of the whole process, with libraries."
    write(args.results / ("mapping.md" if args.queries else "cost.md"), "Cost", made_by(), about, markdown(rows))


def speed(args: Namespace) -> None:
    from torch.profiler import ProfilerActivity, profile

    from more_scvi.backbones import MoreMini, compute_features, make_panels
    from more_scvi.evaluation import load_dataset

    adata, _ = load_dataset(args.dataset, args.data)
    cells = np.sort(np.random.default_rng(0).permutation(adata.n_obs)[: args.cells])
    backbone, x, genes = MoreMini.load(), sp.csr_matrix(adata.X)[cells], adata.var_names.tolist()
    given, rows = {"panels": make_panels(adata.n_vars, 2), "progress": False}, []
    for precision in ("float32", "bfloat16"):
        compute_features(backbone, x, genes, precision=precision, **given)  # warms up
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            since = time.perf_counter()
            compute_features(backbone, x, genes, precision=precision, **given)
            seconds = time.perf_counter() - since
        products = [event for event in profiler.key_averages() if any(word in event.key for word in PRODUCTS)]
        share = sum(event.self_cpu_time_total for event in products) / seconds / 1e6
        rows.append({"threads": args.threads, "precision": precision, "share of products": f"{share:.2f}"})
    about = f"{len(cells)} cells of {args.dataset}, full view and two panels; share of the time of matrix products."
    write(args.results / "speed.md", "Speed of `more-mini`", made_by(), about, markdown(rows))


def peaks(args: Namespace) -> None:
    import mudata

    import more_scvi as more

    rng, parts = np.random.default_rng(0), {}
    for name, width, share in (("rna", 4_000, 0.25), ("atac", args.peaks, 0.024)):  # counts without structure: never
        x = sp.random(args.cells, width, share, "csr", np.float32, rng, lambda n: 1 + rng.poisson(0.5, n))  # dense
        parts[name] = AnnData(x)
        parts[name].var_names = [f"{name}{i}" for i in range(width)]
    mdata = mudata.MuData(parts)
    mdata.obs["batch"] = rng.choice(["a", "b"], args.cells)
    mdata.obs["cell_type"] = rng.choice([f"type{i}" for i in range(8)], args.cells)
    sparse = sum(a.X.data.nbytes + a.X.indices.nbytes + a.X.indptr.nbytes for a in mdata.mod.values()) / 2**30
    before, since = getrusage(RUSAGE_SELF).ru_maxrss / 2**20, time.process_time()
    more.MoRE.setup_mudata(mdata, {"rna": "rna", "atac": "atac"}, batch_key="batch", labels_key="cell_type")
    model = more.MoRE(mdata, backbone=None)
    model.train(enable_progress_bar=False)
    model.get_latent_representation()
    text = (
        f"MoRE (no backbone) on simulated RNA + ATAC, {args.cells:,} cells × {args.peaks:,} peaks, "
        f"{mdata['atac'].X.nnz / 1e6:.0f} million open: the data take {sparse:.2f} GB sparse. Peak memory of the "
        f"process {before:.2f} GB before setup, {getrusage(RUSAGE_SELF).ru_maxrss / 2**20:.2f} GB after training "
        f"and embedding; {time.process_time() - since:.0f} CPU seconds on {args.threads} thread(s)."
    )
    write(args.results / "atac_memory.md", "Many peaks", made_by(), text)


if __name__ == "__main__":
    what = {one.__name__: one for one in (methods, speed, peaks)}
    options = {"dataset": "bm_vangalen", "methods": ["more", "scanvi"], "queries": 0, "cells": 4096, "peaks": 120_000}
    args = arguments(__doc__, {"what": what}, data="peaks" not in sys.argv, **options)
    what[args.what](args)
