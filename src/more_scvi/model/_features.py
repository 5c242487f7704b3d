"""From registered or other data to the arrays that the module reads; the heavy part, done once per data set."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from anndata import AnnData
from mudata import MuData

from more_scvi._compat import parse_device_args
from more_scvi.backbones import compute_features, make_panels
from more_scvi.data import (
    BatchField,
    Cells,
    LabelsField,
    RowReader,
    batch_codes,
    check_anndata,
    check_genes,
    check_matrix,
    match_genes,
    niche_means,
    read_cells,
    speak_of,
)
from more_scvi.model._inside import joined_inside
from more_scvi.model._prepare import MatrixPass, Measured, covered, masked_views, path_shares, scatter, scatter_rows
from more_scvi.model._setup import niche_weights
from more_scvi.model._state import ModelState
from more_scvi.module import MIN_PAIRS, ModalityBase
from more_scvi.train import MaskedTargets, TrainingArrays

N_LINKED_GENES = 2000
"""Most genes by which a modality is linked to another. Source: plain value."""


class FeaturesMixin(ModelState):
    """Arrays of registered and of other data."""

    # ---- what was measured

    def _data_type(self, role: str) -> str:
        args = self._setup_args
        return args["data_types"][role] if self.is_mudata else args["data_type"]

    def _layer(self, role: str) -> str | None:
        args = self._setup_args
        return args["layers"][role] if self.is_mudata else args["layer"]

    def _modality_names(self) -> dict[str, str]:
        """Role -> name in a MuData."""
        return self._setup_args["modalities"] if self.is_mudata else {"rna": "rna"}

    def _cells_of(self, data: AnnData | MuData) -> Cells:
        """Cells of any data; of a MuData those modalities that the model knows and the data have."""
        if not isinstance(data, MuData):
            check_anndata(data)
            if self.roles[0] != "rna":
                known = ", ".join(self._setup_args["modalities"].values())
                raise TypeError(f"The model has no RNA modality; give a MuData with one of {known}, not an AnnData.")
            rows = {"rna": np.arange(data.n_obs, dtype=np.int64)}
            return Cells(data.obs_names, {"rna": data}, rows, data.obs, {})
        names = self._modality_names()
        here = {role: name for role, name in names.items() if name in data.mod}
        if not here:
            raise ValueError(
                f"mdata has the modalities {list(data.mod)}; the model knows {list(names.values())}. At least one of"
                " them is needed, under the name it had at setup."
            )
        args = self._setup_args
        keys = [args["batch_key"], args.get("section_key"), *self.covariates.levels, *self.covariates.moments]
        keys = [key for key in keys if key is not None]
        label = args["labels_key"] if len(self.labels) else None
        return read_cells(
            data,
            here,
            keys,
            labels_key=label,
            unlabeled_category=args["unlabeled_category"],
            optional=[*keys, *([label] if label else [])],
        )

    def _measured(self, cells: Cells, role: str, registered: bool) -> Measured:
        """One modality of the cells, its features in the order of the model."""
        adata, rows, args = cells.adatas[role], cells.rows[role], self._setup_args
        order = None
        if not registered:
            where = "adata" if cells.obs is adata.obs else f"mdata[{self._modality_names()[role]!r}]"
            order = speak_of(where, check_genes, adata.var_names, self.features[role].tolist())
            speak_of(where, check_matrix, adata, role=role, layer=self._layer(role), data_type=self._data_type(role))
        here = np.flatnonzero(rows >= 0)
        owner = np.empty(len(here), dtype=np.int64)
        owner[np.argsort(np.argsort(rows[here]))] = here
        niche = None
        if args.get("spatial_key") is not None and role == self.roles[0]:
            niche = niche_weights(adata, cells.obs.iloc[owner], args)
        given = None
        if self._obsm_key is not None and role in self._frozen_roles:
            given = obsm_features(adata, self._obsm_key)
        reader = RowReader(adata, self._layer(role), order)
        normalised = self._data_type(role) == "lognorm"
        return Measured(role, reader, owner, normalised, self.gene_names[role], self.links[role], niche, given)

    # ---- codes

    def _codes(self, cells: Cells) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Batch codes, label codes (-1 = not labelled) and covariates of the registered data."""
        args, frame = self._setup_args, _frame(cells)
        batch = BatchField(args["batch_key"]).codes(frame, self.batches)
        labels = np.full(len(cells), -1, dtype=np.int64)
        if len(self.labels):
            field = LabelsField(args["labels_key"], args["unlabeled_category"])
            codes = field.codes(frame, np.append(self.labels, field.unlabeled_category))
            labels = np.where(codes < len(self.labels), codes, -1)
        return batch, labels, self.covariates.transform(frame)

    def _domain_codes(self, batch: np.ndarray, present: np.ndarray) -> np.ndarray:
        """Codes of batch × measured modalities, (cells,); -1 for combinations that were not there at setup."""
        bits = 1 << np.arange(present.shape[1])
        codes = np.full(len(batch), -1, dtype=np.int64)
        for code, (name, roles) in enumerate(self.domains):
            pattern = sum(int(bits[self.roles.index(role)]) for role in roles)
            codes[(batch == np.flatnonzero(self.batches == name)[0]) & (present @ bits == pattern)] = code
        return codes

    def _batch_codes(self, cells: Cells) -> np.ndarray:
        """Codes of known batches; every new batch gets a negative code of its own."""
        return batch_codes(cells.obs, self._setup_args["batch_key"], self.batches, stacklevel=5)

    # ---- arrays

    def _training_arrays(self, accelerator: str = "cpu", devices: Any = "auto") -> TrainingArrays:
        """Arrays of all registered cells; the heavy part, done once per model."""
        if self._arrays is not None:
            return self._arrays
        module, cells = self.module, self._cells_of(self.adata)
        batch, labels, covariates = self._codes(cells)
        n_cells, present = len(cells), cells.present
        new = not bool(module.fitted)
        bases, shifted, wides, views, targets, passes = [], [], [], [], {}, {}
        for role in self.roles:
            measured = self._measured(cells, role, registered=True)
            part = _ModalityArrays(
                self, measured, batch[measured.cells], covariates[measured.cells], new, accelerator, devices
            )
            passes[role] = part
            bases.append(scatter(part.base, measured.cells, n_cells))
            shifted.append(scatter(part.shifted, measured.cells, n_cells))
            wides.append(scatter(part.wide, measured.cells, n_cells))
            views.append(scatter(part.views, measured.cells, n_cells))
            totals = scatter(part.totals, measured.cells, n_cells)
            targets[role] = MaskedTargets(part.hidden, scatter_rows(part.target, measured.cells, n_cells), totals)
        base = bases[0] if len(bases) == 1 else np.concatenate(bases, 1)
        if new:
            module.fit_space(base, present, self._gene_bridge(passes, present))
        wides.append(module.link_coordinates(base, present))
        if module.classifier is not None:
            seen = np.bincount(labels[labels >= 0], minlength=module.n_labels) > 0
            module.classifier.open_classes.copy_(torch.from_numpy(seen))
        self._arrays = TrainingArrays(
            shifted[0] if len(shifted) == 1 else np.concatenate(shifted, 1),
            present,
            np.concatenate(wides, 1) if wides[-1].shape[1] or len(wides) > 2 else wides[0],
            (views[0] if len(views) == 1 else np.concatenate(views, 2)) if self.n_views else None,
            targets,
            batch,
            self._domain_codes(batch, present),
            labels,
            inside=joined_inside([(part.inside, part.measured.cells) for part in passes.values()], n_cells),
        )
        return self._arrays

    def _gene_bridge(
        self, parts: dict[str, _ModalityArrays], present: np.ndarray
    ) -> dict[str, tuple[np.ndarray, list[str]]]:
        """Values of the genes that several modalities speak of, where some modalities share no cell."""
        both = present.T.astype(np.int64) @ present
        if len(parts) == 1 or (both >= MIN_PAIRS).all():
            return {}
        names = {role: self._gene_identities(role) for role in parts}
        counts: dict[str, int] = {}
        for role in parts:
            for name in set(names[role]):
                counts[name] = counts.get(name, 0) + 1
        out = {}
        for role, part in parts.items():
            wanted = list(dict.fromkeys(name for name in names[role] if counts[name] > 1))[:N_LINKED_GENES]
            if not wanted:
                continue
            column = {name: at for at, name in enumerate(wanted)}
            at = [column.get(name, -1) for name in names[role]]
            known = np.flatnonzero(np.array(at) >= 0)
            choose = sp.csr_matrix(
                (np.ones(len(known), np.float32), (known, np.array(at)[known])), (len(at), len(wanted))
            )
            links = choose if part.measured.links is None else part.measured.links @ choose
            out[role] = (part.matrix.gene_values(links), wanted)
        return out

    def _gene_identities(self, role: str) -> list[str]:
        """One name per gene of a modality, the same for symbols and Ensembl ids that a backbone knows."""
        names = [name.casefold() for name in self.gene_names[role]]
        if self.backbone is not None and self.backbone.vocabulary is not None:
            index = match_genes(self.gene_names[role], self.backbone.vocabulary).vocab_index
            names = [name if i < 0 else f"#{i}" for name, i in zip(names, index, strict=True)]
        return names

    def _base_of(self, data: AnnData | MuData) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Bases, measured modalities, wide views and domain codes of other data, which are only read."""
        module = self.module
        if not bool(module.fitted):
            raise ValueError(
                "The model has not seen its own data yet; call model.train() before asking for other data."
            )
        cells = self._cells_of(data)
        batch = self._batch_codes(cells)
        covariates = self.covariates.transform(_frame(cells))
        present = np.zeros((len(cells), len(self.roles)), dtype=bool)
        base = np.zeros((len(cells), sum(module.widths)), np.float32)
        wide = np.zeros((len(cells), sum(module.wide_widths)), np.float32)
        added = None
        for at, role in enumerate(self.roles):
            if role not in cells.adatas:
                continue
            measured = self._measured(cells, role, registered=False)
            part = module.base(role)
            direct, direct_wide = MatrixPass(measured, part).features()
            features = {"direct": direct}
            cache = self._frozen_features(
                measured, np.zeros((0, len(measured.gene_names)), bool), str(self.device.type)
            )
            if cache is not None:
                features["frozen"] = np.asarray(cache.full, np.float32)
            if measured.niche is not None:
                features["niche"] = _niche(features, measured.niche)
            rows = measured.cells
            own = part.transform({k: features[k] for k in part.path_names}, batch[rows], covariates[rows])
            base[rows, module.columns(role)] = own
            wide[rows, module.wide_columns(role)] = _wide(part, part.centre_wide(direct_wide, batch[rows]), own)
            present[rows, at] = True
            own_added = self._added_to(measured, features, batch[rows], covariates[rows])
            added = added if own_added is None else scatter(own_added, rows, len(cells))
        wide = np.concatenate([wide, module.link_coordinates(base, present)], 1)
        for at, role in enumerate(self.roles):
            rows = np.flatnonzero(present[:, at])
            base[rows, module.columns(role)] = module.base(role).shift(base[rows, module.columns(role)], batch[rows])
        if added is not None:
            self._with_added(base, added)
        return base, present, wide, self._domain_codes(batch, present)

    def _frozen_features(self, measured: Measured, panels: np.ndarray, accelerator: str = "cpu", devices: Any = "auto"):
        """Cached frozen features of a modality, or None where the backbone does not read it."""
        if self.backbone is None or not self._is_frozen(measured.name):
            return None
        _, _, device = parse_device_args(accelerator=accelerator, devices=devices, return_device="torch")
        return compute_features(
            self.backbone,
            measured.source,
            measured.gene_names,
            panels=panels,
            normalised=measured.normalised,
            cache_dir=self.cache_dir,
            device=str(device),
        )


class _ModalityArrays:
    """Arrays of one modality of the registered cells: one row per cell that has it."""

    def __init__(self, model, measured: Measured, batch, covariates, new: bool, accelerator: str, devices: Any):
        part: ModalityBase = model.module.base(measured.name)
        self.measured, self.matrix = measured, MatrixPass(measured, part)
        n_genes = len(measured.gene_names) if measured.links is not None else measured.reader.shape[1]
        gene_panels = make_panels(max(n_genes, 1), model.n_views, seed=0)[:, :n_genes]
        panels = measured.feature_panels(gene_panels)
        cache = model._frozen_features(measured, gene_panels, accelerator, devices)
        if new:
            self.matrix.fit(batch, model.module.n_batch)
            part.targets.copy_(part.direct.features[: len(part.targets)])
        direct, wide, direct_views, self.target, self.totals = self.matrix.training(panels, part.targets.cpu().numpy())
        full, views = {"direct": direct}, {"direct": direct_views}
        if cache is not None:
            full["frozen"] = np.asarray(cache.full, np.float32)
            shape = (len(direct), len(panels), full["frozen"].shape[1])
            views["frozen"] = cache.views if cache.views.shape[1] else np.zeros(shape, np.float32)
        if measured.niche is not None:
            full["niche"] = _niche(full, measured.niche)
            views["niche"] = np.repeat(full["niche"][:, None], len(panels), 1)
        full = {name: full[name] for name in part.path_names}
        if new:
            coverage = 1.0
            if {"frozen", "direct"} <= set(full):
                blocks = np.split(full["frozen"], model.backbone.n_pooled, axis=1)  # training finds the best of them
                coverage = max(covered(block, direct, batch) for block in blocks)
            shares = path_shares(part.path_names, len(direct), model.overlaps[measured.name], coverage)
            self.base = part.fit(full, batch, covariates, shares)
            model.module.decoders[measured.name].fit_average(self.target, self.totals)
        else:
            self.base = part.transform(full, batch, covariates)
        if new:
            part.fit_wide(wide, batch)
        self.wide = _wide(part, part.centre_wide(wide, batch), self.base)
        self.shifted = part.shift(self.base, batch)
        self.inside = model._inside_arrays(measured, full, batch, covariates, accelerator, devices)
        self.views = masked_views(part, views, full, batch, covariates, len(panels))
        self.hidden = ~panels[:, part.targets.cpu().numpy()]


def _niche(features: dict[str, np.ndarray], weights: sp.csr_matrix) -> np.ndarray:
    """Mean of the neighbours' frozen and direct features, (rows, sum of widths)."""
    both = [np.asarray(features[name], np.float32) for name in ("frozen", "direct") if name in features]
    return niche_means(np.concatenate(both, 1), weights)


def _wide(part: ModalityBase, direct: np.ndarray, base: np.ndarray) -> np.ndarray:
    """Wide view of a modality: its own columns, and the niche of spatial data."""
    return direct if part.niche_columns is None else np.concatenate([direct, base[:, part.niche_columns]], 1)


def _frame(cells: Cells) -> AnnData:
    """The columns of the cells as an AnnData, which the fields read."""
    only = next(iter(cells.adatas.values()))
    return only if cells.obs is only.obs else AnnData(obs=cells.obs)


def obsm_features(adata: AnnData, key: str) -> np.ndarray:
    """Precomputed features in ``obsm``, (cells, features) float32, checked to be finite."""
    if key not in adata.obsm:
        raise KeyError(f"obsm_key {key!r} is not in adata.obsm; it holds {list(adata.obsm)}.")
    features = np.asarray(adata.obsm[key], dtype=np.float32)
    if features.ndim != 2 or not np.isfinite(features).all():
        raise ValueError(
            f"adata.obsm[{key!r}] must be a finite (cells, features) array; got shape {features.shape} with"
            f" {int((~np.isfinite(features)).sum())} values that are not finite. Recompute it, or drop these"
            " cells."
        )
    return features
