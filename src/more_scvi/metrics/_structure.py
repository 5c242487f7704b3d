"""What a type looks like inside: distances and directions that label collapse loses."""

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import pdist
from scipy.stats import spearmanr

from ._check import check_embedding, check_integer, check_matrix


def structure(
    z: ArrayLike, reference: ArrayLike, labels: ArrayLike, batches: ArrayLike, min_cells: int = 10, max_cells: int = 200
) -> float:
    """Spearman correlation of distances within each (type, batch) in ``z`` with those in ``reference``.

    The one figure that an embedding which holds nothing but the class cannot win. Only distances between cells of the
    same type *and* batch count, so removing batch effects costs nothing. A group whose distances are constant
    (collapsed) scores 0.

    Parameters
    ----------
    z
        Embedding ``(n_cells, n_latent)``.
    reference
        Untouched low-rank view of the same cells ``(n_cells, d)``; the benchmark takes 50 PCs of the data. PCA scores
        1 by construction, so this is an alarm for distortion rather than a target.
    labels, batches
        Types and batches ``(n_cells,)``.
    min_cells
        Groups with fewer cells are left out.
    max_cells
        Larger groups are subsampled to so many cells (seeded, the same cells for every ``z``).

    Returns
    -------
    Mean over groups; NaN if no group is large enough.
    """
    z, y, b = check_embedding(z, labels, batches, flags=False)
    reference = check_matrix(reference, "reference", len(z))
    for setting, value in {"min_cells": min_cells, "max_cells": max_cells}.items():
        check_integer(setting, value, 3)  # two cells have one distance, which has no rank
    rng = np.random.default_rng(0)
    per_group = []
    for _, rows in sorted(pd.Series(y).groupby([b, y]).indices.items()):  # one generator: the order must be fixed
        if rows.size >= min_cells:
            rows = rng.permutation(rows)[:max_cells]
            per_group.append(_spearman(pdist(z[rows]), pdist(reference[rows])))
    return float(np.mean(per_group)) if per_group else float("nan")


def effective_dimension(z: ArrayLike, labels: ArrayLike, batches: ArrayLike, min_cells: int = 20) -> float:
    r"""Directions that types still use: participation ratio :math:`(\sum\lambda)^2/\sum\lambda^2`, mean over types.

    :math:`\lambda` are the eigenvalues of the covariance of ``z`` within the type, each (type, batch) centred. Types
    with fewer than ``min_cells`` cells are left out; a collapsed type counts 0.
    """
    z, y, b = check_embedding(z, labels, batches, flags=False)
    check_integer("min_cells", min_cells, 2)
    scale = np.square(z - z.mean(axis=0)).sum()
    per_type = []
    for name in np.unique(y):
        rows = np.flatnonzero(y == name)
        if rows.size < min_cells:
            continue
        centred = z[rows] - pd.DataFrame(z[rows]).groupby(b[rows]).transform("mean").to_numpy()
        power = np.square(np.linalg.svd(centred, compute_uv=False))
        collapsed = power.sum() <= 1e-12 * scale  # less is rounding, whose directions look like many
        per_type.append(0.0 if collapsed else power.sum() ** 2 / np.square(power).sum())
    return float(np.mean(per_type)) if per_type else float("nan")


def _spearman(a: NDArray, b: NDArray) -> float:
    collapsed = np.ptp(a) <= 1e-9 * max(float(np.abs(a).max()), 1e-30)  # differences are then rounding errors
    return 0.0 if collapsed or np.ptp(b) == 0 else float(spearmanr(a, b).statistic)
