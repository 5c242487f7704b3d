"""What each objective of pre-training adds, on studies of the pool that it never saw. Writes pretraining.md.

    python benchmarks/pretraining.py [--work FOLDER] [--steps 1500] [--variants all ...]

The front is fitted and the transformer trained without the held-out studies. Frozen features of these are probed as in
backbone_gates.py; mean of macro-F1 over the studies, as they are and thinned to 1,700 genes and 400 counts, which is
what small panels and shallow nuclei hold; and by study and development set, where the linear front helps. Settings of
the shipped weights are chosen here; benchmark sets choose nothing. A variant that is there is not trained again.
"""

import gzip
import json
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from backbone_gates import Data, in_data_pca, probe, probe_features, read_bench, svd_only, table
from frame import arguments, made_by, write
from scipy.sparse import csr_matrix

from more_scvi.backbones import MoreMini
from more_scvi.pretraining import PretrainSettings, fit_front, make_views, marker_sets, pretrain, read_pool

HELD_OUT = """Darmanis2015_brain BastidasPonce2019_pancreas Zilionis2019_lung_tumour TMS_liver_726genes Deng2014_embryo
MCA_stomach_intestine_subset Moncada2020_PDAC_A Furlan2016_sympathetic Zeisel2015_gpsFISH Matsushita2023_stroma"""
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
    panel = np.sort((rng := np.random.default_rng(1)).permutation(len(genes))[:PANEL])
    return thin(x[:, panel], SHALLOW, rng), [genes[g] for g in panel], batch, labels


if __name__ == "__main__":
    args = arguments(
        __doc__, work=Path("pretraining-work"), steps=1500, variants=list(VARIANTS), held_out=HELD_OUT.split()
    )
    everything = read_pool(args.data / "pretrain", args.data / "annotation", n_genes=16_000)
    whole = [read_study(everything, name) for name in args.held_out]
    pool = everything.of_studies([*args.held_out, "Zeisel2015_subset"], drop=True)  # that one is a twin
    (store := args.work / "scores.json").parent.mkdir(parents=True, exist_ok=True)
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
            "## Where the linear front helps",
            "It against principal components of the same cells, in sets that it never saw.",
            table(helps),
            f"CPU seconds of training: {', '.join(f'{n} {of[2]:.0f}' for n, of in scores.items() if of[2])}.",
            f"Settings of `all`: {asdict(DEFAULT)}.",
        )

    front = fit_front(pool, marker_sets(pool), n_tokens=24)
    dev = [(n, read_bench(n, args.data, 1500)) for n in ("human_gastrula", "mouse_lung_immune", "mouse_oligo_regions")]
    helps, how = {}, (("200 cells", "S4-3"), 5)
    for name, data in [*zip(args.held_out, whole, strict=True), *dev]:
        helps[name] = {"linear front": probe_features(front, data, *how)}
        helps[name]["in-data PCA"] = probe(lambda cells, x=data[0]: in_data_pca(x[cells]), data, *how)
    if "SVD only" not in scores:
        front.save(args.work / "front")
        lines = gzip.open(args.data / "programs" / "cellmatch_human.gmt.gz", "rt")
        curated = {line.split("\t")[0]: line.strip().split("\t")[2:] for line in lines}
        done("curated sets of CellMatch instead", fit_front(pool, curated, n_tokens=24))
        done("without sets, 192 components", fit_front(pool, {}, n_components=192, n_tokens=24))
        done("untrained programs", front)
        done("random transformer", MoreMini.load(args.work / "front", weights="random"))
        done("SVD only", svd_only(args.work / "front"))
    views = make_views(pool, front)
    for name in (name for name in args.variants if name not in scores):
        given, started = {"checkpoint": args.work / f"{name}.pt", "settings": VARIANTS[name]}, time.process_time()
        trained = pretrain(pool, views, front, n_steps=args.steps, resume=True, **given)
        done(name, trained, time.process_time() - started)
        trained.save(args.work / name)
