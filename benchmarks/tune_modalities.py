"""Inner scores of labels across modalities: does the discriminant analysis hold for cells that were measured otherwise?

    python benchmarks/tune_modalities.py --data DIR [--seeds 0,1]

DIR holds ``bench/``. Of sets in which every cell has two modalities, only the cells whose labels S1 shows take part.

diagonal
    RNA is left to half of the cells, the other modality to the rest; RNA carries the labels.
mosaic
    The same, but 30 % keep both, without labels.
without second, without RNA
    Half of the batches lose a modality; the others carry the labels.

Scored is the macro-F1 of cells that lack what labelled cells have. ``alike`` is MoRE as it is: the discriminant
analysis speaks on cells with the modalities of labelled cells only, so not on these; ``all`` lets it speak on every
cell. Writes ``results/tuning/modalities.md``.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch
from mudata import MuData
from numpy.typing import NDArray
from sklearn.metrics import f1_score

import more_scvi as more
from more_scvi.evaluation import load_dataset, make_splits
from more_scvi.evaluation._data import BATCH_KEY, LABELS_KEY, UNLABELED, batches_of
from more_scvi.module._probes import GaussianClassifier

RESULTS = Path(__file__).parent / "results" / "tuning"
SETS = {"pbmc_cite_multi": ("prot", "protein"), "snareseq_multi": ("atac", "atac")}
"""Set → second modality, and what MoRE calls it."""


def cases(data: MuData, second: str, seed: int) -> Iterator[tuple[str, MuData, NDArray[np.str_], NDArray[np.bool_]]]:
    """Design, data with the labels that are shown, true labels, and which cells are scored."""
    labels = data.obs[LABELS_KEY].astype(str)
    split = make_splits(labels.to_numpy(), batches_of(data), "S1", seed, 1)[0]
    names = data.obs_names[~split.hidden & (labels != UNLABELED).to_numpy()]
    draw = np.random.default_rng(seed).random(len(names))
    batch = data.obs[BATCH_KEY].astype(str).reindex(names).to_numpy()
    kept = np.isin(batch, np.unique(batch)[seed % 2 :: 2])
    everywhere = np.ones(len(names), bool)
    for design, rna, other, shown in (
        ("diagonal", draw < 0.5, draw >= 0.5, draw < 0.5),
        ("mosaic", draw < 0.65, draw >= 0.35, draw < 0.35),
        ("without second", everywhere, kept, kept),
        ("without RNA", kept, everywhere, kept),
    ):
        parts = {"rna": names[rna], second: names[other]}
        mdata = MuData({name: data.mod[name][cells].copy() for name, cells in parts.items()})
        truth = labels.reindex(mdata.obs_names).to_numpy().astype(str)
        visible = pd.Series(shown, names).reindex(mdata.obs_names).to_numpy()
        missing = pd.Series(~rna if design != "without second" else ~other, names).reindex(mdata.obs_names).to_numpy()
        mdata.obs[BATCH_KEY] = data.obs[BATCH_KEY].astype(str).reindex(mdata.obs_names)
        mdata.obs[LABELS_KEY] = np.where(visible, truth, UNLABELED)
        yield design, mdata, truth, missing


def scores(mdata: MuData, roles: dict[str, str], seed: int, truth: NDArray, scored: NDArray) -> tuple[float, float]:
    """Macro-F1 of MoRE's own annotation, with the analysis on cells measured alike and on all."""
    more.MoRE.setup_mudata(
        mdata,
        roles,
        batch_key=BATCH_KEY,
        labels_key=LABELS_KEY,
        unlabeled_category=UNLABELED,
        peak_genes="gene" if "atac" in roles else None,
    )
    model = more.MoRE(mdata, seed=seed)
    model.train(enable_progress_bar=False)

    def f1() -> float:
        predicted = np.asarray(model.predict()).astype(str)[scored]
        return float(f1_score(truth[scored], predicted, average="macro", labels=np.unique(truth[scored])))

    alike = f1()
    with patch.object(GaussianClassifier, "serves", lambda _, present: present.any(1)):
        return alike, f1()


def main() -> None:
    """Run and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for noisy in ("lightning.pytorch", "scvi", "more_scvi"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    rows = []
    for name, (second, role) in SETS.items():
        data, _ = load_dataset(name, args.data)
        for seed in map(int, args.seeds.split(",")):
            for design, mdata, truth, scored in cases(data, second, seed):
                alike, everywhere = scores(mdata, {"rna": "rna", role: second}, seed, truth, scored)
                rows.append({"data": name, "design": design, "alike": alike, "all": everywhere})
                print(rows[-1], flush=True)
    means = pd.DataFrame(rows).groupby(["data", "design"], sort=False).mean()
    lines = [
        "# Labels across modalities: inner scores",
        "",
        f"`python benchmarks/tune_modalities.py --data $MORE_DATA --seeds {args.seeds}`: macro-F1 of cells that lack"
        " what labelled cells have, mean over seeds. The discriminant analysis speaks on cells measured alike, or on"
        " all.",
        "",
        "| data | design | alike | all |",
        "| --- | --- | --- | --- |",
        *(f"| {d} | {design} | {row['alike']:.3f} | {row['all']:.3f} |" for (d, design), row in means.iterrows()),
    ]
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "modalities.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
