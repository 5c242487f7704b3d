"""Cells measured in one or several modalities: where each modality holds them, and checks of a MuData.

Rows are found by cell name. A cell that a modality does not list is missing there, which is not the same as a row of
zeros. All functions are pure: nothing of the MuData is changed, also when they fail.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData

from more_scvi._compat import layer_names

from ._arguments import check_option, listing, nearest
from ._checks import DATA_TYPES, DataSummary, DataType, check_anndata, check_matrix
from ._columns import (
    as_batch_array,
    as_label_array,
    as_text,
    check_column,
    check_continuous,
    check_key_list,
    value_text,
)
from ._values import ValueScan, scan_values

ROLES = ("rna", "atac", "protein")
"""Kinds of modalities, in canonical order."""

COUNTS_ONLY = {
    "atac": "raw fragment or insertion counts per peak (or 0/1 for open) are needed",
    "protein": "raw antibody counts are needed (not DSB, CLR or log-normalised values)",
}
EXAMPLE = "modalities={'rna': 'rna', 'protein': 'prot'} (role: name in mdata.mod)"
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Cells:
    """The cells of a MuData (or AnnData) and where each modality holds them.

    Attributes
    ----------
    names
        (cells,) every cell once, in the order of ``mdata.obs_names``.
    adatas
        Role -> the user's AnnData of that modality, not copied; in the order of :data:`ROLES`.
    rows
        Role -> int64 (cells,): row of the cell in that AnnData, -1 where it was not measured.
    obs
        (cells, keys): the columns that were looked up, index `names`. A column that one place holds completely keeps
        its dtype; one put together from several places holds their values. Missing values stay missing.
    found
        Key -> where its values were found, e.g. ``"mdata.obs"`` or ``"mdata['rna'].obs, mdata['prot'].obs"``.
    """

    names: pd.Index
    adatas: dict[str, AnnData]
    rows: dict[str, np.ndarray]
    obs: pd.DataFrame
    found: dict[str, str]

    @property
    def present(self) -> np.ndarray:
        """Which cell was measured in which modality, bool (cells, modalities), columns in the order of `adatas`."""
        return np.stack([rows >= 0 for rows in self.rows.values()], axis=1)

    def __len__(self) -> int:
        return len(self.names)


def read_cells(
    data: MuData | AnnData,
    modalities: Mapping[str, str] | None,
    keys: Sequence[str] = (),
    *,
    labels_key: str | None = None,
    unlabeled_category: Any = "Unknown",
    optional: Sequence[str] = (),
) -> Cells:
    """Find every cell in every modality, by name, and the columns that describe the cells.

    A column is read from ``mdata.obs``, then, for cells without a value there, from the modalities' own ``obs`` and
    from the ``rna:batch``-like copies that mudata makes of them. All places that hold a value for a cell must hold the
    same one; values are compared as text (``1``, ``1.0`` and ``"1"`` are one value), numbers to seven digits.

    Parameters
    ----------
    data
        A MuData whose modalities share cells, views included, or an AnnData, which is read as the role ``"rna"``.
    modalities
        Role (``"rna"``, ``"atac"``, ``"protein"``) -> name in ``mdata.mod``, any subset and order. Not read for an
        AnnData.
    keys
        Columns to look up.
    labels_key
        Looked up as well; in it, `unlabeled_category` counts as no value.
    optional
        Those of the columns that may exist nowhere; they are left out of ``obs`` and ``found`` then.

    Returns
    -------
    :class:`Cells`.

    Raises
    ------
    TypeError
        Neither MuData nor AnnData, or `modalities` is no dict.
    KeyError
        A column that exists nowhere.
    ValueError
        Modalities or roles that do not exist, names that repeat, a MuData that is not up to date with its modalities,
        cells without any of the modalities, or places that disagree about a cell.
    """
    arguments = dict.fromkeys([*keys, *([] if labels_key is None else [labels_key])], "key")
    return _read(data, modalities, arguments, labels_key, unlabeled_category, set(optional))


def check_mudata(
    mdata: MuData,
    *,
    modalities: Mapping[str, str],
    layers: Mapping[str, str | None] | None = None,
    batch_key: str | None = None,
    labels_key: str | None = None,
    unlabeled_category: Any = "Unknown",
    categorical_covariate_keys: Sequence[str] | None = None,
    continuous_covariate_keys: Sequence[str] | None = None,
    data_types: Mapping[str, str] | None = None,
) -> tuple[Cells, dict[str, DataSummary]]:
    """Check everything ``setup_mudata`` is given; the arguments are those of ``MoRE.setup_mudata``.

    Parameters
    ----------
    modalities
        Role -> name in ``mdata.mod``.
    layers
        Role -> layer of that modality; roles left out, and None, use ``X``.
    data_types
        Role -> ``"auto"``, ``"counts"`` or ``"lognorm"``; default ``"auto"``. ATAC and protein must be counts.

    Returns
    -------
    The cells, and per role a :class:`DataSummary` of its matrix and of the batches and labels of its cells.

    Raises
    ------
    TypeError
        No MuData, or an argument of the wrong type.
    KeyError
        A layer or column that does not exist.
    ValueError
        As :func:`read_cells`; further a view, a modality without cells or features, values that are not finite,
        negative or not of the data type, a batch or covariate column with missing values.
    """
    if isinstance(mdata, AnnData):
        raise TypeError(
            "mdata is an AnnData; a MuData is needed here. For one RNA modality: MoRE.setup_anndata(adata, ...); for"
            " several: mudata.MuData({'rna': rna, 'prot': protein})."
        )
    categorical = check_key_list("categorical_covariate_keys", categorical_covariate_keys)
    continuous = check_key_list("continuous_covariate_keys", continuous_covariate_keys)
    if labels_key is not None and labels_key == batch_key:
        raise ValueError(
            f"batch_key and labels_key are both {batch_key!r}; aligning batches would remove the labels. Give two"
            " columns."
        )
    chosen = _check_modalities(mdata, modalities)
    _refuse_views(mdata, chosen)
    layers = _check_roles("layers", layers, chosen)
    data_types = _check_roles("data_types", data_types, chosen)
    given = [(batch_key, "batch_key"), (labels_key, "labels_key")]
    given = [(key, argument) for key, argument in given if key is not None]
    given += [(key, "categorical_covariate_keys") for key in categorical]
    given += [(key, "continuous_covariate_keys") for key in continuous]
    arguments: dict[str, str] = {}
    for key, argument in given:
        _check_key(key, argument)
        arguments.setdefault(str(key), argument)

    cells = _read(mdata, modalities, arguments, labels_key, unlabeled_category, set())
    if len(cells) < 2:
        raise ValueError(
            f"mdata has {len(cells)} cell; at least 2 cells are needed. Check the filter that came before."
        )
    batch = None if batch_key is None else speak_of("mdata", as_batch_array, cells.obs[batch_key], batch_key)
    labels = (
        None if labels_key is None else speak_of("mdata", as_label_array, cells.obs[labels_key], unlabeled_category)
    )
    for key in categorical:
        speak_of("mdata", as_batch_array, cells.obs[key], key)
    for key in continuous:
        speak_of("mdata", check_continuous, cells.obs[key], key)

    summaries = {}
    for role, adata in cells.adatas.items():
        scan, kind = _check_values(role, chosen[role], adata, layers.get(role), data_types.get(role, "auto"))
        measured = cells.rows[role] >= 0
        known = np.zeros(0, dtype=object)
        if labels is not None:
            known = labels[measured & (labels != value_text(unlabeled_category))]
        summaries[role] = DataSummary(
            adata.n_obs,
            adata.n_vars,
            kind,
            scan.maximum,
            len(scan.empty_cells),
            () if batch is None else tuple(sorted(set(batch[measured]))),
            tuple(sorted(set(known))),
            len(known),
        )
    return cells, summaries


def _read(
    data: Any,
    modalities: Mapping[str, str] | None,
    arguments: Mapping[str, str],
    labels_key: str | None,
    unlabeled_category: Any,
    optional: set[str],
) -> Cells:
    """As :func:`read_cells`; `arguments`: key -> name of the argument that gave it, for messages."""
    for key, argument in arguments.items():
        _check_key(key, argument)
    if isinstance(data, AnnData):
        check_anndata(data)
        keys = [key for key in arguments if key in data.obs or key not in optional]
        columns = {key: check_column(data.obs, key, arguments[key]) for key in keys}
        return Cells(
            data.obs_names,
            {"rna": data},
            {"rna": np.arange(data.n_obs, dtype=np.int64)},
            pd.DataFrame(columns, index=data.obs_names),
            dict.fromkeys(keys, "adata.obs"),
        )
    chosen = _check_modalities(data, modalities)
    names = data.obs_names
    adatas = {role: data.mod[name] for role, name in chosen.items()}
    rows = {role: _rows_by_name(data, name) for role, name in chosen.items()}
    nowhere = np.all([r < 0 for r in rows.values()], axis=0)
    if nowhere.any():
        keep = " | ".join(f"mdata.obs_names.isin(mdata[{name!r}].obs_names)" for name in chosen.values())
        raise ValueError(
            f"{nowhere.sum()} of {len(names)} cells of mdata are in none of the modalities"
            f" {listing(chosen.values())}: {listing(names[nowhere], 3)}. Name their modality in modalities=, or drop"
            f" them: mdata = mdata[{keep}].copy()."
        )
    obs, found = {}, {}
    for key, argument in arguments.items():
        places = _places(data, chosen, rows, key, argument)
        if places:
            absent = value_text(unlabeled_category) if key == labels_key else None
            obs[key], found[key] = _merge(places, key, argument, absent)
        elif key not in optional:
            raise KeyError(_not_found(data, chosen, key, argument))
    return Cells(names, adatas, rows, pd.DataFrame(obs, index=names), found)


def _check_key(key: Any, argument: str) -> None:
    if not isinstance(key, str):
        raise TypeError(
            f"{argument} is {key!r} ({type(key).__name__}); expected the name of a column of mdata.obs as a string."
        )


def _check_modalities(mdata: Any, modalities: Any) -> dict[str, str]:
    """`modalities` in canonical order, once the MuData and each modality named can be worked with."""
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
        if role not in ROLES:
            raise ValueError(
                f"modalities has the role {role!r}; roles are {listing(ROLES)}.{nearest(role, ROLES)} Write"
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
    if not mdata.obs_names.is_unique:
        twice = mdata.obs_names[mdata.obs_names.duplicated()].unique()
        raise ValueError(
            f"mdata.obs_names holds {len(twice)} names more than once: {listing(twice, 5)}. Cells are matched by name;"
            " make the names unique in the modalities (mdata.mod[...].obs_names), then call mdata.update()."
        )
    return {role: modalities[role] for role in ROLES if role in modalities}


def _check_modality(adata: Any, name: str) -> None:
    if not isinstance(adata, AnnData):
        raise TypeError(f"mdata[{name!r}] is a {type(adata).__name__}; expected an anndata.AnnData.")
    if adata.n_obs == 0 or adata.n_vars == 0:
        raise ValueError(
            f"mdata[{name!r}] has {adata.n_obs} cells and {adata.n_vars} features; at least 1 of each is needed. Leave"
            " it out of modalities=, or check the filter that came before."
        )
    for axis, names in (("obs", adata.obs_names), ("var", adata.var_names)):
        if not names.is_unique:
            twice = names[names.duplicated()].unique()
            raise ValueError(
                f"mdata[{name!r}].{axis}_names holds {len(twice)} names more than once: {listing(twice, 5)}. Make them"
                f" unique first: mdata[{name!r}].{axis}_names_make_unique(), then mdata.update()."
            )


def _refuse_views(mdata: MuData, chosen: Mapping[str, str]) -> None:
    if mdata.is_view:
        raise ValueError("mdata is a view of another MuData; set up a copy of its own: mdata = mdata.copy().")
    for name in chosen.values():
        if mdata.mod[name].is_view:
            raise ValueError(
                f"mdata[{name!r}] is a view of another AnnData; set up a copy of its own: mdata.mod[{name!r}] ="
                f" mdata[{name!r}].copy(), then mdata.update()."
            )


def _check_roles(argument: str, given: Any, chosen: Mapping[str, str]) -> dict[str, Any]:
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


def _rows_by_name(mdata: MuData, name: str) -> np.ndarray:
    """Row of each cell in modality `name`, int64 (cells,), -1 = absent; ValueError if the MuData is out of date."""
    own, cells = mdata.mod[name].obs_names, mdata.obs_names
    rows = own.get_indexer(cells).astype(np.int64)
    step = (
        f"Cells of mdata[{name!r}] were renamed, replaced, added or reordered after the MuData was made: call"
        " mdata.update() and check mdata.obs before going on."
    )
    unknown = own[~own.isin(cells)]
    if len(unknown):
        raise ValueError(
            f"mdata[{name!r}] holds {len(unknown)} cells that mdata.obs_names lacks: {listing(unknown, 3)}. {step}"
        )
    if name in mdata.obsmap:
        recorded = np.asarray(mdata.obsmap[name]).ravel().astype(np.int64) - 1
        wrong = recorded != rows
        if wrong.any():
            i = int(np.argmax(wrong))
            says = "no row" if recorded[i] < 0 else f"row {recorded[i]}"
            holds = "nowhere" if rows[i] < 0 else f"in row {rows[i]}"
            raise ValueError(
                f"mdata.obsmap[{name!r}] contradicts the cell names for {wrong.sum()} of {len(cells)} cells: for"
                f" {cells[i]!r} it says {says}, but mdata[{name!r}] holds that cell {holds}. {step}"
            )
    return rows


def _places(
    mdata: MuData, chosen: Mapping[str, str], rows: Mapping[str, np.ndarray], key: str, argument: str
) -> dict[str, pd.Series]:
    """Where `key` is a column -> its values in the order of the cells, NaN where the place does not list the cell."""
    places = {}
    if key in mdata.obs:
        places["mdata.obs"] = check_column(mdata.obs, key, argument, "mdata.obs")
    for role, name in chosen.items():
        own, where = mdata.mod[name].obs, f"mdata[{name!r}].obs"
        if key in own:
            column = check_column(own, key, argument, where)
            aligned = column.set_axis(pd.RangeIndex(len(column))).reindex(rows[role])
            places[where] = aligned.set_axis(mdata.obs_names)
        copy = f"{name}:{key}"
        if copy in mdata.obs:
            places[f"mdata.obs[{copy!r}]"] = check_column(mdata.obs, copy, argument, "mdata.obs")
    return places


def _merge(places: Mapping[str, pd.Series], key: str, argument: str, absent: str | None) -> tuple[pd.Series, str]:
    """One column out of several: the first place that holds a value for a cell gives it; all must agree.

    `absent`: text that counts as no value, besides missing ones.
    """
    where, columns = list(places), list(places.values())
    text = np.full(len(columns[0]), None, dtype=object)
    source = np.full(len(text), -1)
    for p, column in enumerate(columns):
        own = as_text(column)
        has = pd.notna(own) & (own != absent)
        differ = has & (source >= 0) & (own != text)
        for q in np.unique(source[differ]):
            i = np.flatnonzero(differ & (source == q))
            i = i[~_same_numbers(columns[q].iloc[i], column.iloc[i])]
            if len(i):
                raise ValueError(
                    f"{argument}={key!r}: cell {column.index[i[0]]!r} is {text[i[0]]!r} in {where[q]} and"
                    f" {own[i[0]]!r} in {where[p]} ({len(i)} cells differ). Correct one of the two columns or drop it;"
                    " copies like 'rna:batch' in mdata.obs are renewed by mdata.pull_obs()."
                )
        new = has & (source < 0)
        text[new], source[new] = own[new], p
    used = sorted(set(source[source >= 0])) or list(range(len(columns)))
    found = ", ".join(where[p] for p in used)
    if len(used) == 1 or (source < 0).all():
        return columns[used[0]].rename(key), found
    values = np.full(len(text), np.nan, dtype=object)
    for p in used:
        values[source == p] = columns[p].astype(object).to_numpy()[source == p]
    return pd.Series(values, index=columns[0].index, name=key).infer_objects(), found


def _same_numbers(a: pd.Series, b: pd.Series) -> np.ndarray:
    """Pairs of numbers that differ by rounding only, e.g. float32 beside float64; all False for anything else."""
    if not (pd.api.types.is_numeric_dtype(a) and pd.api.types.is_numeric_dtype(b)):
        return np.zeros(len(a), dtype=bool)
    return np.isclose(a.to_numpy(dtype=float), b.to_numpy(dtype=float), rtol=1e-6, atol=0)


def _not_found(mdata: MuData, chosen: Mapping[str, str], key: str, argument: str) -> str:
    def own(columns: Iterable) -> list:
        return [c for c in columns if not str(c).startswith("_scvi")]

    frames = {"mdata.obs": own(mdata.obs.columns)}
    frames |= {f"mdata[{name!r}].obs": own(mdata.mod[name].obs.columns) for name in chosen.values()}
    has = "; ".join(f"{where}: {listing(columns, 30)}" for where, columns in frames.items())
    hint = nearest(key, [column for columns in reversed(frames.values()) for column in columns])
    return f"{argument}={key!r} is a column of neither mdata.obs nor a modality's obs.{hint} Available: {has}."


def _check_values(role: str, name: str, adata: AnnData, layer: Any, data_type: Any) -> tuple[ValueScan, DataType]:
    """:func:`check_matrix` of one modality; ATAC and protein must hold counts."""
    where = f"mdata[{name!r}]"
    if role not in COUNTS_ONLY:
        return speak_of(where, check_matrix, adata, role=role, layer=layer, data_type=data_type)
    check_option(f"data_types[{role!r}]", data_type, DATA_TYPES)
    if data_type == "lognorm":
        raise ValueError(
            f"data_types[{role!r}]='lognorm' is not supported: {COUNTS_ONLY[role]}. Name their layer with"
            f" layers={{{role!r}: ...}}."
        )
    try:
        scan, kind = speak_of(where, check_matrix, adata, role=role, layer=layer, data_type="auto")
    except ValueError as error:
        _refuse_no_counts(role, where, adata, layer)
        raise error from None
    if kind != "counts":
        _refuse_no_counts(role, where, adata, layer)
    return scan, kind


def _refuse_no_counts(role: str, where: str, adata: AnnData, layer: str | None) -> None:
    """ValueError if the values are finite, but negative or fractional; reads the matrix once more to tell where."""
    x = adata.X if layer is None else adata.layers[layer]
    if x is None:
        return
    scan = scan_values(x)
    kinds = [kind for kind in ("negative", "fractional") if kind in scan.first]
    if scan.n_nonfinite or not kinds:
        return
    cell, feature, value = scan.first[kinds[0]]
    matrix = f"{where}.X" if layer is None else f"{where}.layers[{layer!r}]"
    raise ValueError(
        f"{matrix} holds {getattr(scan, f'n_{kinds[0]}')} {kinds[0]} values (first {value:g} in cell"
        f" {adata.obs_names[cell]!r}, feature {adata.var_names[feature]!r}); {COUNTS_ONLY[role]}. Name their layer with"
        f" layers={{{role!r}: ...}}. {where}.layers holds: {listing(layer_names(adata))}."
    )


def speak_of(where: str, function: Callable[..., T], *args: Any, role: str = "", **kwargs: Any) -> T:
    """Call a check written for one AnnData; its errors and warnings then speak of `where` instead of ``adata``."""

    def words(text: Any) -> str:
        text = re.sub(r"\badata\b(?=[.,]| lacks)", lambda _: where, str(text))
        return text.replace("with layer=.", f"with layers={{{role!r}: ...}}.")

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result = function(*args, **kwargs)
        except (KeyError, TypeError, ValueError) as error:
            raise type(error)(words(error.args[0])) from None
    for warning in caught:
        warnings.warn(words(warning.message), warning.category, stacklevel=4)
    return result
