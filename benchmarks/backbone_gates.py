"""Is the pre-trained backbone better than its parts? The gate that weights pass before they are shipped.

    python benchmarks/backbone_gates.py [--weights FOLDER]

Writes backbone_gates.md, and gates.json into the folder of the weights (without --weights: the bundled ones). Frozen
features, centred by batch, are probed by logistic regression (standardised, C=1) and by nearest neighbours (5; 15 where
labels are many). Weights pass if on no benchmark set their mean is more than .005 below that of the untrained programs,
and above it on most. Benchmark sets choose nothing; pool studies that were left out do (pretraining.py).
"""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from frame import arguments, made_by, markdown, write
from scipy.sparse import csr_matrix
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from more_scvi.backbones import MoreMini, compute_features
from more_scvi.backbones._more_mini import BUNDLED
from more_scvi.evaluation import load_dataset
from more_scvi.metrics import macro_f1

BENCH = ["pbmc_4batch", "bm_vangalen", "pbmc_kang", "pbmc_cite", "snareseq"]
PROTOCOLS = ["S1", "S2a", "S4-3", "S4-10", "200 cells"]
"""Half of the labels; those of one batch hidden, up to 4 in turn; 3 or 10 labels per type; 200 cells, half labelled."""
TOLERANCE = 0.005

Scores = dict[str, float]
Data = tuple[csr_matrix, list[str], np.ndarray, np.ndarray]
"""Counts, genes, batches, types."""


def read_bench(name: str, folder: Path, n_cells: int) -> Data:
    adata = load_dataset(name, folder)[0]
    adata = adata[np.sort(np.random.default_rng(0).permutation(adata.n_obs)[:n_cells])]
    batch, labels = (adata.obs[key].astype(str).to_numpy() for key in ("batch", "cell_type"))
    return csr_matrix(adata.X), list(adata.var_names), batch, labels


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
    """macro-F1 of the linear probe and of the neighbours."""
    z = z.astype(np.float32)
    z = z - np.stack([z[batch == b].mean(0) for b in np.unique(batch)])[np.unique(batch, return_inverse=True)[1]]
    test = test[np.isin(y[test], y[train])]
    s = StandardScaler().fit_transform(z)
    linear = LogisticRegression(C=1.0, max_iter=500).fit(s[train], y[train]).predict(s[test])
    near = KNeighborsClassifier(min(k, len(train))).fit(z[train], y[train]).predict(z[test])
    return [macro_f1(y[test], said) for said in (linear, near)]


def splits(protocol: str, y: np.ndarray, batch: np.ndarray, n_seeds: int) -> Iterator[tuple[np.ndarray, ...]]:
    """(cells, labelled, scored) positions of every repetition; none for S2a of one batch."""
    everything, names = np.arange(len(y)), np.unique(batch)
    if protocol == "S2a":
        for b in np.random.default_rng(0).permutation(names)[:4] if len(names) > 1 else ():
            yield everything, np.flatnonzero(batch != b), np.flatnonzero(batch == b)
        return
    for seed in range(n_seeds):
        order = np.random.default_rng(seed).permutation(len(y))
        if protocol.startswith("S4"):
            few = int(protocol.removeprefix("S4-"))
            train = np.concatenate([order[y[order] == t][:few] for t in np.unique(y)])
            yield everything, train, np.setdiff1d(order, train)
        else:
            cells = order[:200] if protocol == "200 cells" else order
            half = np.arange(len(cells))
            yield cells, half[: len(cells) // 2], half[len(cells) // 2 :]


def probe(embed: Callable, data: Data, protocols: Sequence[str] = PROTOCOLS, n_seeds: int = 3) -> Scores:
    """Mean macro-F1 over the repetitions of each protocol, by the linear probe and by neighbours; NaN without any."""
    _, _, batch, y = data
    found = {}
    for name in protocols:
        k = 15 if name in ("S1", "S2a") else 5
        rows = [score(embed(cells), y[cells], batch[cells], *of, k) for cells, *of in splits(name, y, batch, n_seeds)]
        found |= dict(zip((f"{name}: linear", f"{name}: kNN"), np.mean(rows or [[np.nan] * 2], axis=0), strict=True))
    return found


def probe_features(backbone: MoreMini, data: Data, *how: object) -> Scores:
    features = compute_features(backbone, *data[:2], progress=False, dtype="float32").full
    return probe(features.__getitem__, data, *how)


def evaluate(data: Data, folder: Path) -> dict[str, Scores]:
    """Row → protocol and probe → macro-F1."""
    randoms = [probe_features(MoreMini.load(folder, weights="random", seed=seed), data) for seed in range(2)]
    return {
        "pre-trained": probe_features(MoreMini.load(folder), data),
        "untrained programs": probe_features(MoreMini.load(folder, weights="untrained"), data),
        "random transformer": {key: np.mean([one[key] for one in randoms]) for key in randoms[0]},
        "SVD only": probe_features(svd_only(folder), data),
        "in-data PCA": probe(lambda cells: in_data_pca(data[0][cells]), data),
    }


def table(results: dict[str, dict[str, Scores]]) -> str:
    frame = pd.concat({name: pd.DataFrame(result).T for name, result in results.items()})
    frame.insert(0, "mean", frame.mean(axis=1))
    frame = pd.concat([frame, pd.concat({"**mean**": frame.groupby(level=1, sort=False).mean()})])
    frame = frame.map(lambda value: "–" if np.isnan(value) else f"{value:.3f}")
    return markdown(frame.rename_axis(["set", "features"]).reset_index().to_dict("records"))


def _pairs(of: Scores) -> dict[str, list[float]]:
    pairs = {p: [round(of[f"{p}: {head}"], 4) for head in ("linear", "kNN")] for p in PROTOCOLS}
    return {p: pair for p, pair in pairs.items() if not np.isnan(pair[0])}


if __name__ == "__main__":
    args = arguments(__doc__, weights=BUNDLED, sets=BENCH, cells=2000)
    bench = {name: evaluate(read_bench(name, args.data, args.cells), args.weights) for name in args.sets}
    means = {name: {row: np.nanmean([*of.values()]) for row, of in result.items()} for name, result in bench.items()}
    gain = {name: round(float(of["pre-trained"] - of["untrained programs"]), 4) for name, of in means.items()}
    passed = min(gain.values()) >= -TOLERANCE and sum(g > 0 for g in gain.values()) > len(gain) / 2
    write(
        args.results / "backbone_gates.md",
        "Gates of the bundled backbone",
        f"{made_by()} Macro-F1 of hidden labels by frozen features.",
        f"**{'Passed' if passed else 'Not passed'}**: mean over protocols and probes, pre-trained minus untrained "
        f"programs: {', '.join(f'{name} {value:+.3f}' for name, value in gain.items())}.",
        f"## Benchmark sets (at most {args.cells} cells)",
        table(bench),
    )
    scores = {name: {row: _pairs(of) for row, of in result.items()} for name, result in bench.items()}
    stored = {"weights": MoreMini.load(args.weights).fingerprint(), "gain over untrained programs": gain}
    stored |= {"passed": passed, "macro_f1 (linear, kNN)": scores}
    (args.weights / "gates.json").write_text(json.dumps(stored, indent=1) + "\n")
