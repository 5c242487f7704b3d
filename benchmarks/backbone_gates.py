"""Is the pre-trained backbone better than its parts? The gate that weights pass before they are shipped.

    python benchmarks/backbone_gates.py --data DATA [--weights FOLDER] [--held-out FOLDER STUDY [STUDY ...]]...

Writes results/backbone_gates.md, and gates.json into the folder of the weights (without --weights: the bundled ones).
Frozen features, centred by batch, are probed by logistic regression (standardised, C=1) and by nearest neighbours (5;
15 where labels are many); macro-F1 of hidden labels, on

    S1         half of the labels
    S2a        the labels of one batch hidden, up to 4 batches in turn (sets of several batches)
    S4-3       all cells present, 3 labels per type
    S4-10      10 labels per type
    200 cells  a random 200 cells, half of them labelled

Rows: the pre-trained backbone, the same without its transformer (untrained programs), with a random-weight transformer,
the SVD components of the pool alone, and principal components of the data themselves. Weights pass if on no benchmark
set their mean is more than .005 below that of the untrained programs, and above it on most.

Held-out studies are scored with weights that never saw their cells (FOLDER, from `python -m more_scvi.pretraining
--hold-out`). Benchmark sets never choose anything; held-out studies do (benchmarks/pretraining.py).
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import mudata as md
import numpy as np
from frame import RESULTS, markdown, parser, start, write
from scipy.sparse import csr_matrix
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from more_scvi.backbones import MoreMini, compute_features
from more_scvi.backbones._more_mini import BUNDLED
from more_scvi.pretraining import read_pool

BENCH = ["pbmc_4batch.h5ad", "bm_vangalen.h5ad", "pbmc_kang.h5ad", "pbmc_cite.h5mu", "snareseq.h5mu"]
MAX_CELLS = 2000
DEPTH = 1500  # pool studies by Smart-seq hold up to 1e7 counts a cell; thinned to what droplets give
SEEDS, RANDOM_SEEDS = range(3), range(2)
PROTOCOLS = ["S1", "S2a", "S4-3", "S4-10", "200 cells"]
FEW = {"S4-3": 3, "S4-10": 10}
TOLERANCE = 0.005
ROWS = ["pre-trained", "untrained programs", "random transformer", "SVD only", "in-data PCA"]


def read_bench(path: Path):
    adata = md.read_h5mu(path)["rna"] if path.suffix == ".h5mu" else ad.read_h5ad(path)
    rng = np.random.default_rng(0)
    adata = adata[np.sort(rng.permutation(adata.n_obs)[:MAX_CELLS])]
    batch = adata.obs["batch"].astype(str).to_numpy()
    return csr_matrix(adata.X), list(adata.var_names), batch, adata.obs["cell_type"].astype(str).to_numpy()


def thin(x: csr_matrix, depth: int, rng: np.random.Generator) -> csr_matrix:
    """Counts of cells, drawn from to leave at most ``depth`` in the mean of a cell."""
    share = np.minimum(1, depth / np.maximum(np.asarray(x.sum(1)).ravel(), 1))
    x = x.copy()
    x.data = rng.binomial(x.data.astype(int), np.repeat(share, np.diff(x.indptr))).astype(np.float32)
    return x


def read_study(pool, name: str):
    """Labelled cells of a pool study, thinned; the genes it measured."""
    study = pool.of_studies([name])
    types, n = np.unique(study.labels, return_counts=True)
    study = study.select(np.flatnonzero(np.isin(study.labels, types[(n >= 6) & (types != "") & (types != "ND")])))
    x = thin(study.counts, DEPTH, np.random.default_rng(0))
    genes = np.flatnonzero(study.measured[0])
    names = [study.vocabulary.human_symbol[g] for g in genes]
    return x[:, genes], names, np.full(len(study.labels), "one"), study.labels


def svd_only(folder: Path | None) -> MoreMini:
    """The backbone with the components as features and no gene sets."""
    backbone = MoreMini.load(folder, weights="untrained")
    backbone.front.whitening[:, backbone.sizes.n_components :] = 0
    return backbone


def in_data_pca(x: csr_matrix) -> np.ndarray:
    y = x.multiply(1e4 / np.maximum(np.asarray(x.sum(1)), 1)).tocsr().log1p()
    variance = np.asarray(y.multiply(y).mean(0) - np.square(y.mean(0))).ravel()
    dense = y[:, np.argsort(-variance)[:2000]].toarray()
    scaled = np.clip(StandardScaler().fit_transform(dense), -10, 10)
    return PCA(min(50, *np.subtract(scaled.shape, 1)), random_state=0).fit_transform(scaled)


def centre(z: np.ndarray, batch: np.ndarray) -> np.ndarray:
    z = z.astype(np.float32).copy()
    for b in np.unique(batch):
        z[batch == b] -= z[batch == b].mean(0)
    return z


def score(z: np.ndarray, y: np.ndarray, train: np.ndarray, test: np.ndarray, k: int) -> tuple[float, float]:
    """macro-F1 of the linear probe and of the neighbours, over types with 5 or more scored cells."""
    types, n = np.unique(y[test], return_counts=True)
    types = types[(n >= 5) & np.isin(types, y[train])]
    test = test[np.isin(y[test], y[train])]
    s = StandardScaler().fit_transform(z)
    linear = LogisticRegression(C=1.0, max_iter=500).fit(s[train], y[train]).predict(s[test])
    near = KNeighborsClassifier(min(k, len(train))).fit(z[train], y[train]).predict(z[test])
    return tuple(f1_score(y[test], p, labels=types, average="macro", zero_division=0) for p in (linear, near))


def splits(protocol: str, y: np.ndarray, batch: np.ndarray):
    """(cells, labelled, scored) positions of every repetition; none for S2a of one batch."""
    everything = np.arange(len(y))
    if protocol == "S2a":
        names = np.unique(batch)
        for b in np.random.default_rng(0).permutation(names)[:4] if len(names) > 1 else ():
            yield everything, np.flatnonzero(batch != b), np.flatnonzero(batch == b)
        return
    for seed in SEEDS:
        order = np.random.default_rng(seed).permutation(len(y))
        if protocol in FEW:
            train = np.concatenate([order[y[order] == t][: FEW[protocol]] for t in np.unique(y)])
            yield everything, train, np.setdiff1d(order, train)
        else:
            cells = order[:200] if protocol == "200 cells" else order
            half = np.arange(len(cells))
            yield cells, half[: len(cells) // 2], half[len(cells) // 2 :]


def probe(embed: Callable[[np.ndarray], np.ndarray], y: np.ndarray, batch: np.ndarray, protocol: str) -> np.ndarray:
    """Mean macro-F1 over the repetitions of a protocol, by the linear probe and by neighbours; NaN if there is none."""
    k = 15 if protocol in ("S1", "S2a") else 5
    rows = []
    for cells, train, test in splits(protocol, y, batch):
        rows.append(score(centre(embed(cells), batch[cells]), y[cells], train, test, k))
    return np.mean(rows, axis=0) if rows else np.full(2, np.nan)


def features(backbone: MoreMini, x: csr_matrix, genes: list[str]) -> np.ndarray:
    return compute_features(backbone, x, genes, progress=False, dtype="float32").full


def evaluate(data, folder: Path | None) -> dict[str, np.ndarray]:
    """Row → (protocols, probes)."""
    x, genes, batch, y = data
    backbones = {
        "pre-trained": [MoreMini.load(folder)],
        "untrained programs": [MoreMini.load(folder, weights="untrained")],
        "random transformer": [MoreMini.load(folder, weights="random", seed=s) for s in RANDOM_SEEDS],
        "SVD only": [svd_only(folder)],
    }
    found = defaultdict(list)
    for row, many in backbones.items():
        for z in (features(backbone, x, genes) for backbone in many):
            found[row].append([probe(z.__getitem__, y, batch, protocol) for protocol in PROTOCOLS])
    found["in-data PCA"] = [[probe(lambda cells: in_data_pca(x[cells]), y, batch, p) for p in PROTOCOLS]]
    return {row: np.mean(found[row], axis=0) for row in ROWS}


def table(results: dict[str, dict[str, np.ndarray]]) -> str:
    means = {row: np.nanmean([result[row] for result in results.values()], axis=0) for row in ROWS}
    lines = []
    for name, result in [*results.items(), ("**mean**", means)]:
        for row in ROWS:
            line = {"set": name, "features": row, "mean": f"{np.nanmean(result[row]):.3f}"}
            for protocol, pair in zip(PROTOCOLS, result[row], strict=True):
                words = ["–" if np.isnan(value) else f"{value:.3f}" for value in pair]
                line |= {f"{protocol}: linear": words[0], f"{protocol}: kNN": words[1]}
            lines.append(line)
    return markdown(lines)


def verdict(bench: dict[str, dict[str, np.ndarray]]) -> dict:
    """Difference to the untrained programs per set, and whether the weights pass."""
    gain = {n: float(np.nanmean(r["pre-trained"]) - np.nanmean(r["untrained programs"])) for n, r in bench.items()}
    passed = min(gain.values()) >= -TOLERANCE and sum(g > 0 for g in gain.values()) > len(gain) / 2
    return {"gain over untrained programs": {k: round(v, 4) for k, v in gain.items()}, "passed": passed}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--weights", type=Path, default=BUNDLED, help="folder to gate (default: the bundled weights)")
    options.add_argument("--held-out", nargs="+", action="append", default=[], metavar="FOLDER STUDY")
    options.add_argument("--out", type=Path, default=RESULTS / "backbone_gates.md")
    args = options.parse_args()
    start(args.threads)
    held = {}
    if args.held_out:
        pool = read_pool(args.data / "pretrain", args.data / "annotation", n_genes=20_000)
        for folder, *studies in args.held_out:
            held |= {study: evaluate(read_study(pool, study), Path(folder)) for study in studies}
    bench = {name.split(".")[0]: evaluate(read_bench(args.data / "bench" / name), args.weights) for name in BENCH}
    found = verdict(bench)
    gains = ", ".join(f"{name} {gain:+.3f}" for name, gain in found["gain over untrained programs"].items())
    parts = [
        "Made by `benchmarks/backbone_gates.py`; macro-F1 of hidden labels by frozen features.",
        f"**{'Passed' if found['passed'] else 'Not passed'}**: mean over protocols and probes, pre-trained minus "
        f"untrained programs: {gains}.",
        f"## Benchmark sets (at most {MAX_CELLS} cells)",
        table(bench),
    ]
    parts += ["## Pool studies that the weights never saw", table(held)] if held else []
    write(args.out, "Gates of the bundled backbone", *parts)
    scores = {}
    for name, result in bench.items():
        of_row = {row: zip(PROTOCOLS, result[row].round(4).tolist(), strict=True) for row in ROWS}
        scores[name] = {row: {p: pair for p, pair in of if not np.isnan(pair[0])} for row, of in of_row.items()}
    stored = {"weights": MoreMini.load(args.weights).fingerprint(), **found, "macro_f1 (linear, kNN)": scores}
    (args.weights / "gates.json").write_text(json.dumps(stored, indent=1) + "\n")


if __name__ == "__main__":
    main()
