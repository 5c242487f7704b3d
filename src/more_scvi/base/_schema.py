"""What a model knows of the data it was set up with, and how it reads these and other data by that."""

import hashlib
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from mudata import MuData
from scvi import REGISTRY_KEYS

from more_scvi.base._strength import Strength, check_strength
from more_scvi.data._arguments import check_type, listing
from more_scvi.data._batches import as_new, batch_codes, batch_keys, batch_levels
from more_scvi.data._cells import Cells, cells_of, read_cells
from more_scvi.data._checks import speak_of
from more_scvi.data._columns import as_label_array, check_categories, check_genes, value_text
from more_scvi.data._covariates import CovariateDesign
from more_scvi.data._fields import RNA, features_key, read_links
from more_scvi.data._genes import GeneVocabulary, find_genes, naming_hint
from more_scvi.data._matrix import check_matrix
from more_scvi.data._measured import CellSet, Measured
from more_scvi.data._objects import check_anndata
from more_scvi.data._rows import RowReader
from more_scvi.data._spatial import niche_weights
from more_scvi.modalities._modality import get_modality

NEW_TO_QUERY = "Their cells count as not labelled; to learn new labels, add the data with MoRE.load_query_data."
NEW_LABELS = "Their cells count as not labelled; to learn new labels, set the data up again and make a new model."


