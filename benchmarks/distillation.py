"""What distillation loses: students of MoRE against their teachers, on cells that they did not learn from.

    python benchmarks/distillation.py [--sets pbmc_kang ...] [--seeds 0 1] [--new-batch pbmc_kang ...]

The labels of a sample are hidden from the teacher (protocol S1); a fifth of all cells is kept from the student, and
everything is scored on these, macro-F1 on those whose label is hidden. ``--new-batch``: the teacher is trained without
one batch (protocol S2b) that both then embed. Writes ``distillation.json`` (after every set) and ``distillation.md``.
"""

import json
from unittest.mock import patch

import numpy as np
import scipy.sparse as sp
from anndata import AnnData
from catalogue import TEXTS
from frame import arguments, made_by, markdown, write
from sklearn.linear_model import RidgeCV

import more_scvi as more
from more_scvi.evaluation import Given, Result, Task, get_method, load_dataset, make_tasks
from more_scvi.metrics import cilisi, fidelity, macro_f1
from more_scvi.modalities import log_normalise
from more_scvi.model import _distill

SETS = ["pbmc_kang", "snareseq", "bm_vangalen", "pbmc_4batch", "pbmc_cite"]
COLUMNS = ("set", "row", "seed", "n_cells", "knn_overlap", "knn_overlap_chance", "variance_kept", "agreement",
           "macro_f1_teacher", "macro_f1_lost", "mixing_teacher", "mixing_lost", "speed_up")  # fmt: skip


def teacher(task: Task, seed: int = 0) -> Result:
    return get_method("more")(Given(task.given(), seed, query=task.given_query()))


def ridge(model: more.MoRE, adata: AnnData, z: np.ndarray, learned: np.ndarray) -> np.ndarray:
    """The peer: ridge regression of z on variable genes and batch, its penalty chosen by leaving cells out."""
    genes = model.module.base("rna").direct.features.cpu().numpy()
    x = log_normalise(sp.csr_matrix(adata.X))[:, genes].toarray()
    x = (x - x[learned].mean(0)) / np.maximum(x[learned].std(0), 1e-3)
    codes = np.unique(adata.obs["batch"].astype(str), return_inverse=True)[1]
    x = np.clip(np.c_[x, 10.0 * np.eye(codes.max() + 1)[codes]], -10, 10).astype(np.float32)
    return RidgeCV(np.array([0.1, 0.3, 1.0]) * len(learned)).fit(x[learned], z[learned]).predict(x)


def known_batches(task: Task, seeds: list[int]) -> list[dict]:
    """Rows of one set: students, controls, peer."""
    taught, rng, truth, rows = teacher(task), np.random.default_rng(0), task.labels, []
    model, z, predicted = taught.model, taught.z, taught.prediction
    adata = model.adata
    held = np.sort(rng.permutation(adata.n_obs)[: adata.n_obs // 5])
    learned = np.setdiff1d(np.arange(adata.n_obs), held)
    hidden = held[task.scored[held]]
    common = {"labels": truth[held], "batches": task.batches[held], "reference_labels": predicted[held]}

    def add(row: str, seed: int, there: np.ndarray, labels: np.ndarray | None, **scores: float) -> None:
        told = {} if labels is None else {"z_labels": labels[held]}
        found = fidelity(z[held], there[held], **common, **told) | scores
        found["macro_f1_teacher"] = macro_f1(truth[hidden], predicted[hidden])
        lost = None if labels is None else found["macro_f1_teacher"] - macro_f1(truth[hidden], labels[hidden])
        rows.append({"set": task.split.dataset, "row": row, "seed": seed, **found, "macro_f1_lost": lost})

    for seed in seeds:
        student = model.distill(indices=learned, holdout=0.0, seed=seed, progress=False)
        found = speed(model.student_fidelity(student, indices=held, labels=truth[held]))
        add("student", seed, student.get_latent_representation(adata, obsm_key=None), student.predict(adata), **found)
    half = np.sort(rng.permutation(adata.n_vars)[: adata.n_vars // 2])
    empty = adata.copy()
    empty.X = sp.csr_matrix(adata.X) @ sp.diags(np.isin(np.arange(adata.n_vars), half).astype(np.float32), format="csr")
    said, order = _distill.say(model, adata), np.random.default_rng(0).permutation(adata.n_obs)
    with patch.object(_distill, "say", lambda *_: tuple(part[order] for part in said)):  # targets of other cells
        control = model.distill(indices=learned, holdout=0.0, progress=False, max_steps=300)
    for row, who, part in (
        ("student, half of the genes missing", student, adata[:, half].copy()),
        ("... filled with zeros", student, empty),
        ("shuffled targets (control)", control, adata),
    ):
        add(row, seeds[-1], who.get_latent_representation(part, obsm_key=None), who.predict(part))
    add("ridge regression (peer)", 0, ridge(model, adata, z, learned), None)
    other = teacher(task, 1)
    add("another teacher (seed 1)", 1, other.z, other.prediction, variance_kept=np.nan)  # its axes are others
    return rows


def new_batch(task: Task) -> list[dict]:
    """A batch that the teacher was not trained on, embedded by teacher and student."""
    taught, query = teacher(task), task.given_query()
    student = taught.model.distill(holdout=0.0, progress=False)
    scores = speed(taught.model.student_fidelity(student, query, labels=task.labels[task.data.n_obs :]))
    parts = [student.get_latent_representation(part, obsm_key=None) for part in (taught.model.adata, query)]
    for who, z in (("teacher", taught.z), ("student", np.concatenate(parts))):  # of the new batch with the others
        scores[f"mixing_{who}"] = cilisi(z, task.labels, task.batches)
    scores["mixing_lost"] = scores["mixing_teacher"] - scores["mixing_student"]
    return [{"set": task.split.dataset, "row": f"new batch ({task.split.held_out})", "seed": 0, **scores}]


def speed(scores: dict) -> dict:
    return scores | {"speed_up": scores["cells_per_second_student"] / scores["cells_per_second_teacher"]}


def text(value: object) -> str:
    there = value is not None and value == value
    return f"{value:.3f}" if there and isinstance(value, float) else str(value) if there else ""


if __name__ == "__main__":
    args = arguments(__doc__, sets=SETS, new_batch=["pbmc_kang", "pbmc_4batch"], seeds=[0, 1])
    path = args.results / "distillation.json"
    rows = json.loads(path.read_text()) if path.exists() else []
    for name, new in [(name, False) for name in args.sets] + [(name, True) for name in args.new_batch]:
        loaded, known = load_dataset(name, args.data)
        task = next(make_tasks(loaded, "S2b" if new else "S1", known=known, dataset=name))
        rows = [r for r in rows if r["set"] != name or r["row"].startswith("new batch") != new]
        rows += new_batch(task) if new else known_batches(task, args.seeds)
        rows.sort(key=lambda r: (SETS.index(r["set"]), r["row"].startswith("new batch")))
        table = [{c: text(r.get(c)) for c in COLUMNS} for r in rows]
        write(path.with_suffix(".md"), "Distillation", made_by(), TEXTS["distillation"], markdown(table))
        path.write_text(json.dumps(rows, indent=1, default=float) + "\n")
