"""Regressions from the embedding to every modality, fitted after training, and ``impute``, which reads them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import combinations
from typing import TYPE_CHECKING, cast

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from anndata import AnnData
from mudata import MuData

from more_scvi.base._arrays import Arrays, scatter
from more_scvi.base._bridge import MIN_PAIRS
from more_scvi.base._path import batch_means
from more_scvi.data._arguments import check_indices, check_option
from more_scvi.data._measured import Measured
from more_scvi.modalities._modality import get_modality
from more_scvi.model._forward import check_trained, forward, registered
from more_scvi.model._reader import Reader
from more_scvi.module._imputer import Imputer
from more_scvi.module._module import MoREModule

if TYPE_CHECKING:
    from more_scvi.model._more import MoRE


def imputer_of(module: MoREModule, modality: str) -> Imputer:
    """Regression to a modality."""
    return cast(Imputer, module.imputers[modality])


def fit_imputers(reader: Reader, data: AnnData | MuData, arrays: Arrays) -> None:
    """Fit the regressions to every modality on the registered cells."""
    module, cells = reader.module, reader.cells(data)
    for at, modality in enumerate(module.modalities):
        imputer = imputer_of(module, modality)
        target = _fit_decoder(module, cells.measured[modality], arrays)
        for k, sources in enumerate(_source_sets(module, modality)):
            mask = np.isin(np.arange(len(module.modalities)), sources if sources else [at])
            has = arrays.present[:, at] & arrays.present[:, mask].all(1)
            if has.sum() < MIN_PAIRS and sources:
                continue  # the embedding is the bridge, see coordinates
            rows = np.flatnonzero(has)
            x = _predictors(module, arrays, mask, rows)
            if not sources:
                x[:, module.n_latent :] = 0.0  # bases differ in what was measured, the embedding is shared
            centre = batch_means(x, arrays.batch[rows], module.n_batch)[arrays.batch[rows]]  # batches are not imputed
            imputer.fit_set(k, x - centre, target[rows], x.mean(0))


def coordinates(module: MoREModule, modality: str, arrays: Arrays) -> np.ndarray:
    """Low-rank coordinates of a modality in all cells, from the largest set of other modalities they have."""
    imputer, at = imputer_of(module, modality), module.layout.at(modality)
    out = np.zeros((len(arrays), imputer.decoder.shape[0]), np.float32)
    open_rows = np.ones(len(arrays), bool)
    for k, sources in enumerate(_source_sets(module, modality)):
        mask = np.isin(np.arange(len(module.modalities)), sources)
        if sources and not bool(imputer.coefficients[k].any()):  # not fitted, for want of cells that have both
            continue
        rows = np.flatnonzero(open_rows & arrays.present[:, mask].all(1))
        if not len(rows):
            continue
        if sources:
            x = _predictors(module, arrays, mask, rows)
        else:  # other modalities where there are any, its own otherwise
            others = np.arange(len(module.modalities)) != at
            own = ~arrays.present[rows][:, others].any(1)
            x = np.empty((len(rows), imputer.centre.shape[1]), np.float32)
            for some, which in ((~own, others), (own, ~others)):
                if some.any():
                    x[some] = _predictors(module, arrays, which, rows[some])
            x[:, module.n_latent :] = 0.0
        out[rows] = imputer.predict(k, x)
        open_rows[rows] = False  # the sets get smaller: the largest that a cell has wins
    return out


def _source_sets(module: MoREModule, modality: str) -> list[tuple[int, ...]]:
    """Sets of other modalities (positions), largest first; the last one, empty, reads the cell's own embedding."""
    others = [at for at, name in enumerate(module.modalities) if name != modality]
    return [s for n in range(len(others), -1, -1) for s in combinations(others, n)]


def _predictors(module: MoREModule, arrays: Arrays, sources: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Embedding from the sources alone beside their bases, (rows, n_latent + width)."""
    z = forward(module, replace(arrays, present=arrays.present & sources), lambda out: out["z"], rows)
    return np.concatenate([z, arrays.base[rows] * np.repeat(sources, module.layout.widths)], 1)


def _fit_decoder(module: MoREModule, measured: Measured, arrays: Arrays) -> np.ndarray:
    """Fit features on low-rank coordinates; return these, centred within batches, (cells, coordinates)."""
    modality, rows = measured.modality, measured.cells
    imputer, base, batch = imputer_of(module, modality), module.base(modality), arrays.batch[rows]
    kind = get_modality(modality)
    if kind.imputes_directly:
        values = np.concatenate([kind.imputed(x, base.direct) for _, x in measured.reader.chunks()])
        means = batch_means(values, batch, module.n_batch)
        imputer.decoder.copy_(torch.eye(values.shape[1]))
        imputer.mean.copy_(torch.from_numpy(means[np.unique(batch)].mean(0)))  # of batches that have it, all alike
        return scatter((values - means[batch]).astype(np.float32), rows, len(arrays))
    columns, last = module.layout.columns(modality), base.path_widths[-1]  # the last path is the direct one
    u = arrays.base[rows, columns.stop - last : columns.stop]
    u = u - batch_means(u, batch, module.n_batch)[batch]
    n_features = imputer.decoder.shape[1]
    cross, total = np.zeros((u.shape[1], n_features)), np.zeros(n_features)
    for block, x in measured.reader.chunks():
        y = kind.imputed(x, base.direct)
        cross += (y.T @ u[block]).T
        total += np.asarray(y.sum(0)).ravel()
    gram = u.T @ u
    gram += 1e-3 * max(np.trace(gram) / len(gram), 1e-12) * np.eye(len(gram))  # in units of the mean variance
    imputer.decoder.copy_(torch.from_numpy(np.linalg.solve(gram, cross)))
    imputer.mean.copy_(torch.from_numpy(total / max(len(rows), 1)))
    return scatter(u.astype(np.float32), rows, len(arrays))


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
    if kind.imputes_sparse:  # cells × peaks would not fit into memory while they are dense
        blocks = [imputer.decode(u[start : start + 512], columns) for start in range(0, max(len(u), 1), 512)]
        return sp.vstack([sp.csr_matrix(kind.expected(block)) for block in blocks], "csr")
    values = kind.expected(imputer.decode(u, columns))
    return pd.DataFrame(values, index=source.obs_names[chosen], columns=names[columns])
