"""What a trained model answers: embedding, predictions, parameter counts."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData

from more_scvi.data import (
    BatchField,
    LabelsField,
    RowReader,
    as_batch_array,
    check_anndata,
    check_categories,
    check_genes,
    check_indices,
    check_integer,
    check_matrix,
)
from more_scvi.model._prepare import DirectPass
from more_scvi.model._state import ModelState
from more_scvi.module import WideClassifier

INFERENCE_BATCH = 4096


class InferenceMixin(ModelState):
    """Embedding, predictions and parameter counts of a model."""

    def get_latent_representation(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | Sequence[bool] | slice | None = None,
        batch_size: int | None = None,
        obsm_key: str | None = "X_more",
    ) -> np.ndarray:
        """Embedding of cells.

        Parameters
        ----------
        adata
            ``None``: the registered data. Otherwise an AnnData with the same genes in any order; it is not
            registered. Its batch column may be absent or hold new batches, which are centred on their own mean.
        indices
            Cells to return: positions (also negative), booleans or a slice. ``None``: all.
        batch_size
            Cells per forward pass; the result does not depend on it.
        obsm_key
            Where to write the embedding when all cells are asked for; ``None`` writes nothing.

        Returns
        -------
        (cells, n_latent) float32.

        Raises
        ------
        ValueError, KeyError, TypeError
            For missing or renamed genes, values that are not finite, or illegal indices.

        Examples
        --------
        >>> z = model.get_latent_representation()
        >>> z_query = model.get_latent_representation(query, obsm_key=None)
        """
        if obsm_key is not None and not isinstance(obsm_key, str):
            raise TypeError(f"obsm_key is {obsm_key!r}; give a key of adata.obsm as text, or None to write nothing.")
        z = self._run(adata, indices, batch_size, lambda out: out["embedding"])
        if indices is None and obsm_key is not None:
            target = self.adata if adata is None else adata
            if not target.is_view:
                target.obsm[obsm_key] = z
        return z

    def predict(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | Sequence[bool] | slice | None = None,
        soft: bool = False,
        batch_size: int | None = None,
    ) -> np.ndarray | pd.DataFrame:
        """Labels of cells, also of those whose label is visible.

        Parameters
        ----------
        adata, indices, batch_size
            As in :meth:`get_latent_representation`.
        soft
            Return class probabilities instead of labels.

        Returns
        -------
        Labels as text, (cells,); or a DataFrame cells × labels of probabilities, rows adding up to 1. Labels
        that no cell of the training data carried are never predicted.

        Raises
        ------
        ValueError
            If the model was set up without labels.

        Examples
        --------
        >>> adata.obs["more_prediction"] = model.predict()
        >>> confidence = model.predict(soft=True).max(axis=1)
        """
        if self.module.classifier is None:
            raise ValueError(
                "predict needs labels, but the model was set up without any; call "
                "MoRE.setup_anndata(adata, labels_key=...) with at least one known label, and train."
            )
        p = self._run(adata, indices, batch_size, lambda out: out["log_probs"].exp())
        if not soft:
            return self.labels[p.argmax(1)]
        names = (self.adata if adata is None else adata).obs_names
        return pd.DataFrame(p, index=names[check_indices(indices, len(names))], columns=list(self.labels))

    def parameter_counts(self) -> pd.DataFrame:
        """Number of trained and frozen parameters per part.

        Returns
        -------
        DataFrame with columns ``trained`` and ``frozen``; rows: backbone, each trained part, and ``total``.
        ``total.trained / total.frozen`` is the price of adapting instead of fine-tuning.
        """
        rows = {"backbone": (0, 0 if self.backbone is None else self.backbone.n_parameters())}
        for name, part in self.module.named_children():
            trained = sum(p.numel() for p in part.parameters() if p.requires_grad)
            if isinstance(part, WideClassifier):  # solved in closed form, but learned from labels all the same
                trained = part.weight.numel() + part.bias.numel()
            if trained:
                rows[name] = (trained, 0)
        table = pd.DataFrame.from_dict(rows, orient="index", columns=["trained", "frozen"])
        table.loc["total"] = table.sum()
        return table

    # ---- from data to the base

    def _run(self, adata: AnnData | None, indices: Any, batch_size: int | None, read) -> np.ndarray:
        """Apply the module to the base of the chosen cells and collect ``read(outputs)`` as one array."""
        self._check_if_trained(warn=True)
        size = INFERENCE_BATCH if batch_size is None else check_integer("batch_size", batch_size)
        if adata is None or adata is self.adata:
            self._n_train_cells()
            arrays = self._training_arrays()
            base, wide, batch = arrays.base, arrays.wide, arrays.batch
        else:
            base, wide, batch = self._base_of(adata)
        chosen = check_indices(indices, len(base))
        return self._forward(base, wide, batch, chosen, size, read)

    @torch.inference_mode()
    def _forward(
        self, base: np.ndarray, wide: np.ndarray, batch: np.ndarray, chosen: np.ndarray, size: int, read
    ) -> np.ndarray:
        """Pass the chosen rows through the module in blocks and collect ``read(outputs)``."""
        module = self.module.eval()
        device = next(module.parameters()).device
        parts = []
        for start in range(0, max(len(chosen), 1), size):
            rows = chosen[start : start + size]
            x, w, b = (torch.from_numpy(array[rows]).to(device) for array in (base, wide, batch))
            out = module.inference(x, b)
            out |= module.generative(out["z_labels"], w)
            out["embedding"] = module.embed(out["z"], out["log_probs"], b)
            parts.append(read(out).float().cpu().numpy())
        return np.concatenate(parts)

    def _codes(self, adata: AnnData) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Batch codes, label codes (-1 = not labelled) and covariates of the registered data."""
        args = self._setup_args
        batch = BatchField(args["batch_key"]).codes(adata, self.batches)
        labels = np.full(adata.n_obs, -1, dtype=np.int64)
        if len(self.labels):
            field = LabelsField(args["labels_key"], args["unlabeled_category"])
            codes = field.codes(adata, np.append(self.labels, field.unlabeled_category))
            labels = np.where(codes < len(self.labels), codes, -1)
        return batch, labels, self.covariates.transform(adata)

    def _base_of(self, adata: AnnData) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Base, wide view and batch codes of data that are not registered; the AnnData is only read."""
        args, module = self._setup_args, self.module
        if not bool(module.fitted):
            raise ValueError(
                "The model has not seen its own data yet; call model.train() before asking for other data."
            )
        check_anndata(adata)
        order = check_genes(adata.var_names, self.genes.tolist())
        check_matrix(adata, layer=args["layer"], data_type=args["data_type"])
        reader = RowReader(adata, args["layer"], order)
        batch = self._batch_codes(adata)
        panels = np.zeros((0, len(self.genes)), dtype=bool)
        cache = self._frozen_features(adata, reader, panels, str(self.device.type))
        direct, wide = DirectPass(reader, args["data_type"] == "lognorm").features(module.direct)
        features = {"direct": direct}
        if cache is not None:
            features["frozen"] = np.asarray(cache.full, np.float32)
        base = module.transform_base(
            {name: features[name] for name in module.path_names}, batch, self.covariates.transform(adata)
        )
        return base, wide, batch

    def _batch_codes(self, adata: AnnData) -> np.ndarray:
        """Codes of known batches; every new batch gets a negative code of its own."""
        key = self._setup_args["batch_key"]
        if key is None:
            return np.zeros(adata.n_obs, dtype=np.int64)
        if key not in adata.obs:
            warnings.warn(
                f"adata.obs has no batch column {key!r}: all cells are taken as one new batch and centred on their"
                " own mean.",
                UserWarning,
                stacklevel=4,
            )
            return np.full(adata.n_obs, -1, dtype=np.int64)
        values = as_batch_array(adata.obs[key], key)
        codes = check_categories(values, self.batches, key)
        new = codes < 0
        codes[new] = -1 - np.unique(values[new].astype(str), return_inverse=True)[1]
        return codes
