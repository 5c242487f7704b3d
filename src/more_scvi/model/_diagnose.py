"""``diagnose``: what can be wrong with a trained model, measured on its data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from mudata import MuData
from scipy.stats import entropy

from more_scvi.base._arrays import Arrays
from more_scvi.data._arguments import check_option
from more_scvi.data._batches import batch_offsets, batch_values
from more_scvi.data._columns import as_label_array, value_text
from more_scvi.diagnosis._checks import CHECKS
from more_scvi.diagnosis._evidence import Evidence, representative
from more_scvi.diagnosis._result import Diagnosis
from more_scvi.model._forward import Outputs, check_trained, forward, registered
from more_scvi.module._module import MoREModule

if TYPE_CHECKING:
    from more_scvi.model._more import MoRE


def diagnose(self, adata: AnnData | MuData | None = None, *, labels: str | Sequence[str] | None = None) -> Diagnosis:
    """Look for what commonly goes wrong, and say which argument to change.

    Each check has a value, a limit and, where it fires, a remedy. At most 5,000 cells are looked at; nothing is
    written.

    =============================  ================================================  ====================
    check                          value                                             warning
    =============================  ================================================  ====================
    ``batches_separate``           mixing of batches within types; without types,    below 0.35
                                   of the best-mixed quarter of the cells            (without: 0.25)
    ``groups_dissolve``            share of its neighbours in its batch that a        below 0.75
                                   group of cells keeps, of the worst one
    ``types_collapse``             correlation of distances within types with        below 0.6
                                   those of the data
    ``rare_types_lost``            recall of the worst rare type by its neighbours   below 0.5
    ``labels_not_learned``         loss of the classifier on training cells at the   above 0.5
                                   end, in units of chance
    ``overfitting``                rise of the validation loss of the classifier     above 0.2
                                   after its best epoch, in units of chance
    ``modality_ignored``           share of the embedding that hangs on the least    below 0.002
                                   heard modality
    ``modality_uninformative``     share of a modality that the others predict       below 0.02
    ``low_vocabulary_overlap``     share of genes that the backbone knows            below 0.3
    ``batch_and_type_confounded``  association of batch and type, Cramér's V         above 0.75
    =============================  ================================================  ====================

    Parameters
    ----------
    adata
        ``None``: the registered data. Otherwise other cells, as in :meth:`get_latent_representation`.
    labels
        Types to check with, instead of those registered: a column of ``obs``, or one value per cell; missing ones
        and ``unlabeled_category`` are not labelled. ``None``: visible labels, and predictions for all other cells.

    Returns
    -------
    :class:`more_scvi.diagnosis.Diagnosis` with ``table``, ``ok``, ``warnings`` and ``to_dict()``. A check that the
    data or the training do not allow (one batch, no validation cells) is ``"not checked"``.

    Raises
    ------
    RuntimeError
        Before training.
    ValueError, KeyError, TypeError
        For other data that do not fit the model, as in :meth:`get_latent_representation`; for ``labels`` that are
        no column of ``obs`` or of another length.

    Examples
    --------
    >>> result = model.diagnose()
    >>> result.warnings[["check", "message", "remedy"]]
    """
    check_trained(self)
    data = registered(self, "diagnose") if adata is None else adata
    evidence, rows = evidence_of(self, data, labels)
    return Diagnosis(tuple(check(evidence) for check in CHECKS), n_cells=data.n_obs, n_sampled=len(rows))


def evidence_of(
    model: MoRE, data: AnnData | MuData, labels: str | Sequence[str] | None = None
) -> tuple[Evidence, np.ndarray]:
    """What there is to see in a sample of cells, and which these are."""
    arrays = model.reader.arrays(data)
    batches, visible = _what_is_known(model, data, arrays, labels)
    rows = representative(visible)
    if model.module.classifier is None and (visible != "").any():
        rows = rows[visible[rows] != ""]  # nothing predicts the other types
    return _evidence(model, arrays, batches, visible, rows), rows


def _what_is_known(
    model: MoRE, data: AnnData | MuData, arrays: Arrays, labels: str | Sequence[str] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Batches and visible labels of all cells as text, ``""`` = no label."""
    schema, obs = model.schema, model.schema.cells(data).obs
    label_key, batches = schema.setup.get("labels_key"), batch_values(obs, schema.setup["batch_key"])
    batches = np.full(len(obs), "") if batches is None else batches
    unknown = value_text(schema.setup["unlabeled_category"])
    if labels is not None:
        known = as_label_array(_given(labels, data.obs), unknown)
    elif len(schema.labels) and label_key in obs:
        known = as_label_array(obs[label_key], unknown)
    else:
        known = np.full(len(obs), unknown)
    return batches.astype(str), np.where(known == unknown, "", known).astype(str)


