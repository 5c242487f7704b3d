"""The objects a user hands over: an AnnData, or a MuData and what each of its modalities is."""

from collections.abc import Iterable, Mapping
from typing import Any

from anndata import AnnData
from mudata import MuData

from ._arguments import check_unique, listing, nearest

EXAMPLE = "modalities={'rna': 'rna', 'protein': 'prot'} (role: name in mdata.mod)"


def check_anndata(adata: Any, *, min_cells: int = 1) -> AnnData:
    """`adata` if it is an AnnData with at least `min_cells` cells and one gene; TypeError or ValueError otherwise."""
    if not isinstance(adata, AnnData):
        kind = type(adata).__name__
        step = {
            "MuData": "give one modality, e.g. mdata.mod['rna'].",
            "str": "read it first: anndata.read_h5ad(path).",
            "PosixPath": "read it first: anndata.read_h5ad(path).",
        }.get(kind, "wrap the matrix: anndata.AnnData(X, obs=cells, var=genes).")
        raise TypeError(f"adata is a {kind}; expected an anndata.AnnData (cells x genes), in memory or backed; {step}")
    if adata.n_obs < min_cells or adata.n_vars == 0:
        raise ValueError(
            f"adata has {adata.n_obs} cell{'s' * (adata.n_obs != 1)} and {adata.n_vars} genes; at least {min_cells}"
            f" cell{'s' * (min_cells > 1)} and 1 gene are needed. Check the filter or gene subset that came before."
        )
    return adata


def check_names(adata: AnnData, where: str, update: str = "") -> None:
    """ValueError if cells or features share a name; `update`: what else to do once they are unique."""
    for axis, names in (("obs", adata.obs_names), ("var", adata.var_names)):
        own = f"{where}.{axis}_names"
        check_unique(own, names, f"Make them unique first: {own}_make_unique(){update}.")


def check_modalities(mdata: Any, modalities: Any, rules: Mapping[str, Any] | None = None) -> dict[str, str]:
    """`modalities` in the order of `rules`, once the MuData and each modality named can be worked with."""
    if not isinstance(mdata, MuData):
        step = "read it first: mudata.read_h5mu(path)." if isinstance(mdata, str) or hasattr(mdata, "open") else (
            "put the modalities together: mudata.MuData({'rna': rna, 'prot': protein})."
        )  # fmt: skip
        raise TypeError(f"mdata is a {type(mdata).__name__}; expected a mudata.MuData; {step}")
    if mdata.axis != 0:
        raise ValueError(
            f"mdata has axis={mdata.axis}: its modalities share {'features' if mdata.axis == 1 else 'both axes'}."
            " Modalities that share cells are needed: mudata.MuData({'rna': rna, 'prot': protein}) (axis=0)."
        )
    has = f" mdata.mod holds: {listing(mdata.mod)}."
    if not isinstance(modalities, Mapping):
        raise TypeError(
            f"modalities={modalities!r} is a {type(modalities).__name__}; expected a dict, e.g. {EXAMPLE}.{has}"
        )
    if not modalities:
        raise ValueError(f"modalities is empty; name at least one, e.g. {EXAMPLE}.{has}")
    by_name: dict[str, str] = {}
    for role, name in modalities.items():
        if rules is not None and role not in rules:
            raise ValueError(
                f"modalities has the role {role!r}; roles are {listing(rules)}.{nearest(role, rules)} Write"
                f" {EXAMPLE}.{has}"
            )
        if not isinstance(name, str) or name not in mdata.mod:
            raise ValueError(
                f"modalities[{role!r}] is {name!r}, which is not a modality of mdata.{nearest(name, mdata.mod)}{has}"
                " Leave a role out if it was not measured."
            )
        if name in by_name:
            raise ValueError(
                f"modalities gives {name!r} two roles, {by_name[name]!r} and {role!r}; a modality has one.{has}"
            )
        by_name[name] = role
        _check_modality(mdata.mod[name], name)
    step = "Cells are matched by name; make the names unique in the modalities (mdata.mod[...].obs_names), then call"
    check_unique("mdata.obs_names", mdata.obs_names, f"{step} mdata.update().")
    return {role: modalities[role] for role in rules or modalities if role in modalities}


def _check_modality(adata: Any, name: str) -> None:
    if not isinstance(adata, AnnData):
        raise TypeError(f"mdata[{name!r}] is a {type(adata).__name__}; expected an anndata.AnnData.")
    if adata.n_obs == 0 or adata.n_vars == 0:
        raise ValueError(
            f"mdata[{name!r}] has {adata.n_obs} cells and {adata.n_vars} features; at least 1 of each is needed. Leave"
            " it out of modalities=, or check the filter that came before."
        )
    check_names(adata, f"mdata[{name!r}]", ", then mdata.update()")


def refuse_views(data: AnnData | MuData, names: Iterable[str] = ()) -> None:
    """ValueError if the data, or one of the modalities `names`, are a view."""
    if data.is_view:
        kind, own = ("MuData", "mdata") if isinstance(data, MuData) else ("AnnData", "adata")
        raise ValueError(f"{own} is a view of another {kind}; set up a copy of its own: {own} = {own}.copy().")
    for name in names:
        if data.mod[name].is_view:
            raise ValueError(
                f"mdata[{name!r}] is a view of another AnnData; set up a copy of its own: mdata.mod[{name!r}] ="
                f" mdata[{name!r}].copy(), then mdata.update()."
            )


def check_roles(argument: str, given: Any, chosen: Mapping[str, str]) -> dict[str, Any]:
    """`given` as a dict by role; the error for the name of a modality tells its role."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        value = "'counts'" if argument == "data_types" else repr(given if isinstance(given, str) else "counts")
        raise TypeError(
            f"{argument}={given!r} is a {type(given).__name__}; expected a dict by role, e.g."
            f" {argument}={{{next(iter(chosen))!r}: {value}}}."
        )
    role_of = {name: role for role, name in chosen.items()}
    for role in given:
        if role not in chosen:
            hint = f" Did you mean {role_of[role]!r}?" if role in role_of else nearest(role, chosen)
            raise ValueError(
                f"{argument} has the key {role!r}; keys are the roles given in modalities: {listing(chosen)}.{hint}"
            )
    return dict(given)
