"""Distillation: a small student that maps expression to the teacher's embedding and labels."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from numpy.typing import ArrayLike

from more_scvi.data._arguments import check_indices, check_integer, check_number
from more_scvi.data._batches import batch_codes, batch_keys, batch_values
from more_scvi.data._fields import RNA
from more_scvi.data._measured import CellSet
from more_scvi.metrics._annotation import macro_f1
from more_scvi.metrics._fidelity import fidelity
from more_scvi.modalities.rna import DirectPath
from more_scvi.model._forward import embedding_and_probabilities, registered
from more_scvi.model._inference import run
from more_scvi.student._fit import FitSettings, Lesson, fit_student
from more_scvi.student._student import Student, student_vocabulary

if TYPE_CHECKING:
    from more_scvi.model._more import MoRE

FEWEST_CELLS = 50
FEWEST_HELD = 30


def distill(
    self: MoRE,
    extra: AnnData | MuData | Sequence[AnnData | MuData] | None = None,
    indices: Sequence[int] | Sequence[bool] | slice | None = None,
    holdout: float = 0.1,
    n_panels: int = 4,
    n_hidden: int = 256,
    max_steps: int = 1000,
    seed: int | None = None,
    device: str = "cpu",
    progress: bool = True,
) -> Student:
    """Train a small student on what this model says about cells: from expression to embedding and labels.

    The student needs neither backbone nor this model nor its data, takes genes in any order, and treats those that
    are not there as missing. It starts from a ridge regression of the embedding on the variable genes that the
    direct path reads, and learns a residual in one hidden layer.

    Parameters
    ----------
    extra
        More cells to learn from, without labels, e.g. of new batches: what this model says about them is the
        target. One object or several, as :meth:`get_latent_representation` takes them.
    indices
        Registered cells to use; ``None``: all.
    holdout
        Share of these that is kept back, to measure ``student.fidelity``; 0 measures nothing.
    n_panels
        Random halves of the genes that cells are also shown with, so that data that lack genes are known.
    n_hidden
        Width of the hidden layer.
    max_steps
        Optimiser steps.
    seed
        Seed; ``None``: the model's.
    device
        Torch device of the optimiser steps.
    progress
        Show a progress bar.

    Returns
    -------
    :class:`more_scvi.student.Student`. Nothing is written.

    Raises
    ------
    ValueError
        If the model is not trained or has no data, has no RNA, reads more of a cell than its expression and batch
        (covariates, spatial neighbours), or there are fewer than 50 cells.

    Notes
    -----
    Of a model of several modalities the student learns, from RNA alone, the embedding that cells have by all of
    their modalities; cells without RNA are left out. The student cannot know what RNA does not tell.

    Examples
    --------
    >>> student = model.distill()
    >>> student.fidelity["knn_overlap"], student.fidelity["cells_per_second_student"]
    >>> student.save("student/")
    """
    _check_teacher(self)
    further = _several(extra)
    share = check_number("holdout", holdout, 0.0, 0.5)
    settings = FitSettings(
        n_panels=check_integer("n_panels", n_panels, 0),
        n_hidden=check_integer("n_hidden", n_hidden, 2),
        max_steps=check_integer("max_steps", max_steps),
        seed=self.seed if seed is None else check_integer("seed", seed, 0),
        device=device,
        progress=progress,
    )
    data = registered(self, "distill")
    cells = self.reader.cells(data)
    if self.schema.is_query:  # the student centres batches itself, also those that the teacher centres as new ones
        codes = batch_codes(self.schema.cells(data).obs, self.schema.setup["batch_key"], self.batches)
        cells = replace(cells, batch=codes)
    measured = cells.measured[RNA]
    rng = np.random.default_rng(settings.seed)
    usable = np.isin(measured.cells, check_indices(indices, len(cells)))
    held = usable & (rng.random(len(usable)) < share)
    learned = np.flatnonzero(usable & ~held)
    if len(learned) < FEWEST_CELLS:
        raise ValueError(
            f"distill has {len(learned)} cells to learn from; at least {FEWEST_CELLS} are needed. Give more with"
            " indices=, or a smaller holdout=."
        )
    said, probs = say(self, data)
    open_labels = np.flatnonzero(probs.max(0) > 0) if probs.shape[1] else np.array([], dtype=int)
    lessons = [_lesson(cells, learned, said, probs[:, open_labels])]
    for other in further:
        if RNA not in self.schema.cells(other).adatas:
            raise ValueError("extra has no RNA, which is all that a student reads; leave these data out.")
        more, (said, probs) = self.reader.cells(other), say(self, other)
        lessons.append(_lesson(more, np.arange(len(more.measured[RNA].cells)), said, probs[:, open_labels]))
    normalised = measured.normalised
    names = self.schema.gene_names[RNA]
    direct = cast(DirectPath, self.module.base(RNA).direct)
    network = fit_student(lessons, direct, len(self.batches), len(open_labels), normalised, settings)
    args = self.schema.setup
    card = {
        "data_type": "lognorm" if normalised else "counts",
        "layer": self.schema.layer(RNA),
        "batch_key": args["batch_key"],
        "gene_key": args.get("gene_key"),
        "batches": [str(b) for b in self.batches],
        "labels": [str(label) for label in self.labels[open_labels]] if len(open_labels) else [],
        "genes": [str(g) for g in self.features[RNA][network.front.variable.numpy()]],
        "fidelity": None,
    }
    vocabulary = None if self.backbone is None else self.backbone.vocabulary
    student = Student(network, card, student_vocabulary(names, self.features[RNA].tolist(), vocabulary))
    if held.sum() >= FEWEST_HELD:
        card["fidelity"] = self.student_fidelity(student, indices=np.sort(measured.cells[held]).tolist())
    return student


def student_fidelity(
    self: MoRE,
    student: Student,
    adata: AnnData | MuData | None = None,
    indices: Sequence[int] | Sequence[bool] | slice | None = None,
    labels: ArrayLike | None = None,
    n_neighbors: int = 15,
) -> dict[str, Any]:
    """What a student loses against this model on some cells, and how fast both are.

    Parameters
    ----------
    student
        A student, e.g. of :meth:`distill`.
    adata
        Cells that both embed, e.g. of a batch that neither knows; ``None``: the registered ones. Cells that the
        student learned from flatter it.
    indices
        Those of ``adata`` to use; ``None``: all.
    labels
        True labels of these cells. ``None``: the labels in ``adata.obs`` that are visible to this model.
    n_neighbors
        As in :func:`more_scvi.metrics.knn_overlap`.

    Returns
    -------
    The entries of :func:`more_scvi.metrics.fidelity` (macro-F1 over the cells whose label is known), and
    ``cells_per_second_teacher`` and ``cells_per_second_student``: embedding of these cells from their matrix, on
    the devices both are on.

    Raises
    ------
    ValueError
        If the model is not trained, or there are not more cells with RNA than ``n_neighbors``.
    """
    _check_teacher(self)
    data = registered(self, "student_fidelity") if adata is None else adata
    chosen = check_indices(indices, data.n_obs)
    true = None if labels is None else np.asarray(labels).astype(str)
    if true is not None and true.shape != (len(chosen),):
        raise ValueError(f"labels has shape {true.shape}, but {len(chosen)} cells are compared; give one for each.")
    given = data[chosen].copy()
    rna, obs, at = _rna_of(self, given)
    true = np.append(self.labels, "")[self.schema.label_codes(given, say=True)[at]] if true is None else true[at]
    if len(rna) <= n_neighbors:
        raise ValueError(f"{len(rna)} cells with RNA are too few for {n_neighbors} neighbours; give more cells.")
    start = time.perf_counter()
    z, probs = say(self, data[chosen[at]].copy())
    middle = time.perf_counter()
    z_student = student.get_latent_representation(rna, obsm_key=None)
    seconds = {"teacher": middle - start, "student": time.perf_counter() - middle}
    predicted = {
        "teacher": self.labels[probs.argmax(1)].astype(str) if probs.shape[1] else None,
        "student": student.predict(rna).astype(str) if len(student.labels) else None,
    }
    known = true != ""
    types = predicted["teacher"]
    if types is None and known.all():
        types = true
    scores: dict[str, Any] = fidelity(
        z,
        z_student,
        labels=None if types is None else np.where(known, true, types),
        batches=batch_values(obs, self.schema.setup["batch_key"]),
        reference_labels=predicted["teacher"],
        z_labels=predicted["student"],
        n_neighbors=n_neighbors,
    )
    for name, labels_of in predicted.items():  # not of cells whose label nobody knows
        scores[f"macro_f1_{name}"] = float("nan")
        if labels_of is not None and known.any():
            scores[f"macro_f1_{name}"] = macro_f1(true[known], labels_of[known])
        scores[f"cells_per_second_{name}"] = len(rna) / seconds[name]
    scores["macro_f1_lost"] = scores["macro_f1_teacher"] - scores["macro_f1_student"]
    return scores


def say(model: MoRE, data: AnnData | MuData) -> tuple[np.ndarray, np.ndarray]:
    """Embedding and probabilities of cells, (cells, n_latent) and (cells, labels): what a student learns."""
    both = run(model, data, None, None, embedding_and_probabilities)
    return both[:, : model.module.n_latent], both[:, model.module.n_latent :]


def _check_teacher(model: MoRE) -> None:
    """Refuse what no student of expression can follow."""
    if not model.is_trained_:
        raise ValueError("The model is not trained, there is nothing to distill; call model.train() first.")
    if RNA not in model.modalities:
        raise ValueError(f"A student reads RNA; the model has {', '.join(model.modalities)} only.")
    if model.schema.setup.get("spatial_key") is not None:
        raise ValueError(
            "The embedding of a model with spatial_key depends on a cell's neighbours, which a student does not"
            " see; distill a model that was set up without spatial_key."
        )
    if model.schema.covariates.n_columns:
        raise ValueError(
            "The model was set up with covariates, which a student does not read; distill one that was set up"
            " without categorical_covariate_keys and continuous_covariate_keys."
        )


def _rna_of(model: MoRE, data: AnnData | MuData) -> tuple[AnnData, pd.DataFrame, np.ndarray]:
    """RNA of cells with the batch column, columns that describe its rows, and the position of each row's cell."""
    if isinstance(data, AnnData):
        return data, data.obs, np.arange(data.n_obs)
    cells = model.schema.cells(data)
    if RNA not in cells.adatas:
        raise ValueError("adata has no RNA, which is all that a student reads.")
    here = np.flatnonzero(cells.rows[RNA] >= 0)
    rna, obs = cells.adatas[RNA][cells.rows[RNA][here]].copy(), cells.obs.iloc[here]
    for key in batch_keys(model.schema.setup["batch_key"]):
        if key in obs:
            rna.obs[key] = obs[key].to_numpy()
    return rna, obs, here


def _several(extra: Any) -> list[AnnData | MuData]:
    """``extra`` as a list; TypeError for anything else than data."""
    listed = [extra] if isinstance(extra, AnnData | MuData) else extra
    listed = [] if listed is None else list(listed) if isinstance(listed, list | tuple) else [listed]
    for data in listed:
        if not isinstance(data, AnnData | MuData):
            raise TypeError(f"extra holds a {type(data).__name__}; give an AnnData or MuData, or a list of them.")
    return listed


def _lesson(cells: CellSet, rows: np.ndarray, z: np.ndarray, probs: np.ndarray) -> Lesson:
    """What is said of cells, of those in some rows of the RNA."""
    reader, at = cells.measured[RNA].reader, cells.measured[RNA].cells[rows]
    log_probs = np.log(np.maximum(probs[at], 1e-12)).astype(np.float32) if probs.shape[1] else None  # 0 has no log
    return Lesson(reader, rows, cells.batch[at], z[at].astype(np.float32), log_probs)
