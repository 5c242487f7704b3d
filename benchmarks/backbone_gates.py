"""Is the pre-trained backbone better than its parts? The gate that weights pass before they are shipped.

    python benchmarks/backbone_gates.py [--weights FOLDER] [--held-out FOLDER STUDY [STUDY ...]]

Writes backbone_gates.md, and gates.json into the folder of the weights (without --weights: the bundled ones). Frozen
features, centred by batch, are probed by logistic regression (standardised, C=1) and by nearest neighbours (5; 15 where
labels are many); macro-F1 of hidden labels, on

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
from collections.abc import Callable
from pathlib import Path

import numpy as np
from frame import arguments, made_by, markdown, write
from scipy.sparse import csr_matrix
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from more_scvi.backbones import MoreMini, compute_features
from more_scvi.backbones._more_mini import BUNDLED
from more_scvi.evaluation import load_dataset
from more_scvi.pretraining import read_pool

BENCH = ["pbmc_4batch", "bm_vangalen", "pbmc_kang", "pbmc_cite", "snareseq"]
DEPTH = 1500  # pool studies by Smart-seq hold up to 1e7 counts a cell; thinned to what droplets give
SEEDS = range(3)
PROTOCOLS = ["S1", "S2a", "S4-3", "S4-10", "200 cells"]
FEW = {"S4-3": 3, "S4-10": 10}
TOLERANCE = 0.005

Data = tuple[csr_matrix, list[str], np.ndarray, np.ndarray]
"""Counts, genes, batches, types."""


def read_bench(name: str, folder: Path, n_cells: int) -> Data:
    adata = load_dataset(name, folder)[0]
    adata = adata[np.sort(np.random.default_rng(0).permutation(adata.n_obs)[:n_cells])]
    batch, labels = (adata.obs[key].astype(str).to_numpy() for key in ("batch", "cell_type"))
    return csr_matrix(adata.X), list(adata.var_names), batch, labels


def thin(x: csr_matrix, depth: int, rng: np.random.Generator) -> csr_matrix:
    """Counts of cells, drawn from to leave at most ``depth`` in the mean of a cell."""
    share = np.minimum(1, depth / np.maximum(np.asarray(x.sum(1)).ravel(), 1))
    x = x.copy()
    x.data = rng.binomial(x.data.astype(int), np.repeat(share, np.diff(x.indptr))).astype(np.float32)
    return x


def read_study(pool, name: str) -> Data:
    """Labelled cells of a pool study, thinned; the genes it measured."""
    study = pool.of_studies([name])
    types, n = np.unique(study.labels, return_counts=True)
    study = study.select(np.flatnonzero(np.isin(study.labels, types[(n >= 6) & (types != "") & (types != "ND")])))
    genes = np.flatnonzero(study.measured[0])
    names, batch = [study.vocabulary.human_symbol[g] for g in genes], np.full(len(study.labels), "one")
    return thin(study.counts, DEPTH, np.random.default_rng(0))[:, genes], names, batch, study.labels


def svd_only(folder: Path) -> MoreMini:
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


def score(z: np.ndarray, y: np.ndarray, batch: np.ndarray, train: np.ndarray, test: np.ndarray, k: int) -> list[float]:
    """macro-F1 of the linear probe and of the neighbours, over types with 5 or more scored cells."""
    z = z.astype(np.float32)
    z = z - np.stack([z[batch == b].mean(0) for b in np.unique(batch)])[np.unique(batch, return_inverse=True)[1]]
    types, n = np.unique(y[test], return_counts=True)
    types = types[(n >= 5) & np.isin(types, y[train])]
    test = test[np.isin(y[test], y[train])]
    s = StandardScaler().fit_transform(z)
    linear = LogisticRegression(C=1.0, max_iter=500).fit(s[train], y[train]).predict(s[test])
    near = KNeighborsClassifier(min(k, len(train))).fit(z[train], y[train]).predict(z[test])
    return [f1_score(y[test], p, labels=types, average="macro", zero_division=0) for p in (linear, near)]


def splits(protocol: str, y: np.ndarray, batch: np.ndarray):
    """(cells, labelled, scored) positions of every repetition; none for S2a of one batch."""
    everything, names = np.arange(len(y)), np.unique(batch)
    if protocol == "S2a":
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


def probe(embed: Callable, y: np.ndarray, batch: np.ndarray, protocols: list[str] = PROTOCOLS) -> dict[str, float]:
    """Mean macro-F1 over the repetitions of each protocol, by the linear probe and by neighbours; NaN without any."""
    found = {}
    for name in protocols:
        k = 15 if name in ("S1", "S2a") else 5
        rows = [score(embed(cells), y[cells], batch[cells], *of, k) for cells, *of in splits(name, y, batch)]
        found |= dict(zip((f"{name}: linear", f"{name}: kNN"), np.mean(rows or [[np.nan] * 2], axis=0), strict=True))
    return found


def features(backbone: MoreMini, x: csr_matrix, genes: list[str]) -> np.ndarray:
    return compute_features(backbone, x, genes, progress=False, dtype="float32").full


def evaluate(data: Data, folder: Path) -> dict[str, dict[str, float]]:
    """Row → protocol and probe → macro-F1."""
    x, genes, batch, y = data
    backbones = {
        "pre-trained": [MoreMini.load(folder)],
        "untrained programs": [MoreMini.load(folder, weights="untrained")],
        "random transformer": [MoreMini.load(folder, weights="random", seed=s) for s in range(2)],
        "SVD only": [svd_only(folder)],
    }
    found = {}
    for row, many in backbones.items():
        each = [probe(features(backbone, x, genes).__getitem__, y, batch) for backbone in many]
        found[row] = {key: np.mean([one[key] for one in each]) for key in each[0]}
    return found | {"in-data PCA": probe(lambda cells: in_data_pca(x[cells]), y, batch)}


def mean(of: dict[str, float]) -> float:
    return float(np.nanmean(list(of.values())))


def table(results: dict[str, dict[str, dict[str, float]]]) -> str:
    first = next(iter(results.values()))
    means = {row: {key: np.nanmean([r[row][key] for r in results.values()]) for key in first[row]} for row in first}
    rows = []
    for name, result in [*results.items(), ("**mean**", means)]:
        for row, of in result.items():
            words = {key: "–" if np.isnan(value) else f"{value:.3f}" for key, value in of.items()}
            rows.append({"set": name, "features": row, "mean": f"{mean(of):.3f}"} | words)
    return markdown(rows)


def _pairs(of: dict[str, float]) -> dict[str, list[float]]:
    pairs = {p: [round(of[f"{p}: {head}"], 4) for head in ("linear", "kNN")] for p in PROTOCOLS}
    return {p: pair for p, pair in pairs.items() if not np.isnan(pair[0])}


def main() -> None:
    args = arguments(__doc__, weights=BUNDLED, held_out=[str], sets=BENCH, cells=2000)
    bench = {name: evaluate(read_bench(name, args.data, args.cells), args.weights) for name in args.sets}
    gain = {name: round(mean(r["pre-trained"]) - mean(r["untrained programs"]), 4) for name, r in bench.items()}
    passed = min(gain.values()) >= -TOLERANCE and sum(g > 0 for g in gain.values()) > len(gain) / 2
    parts = [
        f"{made_by()} Macro-F1 of hidden labels by frozen features.",
        f"**{'Passed' if passed else 'Not passed'}**: mean over protocols and probes, pre-trained minus untrained "
        f"programs: {', '.join(f'{name} {value:+.3f}' for name, value in gain.items())}.",
        f"## Benchmark sets (at most {args.cells} cells)",
        table(bench),
    ]
    if args.held_out:
        pool = read_pool(args.data / "pretrain", args.data / "annotation", n_genes=20_000)
        held = {name: evaluate(read_study(pool, name), Path(args.held_out[0])) for name in args.held_out[1:]}
        parts += ["## Pool studies that the weights never saw", table(held)]
    write(args.results / "backbone_gates.md", "Gates of the bundled backbone", *parts)
    scores = {name: {row: _pairs(of) for row, of in result.items()} for name, result in bench.items()}
    stored = {"weights": MoreMini.load(args.weights).fingerprint(), "gain over untrained programs": gain}
    stored |= {"passed": passed, "macro_f1 (linear, kNN)": scores}
    (args.weights / "gates.json").write_text(json.dumps(stored, indent=1) + "\n")


if __name__ == "__main__":
    main()
