"""Cells measured in one or several modalities: where each modality holds them, and what describes them.

Rows are found by cell name. A cell that a modality does not list is missing there, which is not the same as a row of
zeros. All functions are pure: nothing of the data is changed, also when they fail.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData

from ._arguments import listing, nearest
from ._columns import as_text, check_column, value_text
from ._fields import RNA
from ._objects import check_modalities


@dataclass(frozen=True, eq=False)
class Cells:
    """The cells of a MuData (or AnnData) and where each modality holds them.

    A column of ``obs`` that one place holds completely keeps its dtype; one put together from several places holds
    their values. Missing values stay missing.
    """

    names: pd.Index  # every cell once, in the order of ``mdata.obs_names``
    adatas: dict[str, AnnData]  # role -> the user's AnnData of that modality, not copied
    rows: dict[str, np.ndarray]  # role -> int64 (cells,): row of the cell in that AnnData, -1 where it was not measured
    obs: pd.DataFrame  # (cells, keys): the columns that were looked up
    found: dict[str, str]  # key -> where, e.g. "mdata.obs" or "mdata['rna'].obs, mdata['prot'].obs"

    @property
    def present(self) -> np.ndarray:
        """Which cell was measured in which modality, bool (cells, modalities), columns in the order of `adatas`."""
        return np.stack([rows >= 0 for rows in self.rows.values()], axis=1)

    def __len__(self) -> int:
        return len(self.names)


def read_cells(
    data: MuData | AnnData,
    modalities: Mapping[str, str] | None,
    keys: Sequence[str] | Mapping[str, str] = (),
    *,
    labels_key: str | None = None,
    unlabeled_category: Any = "Unknown",
    optional: Sequence[str] = (),
) -> Cells:
    """Find every cell in every modality, by name, and the columns that describe the cells.

    A column is read from ``mdata.obs``, then, for cells without a value there, from the modalities' own ``obs`` and
    from the ``rna:batch``-like copies that mudata makes of them. All places that hold a value for a cell must hold the
    same one; values are compared as text (``1``, ``1.0`` and ``"1"`` are one value), numbers to seven digits.

    `data`: a MuData, views included, or an AnnData, which is read as RNA. `modalities`: role -> name in ``mdata.mod``.
    `keys`: columns to look up, or a dict of them and of the arguments that named them, for messages; `labels_key` is
    looked up as well, in it `unlabeled_category` counts as no value. `optional`: columns that may exist nowhere.
    """
    arguments = dict(keys) if isinstance(keys, Mapping) else dict.fromkeys(keys, "key")
    if labels_key is not None:
        arguments.setdefault(labels_key, "key")
    if isinstance(data, AnnData):
        keys = [key for key in arguments if key in data.obs or key not in optional]
        columns = {key: check_column(data.obs, key, arguments[key]) for key in keys}
        return cells_of(data, pd.DataFrame(columns, index=data.obs_names))
    chosen = check_modalities(data, modalities)
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


def cells_of(adata: AnnData, obs: pd.DataFrame) -> Cells:
    """The cells of an AnnData, which is read as RNA, with the columns `obs`."""
    rows = {RNA: np.arange(adata.n_obs, dtype=np.int64)}
    return Cells(adata.obs_names, {RNA: adata}, rows, obs, dict.fromkeys(obs, "adata.obs"))


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
        recorded = np.asarray(mdata.obsmap[name]).ravel().astype(np.int64) - 1  # from 1, 0 for absent, and unsigned
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
            aligned = column.set_axis(pd.RangeIndex(len(column))).reindex(rows[role])  # iloc takes -1 for the last
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
    text = np.stack([as_text(column) for column in columns])
    has = pd.notna(text) & (text != absent)
    source = np.where(has.any(0), has.argmax(0), -1)  # the place that gives the value of a cell
    for q, p in combinations(range(len(columns)), 2):
        i = np.flatnonzero((source == q) & has[p] & (text[p] != text[q]))
        i = i[~_same_numbers(columns[q].iloc[i], columns[p].iloc[i])]
        if len(i):
            raise ValueError(
                f"{argument}={key!r}: cell {columns[p].index[i[0]]!r} is {text[q, i[0]]!r} in {where[q]} and"
                f" {text[p, i[0]]!r} in {where[p]} ({len(i)} cells differ). Correct one of the two columns or drop it;"
                " copies like 'rna:batch' in mdata.obs are renewed by mdata.pull_obs()."
            )
    used = np.unique(source[source >= 0]).tolist()
    found = ", ".join(where[p] for p in used or range(len(columns)))
    if len(used) < 2:
        return columns[used[0] if used else 0].rename(key), found
    values = np.full(len(source), np.nan, dtype=object)
    for p in used:
        values[source == p] = columns[p].astype(object).to_numpy()[source == p]  # categories of places may differ
    return pd.Series(values, index=columns[0].index, name=key).infer_objects(), found  # numbers are numbers again


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
    hint = nearest(key, [column for columns in reversed(frames.values()) for column in columns])  # mdata.obs wins
    return f"{argument}={key!r} is a column of neither mdata.obs nor a modality's obs.{hint} Available: {has}."