@dataclass(frozen=True, eq=False)
class Schema:
    """Names, categories and places of the registered data."""

    setup: Mapping[str, Any]  # arguments of ``setup_anndata`` or ``setup_mudata``, resolved
    modalities: list[str]  # names, in order
    features: dict[str, np.ndarray]  # per modality, names of its features
    gene_names: dict[str, list[str]]  # per modality, genes that a backbone reads
    links: dict[str, sp.csr_matrix | None]  # per modality, (features, genes) or None
    batches: np.ndarray  # categories in the order of their codes
    labels: np.ndarray  # same; empty without labels
    covariates: CovariateDesign
    domains: list[tuple[str, tuple[str, ...]]]  # combinations of batch and measured modalities that occur
    patterns: np.ndarray  # bool (patterns, modalities): combinations of measured modalities that occur
    vocabulary: GeneVocabulary | None = None  # table of genes that knows them under other names

    @classmethod
    def of(cls, registry: Mapping[str, Any]) -> Self:
        """Read a registry as scvi-tools keeps it."""
        setup = registry["setup_args"]
        state = {key: field["state_registry"] for key, field in registry["field_registries"].items()}
        modalities = list(setup["modalities"]) if "modalities" in setup else [RNA]
        of = {name: state[features_key(name)] for name in modalities}
        batches = np.asarray(state[REGISTRY_KEYS.BATCH_KEY]["categorical_mapping"], dtype=object)
        labels = state.get(REGISTRY_KEYS.LABELS_KEY)
        domains = setup["domains"] if "modalities" in setup else [[batch, [RNA]] for batch in batches]
        patterns = setup["patterns"] if "modalities" in setup else [[RNA]]
        return cls(
            setup,
            modalities,
            {name: np.asarray(of[name]["column_names"], dtype=object) for name in modalities},
            {name: list(of[name]["gene_names"]) for name in modalities},
            {name: read_links(of[name]) for name in modalities},
            batches,
            np.array([]) if labels is None else np.asarray(labels["categorical_mapping"])[:-1],  # last: unlabelled
            CovariateDesign(**setup["covariate_design"]),
            [(batch, tuple(names)) for batch, names in domains],
            np.array([[name in pattern for name in modalities] for pattern in patterns]),
        )

    @property
    def is_query(self) -> bool:
        """Whether batches were added to a reference (:meth:`more_scvi.model.MoRE.load_query_data`)."""
        return "reference" in self.setup

    @property
    def n_trained(self) -> dict[str, int]:
        """How many of the batches, labels and domains, the first ones, the reference was trained on."""
        all_of = {"batches": len(self.batches), "labels": len(self.labels), "domains": len(self.domains)}
        return all_of | {name: int(n) for name, n in self.setup.get("reference", {}).items() if name in all_of}

    @property
    def is_mudata(self) -> bool:
        """Whether a MuData was set up."""
        return "modalities" in self.setup

    @property
    def names(self) -> dict[str, str]:
        """Modality → its name in a MuData."""
        return dict(self.setup["modalities"]) if self.is_mudata else {RNA: RNA}

    def strength(self, given: float | Mapping[str, float]) -> tuple[Strength, Strength]:
        """How much batches, and batches × measured modalities, are made alike."""
        keys = batch_keys(self.setup["batch_key"])
        of_batches = Strength(check_strength(given, keys), batch_levels(self.batches, len(keys)))
        batch = [np.flatnonzero(self.batches == name)[0] for name, _ in self.domains]
        kinds = {names: at for at, names in enumerate(dict.fromkeys(names for _, names in self.domains))}
        of_domains = Strength(of_batches.values, of_batches.levels[batch])
        if len(kinds) > 1:
            of_domains = of_domains.within(np.array([kinds[names] for _, names in self.domains]))
        return of_batches, of_domains

    @property
    def further(self) -> dict[str, dict[str, Any]]:
        """Modality that came with a query → its name in a MuData, features and type of values."""
        return self.setup.get("further", {})

    @cached_property
    def spatial(self) -> str | None:
        """The modality whose neighbours count; None: the data are not spatial."""
        return None if self.setup.get("spatial_key") is None else self.modalities[0]

    def data_type(self, modality: str) -> str:
        """``"counts"`` or ``"lognorm"``."""
        return self.setup["data_types"][modality] if self.is_mudata else self.setup["data_type"]

    def layer(self, modality: str) -> str | None:
        """Layer with the values; None: ``X``."""
        if modality in self.further:
            return None
        return self.setup["layers"][modality] if self.is_mudata else self.setup["layer"]

    def setup_of(self, data: AnnData | MuData) -> dict[str, Any]:
        """Arguments of setup that are others for data which lack a modality, or the column with labels."""
        cells, key = self.cells(data), self.setup["labels_key"]
        out: dict[str, Any] = {}
        if key is not None and len(self.labels) and key not in cells.obs:
            out["labels_key"] = None
        if self.is_mudata:
            here = [name for name in cells.adatas if name in self.modalities]
            out |= {what: {name: self.setup[what][name] for name in here} for what in ("modalities", "layers")}
        return out

    def modalities_of(self, mdata: Any) -> dict[str, str]:
        """Modality → name in a MuData, of those that the model knows and the MuData has; at least one."""
        check_type("mdata", mdata, MuData, "a mudata.MuData")
        known = self.names | {modality: entry["name"] for modality, entry in self.further.items()}
        here = {modality: name for modality, name in known.items() if name in mdata.mod}
        if not here:
            raise ValueError(
                f"mdata has the modalities {list(mdata.mod)}; the model knows {list(known.values())}. At least one"
                " of them is needed, under the name it had at setup."
            )
        return here

    # ---- reading
    def cells(self, data: AnnData | MuData) -> Cells:
        """Cells of any data; of a MuData those modalities that the model knows and the data have."""
        if not isinstance(data, MuData):
            check_anndata(data)
            if self.modalities[0] != RNA:
                known = ", ".join(self.names.values())
                raise TypeError(f"The model has no RNA modality; give a MuData with one of {known}, not an AnnData.")
            return cells_of(data, data.obs)
        here = self.modalities_of(data)
        setup = self.setup
        found = [*batch_keys(setup["batch_key"]), setup.get("section_key")]
        keys = [key for key in [*found, *self.covariates.levels, *self.covariates.moments] if key is not None]
        label = setup["labels_key"] if len(self.labels) else None
        return read_cells(
            data,
            here,
            keys,
            labels_key=label,
            unlabeled_category=setup["unlabeled_category"],
            optional=[*keys, label or ""],  # who reads a column knows what its absence means
        )

    def read(self, data: AnnData | MuData, given: Mapping[str, str]) -> CellSet:
        """Cells of any data with codes and matrices; the data are checked and only read.

        ``given``: modality → key of ``obsm`` with features that were computed elsewhere.
        """
        cells = self.cells(data)
        present = np.zeros((len(cells), len(self.modalities)), dtype=bool)
        own = [name for name in cells.adatas if name in self.modalities]
        for modality in own:
            present[:, self.modalities.index(modality)] = cells.rows[modality] >= 0
        codes = batch_codes(cells.obs, self.setup["batch_key"], self.batches)
        batch, domain = as_new(codes, self.n_trained["batches"]), self.domain_codes(codes, present)
        measured = {name: self._measured(cells, name, given.get(name)) for name in own}
        further = {name: self._further(cells, name) for name in cells.adatas if name not in own}
        covariates = self.covariates.transform(cells.obs)
        return CellSet(cells.names, measured, present, batch, domain, covariates, further)

    def check_complete(self, data: AnnData | MuData) -> None:
        """Refuse data for training that lack a modality or features that were there at setup.

        What is trained for a query needs a part of the features only.
        """
        cells = self.cells(data)
        own = {name: adata for name, adata in cells.adatas.items() if name in self.modalities}
        for modality, adata in own.items() if self.is_query else ():
            where = f"mdata[{self.names[modality]!r}]" if self.is_mudata else "adata"
            kind = get_modality(modality).features
            with warnings.catch_warnings(action="ignore"):  # said when they are read
                names = self.features[modality].tolist()
                speak_of(where, check_genes, adata.var_names, names, kind, self.finder(adata, modality))
        if self.is_query:
            return
        for modality in self.modalities:
            name = self.names[modality]
            if modality not in cells.adatas:
                raise ValueError(
                    f"mdata lacks the modality {name!r} that the model was trained on. Embed such data with"
                    " model = MoRE.load(dir, adata=False); model.get_latent_representation(mdata)."
                )
            adata, wanted = cells.adatas[modality], self.features[modality]
            missing = wanted[self.finder(adata, modality)(adata.var_names.astype(str))[0] < 0]
            if len(missing):
                where = f"mdata[{name!r}]" if self.is_mudata else "adata"
                raise ValueError(
                    f"{where} lacks {len(missing)} of the {len(wanted)} {get_modality(modality).features} that the"
                    f" model was set up with: {listing(missing, 3)}; it starts with {listing(adata.var_names, 3)}."
                    f"{naming_hint(adata.var_names, list(wanted))} Give data with all of them, or only embed these:"
                    " model.get_latent_representation(data)."
                )

    def check_unchanged(self, data: AnnData | MuData, recorded: pd.DataFrame) -> None:
        """Refuse to train on columns that are not what they were at setup.

        ``recorded``: the codes that setup wrote, by cell.
        """
        self.check_complete(data)
        obs = self.cells(data).obs
        then_names = recorded.index
        if not obs.index.equals(then_names) and not (then_names.is_unique and obs.index.isin(then_names).all()):
            raise ValueError(
                "The data hold cells that were not there at setup; register the data again (setup_anndata or"
                " setup_mudata) and make a new model."
            )
        with warnings.catch_warnings(action="ignore"):  # the error says what the warning would
            batch = np.maximum(batch_codes(obs, self.setup["batch_key"], self.batches), -1)  # as setup writes new ones
        now = {"batch": (self.setup["batch_key"], "_scvi_batch", batch)}
        labels = self.label_codes(data, say=True)
        if len(self.labels):
            now["labels"] = (self.setup["labels_key"], "_scvi_labels", labels)
        for word, (key, column, codes) in now.items():
            if column not in recorded:
                continue
            then = recorded[column].reindex(obs.index).to_numpy()
            if word == "labels":
                then = np.where(then < len(self.labels), then, -1)  # setup codes the unlabelled as the last category
            if not np.array_equal(then, codes):
                raise ValueError(
                    f"obs[{key!r}] was changed after setup: {int((then != codes).sum())} of {len(codes)} cells have"
                    f" other {word} now. Register the data again (setup_anndata or setup_mudata) and make a new model."
                )

    def label_codes(self, data: AnnData | MuData, say: bool = False) -> np.ndarray:
        """Codes of visible labels, (cells,); -1 = not labelled. ``say``: warn of labels that are not known."""
        obs, key, mark = self.cells(data).obs, self.setup["labels_key"], self.setup["unlabeled_category"]
        if key not in obs:
            return np.full(len(obs), -1, dtype=np.int64)
        values = as_label_array(obs[key], mark)
        if say:
            where = "mdata" if self.is_mudata else "adata"
            advice = NEW_TO_QUERY if self.is_query else NEW_LABELS
            speak_of(where, check_categories, values, [*self.labels, value_text(mark)], key, advice)
        return pd.Index(self.labels).get_indexer(values)

    def domain_codes(self, batch: np.ndarray, present: np.ndarray) -> np.ndarray:
        """Codes of batch × measured modalities, (cells,); -1 for combinations that were not there at setup."""
        bits = 1 << np.arange(present.shape[1])
        codes = np.full(len(batch), -1, dtype=np.int64)
        for code, (name, modalities) in enumerate(self.domains):
            pattern = sum(int(bits[self.modalities.index(modality)]) for modality in modalities)
            codes[(batch == np.flatnonzero(self.batches == name)[0]) & (present @ bits == pattern)] = code
        return codes

    def _measured(self, cells: Cells, modality: str, given: str | None) -> Measured:
        """One modality of the cells, its features in the order of the model."""
        adata, rows, kind = cells.adatas[modality], cells.rows[modality], self.data_type(modality)
        where = "adata" if cells.obs is adata.obs else f"mdata[{self.names[modality]!r}]"
        entry = get_modality(modality)
        names = self.features[modality].tolist()
        order = speak_of(where, check_genes, adata.var_names, names, entry.features, self.finder(adata, modality))
        what = {"layer": self.layer(modality), "data_type": kind, "rules": entry.values}
        speak_of(where, check_matrix, adata, role=modality, query=True, **what)
        owner = _owners(rows)
        return Measured(
            modality,
            RowReader(adata, self.layer(modality), order),
            owner,
            kind != "counts",
            self.gene_names[modality],
            self.links[modality],
            None
            if modality != self.spatial
            else speak_of(where, niche_weights, adata, cells.obs.iloc[owner], self.setup),
            None if given is None else obsm_features(adata, given),
            None if order is None or (order >= 0).all() else order >= 0,
        )

    def _further(self, cells: Cells, modality: str) -> Measured:
        """As :meth:`_measured`, of a modality that came with a query."""
        entry, adata, kind = self.further[modality], cells.adatas[modality], get_modality(modality)
        where, features = f"mdata[{entry['name']!r}]", list(entry["features"])
        order = speak_of(where, check_genes, adata.var_names, features, kind.features)
        speak_of(where, check_matrix, adata, role=modality, query=True, data_type=entry["data_type"], rules=kind.values)
        visible = None if order is None or (order >= 0).all() else order >= 0
        owner, normalised = _owners(cells.rows[modality]), entry["data_type"] != "counts"
        return Measured(modality, RowReader(adata, None, order), owner, normalised, [], visible=visible)

    def finder(self, adata: AnnData, modality: str) -> Callable[[pd.Index], tuple[np.ndarray, Mapping[str, int]]]:
        """Finds the features of a modality among names, those that are genes also under other ones."""
        features, genes = self.features[modality], self.gene_names[modality]
        if self.links[modality] is not None:
            return lambda names: (names.get_indexer(features), {})
        key = self.setup.get("gene_key")
        column = adata.var[key].astype(str).tolist() if key is not None and key in adata.var else None
        return lambda names: find_genes(names, column, features.tolist(), genes, self.vocabulary)

    def fingerprint(self, data: AnnData | MuData, given: Mapping[str, str]) -> str:
        """Digest of all that answers follow from: names, values, and the columns that are read.

        The same data give the same digest; data that were changed, re-ordered or replaced in place give another.
        """
        cells, digest = self.cells(data), hashlib.blake2b(digest_size=16)
        keys = [*batch_keys(self.setup["batch_key"]), self.setup.get("section_key"), self.setup["labels_key"]]
        keys += [*self.covariates.levels, *self.covariates.moments]
        _add_index(digest, cells.names)
        for key in keys:
            if key is not None and key in cells.obs:
                _add_index(digest, pd.Index(cells.obs[key].astype(str)))
        for modality, adata in cells.adatas.items():
            _add_index(digest, adata.var_names)
            if (names := self.setup.get("gene_key")) is not None and names in adata.var:
                _add_index(digest, pd.Index(adata.var[names].astype(str)))
            digest.update(cells.rows[modality].tobytes())
            places = [key for key in (given.get(modality), self.setup.get("spatial_key")) if key in adata.obsm]
            for values in (_matrix(adata, self.layer(modality)), *(adata.obsm[key] for key in places)):
                _add_values(digest, values)
        return digest.hexdigest()


