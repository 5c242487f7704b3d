"""What distillation loses: students of MoRE against their teachers, on cells that they did not learn from.

    python benchmarks/distillation.py --data DIR [--sets pbmc_kang ...] [--seeds 0 1] [--new-batch pbmc_kang ...]

DIR holds ``bench/``. The labels of a sample are hidden from the teacher (protocol S1); a fifth of all cells is kept
from the student, and everything is scored on these, macro-F1 on those whose label is hidden. ``--new-batch``: the
teacher is trained without one batch (protocol S2b) that both then embed. Writes ``results/distillation.json`` (after
every set) and ``results/distillation.md``.
"""

from __future__ import annotations

import json
import time
import warnings

import numpy as np
import scipy.sparse as sp
from anndata import AnnData
from frame import RESULTS, markdown, parser, start, write
from sklearn.linear_model import Ridge

import more_scvi as more
from more_scvi.evaluation import load_dataset, make_tasks
from more_scvi.metrics import fidelity, macro_f1
from more_scvi.modalities import log_normalise

SETS = ("pbmc_kang", "snareseq", "bm_vangalen", "pbmc_4batch", "pbmc_cite")
COLUMNS = ("set", "row", "seed", "n_cells", "knn_overlap", "knn_overlap_chance", "variance_kept", "agreement",
           "macro_f1_teacher", "macro_f1_lost", "mixing_teacher", "mixing_lost", "speed_up")  # fmt: skip


def teacher(adata: AnnData, seed: int) -> more.MoRE:
    """A trained model."""
    more.MoRE.setup_anndata(adata, batch_key="batch", labels_key="cell_type", unlabeled_category="Unknown")
    model = more.MoRE(adata, seed=seed)
    model.train(enable_progress_bar=False)
    return model


def shuffled(model: more.MoRE, seed: int, **arguments) -> more.student.Student:
    """The control: a student whose targets belong to other cells."""
    said = model._say(None)
    order = np.random.default_rng(seed).permutation(len(said[0]))
    model._say = lambda data: tuple(part[order] for part in said)
    try:
        return model.distill(seed=seed, **arguments)
    finally:
        del model._say


def ridge(model: more.MoRE, adata: AnnData, z: np.ndarray, learned: np.ndarray) -> np.ndarray:
    """The peer: ridge regression of z on variable genes and batch, its penalty chosen on a tenth of the cells."""
    genes = model.module.base("rna").direct.features.cpu().numpy()
    x = log_normalise(sp.csr_matrix(adata.X))[:, genes].toarray()
    x = (x - x[learned].mean(0)) / np.maximum(x[learned].std(0), 1e-3)
    codes = np.unique(adata.obs["batch"].astype(str), return_inverse=True)[1]
    x = np.clip(np.c_[x, 10.0 * np.eye(codes.max() + 1)[codes]], -10, 10).astype(np.float32)
    check, fit = learned[::10], np.delete(learned, np.arange(0, len(learned), 10))
    errors = {}
    for penalty in (0.1, 0.3, 1.0):
        guess = Ridge(alpha=penalty * len(fit)).fit(x[fit], z[fit]).predict(x[check])
        errors[penalty] = ((guess - z[check]) ** 2).sum()
    return Ridge(alpha=min(errors, key=errors.__getitem__) * len(learned)).fit(x[learned], z[learned]).predict(x)


