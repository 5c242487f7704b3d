"""Cells unlike anything that has a label."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData

from more_scvi.annotate._annotator import CERTAINTY
from more_scvi.base._arrays import Arrays
from more_scvi.base._offsets import typed_offsets
from more_scvi.metrics._novelty import neighbour_novelty
from more_scvi.model._checks import check_trained, registered
from more_scvi.model._forward import forward

if TYPE_CHECKING:
    from more_scvi.model._more import MoRE


def get_novelty(self: MoRE, adata: AnnData | MuData | None = None) -> pd.Series:
    r"""How unlike the labelled cells a cell is: a type that nobody labelled stands out.

    Among the nearest cells of a cell some have a label. Where far fewer have one than is usual in its batch, the
    cell is likely of a type without labels (:func:`more_scvi.metrics.neighbour_novelty`; mean of two scores, in the
    embedding and in the linear base, which labels did not move). The probabilities of :meth:`predict` do not say
    that: they compare the known types with each other.

    Parameters
    ----------
    adata
        Other data, whose cells are compared with the labelled ones of the registered data; ``None``: the registered
        cells.

    Returns
    -------
    Score per cell, 0 to 1: about 0.5 is usual, 1 means that no neighbour has a label. Only its order within a data
    set has a meaning; look at the cells with the highest values. Nothing is written.

    Raises
    ------
    ValueError
        If the model was set up without labels, no registered cell has one, or it was loaded without data.

    Notes
    -----
    Cells of unlabelled batches are compared with their own batch, so that a batch effect is not taken for novelty.
    With very few labels in all (fewer than about five in a twentieth of the cells) the score is coarse.

    Examples
    --------
    >>> adata.obs["novelty"] = model.get_novelty()
    >>> sc.pl.umap(adata, color=["more_prediction", "novelty"])  # doctest: +SKIP
    """
    if self.module.classifier is None:
        raise ValueError(
            "get_novelty compares cells with labelled ones, but the model was set up without labels; call "
            "MoRE.setup_anndata(adata, labels_key=...) with at least one known label, and train."
        )
    known = registered(self, "get_novelty")
    visible = self.schema.label_codes(known) >= 0
    if not visible.any():
        raise ValueError("get_novelty: no registered cell has a label; give labels to some cells and train again.")
    check_trained(self)
    arrays = self.reader.arrays(known)
    z, base, group = _embed(self, arrays), arrays.base, arrays.domain
    data = known if adata is None else adata
    if data is not known:
        more = self.reader.arrays(data)
        types = _certain(self, more)
        codes = np.unique(np.where(more.batch < 0, more.batch, 0), return_inverse=True)[1]
        labels = self.schema.label_codes(known)
        z, base = (
            _beside(ours, theirs, codes, types, labels) for ours, theirs in ((_embed(self, more), z), (more.base, base))
        )
        # of a known batch, too, these are other cells, of which none is labelled
        group = np.concatenate([more.domain - group.max() - more.domain.max() - 2, group])
        visible = np.concatenate([np.zeros(len(more), bool), visible])
    score = (neighbour_novelty(z, visible, group) + neighbour_novelty(base, visible, group)) / 2
    return pd.Series(score[: data.n_obs], index=data.obs_names, name="novelty")


def _embed(model: MoRE, arrays: Arrays) -> np.ndarray:
    return forward(model.module, arrays, lambda out: out["embedding"])


def _certain(model: MoRE, arrays: Arrays) -> np.ndarray:
    """Types of which the model is nearly certain, (cells,) codes; -1 elsewhere."""
    p = forward(model.module, arrays, lambda out: out["log_probs"].exp())
    return np.where(p.max(1) >= CERTAINTY, p.argmax(1), -1)


def _beside(
    cells: np.ndarray, reference: np.ndarray, batch: np.ndarray, types: np.ndarray, labels: np.ndarray
) -> np.ndarray:
    """Cells moved, batch by batch, onto the types that they share with the reference, and the reference.

    A batch effect that the model did not see would else make all of its cells novel.
    """
    both = np.concatenate([cells, reference])
    codes = np.concatenate([batch + 1, np.zeros(len(reference), dtype=np.int64)])
    offset = typed_offsets(both, codes, np.concatenate([types, labels]), codes.max() + 1)
    return (both - (offset - offset[0])[codes]).astype(np.float32)