def _owners(rows: np.ndarray) -> np.ndarray:
    """Cell of each row that a modality holds, in the order of the rows; ``rows``: row of each cell, -1 = none."""
    here = np.flatnonzero(rows >= 0)
    owner = np.empty(len(here), dtype=np.int64)
    owner[np.argsort(np.argsort(rows[here]))] = here
    return owner


def obsm_features(adata: AnnData, key: str) -> np.ndarray:
    """Precomputed features in ``obsm``, (cells, features) float32, checked to be finite."""
    if key not in adata.obsm:
        raise KeyError(f"obsm_key {key!r} is not in adata.obsm; it holds {list(adata.obsm)}.")
    values = adata.obsm[key]
    features = np.asarray(values.toarray() if sp.issparse(values) else values, dtype=np.float32)
    if features.ndim != 2 or not np.isfinite(features).all():
        bad = ~np.isfinite(features).reshape(len(features), -1).all(1)
        raise ValueError(
            f"adata.obsm[{key!r}] must be a finite (cells, features) array; got shape {features.shape} with"
            f" {int((~np.isfinite(features)).sum())} values that are not finite, in {int(bad.sum())} cells"
            f" ({', '.join(map(repr, adata.obs_names[bad][:3]))}). Rows that a tool dropped are NaN after reindex:"
            " leave such cells out, adata[numpy.isfinite(features).all(1)].copy(), or compute their features."
        )
    return features


def _matrix(adata: AnnData, layer: str | None) -> Any:
    return adata.X if layer is None else adata.layers[layer]


def _add_index(digest: Any, index: pd.Index) -> None:
    digest.update(pd.util.hash_pandas_object(index, index=False).to_numpy().tobytes())


def _add_values(digest: Any, values: Any) -> None:
    """Add a matrix: its buffers, or for one on disk its rows, block by block."""
    if sp.issparse(values):
        parts = [getattr(values, name) for name in ("data", "indices", "indptr", "row", "col") if hasattr(values, name)]
    elif hasattr(values, "to_numpy"):  # obsm may hold a DataFrame
        parts = [values.to_numpy()]
    else:
        parts = [values]
    # matrices that differ in shape or type can have the same bytes
    digest.update(f"{type(values).__name__}{values.shape}{getattr(values, 'dtype', '')}".encode())
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(np.ascontiguousarray(part).data)
            continue
        for start in range(0, part.shape[0], 4096):
            block = part[start : start + 4096]
            _add_values(digest, sp.csr_matrix(block) if sp.issparse(block) else np.asarray(block))
