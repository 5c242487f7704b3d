"""What foundation models of full size cost, measured on random weights. Writes foundation_size.md.

    python benchmarks/foundation_size.py [--models geneformer/V2-104M/2048 scgpt/whole-human/1200] [--cells 24]

A model is a kind, a published size and the most tokens of a cell.
"""

from multiprocessing import get_context
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from tempfile import TemporaryDirectory
from time import process_time

import numpy as np
import torch
from catalogue import TEXTS
from frame import arguments, made_by, markdown, start, write

from more_scvi.backbones import compute_features, get_backbone, synthetic_counts, write_synthetic
from more_scvi.data import match_genes


def products(backbone: torch.nn.Module, lengths: np.ndarray) -> float:
    maps = [weight.detach().T for weight in backbone._layers()[0].parameters() if weight.dim() == 2]
    q = torch.randn(backbone.n_heads, lengths.max(), backbone.d_model // backbone.n_heads)
    p, x, since = torch.rand(*q.shape[:2], q.shape[1]), torch.randn(q.shape[1], max(map(len, maps))), process_time()
    for n in lengths:
        _ = [x[:n, : len(w)] @ w for w in maps], q[:, :n] @ q[:, :n].mT, p[:, :n, :n] @ q[:, :n]
    return (process_time() - since) * backbone.n_layers


def measure(path: Path, n_cells: int, threads: int) -> tuple[dict[str, str], str]:
    start(threads)
    peaks, z, seconds, model = [getrusage(RUSAGE_SELF).ru_maxrss], [], [], "/".join(path.parts[-3:])
    backbone = get_backbone(path, max_length=int(path.name))
    x, names = synthetic_counts(backbone, n_cells), backbone.vocabulary.human_symbol
    lengths = backbone.lengths(x, match_genes(names, backbone.vocabulary))
    for how in ("float32", "bfloat16"):
        since, _ = process_time(), peaks.append(getrusage(RUSAGE_SELF).ru_maxrss)
        found = compute_features(backbone, x, names, precision=how, dtype="float32", progress=False).full
        z, seconds = [*z, found.reshape(n_cells, -1, backbone.d_model)], [*seconds, process_time() - since]
    rates = [1 / n_cells, 1 / min(products(backbone, lengths) for _ in range(3)), seconds[1] / seconds[0] ** 2]
    memory = [4 * backbone.n_parameters(), *np.multiply(peaks, 2**10), backbone.working_bytes()]
    figures = [*np.multiply(rates, seconds[0]), *np.divide(memory, 2**30)]
    words = [model, f"{lengths.mean():,.0f}", f"{lengths.sum() / seconds[0]:,.0f}", *map("{:.2f}".format, figures)]
    norms, cosine = [np.linalg.norm(one, axis=2) for one in z], (z[0] * z[1]).sum(2)
    errors = np.linalg.norm(z[1] - z[0], axis=(0, 2)) / np.linalg.norm(z[0], axis=(0, 2))
    said = f"- {model}: {', '.join(map('{:.4f}'.format, errors))}; {(cosine / norms[0] / norms[1]).min():.5f}"
    return dict(zip(TEXTS["foundation_columns"].split(" | "), words, strict=True)), said


if __name__ == "__main__":
    args = arguments(__doc__, data=False, models=["geneformer/V2-104M/2048", "scgpt/whole-human/1200"], cells=24)
    with TemporaryDirectory() as folder, get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        given = [(Path(folder, model), args.cells, args.threads) for model in args.models]
        pool.starmap(write_synthetic, [(path, *path.parts[-3:-1]) for path, *_ in given], 1)
        rows, errors = zip(*pool.starmap(measure, given, 1), strict=True)
    parts = [made_by(), TEXTS["foundation_size"], markdown(rows), TEXTS["foundation_errors"], "\n".join(errors)]
    write(args.results / "foundation_size.md", "Foundation models of full size", *parts)
