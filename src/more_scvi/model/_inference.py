"""What a trained model answers: embedding, predictions, novelty, parameters, weights of modalities, paths, layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from mudata import MuData

from more_scvi.annotate._annotator import CERTAINTY
from more_scvi.base._arrays import Arrays
from more_scvi.base._offsets import TYPE_PRIOR, typed_offsets
from more_scvi.data._arguments import check_indices, check_integer, check_obsm_key, check_option
from more_scvi.metrics._novelty import neighbour_novelty
from more_scvi.model._forward import BLOCK, Outputs, check_trained, forward, registered
from more_scvi.module._adapter import GatedAdapter

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
        if not target.is_view:  # writing would turn a view into a copy
            target.obsm[obsm_key] = z
    return z


def predict(
    self: MoRE,
    adata: AnnData | MuData | None = None,
    indices: Sequence[int] | Sequence[bool] | slice | None = None,
    soft: bool = False,
    batch_size: int | None = None,
    new_types: bool | None = None,
) -> np.ndarray | pd.DataFrame:
    """Labels of cells, also of those whose label is visible.

    Parameters
    ----------
    adata, indices, batch_size
        As in :meth:`get_latent_representation`.
    soft
        Return class probabilities instead of labels.
    new_types
        Whether cells may be of types that came with queries (:meth:`load_query_data`); ``None``: those of other
        batches than the ones that the reference was trained on.

    Returns
    -------
    Labels as text, (cells,); or a DataFrame cells × labels of probabilities, rows adding up to 1. Labels
    that no cell of the training data carried are never predicted.

    Raises
    ------
    ValueError
        If the model was set up without labels.

    Notes
    -----
    In a batch without any label, of the training data or of a query that was added and trained on
    (:meth:`load_query_data`), types that it was found to hold often are likelier, where classifiers agree on what it
    holds. The answer for cells of batches that the model does not know depends on no other cell.

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
    p = run(self, adata, indices, batch_size, lambda out: out["log_probs"].exp(), new_types=new_types)
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
    annotator = self.module.annotator
    experts = [] if annotator is None else [annotator.experts, annotator.shallow_experts]
    solved = sum(e.weight.numel() + e.bias.numel() for e in experts if e is not None)
    if solved:  # in closed form, but learned from labels all the same
        rows["experts"] = (solved, 0)
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
    new_types: bool | None = None,
) -> np.ndarray:
    """Pass the chosen cells through the module and collect ``read(outputs)``, one row per cell.

    With ``modality`` only that modality is read; cells without it are NaN.
    """
    check_trained(model)
    size = BLOCK if batch_size is None else check_integer("batch_size", batch_size)
    arrays = model.reader.arrays(registered(model, "this question") if data is None else data)
    chosen = check_indices(indices, len(arrays))
    if modality is None:
        return forward(model.module, arrays, read, chosen, size, new_types)
    at = model.module.layout.at(modality)
    only = np.zeros_like(arrays.present)
    only[:, at] = arrays.present[:, at]
    has = only[chosen, at]
    part = forward(model.module, replace(arrays, present=only), read, chosen[has], size)
    out = np.full((len(chosen), *part.shape[1:]), np.nan, np.float32)
    out[has] = part
    return out


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
        cells. A model without the cells of its reference (of :meth:`load_query_data`, or loaded without data) compares
        with the mean and spread of each type instead.

    Returns
    -------
    Score per cell, 0 to 1: about 0.5 is usual, 1 means that no neighbour has a label (or no type is near). Only its
    order within a data set has a meaning; look at the cells with the highest values. Nothing is written.

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
    if self.schema.is_query or (self.adata is None and adata is not None):
        return _novelty_by_sums(self, registered(self, "get_novelty") if adata is None else adata)
    known = registered(self, "get_novelty")
    labels = self.schema.label_codes(known)
    visible = labels >= 0
    if not visible.any():
        raise ValueError("get_novelty: no registered cell has a label; give labels to some cells and train again.")
    check_trained(self)
    arrays = self.reader.arrays(known)
    z, base, group = _embed(self, arrays), arrays.base, arrays.domain
    data = known if adata is None else adata
    if data is not known:
        more = self.reader.arrays(data)
        p = forward(self.module, more, lambda out: out["log_probs"].exp())
        types = np.where(p.max(1) >= CERTAINTY, p.argmax(1), -1)
        codes = np.unique(np.where(more.batch < 0, more.batch, 0), return_inverse=True)[1]  # known batches as one
        z, base = (
            _beside(ours, theirs, codes, types, labels) for ours, theirs in ((_embed(self, more), z), (more.base, base))
        )
        # of a known batch, too, these are other cells, of which none is labelled
        group = np.concatenate([more.domain - group.max() - more.domain.max() - 2, group])
        visible = np.concatenate([np.zeros(len(more), bool), visible])
    score = (neighbour_novelty(z, visible, group) + neighbour_novelty(base, visible, group)) / 2
    return pd.Series(score[: data.n_obs], index=data.obs_names, name="novelty")


