"""What a trained model answers: embedding, predictions, parameter counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from mudata import MuData

from more_scvi.data import check_indices, check_integer, check_option
from more_scvi.model._state import ModelState
from more_scvi.module import WideClassifier

INFERENCE_BATCH = 4096


class InferenceMixin(ModelState):
    """Embedding, predictions and parameter counts of a model."""

    def get_latent_representation(
        self,
        adata: AnnData | MuData | None = None,
        indices: Sequence[int] | Sequence[bool] | slice | None = None,
        batch_size: int | None = None,
        obsm_key: str | None = "X_more",
        modality: str | None = None,
    ) -> np.ndarray:
        """Embedding of cells.

        Parameters
        ----------
        adata
            ``None``: the registered data. Otherwise an AnnData with the same genes in any order, or a MuData with any
            of the model's modalities; it is not registered. Its batch column may be absent or hold new batches,
            which are placed by their types, not by their mean. An AnnData given to a model of a MuData is its RNA.
        indices
            Cells to return: positions (also negative), booleans or a slice. ``None``: all.
        batch_size
            Cells per forward pass; the result does not depend on it.
        obsm_key
            Where to write the embedding when all cells are asked for; ``None`` writes nothing.
        modality
            ``"rna"``, ``"atac"`` or ``"protein"``: where the cells lie by this modality alone, in the same space;
            written to ``f"{obsm_key}_{modality}"``. ``None``: by all that were measured.

        Returns
        -------
        (cells, n_latent) float32; with ``modality``, NaN for cells in which it was not measured.

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
        if modality is not None:
            check_option("modality", modality, self.roles)
            obsm_key = None if obsm_key is None else f"{obsm_key}_{modality}"
        z = self._run(adata, indices, batch_size, lambda out: out["embedding"], modality)
        if indices is None and obsm_key is not None:
            target = self.adata if adata is None else adata
            if not target.is_view:
                target.obsm[obsm_key] = z
        return z

    def predict(
        self,
        adata: AnnData | MuData | None = None,
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

    def get_modality_weights(
        self,
        adata: AnnData | MuData | None = None,
        indices: Sequence[int] | Sequence[bool] | slice | None = None,
        per_dimension: bool = False,
        batch_size: int | None = None,
    ) -> pd.DataFrame | np.ndarray:
        """How much each modality says about each cell: the weights of the fusion.

        Parameters
        ----------
        adata, indices, batch_size
            As in :meth:`get_latent_representation`.
        per_dimension
            Return the weight of every axis instead of their mean.

        Returns
        -------
        DataFrame cells × modalities of mean weights, or an array (cells, modalities, n_latent). Weights of a cell add
        up to 1 over the modalities measured in it; they are 0 for the others.

        Examples
        --------
        >>> model.get_modality_weights().groupby(mdata.obs["cell_type"]).mean()
        """
        fusion = self.module.fusion

        def read(out: dict[str, torch.Tensor]) -> torch.Tensor:
            if len(self.roles) == 1:
                return torch.ones_like(out["embeddings"])
            return fusion.weights(out["base"], out["present"])

        weights = self._run(adata, indices, batch_size, read)
        if per_dimension:
            return weights
        names = (self.adata if adata is None else adata).obs_names
        return pd.DataFrame(weights.mean(2), index=names[check_indices(indices, len(names))], columns=self.roles)

    def parameter_counts(self) -> pd.DataFrame:
        """Number of trained and frozen parameters per part.

        Returns
        -------
        DataFrame with columns ``trained`` and ``frozen``; rows: backbone, each trained part, and ``total``.
        ``total.trained / total.frozen`` is the price of adapting instead of fine-tuning.
        """
        rows = {"backbone": (0, 0 if self.backbone is None else self.backbone.n_parameters())}
        several = len(self.roles) > 1
        per_role = {"adapters": "adapter", "soft_tokens": "soft_tokens", "decoders": "decoder"}
        parts = [
            (f"{name}_{role}" if several else name, child)
            for group, name in per_role.items()
            for role, child in getattr(self.module, group).items()
        ]
        parts += [(n, c) for n, c in self.module.named_children() if n not in per_role and n != "bases"]
        for name, part in parts:
            trained = sum(p.numel() for p in part.parameters() if p.requires_grad)
            if isinstance(part, WideClassifier):  # solved in closed form, but learned from labels all the same
                trained = part.weight.numel() + part.bias.numel()
            if trained:
                rows[name] = (trained, 0)
        table = pd.DataFrame.from_dict(rows, orient="index", columns=["trained", "frozen"])
        table.loc["total"] = table.sum()
        return table

    # ---- from data to answers

    def _run(
        self,
        data: AnnData | MuData | None,
        indices: Any,
        batch_size: int | None,
        read: Callable[[dict[str, torch.Tensor]], torch.Tensor],
        modality: str | None = None,
    ) -> np.ndarray:
        """Apply the module to the bases of the chosen cells and collect ``read(outputs)`` as one array.

        With ``modality`` only that modality is read; cells without it are NaN.
        """
        self._check_if_trained(warn=True)
        size = INFERENCE_BATCH if batch_size is None else check_integer("batch_size", batch_size)
        base, present, wide, domain = self._inputs(data)
        chosen = check_indices(indices, len(base))
        if modality is None:
            return self._forward(base, present, wide, domain, chosen, size, read)
        at = self.roles.index(modality)
        only = np.zeros_like(present)
        only[:, at] = present[:, at]
        has = present[chosen, at]
        part = self._forward(base, only, wide, domain, chosen[has], size, read)
        out = np.full((len(chosen), *part.shape[1:]), np.nan, np.float32)
        out[has] = part
        return out

    def _inputs(self, data: AnnData | MuData | None) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Bases, measured modalities, wide views and domain codes of the registered or of other data."""
        if data is None or data is self.adata:
            self._n_train_cells()
            arrays = self._training_arrays()
            return self._moved_base(arrays), arrays.present, arrays.wide, arrays.domain
        return self._base_of(data)

    @torch.inference_mode()
    def _forward(
        self,
        base: np.ndarray,
        present: np.ndarray,
        wide: np.ndarray,
        domain: np.ndarray,
        chosen: np.ndarray,
        size: int,
        read: Callable[[dict[str, torch.Tensor]], torch.Tensor],
    ) -> np.ndarray:
        """Pass the chosen rows through the module in blocks and collect ``read(outputs)``."""
        module = self.module.eval()
        device = next(module.parameters()).device
        parts = []
        for start in range(0, max(len(chosen), 1), size):
            rows = chosen[start : start + size]
            x, here, w, d = (torch.from_numpy(array[rows]).to(device) for array in (base, present, wide, domain))
            out = module.inference(x, here, d)
            out |= module.generative(out["z_labels"], w, here)
            out["embedding"] = module.embed(out["z"], out["log_probs"], d)
            out["base"], out["present"] = x, here
            parts.append(read(out).float().cpu().numpy())
        return np.concatenate(parts)
