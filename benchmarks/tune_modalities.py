"""Inner scores across modalities: choose defaults here, never on the benchmark.

    python benchmarks/tune_modalities.py --data DIR [--seeds 0,1]

DIR holds ``bench/``. Of sets in which every cell has two modalities, only the cells whose labels S1 shows take part. In
``diagonal``, RNA is left to half of them and the other modality to the rest; in ``mosaic``, 30 % keep both. Cells with
RNA alone are given their labels; scored is the macro-F1 of those without RNA. Writes ``results/tuning/modalities.md``.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from mudata import MuData
from numpy.typing import NDArray
from sklearn.metrics import f1_score
from tune import constants

import more_scvi as more
from more_scvi.evaluation import load_dataset, make_splits
from more_scvi.evaluation._data import BATCH_KEY, LABELS_KEY, UNLABELED, batches_of

RESULTS = Path(__file__).parent / "results" / "tuning"
SETS = {"pbmc_cite_multi": ("prot", {"protein": "prot"}), "snareseq_multi": ("atac", {"atac": "atac"})}
"""Set → second modality, and what MoRE calls it."""
DESIGNS = {"diagonal": (0.5, 0.5), "mosaic": (0.35, 0.65)}
"""Design → shares of the cells between which a cell keeps both modalities."""
SHARE, POWER = "more_scvi.module._module.GAUSSIAN_SHARE", "more_scvi.model._prepare.EVIDENCE_POWER"
VARIANTS = {"default": {}, "no discriminant analysis": {SHARE: 0.0}, "linear frozen share": {POWER: 1}}


def cases(data: MuData, second: str, seed: int) -> Iterator[tuple[str, MuData, NDArray[np.str_], NDArray[np.bool_]]]:
    """Design, data with labels on cells of RNA alone, true labels, and which cells are scored."""
    labels = data.obs[LABELS_KEY].astype(str)
    split = make_splits(labels.to_numpy(), batches_of(data), "S1", seed, 1)[0]
    names = data.obs_names[~split.hidden & (labels != UNLABELED).to_numpy()]
    draw = np.random.default_rng(seed).random(len(names))
    for design, (first, last) in DESIGNS.items():
        kept = {"rna": names[draw < last], second: names[draw >= first]}
        mdata = MuData({name: data.mod[name][cells].copy() for name, cells in kept.items()})
        truth = labels.reindex(mdata.obs_names).to_numpy().astype(str)
        has_rna, has_second = (mdata.obs_names.isin(cells) for cells in kept.values())
        mdata.obs[BATCH_KEY] = data.obs[BATCH_KEY].astype(str).reindex(mdata.obs_names)
        mdata.obs[LABELS_KEY] = np.where(has_second, UNLABELED, truth)
        yield design, mdata, truth, ~has_rna


def score(mdata: MuData, roles: dict[str, str], seed: int, truth: NDArray, scored: NDArray) -> float:
    """Macro-F1 of MoRE's own annotation."""
    more.MoRE.setup_mudata(
        mdata,
        {"rna": "rna", **roles},
        batch_key=BATCH_KEY,
        labels_key=LABELS_KEY,
        unlabeled_category=UNLABELED,
        peak_genes="gene" if "atac" in roles else None,
    )
    model = more.MoRE(mdata, seed=seed)
    model.train(enable_progress_bar=False)
    predicted = np.asarray(model.predict()).astype(str)[scored]
    return float(f1_score(truth[scored], predicted, average="macro", labels=np.unique(truth[scored])))


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
    lines = [
        "# Labels across modalities: inner scores",
        "",
        f"`python benchmarks/tune_modalities.py --data $MORE_DATA --seeds {args.seeds}`: macro-F1 of cells without RNA,"
        " seeds in order. Only cells whose labels S1 shows take part.",
        "",
        "| data | design | " + " | ".join(VARIANTS) + " |",
        "|" + " --- |" * (2 + len(VARIANTS)),
    ]
    for name, (second, roles) in SETS.items():
        data, _ = load_dataset(name, args.data)
        found: dict[str, dict[str, list[str]]] = {d: {v: [] for v in VARIANTS} for d in DESIGNS}
        for seed in map(int, args.seeds.split(",")):
            for design, mdata, truth, scored in cases(data, second, seed):
                for variant, values in VARIANTS.items():
                    with constants(values):
                        found[design][variant].append(f"{score(mdata, roles, seed, truth, scored):.3f}")
        for design, scores in found.items():
            lines.append(f"| {name} | {design} | " + " | ".join(", ".join(s) for s in scores.values()) + " |")
            print(lines[-1], flush=True)
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "modalities.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