def _novelty_by_sums(model: MoRE, data: AnnData | MuData) -> pd.Series:
    """Novelty without the reference's cells: d / (d + n_latent), d the squared distance to the nearest type."""
    check_trained(model)
    types = model.module.annotator.types  # type: ignore[union-attr]  # the caller has seen that there are labels
    if not types.open.any():
        raise ValueError(
            "get_novelty: no cell of the reference has a label; give labels to some cells and train again."
        )
    z = forward(model.module, model.reader.arrays(data), lambda out: out["z_labels"])
    distance = types.distances(torch.from_numpy(z)).min(1).values.numpy()
    return pd.Series(distance / (distance + z.shape[1]), index=data.obs_names, name="novelty")


def _embed(model: MoRE, arrays: Arrays) -> np.ndarray:
    return forward(model.module, arrays, lambda out: out["embedding"])


def _beside(
    cells: np.ndarray, reference: np.ndarray, batch: np.ndarray, types: np.ndarray, labels: np.ndarray
) -> np.ndarray:
    """Cells moved, batch by batch, onto the types that they share with the reference, and the reference.

    A batch effect that the model did not see would else make all of its cells novel.
    """
    both = np.concatenate([cells, reference])
    codes = np.concatenate([batch + 1, np.zeros(len(reference), dtype=np.int64)])
    offset = typed_offsets(both, codes, np.concatenate([types, labels]), codes.max() + 1, TYPE_PRIOR)
    return (both - (offset - offset[0])[codes]).astype(np.float32)  # the reference stays where it is


@torch.no_grad()
def get_path_weights(self: MoRE) -> pd.DataFrame:
    r"""How the adapters weigh the frozen features against the direct path (and the niche of spatial data).

    Before training a path :math:`p` has a share :math:`s_p` of the variance of the base: the direct path by the
    number of cells it was fitted on; the frozen features by the genes that the backbone knows and by how much of
    them is seen in the data at all. They lose weight in tissue that the backbone was not made for, where they hold
    noise. Training then moves a gate :math:`g` per dimension, which starts at 1, below 2.

    Returns
    -------
    One row per modality and path, with the columns

    - ``start``: share before training; sums to 1 over the paths of a modality;
    - ``gate``, ``least_gate``, ``most_gate``: mean, smallest and largest gate of the path's dimensions;
    - ``weight``: share of the variance that the gated path has in the shared space, over the registered cells that
      have the modality; sums to 1.

    Raises
    ------
    ValueError
        If the model has no data (``load(..., adata=False)``).

    Examples
    --------
    >>> model.get_path_weights()  # doctest: +SKIP
                     start   gate  least_gate  most_gate  weight
    modality path
    rna      frozen  0.214  1.013       0.981      1.062   0.223
             direct  0.786  0.996       0.934      1.071   0.777
    """
    check_trained(self)
    arrays, rows = self.reader.arrays(registered(self, "get_path_weights")), []
    for at, modality in enumerate(self.modalities):
        base, adapter = self.module.base(modality), cast(GatedAdapter, self.module.adapters[modality])
        gate, rotation = adapter.gate().cpu().numpy(), adapter.rotation.cpu().numpy()
        x = arrays.base[arrays.present[:, at], self.module.layout.columns(modality)] * gate
        ends = np.cumsum(base.path_widths)
        columns = [slice(end - width, end) for end, width in zip(ends, base.path_widths, strict=True)]
        variance = np.array([(x[:, c] @ rotation[c]).var(0).sum() for c in columns])
        for name, c, start, weight in zip(
            base.path_names, columns, base.shares.cpu().numpy(), variance / variance.sum(), strict=True
        ):
            rows.append((modality, name, start, gate[c].mean(), gate[c].min(), gate[c].max(), weight))
    table = pd.DataFrame(rows, columns=["modality", "path", "start", "gate", "least_gate", "most_gate", "weight"])
    return table.set_index(["modality", "path"]).astype(float)


def get_layer_weights(self: MoRE) -> pd.Series:
    """How much each layer of the backbone counts in the frozen features.

    Returns
    -------
    Weights that add up to 1, one per block of the backbone's features, in their order (for token models: from the
    embeddings to the last layer). They are equal before training. Where several modalities are read by the
    backbone, those of the first; the others keep equal weights.

    Raises
    ------
    ValueError
        If the backbone gives one feature, so that there is nothing to mix.

    Examples
    --------
    >>> model.get_layer_weights().plot.bar()
    """
    inside = self.module.inside
    if inside is None or inside.mix is None:
        raise ValueError(
            f"backbone={self.init_arguments['backbone']!r} gives one feature per cell, not one per layer: there are"
            " no layer weights. Use a backbone with n_pooled > 1."
        )
    weights = inside.layer_weights().detach().cpu().numpy()
    return pd.Series(weights, index=pd.RangeIndex(len(weights), name="layer"), name="weight")
