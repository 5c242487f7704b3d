"""Queries as users of scArches know them: prepared for a reference, added to it, and trained on if that helps."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from copy import deepcopy
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from mudata import MuData
from scvi import REGISTRY_KEYS
from scvi.model.base import BaseModelClass

from more_scvi._compat import no_pull, parse_device_args
from more_scvi.annotate._statistics import NEW_TYPE_CELLS
from more_scvi.base._schema import Schema
from more_scvi.data._arguments import check_type, listing, warn
from more_scvi.data._batches import batch_keys, batch_values
from more_scvi.data._checks import speak_of
from more_scvi.data._columns import as_label_array, check_column, check_genes, value_text
from more_scvi.data._fields import RNA
from more_scvi.data._objects import check_anndata, check_modalities
from more_scvi.modalities._modality import get_modality
from more_scvi.model._new_batches import count_labelled, forget_compositions
from more_scvi.model._new_modality import check_new_modalities, known_part, learn_pairs
from more_scvi.model._setup import find_domains

if TYPE_CHECKING:
    from more_scvi.model._more import MoRE

logger = logging.getLogger("more_scvi")


class QueryMixin(BaseModelClass):
    """``prepare_query_anndata``, ``prepare_query_mudata`` and ``load_query_data``."""

    @classmethod
    def prepare_query_anndata(
        cls,
        adata: AnnData | None,
        reference_model: str | os.PathLike | MoRE,
        return_reference_var_names: bool = False,
        inplace: bool = True,
    ) -> AnnData | pd.Index | None:
        """Bring the genes of a query to the names and the order of a reference.

        Further genes are dropped. Genes that the query lacks stay away: they are missing, not zero, and MoRE maps with
        those that are there. Mapping does not need this step; it saves memory and says how many genes are shared.

        Parameters
        ----------
        adata
            The query.
        reference_model
            A model, or a folder written by :meth:`save`.
        return_reference_var_names
            Return the reference's genes and leave the query as it is.
        inplace
            Change ``adata``; ``False`` returns another AnnData.

        Returns
        -------
        The query where ``inplace=False``, the reference's genes where they are asked for, else ``None``.

        Raises
        ------
        ValueError, TypeError
            If the reference is a model of a MuData without RNA, the query holds less than 2 % of its genes, or is not
            an AnnData in memory.

        Examples
        --------
        >>> more.MoRE.prepare_query_anndata(query, "reference/")
        """
        schema = _reference(cls, reference_model).schema
        if RNA not in schema.features:
            raise ValueError(
                f"The reference reads {listing(schema.modalities)}; give a MuData to prepare_query_mudata."
            )
        if return_reference_var_names:
            return pd.Index(schema.features[RNA])
        return _take(check_anndata(adata), "adata", schema, RNA, inplace)

    @classmethod
    def prepare_query_mudata(
        cls,
        mdata: MuData | None,
        reference_model: str | os.PathLike | MoRE,
        return_reference_var_names: bool = False,
        inplace: bool = True,
    ) -> MuData | dict[str, pd.Index] | None:
        """Bring the features of each modality of a query to the names and the order of a reference.

        As :meth:`prepare_query_anndata`. Modalities that the reference does not know are dropped; those that the query
        lacks stay away.

        Parameters
        ----------
        mdata
            The query; modalities have the names that they had in the reference.
        reference_model, return_reference_var_names, inplace
            As in :meth:`prepare_query_anndata`.

        Returns
        -------
        The query where ``inplace=False``, the reference's features by modality where they are asked for, else ``None``.

        Raises
        ------
        ValueError, TypeError
            If the reference is a model of an AnnData, the query is not a MuData, or holds none of its modalities.

        Examples
        --------
        >>> query = more.MoRE.prepare_query_mudata(query, reference, inplace=False)
        """
        schema = _reference(cls, reference_model).schema
        if not schema.is_mudata:
            raise ValueError("The reference is a model of an AnnData; give an AnnData to prepare_query_anndata.")
        if return_reference_var_names:
            return {schema.names[name]: pd.Index(features) for name, features in schema.features.items()}
        here = schema.modalities_of(mdata)
        check_modalities(mdata, here)
        assert mdata is not None
        parts = {n: _take(mdata.mod[n], f"mdata[{n!r}]", schema, role, False) for role, n in here.items()}
        with no_pull():
            out = MuData(parts)
            out = out[mdata.obs_names[mdata.obs_names.isin(out.obs_names)]].copy()  # cells in the order of the query
        for key in mdata.obs.columns.difference(out.obs.columns):
            out.obs[key] = mdata.obs[key].reindex(out.obs_names)
        rows = mdata.obs_names.get_indexer(out.obs_names)
        for key in [key for key in mdata.obsm if key not in mdata.mod]:  # MuData says there who was measured
            out.obsm[key] = mdata.obsm[key][rows]
        out.uns |= mdata.uns
        if not inplace:
            return out
        mdata._init_as_actual(out)
        return None

    @classmethod
    def load_query_data(
        cls,
        adata: AnnData | MuData,
        reference_model: str | os.PathLike | MoRE,
        inplace_subset_query_vars: bool = False,
        accelerator: str = "auto",
        device: int | str = "auto",
        unfrozen: bool = False,
        modalities: Mapping[str, str] | None = None,
    ) -> Self:
        """Add a query to a reference: a model of both, to which the query is registered.

        The model can be used at once, without training: the query lies where the reference puts it, and its answers are
        those of the reference unless labels of the query count. New batches are appended to :attr:`batches`. ``train``
        then fits only the refinement of the new batches, keeps it if that helps cells which were held out, and finds
        what new batches without labels hold; all that was there is frozen, so that cells of the reference keep their
        embedding to the bit. The result is a reference in turn, and keeps no cells.

        Labels of the query count. A label that the reference does not know becomes a new type once 20 cells carry it,
        those of all queries together. Cells of new batches may be of it; those of the reference's own batches keep
        their answers (``predict(new_types=True)`` asks for all). New types are told by a discriminant analysis of the
        embedding from sums over labelled cells, which do not depend on the order in which queries are added.

        Parameters
        ----------
        adata
            The query; columns have the names that they had in the reference. It is registered, so it needs at least
            two cells. Genes and modalities may be missing, and so may the column with labels.
        reference_model
            A trained model, which stays as it is, or a folder written by :meth:`save`.
        inplace_subset_query_vars
            Prepare the query first, see :meth:`prepare_query_anndata`.
        accelerator, device
            Where to put the model.
        unfrozen
            Let ``train`` change all that is trained by gradients, on the query alone. The embedding of the reference's
            cells changes with it.
        modalities
            Modalities that the reference lacks and the query, a MuData, has beside a known one, e.g.
            ``{"protein": "adt"}`` as in :meth:`setup_mudata`; at least 50 cells must have both. They get a linear base
            and an adapter of their own: cells with this modality alone can be embedded then, others are by those that
            the reference knows. Of a query to a model of an AnnData the modality ``"rna"`` is registered, a copy.

        Returns
        -------
        The model.

        Raises
        ------
        ValueError, TypeError, KeyError, FileNotFoundError
            If the query or the reference cannot be read; the query is as it was then.
        RuntimeError
            If the reference is not trained.

        Examples
        --------
        >>> model = more.MoRE.load_query_data(query, "reference/")
        >>> query.obs["label"] = model.predict()
        >>> model.train()
        >>> model.save("reference_and_query/")

        Notes
        -----
        The idea of adding to a trained reference is that of scArches (Lotfollahi et al. 2022).
        """
        check_type("adata", adata, AnnData | MuData, "the query, an AnnData or MuData")
        if not isinstance(unfrozen, bool):
            raise TypeError(f"unfrozen={unfrozen!r}; give True or False.")
        reference = _reference(cls, reference_model)
        if not bool(reference.module.linear.fitted):
            raise RuntimeError("The reference is not trained; call reference.train() first.")
        _, _, where = parse_device_args(
            accelerator=accelerator, devices=device, return_device="torch", validate_single_device=True
        )
        schema, whole = reference.schema, adata
        further = check_new_modalities(schema, adata, modalities)
        if further or schema.further:
            adata = known_part(schema, adata)
        if isinstance(adata, MuData) != schema.is_mudata:
            wanted = "a MuData" if schema.is_mudata else "an AnnData; of a MuData give the RNA, mdata['rna'].copy()"
            raise TypeError(f"The query is a {type(adata).__name__}, but the reference is a model of {wanted}.")
        if inplace_subset_query_vars:
            prepare = cls.prepare_query_mudata if schema.is_mudata else cls.prepare_query_anndata
            prepare(adata, reference)
        registry, new_batches = _grown(reference, adata, unfrozen, further)
        arguments = dict(reference.init_arguments)
        if arguments["backbone"] == "precomputed":
            arguments["backbone_kwargs"] = {
                **arguments["backbone_kwargs"], "n_features": reference.backbone.n_features
            }  # fmt: skip
        model = cls(registry=registry, **arguments)
        model.module.load_state_dict(_extended(reference.module.state_dict(), model.module.state_dict()))
        model.module.eval()
        model.to_device(where)
        model._attach(adata)
        model.is_trained_, model._map = reference.is_trained_, reference._map
        learn_pairs(model, whole, further)
        count_labelled(model)
        forget_compositions(model, labelled=True)
        new_labels = _opened(reference, model)
        logger.info(
            "%d cells are added to the reference; new batches: %s; new types: %s.",
            adata.n_obs, listing(new_batches), listing(new_labels),
        )  # fmt: skip
        return model


def _reference(cls: type, given: Any) -> Any:
    """The model itself, or the one of a folder, without data."""
    if isinstance(given, str | os.PathLike):
        return cls.load(given, adata=False)  # type: ignore[attr-defined]
    check_type("reference_model", given, cls, "a trained MoRE, or the folder of MoRE.save")
    return given


def _take(adata: AnnData, where: str, schema: Schema, modality: str, inplace: bool) -> AnnData | None:
    """The features of the reference that are there, in its order and under its names; says how many they are."""
    kind, further = get_modality(modality).features, schema.further.get(modality)
    names = schema.features[modality] if further is None else np.asarray(further["features"], dtype=object)
    if adata.isbacked:
        raise ValueError(f"{where} is on disk; read it into memory first: adata = adata.to_memory().")
    find = None if further else schema.finder(adata, modality)  # also under other names
    at = speak_of(where, check_genes, adata.var_names, names.tolist(), kind, find)
    at = np.arange(len(names)) if at is None else at
    columns = at[at >= 0]
    n_further = adata.n_vars - len(columns)
    logger.info(
        "%s: %d of the %d %s of the reference are there; %d others are left out.",
        where, len(columns), len(names), kind, n_further,
    )  # fmt: skip
    out = adata[:, columns].copy()
    out.var_names = names[at >= 0].astype(str)
    if not inplace:
        return out
    adata._init_as_actual(out)
    return None


def _grown(
    reference: MoRE, adata: AnnData | MuData, unfrozen: bool, further: dict[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """The reference's registry with the batches, types and domains that the query adds; its new batches."""
    schema, registry = reference.schema, deepcopy(reference.registry_)
    cells, setup, fields = schema.cells(adata), registry["setup_args"], registry["field_registries"]
    obs, key, label = cells.obs, setup["batch_key"], setup["labels_key"]
    for name in batch_keys(key):
        check_column(obs, name, "batch_key")
    given_batches = batch_values(obs, key)
    values = np.full(len(obs), "0", dtype=object) if given_batches is None else given_batches
    batches = sorted(set(values) - set(schema.batches))
    fields[REGISTRY_KEYS.BATCH_KEY]["state_registry"]["categorical_mapping"] = np.array(
        [*schema.batches, *batches], dtype=object
    )
    labels: list[str] = []
    if len(schema.labels) and label in obs:
        mark = value_text(setup["unlabeled_category"])
        given = set(as_label_array(obs[label], setup["unlabeled_category"]))
        labels = sorted(given - set(schema.labels) - {mark})
        mapping = np.array([*schema.labels, *labels, mark], dtype=object)
        fields[REGISTRY_KEYS.LABELS_KEY]["state_registry"]["categorical_mapping"] = mapping
        if labels and key is None:
            warn(
                f"The reference has no batch_key, so that its own cells cannot be told from others: {listing(labels)}"
                " are answered only by predict(new_types=True)."
            )
    trained = schema.n_trained
    setup["reference"] = {
        "batches": trained["batches"],
        "labels": trained["labels"],
        "domains": len(schema.domains),  # those of earlier queries stay as they are
        "unfrozen": unfrozen,
    }
    setup["further"] = schema.further | further
    if schema.is_mudata:
        for batch, names in find_domains(cells, values)[0]:
            domain = [batch, [name for name in names if name in schema.modalities]]
            if domain[1] and domain not in setup["domains"]:
                setup["domains"] = [*setup["domains"], domain]
    return registry, batches


def _opened(reference: MoRE, model: MoRE) -> list[str]:
    """Types that the reference could not answer and the model can; a warning of those that still lack cells."""
    if model.module.annotator is None or reference.module.annotator is None:
        return []
    types, before = model.module.annotator.types, reference.module.annotator.types.open.numpy()
    new = list(zip(model.labels, types.added.count.tolist(), types.open.tolist(), strict=True))[types.n_labels :]
    few = [f"{name!r} ({n:.0f})" for name, n, is_open in new if not is_open]
    if few:
        warn(
            f"Labels that the reference does not know, with too few cells: {', '.join(few)}. They count as not labelled"
            f" until {NEW_TYPE_CELLS} cells carry them, this query and later ones together."
        )
    return [name for name, _, is_open in new if is_open and name not in reference.labels[before]]


def _extended(old: dict[str, torch.Tensor], new: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The reference's tensors; rows that it lacks, and tensors that only several batches need, are as they start."""
    out = {}
    for name, start in new.items():
        out[name] = start.clone()
        if name in old:
            out[name][tuple(slice(n) for n in old[name].shape)] = old[name]
    return out