def _evidence(model: MoRE, arrays: Arrays, batches: np.ndarray, visible: np.ndarray, rows: np.ndarray) -> Evidence:
    """What the checks read, for some of the cells."""
    module, n_latent = model.module, model.module.n_latent
    present = arrays.present[rows]
    out = forward(module, arrays, _embedding_and_groups, rows)
    z, probabilities = out[:, :n_latent], out[:, n_latent:]
    labels, types, clusters = visible[rows], None, None
    if module.classifier is None and probabilities.shape[1]:
        clusters = probabilities.argmax(1).astype(str)
    if module.classifier is not None:
        guess = model.labels.astype(str)[probabilities.argmax(1)]
        types = np.where(labels != "", labels, guess)
    elif (labels != "").any():
        types = labels
    kept = module.kept.cpu().numpy()  # scale of the columns whose distances are kept, 0 for all others
    scaled = arrays.base[rows] * kept
    patterns = (present @ (1 << np.arange(len(model.modalities)))).astype(str)
    domains = np.char.add(np.char.add(batches[rows], "/"), patterns)
    reads_genes = model.backbone is not None and model.backbone.vocabulary is not None
    return Evidence(
        z=z,
        direct=scaled[:, kept > 0] if (kept > 0).any() else arrays.base[rows],
        batches=batches[rows],
        domains=domains,
        labels=labels,
        types=types,
        views={role: scaled[:, module.layout.columns(role)] for role in model.modalities},
        present={role: present[:, at] for at, role in enumerate(model.modalities)},
        effects=_effects(module, arrays, rows, domains, model.seed),
        # a modality without any gene is not read by the backbone, and is not meant to be
        overlaps={r: v for r, v in model.reader.frozen.overlaps.items() if reads_genes and model.schema.gene_names[r]},
        chance=_chance(model),
        history=model.history_ or {},
        clusters=clusters,
        uncorrected=_uncorrected(module, arrays, rows),
    )


def _embedding_and_groups(out: Outputs) -> torch.Tensor:
    groups = out["log_groups"]
    return out["embedding"] if groups is None else torch.cat([out["embedding"], groups.exp()], 1)


def _uncorrected(module: MoREModule, arrays: Arrays, rows: np.ndarray) -> np.ndarray:
    """Linear base with every batch where it was measured, (cells, width)."""
    base, batch = arrays.base[rows].copy(), arrays.batch[rows]
    for at, name in enumerate(module.modalities):
        here = np.flatnonzero(arrays.present[rows, at])
        base[here, module.layout.columns(name)] += batch_offsets(batch[here], module.base(name).shift_in_all())
    return base


def _chance(model: MoRE) -> float:
    """Entropy of the labels that the model was trained on; of even ones if it was loaded without data."""
    if model.adata is None:
        return float(np.log(max(len(model.labels), 1)))
    codes = model.schema.label_codes(model.adata)
    return float(entropy(np.bincount(codes[codes >= 0]))) if (codes >= 0).any() else 0.0


def _effects(module: MoREModule, arrays: Arrays, rows: np.ndarray, domains: np.ndarray, seed: int) -> dict[str, float]:
    """Share of the embedding's variance within domains that hangs on each modality, by shuffling it there."""
    if len(module.modalities) == 1:
        return {}
    base, present = arrays.base[rows], arrays.present[rows]
    some = Arrays(base, present, arrays.wide[rows], arrays.batch[rows], arrays.domain[rows], arrays.shallow[rows])
    rng = np.random.default_rng(seed)
    effects = {}
    for at, role in enumerate(module.modalities):
        cells = pd.Series(np.flatnonzero(present[:, at] & (present.sum(1) > 1)))  # alone, it is all there is
        group = domains[cells]
        cells = cells[cells.groupby(group).transform("size") > 1]  # a single cell has nobody to swap with
        if cells.empty:
            continue
        # within domains: what differs between batches is not what a modality says of a cell
        group, shuffled, columns = domains[cells], base.copy(), module.layout.columns(role)
        shuffled[cells, columns] = base[cells.groupby(group).transform(rng.permutation), columns]
        z, moved = (
            forward(module, replace(some, base=x), lambda out: out["z"], cells.to_numpy()).astype(float)
            for x in (base, shuffled)
        )
        total = np.square(z - pd.DataFrame(z).groupby(group).transform("mean").to_numpy()).sum()
        effects[role] = float(np.square(moved - z).sum() / (2.0 * max(total, 1e-12)))  # two cells differ by twice it
    return effects


def _given(labels: str | Sequence[str], obs: pd.DataFrame) -> pd.Series:
    """Labels that a user gives, one per row of ``obs``."""
    if isinstance(labels, str):
        check_option("labels", labels, [str(name) for name in obs.columns if not str(name).startswith("_scvi")])
        return obs[labels]
    if np.ndim(labels) != 1 or len(labels) != len(obs):
        raise ValueError(
            f"labels has shape {np.shape(labels)} for {len(obs)} cells; give one per cell, or a column of obs."
        )
    if isinstance(labels, pd.Series) and not labels.index.equals(obs.index):
        if not labels.index.is_unique or not obs.index.isin(labels.index).all():
            raise ValueError(
                "labels is a Series whose index is not the cell names; give labels.to_numpy() if in order."
            )
        return labels.loc[obs.index]
    return pd.Series(labels, index=obs.index, name="labels")
