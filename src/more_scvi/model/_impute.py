"""Cross-modality imputation: what a cell would show in a modality, from what was measured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from mudata import MuData

from more_scvi.data._arguments import check_indices, check_option
from more_scvi.modalities._modality import get_modality
from more_scvi.model._checks import check_trained, registered
from more_scvi.model._imputers import coordinates, imputer_of

if TYPE_CHECKING:
    from more_scvi.model._more import MoRE


def impute(
    self: MoRE,
    modality: str,
    data: AnnData | MuData | None = None,
    indices: Sequence[int] | Sequence[bool] | slice | None = None,
    features: Sequence[str] | None = None,
) -> pd.DataFrame | sp.csr_matrix:
    """Expected values of a modality in cells, whether it was measured in them or not.

    The modality's own measurements in a cell are not used where the cell has another one.

    Parameters
    ----------
    modality
        Name of a modality, one of the model's.
    data, indices
        As ``adata`` and ``indices`` of :meth:`get_latent_representation`.
    features
        Genes, peaks or antibodies to return; ``None``: all.

    Returns
    -------
    RNA: DataFrame cells × genes, counts per 10,000. Protein: DataFrame cells × antibodies, counts at the average
    level of the training batches. ATAC: csr cells × peaks, probability that a peak is seen open at average depth;
    below 0.01 it is left out.

    Raises
    ------
    ValueError
        For a modality or feature that the model does not know, or a model of one modality.
    RuntimeError
        Before training.

    Examples
    --------
    >>> protein = model.impute("protein", indices=rna_only)
    """
    check_option("modality", modality, self.modalities)
    if len(self.modalities) == 1:
        raise ValueError(
            f"impute needs a model of several modalities; this one knows {modality!r} only. Register them with"
            " MoRE.setup_mudata."
        )
    check_trained(self)
    names = pd.Index(self.features[modality])
    if isinstance(features, str) or not (features is None or isinstance(features, Iterable)):
        raise TypeError(f"features={features!r} is a {type(features).__name__}; give a list of names, or None for all.")
    columns = np.arange(len(names)) if features is None else names.get_indexer([str(f) for f in features])
    if (columns < 0).any():
        missing = [f for f, c in zip(features or [], columns, strict=True) if c < 0]
        raise ValueError(
            f"features names {missing[:3]}, not among the {len(names)} of {modality!r}, e.g. {names[:3].tolist()}."
        )
    source = registered(self, "impute") if data is None else data
    arrays = self.reader.arrays(source)
    chosen = check_indices(indices, len(source.obs_names))
    u = coordinates(self.module, modality, arrays)[chosen]
    imputer = imputer_of(self.module, modality)
    kind = get_modality(modality)
    if kind.imputes_sparse:
        blocks = [imputer.decode(u[start : start + 512], columns) for start in range(0, max(len(u), 1), 512)]
        return sp.vstack([sp.csr_matrix(kind.expected(block)) for block in blocks], "csr")
    values = kind.expected(imputer.decode(u, columns))
    return pd.DataFrame(values, index=source.obs_names[chosen], columns=names[columns])
