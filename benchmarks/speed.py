"""How fast ``more-mini`` reads cells, against the bare matrix products that it cannot do without.

    python benchmarks/speed.py --data DIR [--set pbmc_4batch] [--cells 4096] [--repeats 5]

DIR holds ``bench/``. The ceiling is the time of the products alone, on arrays of the same shapes in the same run: the
sparse product of the front, the linear maps of every layer, attention's two products, embedding and read-out. Feature
extraction and ceiling take turns, and the best time of each counts, so that other work on the machine weighs on both.
No time is reported, only ratios. Writes ``results/speed.md``.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy.sparse as sp
import torch

from more_scvi.backbones import MoreMini, compute_features, make_panels
from more_scvi.backbones._cache import _bfloat16_is_faster
from more_scvi.backbones._more_mini import _BLOCK
from more_scvi.data import match_genes
from more_scvi.evaluation import load_dataset

RESULTS = Path(__file__).parent / "results"


def best(functions: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Least seconds of each function; they take turns."""
    seconds = dict.fromkeys(functions, np.inf)
    for _ in range(repeats + 1):  # the first turn warms up and cannot be the best for long
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            seconds[name] = min(seconds[name], time.perf_counter() - start)
    return seconds


def products(backbone: MoreMini, x: sp.csr_matrix, shown: list[np.ndarray], dtype: torch.dtype) -> dict[str, Callable]:
    """The bare products of features of ``x`` for each set of visible columns, in parts."""
    sizes, rng = backbone.sizes, np.random.default_rng(0)
    parts = []
    for columns in shown:
        y = x[:, columns].astype(np.float32)
        parts.append((y, rng.normal(size=(len(columns), sizes.n_features)).astype(np.float32)))
    t, d, h = sizes.n_tokens + 1, sizes.d_model, sizes.n_heads
    width = sizes.n_features // sizes.n_tokens

    def tensor(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=dtype)

    tokens, wide = tensor(_BLOCK * t, d), tensor(_BLOCK * t, 2 * d)
    weights = [(tokens, tensor(d, 3 * d)), (tokens, tensor(d, d)), (tokens, tensor(d, 2 * d)), (wide, tensor(2 * d, d))]
    q, k, p = tensor(_BLOCK * h, t, d // h), tensor(_BLOCK * h, d // h, t), tensor(_BLOCK * h, t, t)
    entering, embed = tensor(sizes.n_tokens, _BLOCK, width), tensor(sizes.n_tokens, width, d)
    leaving, readout = tensor(sizes.n_tokens, _BLOCK, d), tensor(sizes.n_tokens, d, width)
    n_blocks = -(-x.shape[0] // _BLOCK) * len(shown)
    heads = tensor(_BLOCK, h, t, d // h)

    def front() -> None:
        for y, weight in parts:
            y @ weight

    @torch.inference_mode()
    def linear() -> None:
        for _ in range(n_blocks):
            torch.bmm(entering, embed)
            for _ in range(sizes.n_layers):
                for a, b in weights:
                    a @ b
            torch.bmm(leaving, readout)

    @torch.inference_mode()
    def attention() -> None:
        for _ in range(n_blocks * sizes.n_layers):
            torch.bmm(q, k)
            torch.bmm(p, q)

    @torch.inference_mode()
    def softmax_attention() -> None:
        for _ in range(n_blocks * sizes.n_layers):
            torch.nn.functional.scaled_dot_product_attention(heads, heads, heads)

    return {"front": front, "linear": linear, "attention": attention, "softmax attention": softmax_attention}


def measure(backbone: MoreMini, x: sp.csr_matrix, genes: list[str], repeats: int) -> dict[str, float]:
    """Seconds of feature extraction (full view and two panels) and of its parts."""
    panels = make_panels(x.shape[1], 2)
    known = match_genes(genes, backbone.vocabulary).vocab_index >= 0
    shown = [np.flatnonzero(known & panel) for panel in (np.ones_like(known), *panels)]

    def features(precision: str) -> Callable[[], object]:
        return lambda: compute_features(backbone, x, genes, panels=panels, precision=precision, progress=False)

    functions = {"features": features("float32"), "features bfloat16": features("bfloat16")}
    functions |= products(backbone, x, shown, torch.float32)
    half = products(backbone, x, shown, torch.bfloat16)
    functions |= {f"{name} bfloat16": half[name] for name in ("linear", "attention")}
    return best(functions, repeats)


def main() -> None:
    """Run and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--set", default="pbmc_4batch")
    parser.add_argument("--cells", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    adata, _ = load_dataset(args.set, args.data)
    cells = np.sort(np.random.default_rng(0).permutation(adata.n_obs)[: args.cells])
    x, genes = sp.csr_matrix(adata.X)[cells], adata.var_names.tolist()
    backbone = MoreMini.load()
    lines = [
        "# Speed of `more-mini`",
        "",
        f"Made by `benchmarks/speed.py`: {len(cells)} cells of {args.set}, {x.nnz / len(cells):.0f} genes above zero in"
        f" each, full view and two panels, {backbone.sizes.n_layers} layers of width {backbone.sizes.d_model}. All"
        " numbers are ratios of the least times in one run; the ceiling is the bare matrix products of the same shapes"
        " (front, linear maps, attention's two products).",
        "",
        "| threads | features / ceiling | features / ceiling with softmax attention | share of the front |"
        " of linear maps | of attention | bfloat16 / float32: features | linear maps | auto takes |",
        "|" + " --- |" * 9,
    ]
    for threads in dict.fromkeys((1, os.cpu_count() or 1)):
        torch.set_num_threads(threads)
        s = measure(backbone, x, genes, args.repeats)
        ceiling = s["front"] + s["linear"] + s["attention"]
        fused = s["front"] + s["linear"] + s["softmax attention"]
        auto = "bfloat16" if _bfloat16_is_faster(torch.device("cpu")) else "float32"
        row = [s["features"] / ceiling, s["features"] / fused]
        row += [s[name] / s["features"] for name in ("front", "linear", "attention")]
        row += [s["features bfloat16"] / s["features"], s["linear bfloat16"] / s["linear"]]
        lines.append(f"| {threads} | " + " | ".join(f"{value:.2f}" for value in row) + f" | {auto} |")
        print(lines[-1], flush=True)
    (RESULTS / "speed.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
