"""Cross-modality imputation: what a cell would show in a modality, from what was measured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import cast

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from anndata import AnnData
from mudata import MuData

from more_scvi.data import check_indices, check_option
from more_scvi.modalities import get_modality
from more_scvi.model._inference import INFERENCE_BATCH
from more_scvi.model._prepare import scatter
from more_scvi.model._state import ModelState
from more_scvi.module import MIN_PAIRS, Imputer, batch_means
from more_scvi.train import TrainingArrays


class ImputeMixin(ModelState):
    """Expected values of one modality from the others."""

    def impute(
        self,
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
        check_option("modality", modality, self.roles)
        if len(self.roles) == 1:
            raise ValueError(
                f"impute needs a model of several modalities; this one knows {modality!r} only. Register them with"
                " MoRE.setup_mudata."
            )
        self._check_if_trained(warn=False)
        names = pd.Index(self.features[modality])
        if isinstance(features, str) or not (features is None or isinstance(features, Iterable)):
            raise TypeError(
                f"features={features!r} is a {type(features).__name__}; give a list of names, or None for all."
            )
        columns = np.arange(len(names)) if features is None else names.get_indexer([str(f) for f in features])
        if (columns < 0).any():
            missing = [f for f, c in zip(features or [], columns, strict=True) if c < 0]
            raise ValueError(
                f"features names {missing[:3]}, not among the {len(names)} of {modality!r}, e.g. {names[:3].tolist()}."
            )
        inputs = self._inputs(data)  # checks the data
        cell_names = (self.adata if data is None else data).obs_names
        chosen = check_indices(indices, len(cell_names))
        u = self._coordinates(modality, inputs)[chosen]
        imputer = self._imputer(modality)
        kind = get_modality(modality)
        if kind.imputes_sparse:
            blocks = [imputer.decode(u[start : start + 512], columns) for start in range(0, max(len(u), 1), 512)]
            return sp.vstack([sp.csr_matrix(kind.expected(block)) for block in blocks], "csr")
        values = kind.expected(imputer.decode(u, columns))
        return pd.DataFrame(values, index=cell_names[chosen], columns=names[columns])

    def _imputer(self, modality: str) -> Imputer:
        return cast(Imputer, self.module.imputers[modality])

    def _source_sets(self, modality: str) -> list[tuple[int, ...]]:
        """Sets of other modalities (positions), largest first; the last one, empty, reads the cell's own embedding."""
        others = [at for at, role in enumerate(self.roles) if role != modality]
        return [s for n in range(len(others), -1, -1) for s in combinations(others, n)]

    def _predictors(self, inputs: tuple[np.ndarray, ...], sources: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Embedding from the sources alone beside their bases, (rows, n_latent + width)."""
        base, present, wide, domain = inputs
        mask = present & sources

        def read(out: dict[str, torch.Tensor]) -> torch.Tensor:
            return out["z"]

        z = self._forward(base, mask, wide, domain, rows, INFERENCE_BATCH, read)
        used = np.repeat(sources, self.module.widths)
        return np.concatenate([z, base[rows] * used], 1)

    def _fit_imputers(self, arrays: TrainingArrays) -> None:
        """After training: regressions to every modality."""
        if len(self.roles) == 1:
            return
        inputs = self._inputs(None)
        for at, role in enumerate(self.roles):
            imputer = self._imputer(role)
            coordinates = self._fit_decoder(role, arrays)
            for k, sources in enumerate(self._source_sets(role)):
                mask = np.isin(np.arange(len(self.roles)), sources if sources else [at])
                has = arrays.present[:, at] & arrays.present[:, mask].all(1)
                if has.sum() < MIN_PAIRS and sources:
                    continue  # the embedding is the bridge, see _coordinates
                rows = np.flatnonzero(has)
                x = self._predictors(inputs, mask, rows)
                if not sources:
                    x[:, self.module.n_latent :] = 0.0
                centre = batch_means(x, arrays.batch[rows], self.module.n_batch)[arrays.batch[rows]]
                imputer.fit_set(k, x - centre, coordinates[rows], x.mean(0))

    def _fit_decoder(self, role: str, arrays: TrainingArrays) -> np.ndarray:
        """Fit features on low-rank coordinates; return these, centred within batches, (cells, coordinates)."""
        module, imputer = self.module, self._imputer(role)
        measured = self._measured(self._cells_of(self.adata), role, registered=True)
        rows, n = measured.cells, len(arrays.base)
        batch = arrays.batch[rows]
        kind, path = get_modality(role), module.base(role).direct
        if kind.imputes_directly:
            y = np.concatenate([kind.imputed(x, path) for _, x in measured.reader.chunks()])
            means = batch_means(y, batch, module.n_batch)
            imputer.decoder.copy_(torch.eye(y.shape[1]))
            imputer.mean.copy_(torch.from_numpy(means[np.unique(batch)].mean(0)))
            return scatter((y - means[batch]).astype(np.float32), rows, n)
        last = module.base(role).path_widths[-1]
        columns = module.columns(role)
        u = arrays.base[rows, columns.stop - last : columns.stop]
        u = u - batch_means(u, batch, module.n_batch)[batch]
        n_features = len(self.features[role])
        cross, total = np.zeros((u.shape[1], n_features)), np.zeros(n_features)
        for block, x in measured.reader.chunks():
            y = kind.imputed(x, path)
            cross += (y.T @ u[block]).T
            total += np.asarray(y.sum(0)).ravel()
        gram = u.T @ u
        gram += 1e-3 * max(np.trace(gram) / len(gram), 1e-12) * np.eye(len(gram))
        imputer.decoder.copy_(torch.from_numpy(np.linalg.solve(gram, cross)))
        imputer.mean.copy_(torch.from_numpy(total / max(len(rows), 1)))
        return scatter(u.astype(np.float32), rows, n)

    def _coordinates(self, role: str, inputs: tuple[np.ndarray, ...]) -> np.ndarray:
        """Low-rank coordinates of a modality in all cells, from the largest set of other modalities they have."""
        imputer, at = self._imputer(role), self.roles.index(role)
        base, present = inputs[0], inputs[1]
        out = np.zeros((len(base), imputer.decoder.shape[0]), np.float32)
        open_rows = np.ones(len(base), bool)
        for k, sources in enumerate(self._source_sets(role)):
            mask = np.isin(np.arange(len(self.roles)), sources)
            if sources and not bool(imputer.coefficients[k].any()):
                continue
            rows = np.flatnonzero(open_rows & present[:, mask].all(1))
            if not len(rows):
                continue
            if sources:
                x = self._predictors(inputs, mask, rows)
            else:  # other modalities where there are any, its own otherwise
                others = np.arange(len(self.roles)) != at
                own = ~present[rows][:, others].any(1)
                x = np.empty((len(rows), imputer.centre.shape[1]), np.float32)
                for some, which in ((~own, others), (own, ~others)):
                    if some.any():
                        x[some] = self._predictors(inputs, which, rows[some])
                x[:, self.module.n_latent :] = 0.0
            out[rows] = imputer.predict(k, x)
            open_rows[rows] = False
        return out
