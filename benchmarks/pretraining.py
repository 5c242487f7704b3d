"""What each objective of pre-training adds, on studies of the pool that it never saw. Writes results/pretraining.md.

    python benchmarks/pretraining.py --data DATA [--work FOLDER] [--steps 1500]

The front is fitted and the transformer trained without the held-out studies. Frozen features of these, centred, are
probed by logistic regression and by nearest neighbours as in backbone_gates.py; mean of macro-F1 over the studies, as
they are and thinned to 1,700 genes and 400 counts, which is what small panels and shallow nuclei hold. Settings of the
shipped weights are chosen here; benchmark sets choose nothing. A variant that is there is not trained again.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, replace
from pathlib import Path

import backbone_gates as gates
import numpy as np
from frame import RESULTS, markdown, parser, start, write

from more_scvi.backbones import MoreMini
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


def probe(backbone: MoreMini, studies: dict) -> list:
    """Macro-F1, studies × (protocols, probes)."""
    rows = []
    for x, genes, batch, labels in studies.values():
        z = gates.features(backbone, x, genes)
        rows.append(np.concatenate([gates.probe(z.__getitem__, labels, batch, p) for p in PROTOCOLS]).tolist())
    return rows


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--work", type=Path, default=Path("pretraining-work"), help="for checkpoints and scores")
    options.add_argument("--steps", type=int, default=1500)
    options.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    options.add_argument("--out", type=Path, default=RESULTS / "pretraining.md")
    args = options.parse_args()
    start(args.threads)
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
        scores[name] = [probe(backbone, studies), probe(backbone, thin), seconds]
        store.write_text(json.dumps(scores))
        report(args.out, scores, args.steps)

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
        views, started = views or make_views(pool, front), time.process_time()
        given = {"checkpoint": args.work / f"{name}.pt", "resume": True, "settings": settings}
        trained = pretrain(pool, views, front, n_steps=args.steps * multiple, **given)
        done(name, trained, time.process_time() - started)
        trained.save(args.work / name)


def report(path: Path, scores: dict, steps: int) -> None:
    rows = []
    for name, (whole, thin, seconds) in scores.items():
        row = {"features": name}
        for words, of in (("", whole), ("thinned: ", thin)):
            row[f"{words}mean"] = f"{np.mean(of):.3f}"
            heads = [f"{words}{p}: {probe}" for p in PROTOCOLS for probe in ("linear", "kNN")]
            row |= {head: f"{value:.3f}" for head, value in zip(heads, np.mean(of, axis=0), strict=True)}
        rows.append(row | {"CPU seconds": f"{seconds:.0f}" if seconds else "–"})
    about = (
        f"Made by `benchmarks/pretraining.py --steps {steps}`: macro-F1 of hidden labels, mean of five draws over "
        f"{len(HELD_OUT)} studies that were left out ({', '.join(HELD_OUT)}). One seed of the training."
    )
    write(path, "Objectives of pre-training", about, markdown(rows), f"Settings of `all`: {asdict(DEFAULT)}.")


if __name__ == "__main__":
    main()