def known_batches(name: str, data: str, seeds: list[int]) -> list[dict]:
    """Rows of one set: students, controls, peer."""
    loaded, known = load_dataset(name, data)
    task = next(make_tasks(loaded, "S1", 0, known=known, dataset=name))
    adata = task.given()
    model = teacher(adata, 0)
    z = model.get_latent_representation()
    held = np.sort(np.random.default_rng(0).permutation(adata.n_obs)[: adata.n_obs // 5])
    learned = np.setdiff1d(np.arange(adata.n_obs), held)
    hidden = held[task.scored[held]]
    predicted = model.predict()
    common = {"labels": task.labels[held], "batches": task.batches[held], "reference_labels": predicted[held]}
    rows = []

    def add(row: str, seed: int, scores: dict, labels: np.ndarray | None, seconds: float | None = None) -> None:
        scores = dict(scores, macro_f1_teacher=macro_f1(task.labels[hidden], predicted[hidden]))
        scores["macro_f1_lost"] = np.nan
        if labels is not None:
            scores["macro_f1_lost"] = scores["macro_f1_teacher"] - macro_f1(task.labels[hidden], labels)
        if "cells_per_second_student" in scores:
            scores["speed_up"] = scores["cells_per_second_student"] / scores["cells_per_second_teacher"]
        rows.append({"set": name, "row": row, "seed": seed, "seconds": seconds, **scores})

    for seed in seeds:
        start = time.perf_counter()
        student = model.distill(indices=learned, holdout=0.0, seed=seed, progress=False)
        seconds = time.perf_counter() - start
        guess = student.predict(adata, indices=hidden)
        add("student", seed, model.student_fidelity(student, indices=held, labels=task.labels[held]), guess, seconds)
    half = np.sort(np.random.default_rng(0).permutation(adata.n_vars)[: adata.n_vars // 2])
    empty = adata.copy()
    empty.X = sp.csr_matrix(
        sp.csr_matrix(adata.X) @ sp.diags(np.isin(np.arange(adata.n_vars), half).astype(np.float32))
    )
    for row, part in (("student, half of the genes missing", adata[:, half].copy()), ("... filled with zeros", empty)):
        there = student.get_latent_representation(part, obsm_key=None)[held]
        labels = student.predict(part)
        add(row, seeds[-1], fidelity(z[held], there, **common, z_labels=labels[held]), labels[hidden])
    peer = ridge(model, adata, z, learned)[held]
    add("ridge regression (peer)", 0, fidelity(z[held], peer, **common), None)
    control = shuffled(model, 0, indices=learned, holdout=0.0, progress=False, max_steps=300)
    there = control.get_latent_representation(adata, obsm_key=None)[held]
    labels = control.predict(adata)
    add("shuffled targets (control)", 0, fidelity(z[held], there, **common, z_labels=labels[held]), labels[hidden])
    other = teacher(task.given(), 1)
    there, labels = other.get_latent_representation(), other.predict()
    scores = fidelity(z[held], there[held], **common, z_labels=labels[held]) | {"variance_kept": np.nan}
    add("another teacher (seed 1)", 1, scores, labels[hidden])
    return rows


def new_batch(name: str, data: str) -> list[dict]:
    """A batch that the teacher was not trained on, embedded by teacher and student."""
    loaded, known = load_dataset(name, data)
    task = next(make_tasks(loaded, "S2b", 0, known=known, dataset=name))
    adata, query = task.given(), task.given_query()
    n = adata.n_obs
    model = teacher(adata, 0)
    student = model.distill(holdout=0.0, progress=False)
    scores = model.student_fidelity(student, query, labels=task.labels[n:])
    scores["speed_up"] = scores["cells_per_second_student"] / scores["cells_per_second_teacher"]
    parts = {"teacher": (model.get_latent_representation(), model.get_latent_representation(query, obsm_key=None))}
    parts["student"] = tuple(student.get_latent_representation(part, obsm_key=None) for part in (adata, query))
    for who, of in parts.items():  # mixing of the new batch with those that were trained on
        scores[f"mixing_{who}"] = more.metrics.cilisi(np.concatenate(of), task.labels, task.batches)
    scores["mixing_lost"] = scores["mixing_teacher"] - scores["mixing_student"]
    return [{"set": name, "row": f"new batch ({task.split.held_out})", "seed": 0, "seconds": None, **scores}]


ABOUT = """\
Made by `benchmarks/distillation.py`. All scores are of cells that the student did not learn from (a fifth of each \
set; of a new batch all). `knn_overlap`: share of the teacher's 15 nearest neighbours among the student's. \
`macro_f1_*`: on cells whose label was hidden from the teacher; `*_lost` is teacher less student: negative values are \
gains. \
`speed_up`: cells per second of the student over those of the teacher, from the count matrix to the embedding, in one \
process. `another teacher` is the same model trained from another seed: what a second training changes."""


def text(value: object) -> str:
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return ""
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def main() -> None:
    """Run and write."""
    options = parser(__doc__)
    options.add_argument("--sets", nargs="*", default=list(SETS))
    options.add_argument("--new-batch", nargs="*", default=["pbmc_kang", "pbmc_4batch"])
    options.add_argument("--seeds", nargs="*", type=int, default=[0, 1])
    args = options.parse_args()
    start(args.threads)
    warnings.filterwarnings("ignore")
    path = RESULTS / "distillation.json"
    rows = json.loads(path.read_text()) if path.exists() else []
    jobs = [(known_batches, name, (args.seeds,)) for name in args.sets]
    for job, name, rest in [*jobs, *((new_batch, name, ()) for name in args.new_batch)]:
        rows = [r for r in rows if r["set"] != name or r["row"].startswith("new batch") != (job is new_batch)]
        rows += job(name, args.data, *rest)
        rows.sort(key=lambda r: (SETS.index(r["set"]), r["row"].startswith("new batch")))
        path.write_text(json.dumps(rows, indent=1, default=float) + "\n")
        write(
            path.with_suffix(".md"),
            "Distillation",
            ABOUT,
            markdown([{c: text(r.get(c)) for c in COLUMNS} for r in rows]),
        )


if __name__ == "__main__":
    main()
