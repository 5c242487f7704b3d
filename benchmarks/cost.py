"""What MoRE costs.

    python benchmarks/cost.py methods [--dataset bm_vangalen]   # seconds and memory, MoRE against scVI + scANVI
    python benchmarks/cost.py speed [--dataset pbmc_4batch]     # feature extraction against bare matrix products
    python benchmarks/cost.py neighbours                        # CPU seconds of training beside two busy processes
    python benchmarks/cost.py peaks [--cells 10000]             # memory and time on 120,000 simulated peaks

Each method runs in a fresh process, one after the other. Its seconds count from after the imports and the loading of
the data; its memory is the peak of the whole process. ``speed`` reports ratios only: extraction and the products that
it cannot do without (the sparse product of the front, the linear maps of every layer, attention's two products, on
arrays of the same shapes) take turns, and the best time of each counts. Writes ``cost.md``, ``speed.md`` and
``atac_memory.md`` into ``results/``.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
from frame import arguments, made_by, markdown, start, write

METHODS = {"more": "MoRE", "scanvi": "scVI + scANVI (2,500 steps)"}


def peak_gigabytes() -> float:
    """Largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def measure(method: str, args: Namespace) -> dict[str, float]:
    start(args.threads)
    from more_scvi.evaluation import get_method, load_dataset, make_tasks, run_task

    adata, known = load_dataset(args.dataset, args.data)
    with tempfile.TemporaryDirectory() as cache:
        _, record = run_task(next(make_tasks(adata, "S1", known=known)), get_method(method), cache)
    return record["parameters"] | {"seconds": sum(record["seconds"].values()), "memory": peak_gigabytes()}


def methods(args: Namespace) -> None:
    rows = []
    for method in args.methods:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            found = pool.submit(measure, method, args).result()
        row = {"method": METHODS.get(method, method), "CPU seconds": f"{found['seconds']:.1f}"}
        row["peak memory (GB)"] = f"{found['memory']:.2f}"
        rows.append(row | {f"{kind} parameters": f"{found[kind]:,}" for kind in ("trained", "frozen")})
    about = "CPU seconds of set-up, features, training and embedding; peak memory of the whole process, with libraries."
    write(args.results / "cost.md", "Cost", made_by(), about, markdown(rows))


