"""What distillation loses: students of MoRE against their teachers, on cells that they did not learn from.

    python benchmarks/distillation.py [--sets pbmc_kang ...] [--seeds 0 1] [--new-batch pbmc_kang ...]

The labels of a sample are hidden from the teacher (protocol S1); a fifth of all cells is kept from the student, and
everything is scored on these, macro-F1 on those whose label is hidden. ``--new-batch``: the teacher is trained without
one batch (protocol S2b) that both then embed. Writes ``distillation.json`` (after every set) and ``distillation.md``.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from unittest.mock import patch

import numpy as np
import scipy.sparse as sp
from anndata import AnnData
from catalogue import TEXTS
from frame import arguments, made_by, markdown, write
from sklearn.linear_model import RidgeCV

import more_scvi as more
from more_scvi.evaluation import Task, load_dataset, make_tasks
from more_scvi.metrics import fidelity, macro_f1
from more_scvi.modalities import log_normalise
from more_scvi.model import _distill

SETS = ["pbmc_kang", "snareseq", "bm_vangalen", "pbmc_4batch", "pbmc_cite"]
COLUMNS = ("set", "row", "seed", "n_cells", "knn_overlap", "knn_overlap_chance", "variance_kept", "agreement",
           "macro_f1_teacher", "macro_f1_lost", "mixing_teacher", "mixing_lost", "speed_up")  # fmt: skip


def task_of(name: str, protocol: str, data: Path) -> Task:
    loaded, known = load_dataset(name, data)
    return next(make_tasks(loaded, protocol, 0, known=known, dataset=name))


def teacher(adata: AnnData, seed: int = 0) -> more.MoRE:
    """A trained model."""
    more.MoRE.setup_anndata(adata, batch_key="batch", labels_key="cell_type", unlabeled_category="Unknown")
    model = more.MoRE(adata, seed=seed)
    model.train(enable_progress_bar=False)
    return model


def shuffled(model: more.MoRE, **given) -> more.student.Student:
    """The control: a student whose targets belong to other cells."""
    said = _distill.say(model, model.adata)
    order = np.random.default_rng(0).permutation(len(said[0]))
    with patch.object(_distill, "say", lambda *_: tuple(part[order] for part in said)):
        return model.distill(**given)


def ridge(model: more.MoRE, adata: AnnData, z: np.ndarray, learned: np.ndarray) -> np.ndarray:
    """The peer: ridge regression of z on variable genes and batch, its penalty chosen by leaving cells out."""
    genes = model.module.base("rna").direct.features.cpu().numpy()
    x = log_normalise(sp.csr_matrix(adata.X))[:, genes].toarray()
    x = (x - x[learned].mean(0)) / np.maximum(x[learned].std(0), 1e-3)
    codes = np.unique(adata.obs["batch"].astype(str), return_inverse=True)[1]
    x = np.clip(np.c_[x, 10.0 * np.eye(codes.max() + 1)[codes]], -10, 10).astype(np.float32)
    return RidgeCV(np.array([0.1, 0.3, 1.0]) * len(learned)).fit(x[learned], z[learned]).predict(x)


def known_batches(name: str, data: Path, seeds: list[int]) -> list[dict]:
    """Rows of one set: students, controls, peer."""
    task = task_of(name, "S1", data)
    adata = task.given()
    model, rng = teacher(adata), np.random.default_rng(0)
    z, predicted = model.get_latent_representation(), model.predict()
    held = np.sort(rng.permutation(adata.n_obs)[: adata.n_obs // 5])
    learned = np.setdiff1d(np.arange(adata.n_obs), held)
    hidden, truth, rows = held[task.scored[held]], task.labels, []
    common = {"labels": truth[held], "batches": task.batches[held], "reference_labels": predicted[held]}
    whole = macro_f1(truth[hidden], predicted[hidden])

    def add(row: str, seed: int, there: np.ndarray, labels: np.ndarray | None, scores: dict | None = None) -> None:
        told = {} if labels is None else {"z_labels": labels[held]}
        found = (scores or fidelity(z[held], there[held], **common, **told)) | {"macro_f1_teacher": whole}
        found["macro_f1_lost"] = np.nan if labels is None else whole - macro_f1(truth[hidden], labels[hidden])
        if row.startswith("another"):
            found["variance_kept"] = np.nan  # its axes are others
        rows.append({"set": name, "row": row, "seed": seed, **found})

    for seed in seeds:
        student = model.distill(indices=learned, holdout=0.0, seed=seed, progress=False)
        found = model.student_fidelity(student, indices=held, labels=truth[held])
        add("student", seed, z, student.predict(adata), speed(found))
    half = np.sort(rng.permutation(adata.n_vars)[: adata.n_vars // 2])
    empty = adata.copy()
    empty.X = sp.csr_matrix(adata.X) @ sp.diags(np.isin(np.arange(adata.n_vars), half).astype(np.float32), format="csr")
    control = shuffled(model, indices=learned, holdout=0.0, progress=False, max_steps=300)
    for row, who, part in (
        ("student, half of the genes missing", student, adata[:, half].copy()),
        ("... filled with zeros", student, empty),
        ("shuffled targets (control)", control, adata),
    ):
        add(row, seeds[-1], who.get_latent_representation(part, obsm_key=None), who.predict(part))
    add("ridge regression (peer)", 0, ridge(model, adata, z, learned), None)
    other = teacher(task.given(), 1)
    add("another teacher (seed 1)", 1, other.get_latent_representation(), other.predict())
    return rows


def new_batch(name: str, data: Path) -> list[dict]:
    """A batch that the teacher was not trained on, embedded by teacher and student."""
    task = task_of(name, "S2b", data)
    adata, query = task.given(), task.given_query()
    model = teacher(adata)
    student = model.distill(holdout=0.0, progress=False)
    scores = speed(model.student_fidelity(student, query, labels=task.labels[adata.n_obs :]))
    parts = {"teacher": (model.get_latent_representation(), model.get_latent_representation(query, obsm_key=None))}
    parts["student"] = tuple(student.get_latent_representation(part, obsm_key=None) for part in (adata, query))
    for who, of in parts.items():  # mixing of the new batch with those that were trained on
        scores[f"mixing_{who}"] = more.metrics.cilisi(np.concatenate(of), task.labels, task.batches)
    scores["mixing_lost"] = scores["mixing_teacher"] - scores["mixing_student"]
    return [{"set": name, "row": f"new batch ({task.split.held_out})", "seed": 0, **scores}]


def speed(scores: dict) -> dict:
    return scores | {"speed_up": scores["cells_per_second_student"] / scores["cells_per_second_teacher"]}


def text(value: object) -> str:
    if value is None or value != value:
        return ""
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def main() -> None:
    """Run and write."""
    args = arguments(__doc__, sets=SETS, new_batch=["pbmc_kang", "pbmc_4batch"], seeds=[0, 1])
    warnings.filterwarnings("ignore")
    path = args.results / "distillation.json"
    rows = json.loads(path.read_text()) if path.exists() else []
    jobs = [(name, False) for name in args.sets] + [(name, True) for name in args.new_batch]
    for name, new in jobs:
        found = new_batch(name, args.data) if new else known_batches(name, args.data, args.seeds)
        rows = [r for r in rows if r["set"] != name or r["row"].startswith("new batch") != new] + found
        rows.sort(key=lambda r: (SETS.index(r["set"]), r["row"].startswith("new batch")))
        table = markdown([{c: text(r.get(c)) for c in COLUMNS} for r in rows])
        write(path.with_suffix(".md"), "Distillation", made_by(), TEXTS["distillation"], table)
        path.write_text(json.dumps(rows, indent=1, default=float) + "\n")


if __name__ == "__main__":
    main()
