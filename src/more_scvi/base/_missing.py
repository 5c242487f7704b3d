r"""Data that lack features: what the frozen backbone would say of whole cells, and how unsure all paths are.

A backbone that reads fewer genes says something else of a cell, in a way that depends on which: first, the average cell
lies elsewhere. Cells drawn from the average of the training data (:func:`average_cells`) say where. Second, it says
less. What the direct path expects of the missing features speaks of the frozen ones, too, through a
linear map that was fitted within batches; with a share :math:`s` of the features

.. math:: h = s\,(h_S + \bar h - \bar h_S) + (1 - s)\,(\mu_h + B^\top (w - \mu_w)) .

:class:`Doubt` holds draws of what all paths may be beside what is expected. Answers are averaged over them.
"""

from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from more_scvi.base._arrays import Doubt
from more_scvi.data._measured import CellSet, Measured

if TYPE_CHECKING:
    from more_scvi.base._linear import LinearBase, ModalityBase

N_GUESS, GUESS_PENALTY = 50, 0.01
"""Columns of the wide input that speak of the frozen features, and ridge penalty. Source: plain value, not tuned."""

WIDENED = 1.5
"""Factor on draws: cells of another platform differ more from what is expected than the factor model can know. Source:
record tuning/missing_genes.md."""

N_AVERAGE, N_DRAWS = 128, 16
"""Average cells, and draws of what is not known. Source: plain value, not tuned."""

AVERAGE_TOTAL = 1e4
SEED = 0


def average_cells(base: "ModalityBase") -> sp.csr_matrix:
    """Cells in which each feature is seen as often, and holds as much, as in training: csr (cells, features)."""
    level, detected = (x.cpu().numpy().astype(np.float64) for x in (base.level, base.detected))
    seen = np.random.default_rng(SEED).random((N_AVERAGE, len(level))) < detected
    return sp.csr_matrix(seen * (AVERAGE_TOTAL * level / np.maximum(detected, 1e-12)), dtype=np.float32)


def complete_frozen(
    base: "ModalityBase", frozen: np.ndarray | None, shift: np.ndarray | None, wide: np.ndarray, visible: np.ndarray
) -> np.ndarray:
    """Frozen features as whole cells would have them, (rows, features).

    ``frozen``: of the features that are there, None: the backbone knows none of them; ``shift``: what they lack in the
    average cell, (features,); ``wide``: completed wide input.
    """
    if frozen is None or shift is None:
        return base.guess_frozen(wide)
    own = np.asarray(frozen, np.float32) + shift
    return own if not base.direct.n_wide else visible.mean() * own + (1 - visible.mean()) * base.guess_frozen(wide)


def doubts(cells: CellSet, linear: "LinearBase") -> Doubt | None:
    """Draws of what may have to be added to the base and the wide input of cells; None: nothing is missing."""
    base = np.zeros((N_DRAWS, linear.layout.width), np.float32)
    wide, shallow = np.zeros((2, N_DRAWS, linear.n_wide), np.float32)
    found = False
    for modality, measured in cells.measured.items():
        part = linear.base(modality)
        if measured.visible is None or not completes(part):
            continue
        found = True
        rng = np.random.default_rng(SEED)
        narrow, own = part.direct.doubt(measured.visible, N_DRAWS, rng)
        paths = {"direct": narrow}
        if measured.given is None:
            unseen = 1 - measured.visible.mean()
            paths["frozen"] = unseen * (part.guess_frozen(own) - part.guess_frozen(np.zeros_like(own)))
        base[:, linear.layout.columns(modality)] = part.moved_by(paths)
        columns = linear.layout.wide_columns(modality)
        columns = slice(columns.start, columns.start + own.shape[1])  # the niche, which comes last, is a mean of many
        wide[:, columns] = shallow[:, columns] = own
        if hasattr(part.direct, "doubt_shallow"):
            shallow[:, columns] = part.direct.doubt_shallow(measured.visible, N_DRAWS, np.random.default_rng(SEED))
    return Doubt(WIDENED * base, WIDENED * wide, WIDENED * shallow) if found else None


def completes(base: "ModalityBase") -> bool:
    """Whether a direct path knows what to expect of features that are missing."""
    return base.direct.n_wide > 0 and hasattr(base.direct, "complete")


def seen_part(measured: Measured, x: sp.csr_matrix) -> sp.csr_matrix:
    """What a backbone reads of cells ``x``, csr (cells, features), where features are missing."""
    whole = x if measured.links is None else sp.csr_matrix(x @ measured.links)
    return whole if measured.visible is None else whole[:, measured.shown]