def products(backbone, x, shown: list, dtype) -> dict[str, Callable]:
    """The bare products of features of ``x`` for each set of visible columns, in parts."""
    import torch

    from more_scvi.backbones._more_mini import _BLOCK

    sizes, rng = backbone.sizes, np.random.default_rng(0)
    n, d, h, width = sizes.n_tokens, sizes.d_model, sizes.n_heads, sizes.n_features // sizes.n_tokens
    t, n_blocks = n + 1, -(-x.shape[0] // _BLOCK) * len(shown)
    rows, heads, depth = _BLOCK * t, _BLOCK * h, n_blocks * sizes.n_layers
    front = [(x[:, c].astype(np.float32), rng.random((len(c), sizes.n_features), np.float32)) for c in shown]

    def repeated(times: int, *shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> Callable[[], list]:
        of = [tuple(torch.randn(*shape, dtype=dtype) for shape in pair) for pair in shapes]
        return lambda: [a @ b for _ in range(times) for a, b in of] and []

    wide = (((rows, d), (d, 3 * d)), ((rows, d), (d, d)), ((rows, d), (d, 2 * d)), ((rows, 2 * d), (2 * d, d)))
    maps = repeated(depth, *wide)
    ends = repeated(n_blocks, ((n, _BLOCK, width), (n, width, d)), ((n, _BLOCK, d), (n, d, width)))
    attention = repeated(depth, ((heads, t, d // h), (heads, d // h, t)), ((heads, t, t), (heads, t, d // h)))
    front_of = lambda: [a @ b for a, b in front] and []  # noqa: E731 - beside its like
    return {"front": front_of, "linear maps": lambda: maps() + ends(), "attention": attention}


def speed(args: Namespace) -> None:
    import scipy.sparse as sp
    import torch

    from more_scvi.backbones import MoreMini, compute_features, make_panels
    from more_scvi.data import match_genes
    from more_scvi.evaluation import load_dataset

    adata, _ = load_dataset(args.dataset, args.data)
    cells = np.sort(np.random.default_rng(0).permutation(adata.n_obs)[: args.cells])
    x, genes, backbone = sp.csr_matrix(adata.X)[cells], adata.var_names.tolist(), MoreMini.load()
    panels = make_panels(x.shape[1], 2)
    known = match_genes(genes, backbone.vocabulary).vocab_index >= 0
    shown = [np.flatnonzero(known & panel) for panel in (np.ones_like(known), *panels)]
    rows = []
    for threads in dict.fromkeys((1, os.cpu_count() or 1)):
        torch.set_num_threads(threads)
        for precision in ("float32", "bfloat16"):
            given = {"panels": panels, "precision": precision, "progress": False}
            turns = {"features": lambda given=given: compute_features(backbone, x, genes, **given)}
            turns |= products(backbone, x, shown, getattr(torch, precision))
            seconds = dict.fromkeys(turns, np.inf)
            with torch.inference_mode():
                for _ in range(args.repeats + 1):  # the first turn warms up
                    for name, turn in turns.items():
                        since = time.perf_counter()
                        turn()
                        seconds[name] = min(seconds[name], time.perf_counter() - since)
            whole = seconds.pop("features")
            row = {"threads": threads, "precision": precision}
            row["features / products"] = f"{whole / sum(seconds.values()):.2f}"
            rows.append(row | {f"share of {name}": f"{part / whole:.2f}" for name, part in seconds.items()})
    about = (
        f"{len(cells)} cells of {args.dataset}, full view and two panels, {backbone.sizes.n_layers} layers of width "
        f"{backbone.sizes.d_model}; ratios of the least times in one run."
    )
    write(args.results / "speed.md", "Speed of `more-mini`", made_by(), about, markdown(rows))


def simulate(n_cells: int, widths: dict[str, tuple[int, int]], n_types: int = 8):
    """Counts of cell types in two batches, never dense; each type opens its own tenth three times as often."""
    import mudata
    import scipy.sparse as sp
    from anndata import AnnData

    rng, modalities = np.random.default_rng(0), {}
    types = rng.integers(n_types, size=n_cells)
    for modality, (width, per_cell) in widths.items():
        rate = rng.lognormal(0, 1, width) * np.where(rng.random((n_types, width)) < 0.1, 3.0, 1.0)
        rate /= rate.sum(1, keepdims=True)
        rows = [sp.csr_matrix(np.bincount(rng.choice(width, per_cell, p=rate[t]), minlength=width)) for t in types]
        modalities[modality] = AnnData(sp.vstack(rows, "csr", np.float32))
        modalities[modality].var_names = [f"{modality}{i}" for i in range(width)]
    out = mudata.MuData(modalities)
    out.obs["batch"], out.obs["cell_type"] = rng.choice(["a", "b"], n_cells), [f"type{t}" for t in types]
    return out


def peaks(args: Namespace) -> None:
    import more_scvi as more

    n = args.cells
    mdata = simulate(n, {"rna": (4_000, 1_500), "atac": (args.peaks, 3_000)})
    sparse = sum(a.X.data.nbytes + a.X.indices.nbytes + a.X.indptr.nbytes for a in mdata.mod.values()) / 2**30
    before, since = peak_gigabytes(), time.process_time()
    more.MoRE.setup_mudata(mdata, {"rna": "rna", "atac": "atac"}, batch_key="batch", labels_key="cell_type")
    model = more.MoRE(mdata, backbone=None)
    model.train(enable_progress_bar=False)
    model.get_latent_representation()
    text = (
        f"MoRE (no backbone) on simulated RNA + ATAC, {n:,} cells × {args.peaks:,} peaks, "
        f"{mdata['atac'].X.nnz / 1e6:.0f} million open: the data take {sparse:.2f} GB sparse. Peak memory of the "
        f"process {before:.2f} GB before setup, {peak_gigabytes():.2f} GB after training and embedding; "
        f"{time.process_time() - since:.0f} CPU seconds on {args.threads} thread(s)."
    )
    write(args.results / "atac_memory.md", "Many peaks", made_by(), text)


def neighbours(args: Namespace) -> None:
    """CPU seconds of ``train`` alone and with two busy neighbours, best of several, and their ratio; only printed."""
    from more_scvi import MoRE
    from more_scvi.data import load_demo

    adata = load_demo()
    MoRE.setup_anndata(adata, batch_key="platform", labels_key="cell_type")

    def best() -> float:
        seconds = []
        for _ in range(args.repeats):
            model, begin = MoRE(adata, seed=0), time.process_time()
            model.train(max_epochs=30, accelerator="cpu", enable_progress_bar=False)
            seconds.append(time.process_time() - begin)
        return min(seconds)

    alone = best()
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    try:
        beside = best()
    finally:
        for process in busy:
            process.kill()
    print(f"alone {alone:.2f} s, beside two busy processes {beside:.2f} s: {beside / alone:.2f} times")


def main() -> None:
    what = {"methods": methods, "speed": speed, "peaks": peaks, "neighbours": neighbours}
    args = arguments(
        __doc__, {"what": what}, data=not {"peaks", "neighbours"} & set(sys.argv), dataset="bm_vangalen",
        methods=list(METHODS), cells=4096,
        peaks=120_000, repeats=5,
    )  # fmt: skip
    what[args.what](args)


if __name__ == "__main__":
    main()
