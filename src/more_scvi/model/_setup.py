"""Registration of data: what ``setup_anndata`` and ``setup_mudata`` check and record."""

import logging
import os
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from mudata import MuData

from more_scvi.data._arguments import check_integer, check_mapping, check_number, check_option
from more_scvi.data._batches import BatchKey, batch_keys, check_batch_key
from more_scvi.data._cells import Cells, read_cells
from more_scvi.data._checks import check_mudata, check_setup, speak_of
from more_scvi.data._columns import check_key_list
from more_scvi.data._covariates import CovariateDesign
from more_scvi.data._fields import (
    RNA,
    BatchField,
    DataManager,
    FeaturesField,
    LabelsField,
    MatrixField,
    features_key,
    read_links,
)
from more_scvi.data._spatial import niche_weights
from more_scvi.modalities._modality import get_modality, list_modalities
from more_scvi.model._registry import RegistryMixin

logger = logging.getLogger("more_scvi")

COLUMNS = ("batch_key", "labels_key", "unlabeled_category", "categorical_covariate_keys", "continuous_covariate_keys")
"""Setup arguments that name columns of cells, and what they hold."""

RESOLVED = ("covariate_design", "domains", "patterns", "data_types", "n_coordinates", "reference", "further")
"""Setup arguments that setup itself adds; they are carried over when other data are set up like the first."""


