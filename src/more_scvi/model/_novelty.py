"""Cells unlike anything that has a label."""

from __future__ import annotations

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData

from more_scvi.metrics import neighbour_novelty
from more_scvi.model._inference import INFERENCE_BATCH
from more_scvi.model._state import ModelState


class NoveltyMixin(ModelState):
    """``get_novelty``."""

    def get_novelty(self, adata: AnnData | MuData | None = None) -> pd.Series:
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
        self._check_has_cells("get_novelty")
        visible = self._training_arrays().labels >= 0
        if not visible.any():
            raise ValueError("get_novelty: no registered cell has a label; give labels to some cells and train again.")
        names = (self.adata if adata is None else adata).obs_names
        z, base, group = self._places(None)
        if adata is not None and adata is not self.adata:
            more_z, more_base, more_group = self._places(adata)
            z, base = np.concatenate([more_z, z]), np.concatenate([more_base, base])
            # of a known batch, too, these are other cells, of which none is labelled
            group = np.concatenate([more_group - group.max() - more_group.max() - 2, group])
            visible = np.concatenate([np.zeros(len(more_z), bool), visible])
        score = (neighbour_novelty(z, visible, group) + neighbour_novelty(base, visible, group)) / 2
        return pd.Series(score[: len(names)], index=names, name="novelty")

    def _places(self, data: AnnData | MuData | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Embedding, linear base and domain of all cells."""
        self._check_if_trained(warn=True)
        base, present, wide, domain = self._inputs(data)
        rows = np.arange(len(base))
        z = self._forward(base, present, wide, domain, rows, INFERENCE_BATCH, lambda out: out["embedding"])
        return z, base, domain
