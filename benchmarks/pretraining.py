"""What each objective of pre-training adds, on studies of the pool that it never saw. Writes pretraining.md.

    python benchmarks/pretraining.py [--work FOLDER] [--steps 1500] [--variants all ...]

The front is fitted and the transformer trained without the held-out studies. Frozen features of these are probed as in
backbone_gates.py; mean of macro-F1 over the studies, as they are and thinned to 1,700 genes and 400 counts, which is
what small panels and shallow nuclei hold. Settings of the shipped weights are chosen here; benchmark sets choose
nothing. A variant that is there is not trained again.
"""

import json
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from backbone_gates import Data, probe_features, svd_only, table
from frame import arguments, made_by, write
from scipy.sparse import csr_matrix

from more_scvi.backbones import MoreMini
from more_scvi.pretraining import PretrainSettings, fit_front, make_views, pretrain, read_gene_sets, read_pool

HELD_OUT = [
    "Darmanis2015_brain", "BastidasPonce2019_pancreas", "Zilionis2019_lung_tumour", "TMS_liver_726genes",
    "MCA_stomach_intestine_subset", "Deng2014_embryo",
]  # fmt: skip
DROPLETS, PANEL, SHALLOW = 1500, 1700, 400
"""Counts of a cell that droplets give, where Smart-seq holds up to 1e7; genes and counts of a thinned study."""
DEFAULT = PretrainSettings()
VARIANTS = {
    "denoising only": replace(DEFAULT, contrast=0.0, masked=0.0),
    "+ contrast": replace(DEFAULT, masked=0.0),
    "+ masked expression": replace(DEFAULT, contrast=0.0),
    "all": DEFAULT,
    "all, whole residual": replace(DEFAULT, kept=1.0),
}


def thin(x: csr_matrix, depth: int, rng: np.random.Generator) -> csr_matrix:
    """Counts of cells, drawn from to leave at most ``depth`` in the mean of a cell."""
    share = np.minimum(1, depth / np.maximum(np.asarray(x.sum(1)).ravel(), 1))
    x = x.copy()
    x.data = rng.binomial(x.data.astype(int), np.repeat(share, np.diff(x.indptr))).astype(np.float32)
    return x


def read_study(pool, name: str) -> Data:
    """Labelled cells of a pool study, at most as deep as droplets; the genes it measured."""
    study = pool.of_studies([name])
    types, n = np.unique(study.labels, return_counts=True)
    cells = np.flatnonzero(np.isin(study.labels, types[(n >= 6) & (types != "") & (types != "ND")]))
    genes = np.flatnonzero(study.measured[0])
    names, batch = [study.vocabulary.human_symbol[g] for g in genes], np.full(len(cells), "one")
    return thin(study.counts[cells], DROPLETS, np.random.default_rng(0))[:, genes], names, batch, study.labels[cells]


def thinned(study: Data) -> Data:
    """A random panel of the genes, at a low depth."""
    x, genes, batch, labels = study
    rng = np.random.default_rng(1)
    panel = np.sort(rng.permutation(len(genes))[:PANEL])
    x = thin(x[:, panel], SHALLOW, rng)
    x.eliminate_zeros()
    return x, [genes[g] for g in panel], batch, labels


if __name__ == "__main__":
    args = arguments(__doc__, work=Path("pretraining-work"), steps=1500, variants=list(VARIANTS), held_out=HELD_OUT)
    sets = read_gene_sets(args.data / "programs" / "cellmatch_human.gmt.gz")
    preferred = set().union(*sets.values())
    everything = read_pool(args.data / "pretrain", args.data / "annotation", n_genes=12_000, keep=preferred)
    whole = [read_study(everything, name) for name in args.held_out]
    pool = everything.of_studies(args.held_out, drop=True)
    args.work.mkdir(parents=True, exist_ok=True)
    store = args.work / "scores.json"
    scores = json.loads(store.read_text()) if store.exists() else {}

    def done(name: str, backbone: MoreMini, seconds: float = 0.0) -> None:
        found = []
        for studies in (whole, map(thinned, whole)):
            each = [probe_features(backbone, study, ("S4-3", "200 cells", "S1"), 5) for study in studies]
            found.append({key: float(np.mean([one[key] for one in each])) for key in each[0]})
        scores[name] = [*found, seconds]
        store.write_text(json.dumps(scores))
        both = {words: {n: of[i] for n, of in scores.items()} for i, words in enumerate(("as measured", "thinned"))}
        write(
            args.results / "pretraining.md",
            "Objectives of pre-training",
            f"{made_by()} Macro-F1 of hidden labels, mean of five draws over {len(args.held_out)} studies that were "
            f"left out ({', '.join(args.held_out)}). One seed of the training.",
            table(both),
            f"CPU seconds of training: {', '.join(f'{n} {of[2]:.0f}' for n, of in scores.items() if of[2])}.",
            f"Settings of `all`: {asdict(DEFAULT)}.",
        )

    front = fit_front(pool, sets)
    if "SVD only" not in scores:
        front.save(args.work / "front")
        done("untrained programs", front)
        done("random transformer", MoreMini.load(args.work / "front", weights="random"))
        done("SVD only", svd_only(args.work / "front"))
    views = make_views(pool, front)
    for name in (name for name in args.variants if name not in scores):
        given, started = {"checkpoint": args.work / f"{name}.pt", "settings": VARIANTS[name]}, time.process_time()
        trained = pretrain(pool, views, front, n_steps=args.steps, resume=True, **given)
        done(name, trained, time.process_time() - started)
        trained.save(args.work / name)
