"""How much of one embedding another one keeps: a distilled student against its teacher."""

from numpy.typing import ArrayLike
from sklearn.neighbors import NearestNeighbors

from ._annotation import macro_f1
from ._check import check_integer, check_matrix, check_names
from ._mixing import cilisi


def knn_overlap(reference: ArrayLike, z: ArrayLike, n_neighbors: int = 15) -> float:
    """Share of a cell's nearest neighbours in ``reference`` that are among its nearest in ``z``, mean over cells.

    Parameters
    ----------
    reference, z
        Two embeddings of the same cells, ``(n_cells, any width)``.
    n_neighbors
        Neighbours per cell, the cell itself not counted.

    Returns
    -------
    1: the same neighbours; by chance ``n_neighbors / (n_cells - 1)``.

    Raises
    ------
    ValueError
        If the numbers of cells differ, a value is not finite, or there are too few cells.

    Examples
    --------
    >>> z = np.random.default_rng(0).normal(size=(50, 3))
    >>> knn_overlap(z, 2 * z)
    1.0
    """
    a = check_matrix(reference, "reference")
    b = check_matrix(z, "z", len(a))
    if len(a) < 2:
        raise ValueError("reference holds 1 cell, which has no neighbours; give at least 2.")
    check_integer("n_neighbors", n_neighbors, 1, len(a) - 1)
    near = [NearestNeighbors(n_neighbors=n_neighbors).fit(x).kneighbors(return_distance=False) for x in (a, b)]
    shared = (near[0][:, :, None] == near[1][:, None, :]).any(2)
    return float(shared.mean())


def fidelity(
    reference: ArrayLike,
    z: ArrayLike,
    *,
    labels: ArrayLike | None = None,
    batches: ArrayLike | None = None,
    reference_labels: ArrayLike | None = None,
    z_labels: ArrayLike | None = None,
    n_neighbors: int = 15,
) -> dict[str, float]:
    """What a second embedding (a student's) loses against a first (its teacher's), on cells that are new to it.

    Parameters
    ----------
    reference, z
        Embeddings of the same cells ``(n_cells, any width)``, the teacher's and the student's.
    labels
        True types ``(n_cells,)``; ``None``: mixing is scored within the teacher's predictions, macro-F1 not at all.
    batches
        Batches ``(n_cells,)``; ``None``: mixing is not scored.
    reference_labels, z_labels
        Labels that the teacher and the student predict.
    n_neighbors
        As in :func:`knn_overlap`.

    Returns
    -------
    ``knn_overlap`` and ``knn_overlap_chance``; ``variance_kept``, the share of the variance of ``reference`` that ``z``
    reproduces (1: the same values; only where widths agree); ``agreement``, share of equal predictions; per model and
    lost (teacher less student) ``macro_f1`` and ``mixing`` (:func:`cilisi`). NaN where there is nothing to score.

    Examples
    --------
    >>> z = np.random.default_rng(0).normal(size=(50, 3))
    >>> fidelity(z, z)["knn_overlap"]
    1.0
    """
    a, nan = check_matrix(reference, "reference"), float("nan")
    b = check_matrix(z, "z", len(a))
    named = {"labels": labels, "batches": batches, "reference_labels": reference_labels, "z_labels": z_labels}
    true, batches, teacher, student = (
        None if values is None else check_names(values, name, len(a)) for name, values in named.items()
    )
    out = {
        "n_cells": len(a),
        "knn_overlap": knn_overlap(a, b, n_neighbors),
        "knn_overlap_chance": n_neighbors / (len(a) - 1),
        "variance_kept": nan,
        "agreement": nan,
    }
    if a.shape == b.shape:
        out["variance_kept"] = float(1 - ((a - b) ** 2).sum() / max(((a - a.mean(0)) ** 2).sum(), 1e-12))
    if teacher is not None and student is not None:
        out["agreement"] = float((teacher == student).mean())
    types = teacher if true is None else true
    for name, embedding, own in (("teacher", a, teacher), ("student", b, student)):
        out[f"macro_f1_{name}"] = nan if true is None or own is None else macro_f1(true, own)
        out[f"mixing_{name}"] = nan if types is None or batches is None else cilisi(embedding, types, batches)
    for key in ("macro_f1", "mixing"):
        out[f"{key}_lost"] = out[f"{key}_teacher"] - out[f"{key}_student"]
    return out
