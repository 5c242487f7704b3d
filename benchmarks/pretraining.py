"""What each objective of pre-training adds, on studies of the pool that it never saw. Writes results/pretraining.md.

    python benchmarks/pretraining.py --data DATA [--work FOLDER] [--steps 1500]

The front is fitted and the transformer trained without the held-out studies. Frozen features of these, centred, are
probed by logistic regression and by nearest neighbours as in backbone_gates.py; mean of macro-F1 over the studies, as
they are and thinned to 1,700 genes and 400 counts, which is what small panels and shallow nuclei hold. Settings of the
shipped weights are chosen here; benchmark sets choose nothing. A variant that is there is not trained again.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, replace
from pathlib import Path

import backbone_gates as gates
import numpy as np
import torch

from more_scvi.backbones import MoreMini, compute_features
from more_scvi.pretraining import PretrainSettings, fit_front, make_views, pretrain, read_gene_sets, read_pool

HELD_OUT = (
    "Darmanis2015_brain", "BastidasPonce2019_pancreas", "Zilionis2019_lung_tumour", "TMS_liver_726genes",
    "MCA_stomach_intestine_subset", "Deng2014_embryo",
)  # fmt: skip
N_GENES, PANEL, DEPTH = 12_000, 1700, 400
PROTOCOLS = ("S4-3", "200 cells", "S1")
DEFAULT = PretrainSettings()
VARIANTS: dict[str, tuple[PretrainSettings, dict[str, int], float]] = {
    # name: settings, size of the transformer, multiple of --steps
    "denoising only": (replace(DEFAULT, contrast=0.0, masked=0.0), {}, 1),
    "+ contrast": (replace(DEFAULT, masked=0.0), {}, 1),
    "+ masked expression": (replace(DEFAULT, contrast=0.0), {}, 1),
    "all": (DEFAULT, {}, 1),
    "all, whole residual": (replace(DEFAULT, kept=1.0), {}, 1),
    "all, contrast x 3": (replace(DEFAULT, contrast=0.9), {}, 1),
    "all, drift x 15": (replace(DEFAULT, drift=0.3), {}, 1),
    "all, twice the steps": (DEFAULT, {}, 2),
    "all, width 128": (DEFAULT, {"d_model": 128}, 1),
}


def thinned(study: tuple) -> tuple:
    """A random panel of the genes, at a low depth."""
    x, genes, batch, labels = study
    rng = np.random.default_rng(1)
    panel = np.sort(rng.permutation(len(genes))[:PANEL])
    x = gates.thin(x[:, panel], DEPTH, rng)
    x.eliminate_zeros()
    return x, [genes[g] for g in panel], batch, labels


def probe(backbone: MoreMini, studies: dict) -> np.ndarray:
    """(studies, protocols x probes) macro-F1."""
    rows = []
    for x, genes, batch, labels in studies.values():
        z = compute_features(backbone, x, genes, progress=False, dtype="float32").full
        row = []
        for protocol in PROTOCOLS:
            scores = [
                gates.score(
                    gates.centre(z[cells], batch[cells]), labels[cells], train, test, gates.neighbours(protocol)
                )
                for cells, train, test in gates.splits(protocol, labels, batch)
            ]
            row.append(np.mean(scores, axis=0))
        rows.append(np.concatenate(row))
    return np.array(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with pretrain/, programs/ and annotation/")
    parser.add_argument("--work", type=Path, default=Path("pretraining-work"), help="for checkpoints and scores")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "pretraining.md")
    args = parser.parse_args()
    torch.set_num_threads(1)
    gates.SEEDS = range(5)
    sets = read_gene_sets(args.data / "programs" / "cellmatch_human.gmt.gz")
    preferred = {gene for genes in sets.values() for gene in genes}
    everything = read_pool(args.data / "pretrain", args.data / "annotation", n_genes=N_GENES, keep=preferred)
    studies = {name: gates.read_study(everything, name) for name in HELD_OUT}
    thin = {name: thinned(study) for name, study in studies.items()}
    pool = everything.of_studies(HELD_OUT, drop=True)
    args.work.mkdir(parents=True, exist_ok=True)
    store = args.work / "scores.json"
    scores = json.loads(store.read_text()) if store.exists() else {}
    views = None

    def done(name: str, backbone: MoreMini, seconds: float) -> None:
        scores[name] = [probe(backbone, studies).tolist(), probe(backbone, thin).tolist(), seconds]
        store.write_text(json.dumps(scores))
        args.out.write_text(report(scores, args.steps))
        print(name, *(np.mean(scores[name][k], axis=0).round(3) for k in (0, 1)), f"{seconds:.0f} s", flush=True)

    for name in args.variants:
        if name in scores and "untrained programs" in scores:
            continue
        settings, size, multiple = VARIANTS[name]
        front = fit_front(pool, sets, **size)
        if "untrained programs" not in scores:
            done("untrained programs", front, 0.0)
            front.save(args.work / "front")
            done("random transformer", MoreMini.load(args.work / "front", weights="random"), 0.0)
            done("SVD only", gates.svd_only(args.work / "front"), 0.0)
        views = views or make_views(pool, front)
        started = time.process_time()
        trained = pretrain(
            pool, views, front, checkpoint=args.work / f"{name}.pt", n_steps=args.steps * multiple, resume=True,
            settings=settings,
        )  # fmt: skip
        done(name, trained, time.process_time() - started)
        trained.save(args.work / name)


def report(scores: dict, steps: int) -> str:
    probes = " | ".join(f"{p}: linear | kNN" for p in PROTOCOLS)
    lines = [f"| features | mean | {probes} | thinned: mean | {probes} | CPU seconds |"]
    lines.append("| --- " * (4 + 4 * len(PROTOCOLS)) + "|")
    for name, (*both, seconds) in scores.items():
        cells = [v for rows in both for v in (np.mean(rows), *np.mean(rows, axis=0))]
        lines.append(f"| {name} | {' | '.join(f'{v:.3f}' for v in cells)} | {f'{seconds:.0f}' if seconds else '–'} |")
    return "\n".join(
        [
            "# Objectives of pre-training",
            "",
            f"Made by `benchmarks/pretraining.py --steps {steps}`: macro-F1 of hidden labels, mean of five draws over "
            f"{len(HELD_OUT)} studies that were left out ({', '.join(HELD_OUT)}). One seed of the training.",
            "",
            *lines,
            "",
            f"Settings of `all`: {asdict(DEFAULT)}.",
            "",
        ]
    )


if __name__ == "__main__":
    main()
