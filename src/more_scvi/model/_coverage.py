"""How much of what a model reads other data hold."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData

from more_scvi.base._linear import LinearBase
from more_scvi.data._measured import CellSet
from more_scvi.modalities._modality import get_modality
from more_scvi.model._forward import check_trained, registered

if TYPE_CHECKING:
    from more_scvi.model._more import MoRE

logger = logging.getLogger("more_scvi")


def coverage(cells: CellSet, linear: LinearBase) -> pd.DataFrame:
    """What :func:`get_gene_coverage` returns."""
    rows = {}
    for name, measured in cells.measured.items():
        level = linear.base(name).level.cpu().numpy()
        seen = np.ones(len(level), dtype=bool) if measured.visible is None else measured.visible
        rows[name] = (len(seen), int(seen.sum()), float(seen.mean()), float(level[seen].sum() / level.sum()))
    columns = ["features", "found", "share", "share_of_counts"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("modality")


def say_coverage(cells: CellSet, linear: LinearBase) -> None:
    """Say what data hold that lack features."""
    for name, row in coverage(cells, linear).iterrows():
        if row["found"] < row["features"]:
            logger.info(
                "%d of the model's %d %s are in the data: %.0f%%, which held %.0f%% of the counts in training."
                " The others are taken as missing, and confidence falls with them.",
                row["found"], row["features"], get_modality(str(name)).features, 100 * row["share"],
                100 * row["share_of_counts"],
            )  # fmt: skip


def get_gene_coverage(self: MoRE, adata: AnnData | MuData | None = None) -> pd.DataFrame:
    """How many of the model's genes (peaks, antibodies) data hold, and how much of the counts these are.

    Genes are found under their own names or others that the gene table of the backbone knows (Ensembl ids, former
    symbols, orthologues of human and mouse). Genes that look as if they had not been measured, zero in every cell
    though they are common in the training data, do not count as found.

    Parameters
    ----------
    adata
        As in :meth:`get_latent_representation`.

    Returns
    -------
    DataFrame, one row per modality of the data:

    - ``features``, ``found``: features of the model, and how many of them the data hold;
    - ``share``: the one over the other; below 0.02 questions about such data are refused;
    - ``share_of_counts``: share of the training data's counts that was in the features found.

    Examples
    --------
    >>> model.get_gene_coverage(query).loc["rna", "share"]  # doctest: +SKIP
    0.55
    """
    check_trained(self)
    cells = self.reader.measured(registered(self, "get_gene_coverage") if adata is None else adata)
    return coverage(cells, self.module.linear)