class SetupMixin(RegistryMixin):
    """``setup_anndata`` and ``setup_mudata``."""

    @classmethod
    def setup_anndata(
        cls,
        adata: AnnData,
        layer: str | None = None,
        batch_key: BatchKey = None,
        labels_key: str | None = None,
        unlabeled_category: str = "Unknown",
        categorical_covariate_keys: list[str] | None = None,
        continuous_covariate_keys: list[str] | None = None,
        gene_key: str | None = None,
        data_type: str = "auto",
        spatial_key: str | None = None,
        section_key: str | None = None,
        n_neighbors: int | None = None,
        radius: float | None = None,
        **kwargs: Any,
    ) -> None:
        """Register an AnnData: say where counts, batches and labels are.

        Parameters
        ----------
        adata
            Cells × genes, sparse or dense, in memory or backed.
        layer
            Layer with counts or log-normalised values; ``None`` reads ``adata.X``. For counts in ``adata.raw``,
            whose genes may be others, give ``adata.raw.to_adata()``.
        batch_key
            Column of ``adata.obs`` to integrate over (donor, platform, study, ...), or a list of several: every
            combination of their values that occurs is a batch, and ``MoRE(strength={...})`` gives each its own
            strength.
        labels_key
            Column of ``adata.obs`` with cell types; cells with ``unlabeled_category`` or a missing value are
            not labelled.
        unlabeled_category
            Value that means "not labelled".
        categorical_covariate_keys, continuous_covariate_keys
            Further nuisance columns whose linear effect is removed from the base.
        gene_key
            Column of ``adata.var`` with gene symbols or Ensembl ids (human or mouse) for the backbone;
            ``None`` uses ``adata.var_names``.
        data_type
            ``"counts"``, ``"lognorm"`` (log1p of counts per 10,000) or ``"auto"``.
        spatial_key
            Key of ``adata.obsm`` with coordinates, (cells, 2) or (cells, 3): the mean features of a cell's spatial
            neighbours (its niche) join its own. ``None``: not spatial.
        section_key
            Column of ``adata.obs`` with the section of each cell; neighbours never cross sections. ``None``: the batch.
        n_neighbors, radius
            Neighbours: the nearest ``n_neighbors`` (6 if neither is given) or all within ``radius`` (in units of the
            coordinates).

        Raises
        ------
        TypeError, KeyError, ValueError
            See :func:`more_scvi.data.check_setup`; the AnnData is unchanged then.

        Notes
        -----
        Writes ``obs["_scvi_batch"]``, ``obs["_scvi_labels"]`` and two identifiers in ``uns``, as scvi-tools does.
        """
        batch_key = check_batch_key(batch_key)
        categorical_covariate_keys = check_key_list("categorical_covariate_keys", categorical_covariate_keys)
        continuous_covariate_keys = check_key_list("continuous_covariate_keys", continuous_covariate_keys)
        setup_method_args = cls._get_setup_method_args(**locals())  # before other locals, as all are recorded
        arguments = setup_method_args["setup_args"]
        columns = {key: arguments[key] for key in COLUMNS}
        summary = check_setup(adata, layer=layer, gene_key=gene_key, data_type=data_type, **columns)
        check_niche(adata, "adata", arguments)
        if spatial_key is not None:
            _check_places("adata", adata, adata.obs, arguments, kwargs.get("source_registry") or {})
        arguments["data_type"] = summary.data_type
        arguments["covariate_design"] = _design(adata, arguments)
        fields = [MatrixField(layer, gene_key), BatchField(batch_key)]
        cls._register(adata, fields, setup_method_args, bool(summary.labels), kwargs)

    @classmethod
    def setup_mudata(
        cls,
        mdata: MuData,
        modalities: Mapping[str, str],
        batch_key: BatchKey = None,
        labels_key: str | None = None,
        layers: Mapping[str, str | None] | None = None,
        unlabeled_category: str = "Unknown",
        categorical_covariate_keys: list[str] | None = None,
        continuous_covariate_keys: list[str] | None = None,
        gene_key: str | None = None,
        peak_genes: str | os.PathLike | pd.DataFrame | tuple[sp.spmatrix, Any] | None = None,
        antibody_genes: Mapping[str, str] | None = None,
        data_type: str = "auto",
        spatial_key: str | None = None,
        section_key: str | None = None,
        n_neighbors: int | None = None,
        radius: float | None = None,
        feature_genes: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Register a MuData: say which modality is what, and where counts, batches and labels are.

        Cells need not have every modality: a cell that a modality does not list was not measured there, which is not
        the same as zeros. Rows are matched by cell name, in any order.

        Parameters
        ----------
        mdata
            The modalities, sparse or dense, with raw counts (RNA may be log-normalised).
        modalities
            Which modality is what, e.g. ``{"rna": "rna", "atac": "peaks", "protein": "adt"}``: any of
            :func:`more_scvi.modalities.list_modalities` to names in ``mdata.mod``.
        batch_key, labels_key
            Columns of ``mdata.obs`` or of the modalities' own ``obs``, which must agree where several hold a value.
            ``batch_key`` may be a list, as in :meth:`setup_anndata`.
        layers
            Role to layer with the values; roles that are not named use ``X``.
        unlabeled_category, categorical_covariate_keys, continuous_covariate_keys
            As in :meth:`setup_anndata`.
        gene_key
            Column of the RNA modality's ``var`` with gene symbols or Ensembl ids; ``None``: its ``var_names``.
        peak_genes
            What genes the peaks speak of: a column of the ATAC modality's ``var`` with gene names (several separated
            by ``,`` or ``;``); a gene annotation with columns ``symbol``, ``chrom``, ``start``, ``end``, ``strand`` as
            DataFrame or path (peaks in the gene's body or 2 kb upstream count for it); or ``(matrix, genes)`` with a
            peaks × genes matrix. ``None``: not known.
        antibody_genes
            Gene symbol per antibody, for antibodies that :func:`more_scvi.modalities.match_antibodies` does not know;
            ``""`` for none.
        data_type
            Of the RNA: ``"counts"``, ``"lognorm"`` or ``"auto"``.
        spatial_key, section_key, n_neighbors, radius
            As in :meth:`setup_anndata`; coordinates are in ``obsm`` of the RNA modality (of the first modality
            without RNA).
        feature_genes
            Of a modality of your own (:func:`more_scvi.modalities.register_modality`), by its name: what genes its
            features speak of, as a column of its ``var`` or a pair (features × genes matrix, genes).

        Raises
        ------
        TypeError, KeyError, ValueError
            See :func:`more_scvi.data.check_mudata`; cells without any of the modalities are named.

        Notes
        -----
        The MuData is not changed; the registration is kept beside it while it lives.

        Examples
        --------
        >>> more.MoRE.setup_mudata(mdata, {"rna": "rna", "protein": "prot"}, batch_key="donor", labels_key="cell_type")
        >>> model = more.MoRE(mdata)
        """
        batch_key = check_batch_key(batch_key)
        categorical_covariate_keys = check_key_list("categorical_covariate_keys", categorical_covariate_keys)
        continuous_covariate_keys = check_key_list("continuous_covariate_keys", continuous_covariate_keys)
        setup_method_args = cls._get_setup_method_args(**locals())  # before other locals, as all are recorded
        arguments = setup_method_args["setup_args"]
        source = kwargs.get("source_registry") or {}
        cells, summaries = check_mudata(
            mdata,
            modalities=modalities,
            layers=layers,
            data_types={RNA: data_type} if isinstance(modalities, Mapping) and RNA in modalities else None,
            rules={name: get_modality(name).values for name in list_modalities()},
            **{key: arguments[key] for key in COLUMNS},
        )
        genes_given = check_mapping("feature_genes", feature_genes)
        own = [role for role in cells.adatas if get_modality(role).genes_argument is None]
        for role in genes_given:
            check_option("a key of feature_genes", role, own)
        first = next(iter(cells.adatas))
        where, adata = f"mdata[{modalities[first]!r}]", cells.adatas[first]
        check_niche(adata, where, arguments if spatial_key is None else {**arguments, "section_key": None})
        if spatial_key is not None:  # refuse unknown sections and bad coordinates now, not in train()
            keys = batch_keys(section_key or batch_key)
            obs = read_cells(mdata, modalities, keys).obs.loc[adata.obs_names]
            _check_places(where, adata, obs, arguments, source)
        for key, where in cells.found.items():
            logger.info("%r is read from %s.", key, where)
        frame = AnnData(obs=cells.obs)
        arguments["modalities"] = {role: modalities[role] for role in cells.adatas}
        arguments["layers"] = {role: (layers or {}).get(role) for role in cells.adatas}
        arguments["data_types"] = {role: summary.data_type for role, summary in summaries.items()}
        arguments["covariate_design"] = _design(frame, arguments)
        batch_field = BatchField(batch_key)
        arguments["domains"], arguments["patterns"] = find_domains(cells, batch_field.values(frame))
        fields: list[Any] = []
        for role, adata in cells.adatas.items():
            kind = get_modality(role)
            if source:
                state = source["field_registries"][features_key(role)]["state_registry"]
                names, links = list(state["gene_names"]), read_links(state)
            else:
                given = genes_given.get(role) if kind.genes_argument is None else arguments[kind.genes_argument]
                names, links = kind.genes(adata, given, cells.adatas)
            n_cells = None if fields else len(cells)  # scvi-tools allows a size to be told once
            fields.append(FeaturesField(role, adata.var_names.to_numpy(), n_cells, names, links, kind.count))
        arguments["peak_genes"] = arguments["antibody_genes"] = arguments["feature_genes"] = None  # now in the links
        fields.append(batch_field)
        cls._register(frame, fields, setup_method_args, any(s.labels for s in summaries.values()), kwargs)
        cls._keep_frame(mdata, frame)

    @classmethod
    def _register(
        cls, frame: AnnData, fields: list[Any], setup: dict[str, Any], labelled: bool, kwargs: dict[str, Any]
    ) -> None:
        """Register columns with scvi-tools, as they were in ``source_registry`` if there is one."""
        arguments, source = setup["setup_args"], (kwargs.get("source_registry") or {}).get("setup_args", {})
        arguments |= {key: source[key] for key in RESOLVED if key in source and key in arguments}
        if arguments["labels_key"] is not None and (labelled or source):  # the unlabelled alone would become a type
            fields.append(LabelsField(arguments["labels_key"], arguments["unlabeled_category"]))
        manager = DataManager(fields=fields, setup_method_args=setup)
        manager.register_fields(frame, **kwargs)
        cls.register_manager(manager)


def _design(frame: AnnData, arguments: Mapping[str, Any]) -> dict[str, Any]:
    categorical, continuous = arguments["categorical_covariate_keys"], arguments["continuous_covariate_keys"]
    return asdict(CovariateDesign.fit(frame.obs, categorical, continuous))


def find_domains(cells: Cells, batch: np.ndarray) -> tuple[list[list[Any]], list[list[str]]]:
    """Combinations of batch and measured modalities that occur, and the combinations of modalities alone."""
    measured = [[role for role, here in zip(cells.adatas, row, strict=True) if here] for row in cells.present]
    domains = sorted({(b, *m) for b, m in zip(batch, measured, strict=True)})
    patterns = sorted({tuple(m) for m in measured}, key=lambda p: (-len(p), p))
    return [[b, list(m)] for b, *m in domains], [list(p) for p in patterns]


def _check_places(
    where: str, adata: AnnData, obs: pd.DataFrame, arguments: dict[str, Any], source: Mapping[str, Any]
) -> None:
    """Refuse coordinates that cannot be used, before anything is written; record how many there are per cell."""
    earlier = source.get("setup_args", {}).get("n_coordinates")
    speak_of(where, niche_weights, adata, obs, {**arguments, "n_coordinates": earlier})
    arguments["n_coordinates"] = int(np.shape(adata.obsm[arguments["spatial_key"]])[1])


def check_niche(adata: AnnData, name: str, arguments: Mapping[str, Any]) -> None:
    """Refuse spatial arguments that cannot be used."""
    spatial_key, section_key = arguments["spatial_key"], arguments["section_key"]
    given = [key for key in ("section_key", "n_neighbors", "radius") if arguments[key] is not None]
    if spatial_key is None:
        if given:
            raise ValueError(f"{given[0]} says how to use coordinates; name them with spatial_key= as well.")
        return
    if spatial_key not in adata.obsm:
        raise KeyError(f"spatial_key={spatial_key!r} is not in {name}.obsm; it holds {list(adata.obsm)}.")
    if section_key is not None and section_key not in adata.obs:
        raise KeyError(f"section_key={section_key!r} is not in {name}.obs; it has {list(adata.obs.columns)}.")
    n_neighbors, radius = arguments["n_neighbors"], arguments["radius"]
    if "n_neighbors" in given:
        check_integer("n_neighbors", n_neighbors)
    if "radius" in given:
        check_number("radius", radius, 0.0)
    if {"n_neighbors", "radius"} <= set(given):
        raise ValueError(f"n_neighbors={n_neighbors} and radius={radius} are both given; give one of them.")
