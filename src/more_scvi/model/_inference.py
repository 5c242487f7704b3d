"""What a trained model answers: embedding, predictions, weights of modalities, parameter counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from mudata import MuData

from more_scvi.data._arguments import check_indices, check_integer, check_obsm_key, check_option
from more_scvi.model._checks import check_trained, registered
from more_scvi.model._forward import BLOCK, Outputs, forward

if TYPE_CHECKING:
    from more_scvi.model._more import MoRE


def get_latent_representation(
    self: MoRE,
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
        ``None``: the registered data. Otherwise an AnnData with genes of the model in any order, or a MuData with any
        of its modalities; it is not registered. Its batch column may be absent or hold new batches, which lie at the
        mean of the known ones. Genes that are not there are taken as missing, not as zero; at least 2 % of them are
        needed. An AnnData given to a model of a MuData is its RNA.
    indices
        Cells to return: positions (also negative), booleans or a slice. ``None``: all.
    batch_size
        Cells per forward pass; the result does not depend on it.
    obsm_key
        Where to write the embedding when all cells are asked for; ``None`` writes nothing.
    modality
        Name of a modality: where the cells lie by this modality alone, in the same space;
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
    check_obsm_key(obsm_key)
    if modality is not None:
        check_option("modality", modality, self.modalities)
        obsm_key = None if obsm_key is None else f"{obsm_key}_{modality}"
    z = run(self, adata, indices, batch_size, lambda out: out["embedding"], modality)
    if indices is None and obsm_key is not None:
        target = registered(self, "get_latent_representation") if adata is None else adata
        if not target.is_view:
            target.obsm[obsm_key] = z
    return z


def predict(
    self: MoRE,
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
    p = run(self, adata, indices, batch_size, lambda out: out["log_probs"].exp())
    if not soft:
        return self.labels[p.argmax(1)]
    names = (registered(self, "predict") if adata is None else adata).obs_names
    return pd.DataFrame(p, index=names[check_indices(indices, len(names))], columns=list(self.labels))


def get_modality_weights(
    self: MoRE,
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
        if len(self.modalities) == 1:
            return torch.ones_like(out["embeddings"])
        return fusion.weights(out["base"], out["present"])

    weights = run(self, adata, indices, batch_size, read)
    if per_dimension:
        return weights
    names = (registered(self, "get_modality_weights") if adata is None else adata).obs_names
    return pd.DataFrame(weights.mean(2), index=names[check_indices(indices, len(names))], columns=self.modalities)


def parameter_counts(self: MoRE) -> pd.DataFrame:
    """Number of trained and frozen parameters per part.

    Returns
    -------
    DataFrame with columns ``trained`` and ``frozen``; rows: backbone, each trained part, and ``total``.
    ``total.trained / total.frozen`` is the price of adapting instead of fine-tuning.
    """
    rows = {"backbone": (0, 0 if self.backbone is None else self.backbone.n_parameters())}
    several = len(self.modalities) > 1
    per_role = {"adapters": "adapter", "soft_tokens": "soft_tokens", "decoders": "decoder"}
    parts = [
        (f"{name}_{role}" if several else name, child)
        for group, name in per_role.items()
        for role, child in getattr(self.module, group).items()
    ]
    parts += [(n, c) for n, c in self.module.named_children() if n not in (*per_role, "linear", "annotator")]
    for name, part in parts:
        trained = sum(p.numel() for p in part.parameters() if p.requires_grad)
        if trained:
            rows[name] = (trained, 0)
    experts = None if self.module.annotator is None else self.module.annotator.experts
    if experts is not None:  # solved in closed form, but learned from labels all the same
        rows["experts"] = (experts.weight.numel() + experts.bias.numel(), 0)
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["trained", "frozen"])
    table.loc["total"] = table.sum()
    return table


def run(
    model: MoRE,
    data: AnnData | MuData | None,
    indices: Any,
    batch_size: int | None,
    read: Callable[[Outputs], torch.Tensor],
    modality: str | None = None,
) -> np.ndarray:
    """Pass the chosen cells through the module and collect ``read(outputs)``, one row per cell.

    With ``modality`` only that modality is read; cells without it are NaN.
    """
    check_trained(model)
    size = BLOCK if batch_size is None else check_integer("batch_size", batch_size)
    arrays = model.reader.arrays(registered(model, "this question") if data is None else data)
    chosen = check_indices(indices, len(arrays))
    if modality is None:
        return forward(model.module, arrays, read, chosen, size)
    at = model.module.layout.at(modality)
    only = np.zeros_like(arrays.present)
    only[:, at] = arrays.present[:, at]
    has = only[chosen, at]
    part = forward(model.module, replace(arrays, present=only), read, chosen[has], size)
    out = np.full((len(chosen), *part.shape[1:]), np.nan, np.float32)
    out[has] = part
    return out
