"""A modality that the reference lacks, learned from cells that have it beside one that the reference knows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from anndata import AnnData
from mudata import MuData

from more_scvi.base._bridge import MIN_PAIRS
from more_scvi.base._schema import Schema
from more_scvi.data._arguments import check_mapping, check_option, listing
from more_scvi.data._checks import speak_of
from more_scvi.data._fields import RNA
from more_scvi.data._matrix import check_matrix
from more_scvi.modalities._modality import get_modality, list_modalities
from more_scvi.model._forward import forward
from more_scvi.module._further import FurtherModality

if TYPE_CHECKING:
    from more_scvi.model._more import MoRE


def check_new_modalities(
    schema: Schema, data: AnnData | MuData, modalities: Mapping[str, str] | None
) -> dict[str, dict[str, Any]]:
    """What is recorded of each modality that a query adds: its name in the MuData, features and type of values."""
    out = {}
    for role, name in check_mapping("modalities", modalities).items():
        check_option("a key of modalities", role, [r for r in list_modalities() if r not in schema.modalities])
        if role in schema.further:
            continue
        check_option(f"modalities[{role!r}]", name, list(data.mod) if isinstance(data, MuData) else ())
        known, adata, kind = schema.cells(data), cast(MuData, data).mod[name], get_modality(role)
        n = int(adata.obs_names.isin(known.names[known.present.any(1)]).sum())
        if n < MIN_PAIRS:
            raise ValueError(
                f"modalities names {name!r}, which the reference lacks: {n} of its {adata.n_obs} cells also have one of"
                f" {listing(schema.names.values())}; at least {MIN_PAIRS} are needed to learn where it belongs."
            )
        scan = speak_of(f"mdata[{name!r}]", check_matrix, adata, role=role, rules=kind.values)
        out[role] = {"name": name, "features": adata.var_names.to_numpy().astype(object), "data_type": scan[1]}
    return out


def known_part(schema: Schema, data: AnnData | MuData) -> AnnData | MuData:
    """What is registered of a query: all, or of a MuData for a reference of an AnnData its RNA, a copy."""
    if schema.is_mudata or not isinstance(data, MuData):
        return data
    cells = schema.cells(data)
    if RNA not in cells.adatas:
        raise ValueError(
            f"The query has no modality {RNA!r}, which the reference was trained on; embed it, it needs not be added:"
            " model.get_latent_representation(query)."
        )
    rna = cells.adatas[RNA].copy()
    for key in cells.obs:
        rna.obs[key] = cells.obs[key].reindex(rna.obs_names)
    return rna


def learn_pairs(model: MoRE, data: AnnData | MuData, new: Mapping[str, Any]) -> None:
    """Fit the base of new modalities, and add the cells of a query that have one of them and a known one."""
    schema, module = model.schema, model.module
    if not isinstance(data, MuData) or not any(entry["name"] in data.mod for entry in schema.further.values()):
        return
    registered = schema.cells(model.adata)
    arrays = model.reader.arrays(model.adata)
    adapted = forward(module, arrays, lambda out: out["adapted"])
    cells = schema.read(data, model.reader.given)
    for role, measured in cells.further.items():
        part = cast(FurtherModality, module.further[role])
        if role in new:
            part.fit(measured)
        at = registered.names.get_indexer(cells.names[measured.cells])
        pairs = np.flatnonzero((at >= 0) & arrays.present[at].any(1))
        part.pairs.add(part.read(measured)[pairs], adapted[at[pairs]])
    model.reader.forget()
