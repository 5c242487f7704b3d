"""Registration of data: what ``setup_anndata`` and ``setup_mudata`` check and record."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from mudata import MuData

from more_scvi.data import (
    BatchField,
    Cells,
    CovariateDesign,
    DataManager,
    FeaturesField,
    LabelsField,
    MatrixField,
    check_integer,
    check_key_list,
    check_mapping,
    check_mudata,
    check_number,
    check_peak_genes,
    check_setup,
    features_key,
    genes_of_peaks,
    match_antibodies,
    neighbours,
    peak_to_gene,
    read_cells,
    read_links,
)
from more_scvi.model._registry import RegistryMixin

logger = logging.getLogger("more_scvi")

RESOLVED = ("covariate_design", "domains", "patterns", "data_types")
"""Setup arguments that setup itself adds; they are carried over when other data are set up like the first."""


class SetupMixin(RegistryMixin):
    """``setup_anndata`` and ``setup_mudata``."""

    @classmethod
    def setup_anndata(
        cls,
        adata: AnnData,
        layer: str | None = None,
        batch_key: str | None = None,
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
            Layer with counts or log-normalised values; ``None`` reads ``adata.X``.
        batch_key
            Column of ``adata.obs`` to integrate over (donor, platform, study, ...).
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
        categorical_covariate_keys = check_key_list("categorical_covariate_keys", categorical_covariate_keys)
        continuous_covariate_keys = check_key_list("continuous_covariate_keys", continuous_covariate_keys)
        setup_method_args = cls._get_setup_method_args(**locals())
        summary = check_setup(
            adata,
            layer=layer,
            batch_key=batch_key,
            labels_key=labels_key,
            unlabeled_category=unlabeled_category,
            categorical_covariate_keys=categorical_covariate_keys,
            continuous_covariate_keys=continuous_covariate_keys,
            gene_key=gene_key,
            data_type=data_type,
        )
        check_niche(adata, "adata", spatial_key, section_key, n_neighbors, radius)
        if spatial_key is not None:
            niche_weights(adata, adata.obs, setup_method_args["setup_args"])  # refuse bad coordinates before writing
        arguments = setup_method_args["setup_args"]
        arguments["data_type"] = summary.data_type
        source = (kwargs.get("source_registry") or {}).get("setup_args", {})
        design = CovariateDesign.fit(adata, categorical_covariate_keys, continuous_covariate_keys)
        arguments["covariate_design"] = source.get(
            "covariate_design", {"levels": design.levels, "moments": design.moments}
        )
        fields = [MatrixField(layer, gene_key), BatchField(batch_key)]
        if labels_key is not None and (summary.labels or source):
            fields.append(LabelsField(labels_key, unlabeled_category))
        manager = DataManager(fields=fields, setup_method_args=setup_method_args)
        manager.register_fields(adata, **kwargs)
        cls.register_manager(manager)

    @classmethod
    def setup_mudata(
        cls,
        mdata: MuData,
        modalities: Mapping[str, str],
        batch_key: str | None = None,
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
            Which modality is what, e.g. ``{"rna": "rna", "atac": "peaks", "protein": "adt"}``: roles ``"rna"``,
            ``"atac"``, ``"protein"``, any of them, to names in ``mdata.mod``.
        batch_key, labels_key
            Columns of ``mdata.obs`` or of the modalities' own ``obs``, which must agree where several hold a value.
        layers
            Role to layer with the values; roles that are not named use ``X``.
        unlabeled_category
            Value that means "not labelled".
        categorical_covariate_keys, continuous_covariate_keys
            Further nuisance columns whose linear effect is removed from the base.
        gene_key
            Column of the RNA modality's ``var`` with gene symbols or Ensembl ids; ``None``: its ``var_names``.
        peak_genes
            What genes the peaks speak of: a column of the ATAC modality's ``var`` with gene names (several separated
            by ``,`` or ``;``); a gene annotation with columns ``symbol``, ``chrom``, ``start``, ``end``, ``strand`` as
            DataFrame or path (peaks in the gene's body or 2 kb upstream count for it); or ``(matrix, genes)`` with a
            peaks × genes matrix. ``None``: not known.
        antibody_genes
            Gene symbol per antibody, for antibodies that :func:`more_scvi.data.match_antibodies` does not know;
            ``""`` for none.
        data_type
            Of the RNA: ``"counts"``, ``"lognorm"`` or ``"auto"``.
        spatial_key, section_key, n_neighbors, radius
            As in :meth:`setup_anndata`; coordinates are in ``obsm`` of the RNA modality (of the first modality
            without RNA).

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
        categorical_covariate_keys = check_key_list("categorical_covariate_keys", categorical_covariate_keys)
        continuous_covariate_keys = check_key_list("continuous_covariate_keys", continuous_covariate_keys)
        setup_method_args = cls._get_setup_method_args(**locals())
        arguments = setup_method_args["setup_args"]
        source = kwargs.get("source_registry") or {}
        cells, summaries = check_mudata(
            mdata,
            modalities=modalities,
            layers=layers,
            batch_key=batch_key,
            labels_key=labels_key,
            unlabeled_category=unlabeled_category,
            categorical_covariate_keys=categorical_covariate_keys,
            continuous_covariate_keys=continuous_covariate_keys,
            data_types={"rna": data_type} if isinstance(modalities, Mapping) and "rna" in modalities else None,
        )
        first = next(iter(cells.adatas))
        where, adata = f"mdata[{modalities[first]!r}]", cells.adatas[first]
        check_niche(adata, where, spatial_key, section_key if spatial_key is None else None, n_neighbors, radius)
        if spatial_key is not None:  # refuse unknown sections and bad coordinates now, not in train()
            keys = [key for key in (section_key, batch_key) if key is not None][:1]
            niche_weights(adata, read_cells(mdata, modalities, keys).obs.loc[adata.obs_names], arguments)
        for key, where in cells.found.items():
            logger.info("%r is read from %s.", key, where)
        frame = AnnData(obs=cells.obs)
        arguments["modalities"] = {role: modalities[role] for role in cells.adatas}
        arguments["layers"] = {role: (layers or {}).get(role) for role in cells.adatas}
        arguments["data_types"] = {role: summary.data_type for role, summary in summaries.items()}
        arguments["peak_genes"] = arguments["antibody_genes"] = None  # resolved into the features' links
        design = CovariateDesign.fit(frame, categorical_covariate_keys, continuous_covariate_keys)
        arguments["covariate_design"] = {"levels": design.levels, "moments": design.moments}
        batch_field = BatchField(batch_key)
        arguments["domains"], arguments["patterns"] = find_domains(cells, batch_field.values(frame))
        arguments |= {key: source["setup_args"][key] for key in RESOLVED if source}
        fields: list[Any] = []
        for role, adata in cells.adatas.items():
            names, links = _genes_of(role, adata, gene_key, peak_genes, antibody_genes, cells, source)
            fields.append(FeaturesField(role, adata.var_names.to_numpy(), None if fields else len(cells), names, links))
        fields.append(batch_field)
        if labels_key is not None and (any(s.labels for s in summaries.values()) or source):
            fields.append(LabelsField(labels_key, unlabeled_category))
        manager = DataManager(fields=fields, setup_method_args=setup_method_args)
        manager.register_fields(frame, **kwargs)
        cls.register_manager(manager)
        cls._keep_frame(mdata, frame)


def find_domains(cells: Cells, batch: np.ndarray) -> tuple[list[list[Any]], list[list[str]]]:
    """Combinations of batch and measured modalities that occur, and the combinations of modalities alone."""
    measured = [[role for role, here in zip(cells.adatas, row, strict=True) if here] for row in cells.present]
    domains = sorted({(b, *m) for b, m in zip(batch, measured, strict=True)})
    patterns = sorted({tuple(m) for m in measured}, key=lambda p: (-len(p), p))
    return [[b, list(m)] for b, *m in domains], [list(p) for p in patterns]


def _genes_of(
    role: str,
    adata: AnnData,
    gene_key: str | None,
    peak_genes: Any,
    antibody_genes: Mapping[str, str] | None,
    cells: Cells,
    source: dict[str, Any],
) -> tuple[list[str], sp.csr_matrix | None]:
    """Genes that a modality speaks of, and the links of its features to them (None: features are genes)."""
    if source:
        state = source["field_registries"][features_key(role)]["state_registry"]
        return list(state["gene_names"]), read_links(state)
    if role == "rna":
        if gene_key is None:
            return adata.var_names.astype(str).tolist(), None
        if gene_key not in adata.var:
            raise KeyError(
                f"gene_key={gene_key!r} is not in var of the RNA modality; it has {list(adata.var.columns)}."
            )
        return adata.var[gene_key].astype(str).tolist(), None
    if role == "protein":
        known = cells.adatas["rna"].var_names if "rna" in cells.adatas else None
        match = match_antibodies(adata.var_names, known_genes=known)
        links, genes = sp.lil_matrix(match.matrix), list(match.genes)
        for antibody, gene in check_mapping("antibody_genes", antibody_genes).items():
            if antibody not in adata.var_names:
                raise KeyError(
                    f"antibody_genes names {antibody!r}, which is no antibody of the protein modality; it has"
                    f" {adata.var_names[:5].tolist()} and {max(adata.n_vars - 5, 0)} more."
                )
            if gene and gene not in genes:
                genes.append(gene)
                links.resize((links.shape[0], len(genes)))
            row = adata.var_names.get_loc(antibody)
            links[row, :] = 0
            if gene:
                links[row, genes.index(gene)] = 1.0
        links = sp.csr_matrix(links)
        links.eliminate_zeros()
        n = int((np.diff(links.indptr) > 0).sum())
        logger.info("%d of %d antibodies have a gene.", n, adata.n_vars)
        return genes, links
    if peak_genes is None:
        return [], sp.csr_matrix((adata.n_vars, 0), dtype=np.float32)
    is_pair = isinstance(peak_genes, tuple) and len(peak_genes) == 2
    if not is_pair and not isinstance(peak_genes, str | os.PathLike | pd.DataFrame):
        raise TypeError(
            f"peak_genes={peak_genes!r} is a {type(peak_genes).__name__}; give a column of the ATAC modality's var, a"
            " gene annotation (DataFrame or path), or (matrix, genes) with a peaks × genes matrix."
        )
    if is_pair:
        matrix, genes = peak_genes
        return [str(g) for g in genes], check_peak_genes(matrix, list(genes), adata.n_vars)
    if isinstance(peak_genes, str) and peak_genes in adata.var:
        matrix, found = genes_of_peaks(adata.var[peak_genes])
    elif isinstance(peak_genes, str) and not os.path.exists(peak_genes):
        raise KeyError(
            f"peak_genes={peak_genes!r} is neither a column of the ATAC modality's var ({list(adata.var.columns)}) nor"
            " a file with a gene annotation."
        )
    else:
        matrix, found = peak_to_gene(adata.var, peak_genes)
    return [str(g) for g in found], matrix


def check_niche(
    adata: AnnData,
    name: str,
    spatial_key: str | None,
    section_key: str | None,
    n_neighbors: int | None,
    radius: float | None,
) -> None:
    """Refuse spatial arguments that cannot be used."""
    if spatial_key is None:
        given = {"section_key": section_key, "n_neighbors": n_neighbors, "radius": radius}
        wrong = [key for key, value in given.items() if value is not None]
        if wrong:
            raise ValueError(f"{wrong[0]} says how to use coordinates; name them with spatial_key= as well.")
        return
    if spatial_key not in adata.obsm:
        raise KeyError(f"spatial_key={spatial_key!r} is not in {name}.obsm; it holds {list(adata.obsm)}.")
    if section_key is not None and section_key not in adata.obs:
        raise KeyError(f"section_key={section_key!r} is not in {name}.obs; it has {list(adata.obs.columns)}.")
    if n_neighbors is not None:
        check_integer("n_neighbors", n_neighbors, 1)
    if radius is not None:
        check_number("radius", radius, 0.0)
    if n_neighbors is not None and radius is not None:
        raise ValueError(f"n_neighbors={n_neighbors} and radius={radius} are both given; give one of them.")


def niche_weights(adata: AnnData, obs: pd.DataFrame, arguments: Mapping[str, Any]) -> sp.csr_matrix:
    """Weights of spatial neighbours, csr (rows of adata, rows of adata); ``obs`` in the order of these rows."""
    spatial_key, key = arguments["spatial_key"], arguments.get("section_key") or arguments["batch_key"]
    if spatial_key not in adata.obsm:
        raise KeyError(
            f"The model was set up with spatial_key={spatial_key!r}, but obsm holds {list(adata.obsm)}; add the"
            " coordinates of these cells."
        )
    column = obs[key] if key in obs else adata.obs.get(key)
    if key is not None and column is None:
        raise KeyError(f"obs has no column {key!r} that says which section a cell is from; it has {list(obs.columns)}.")
    sections = np.zeros(adata.n_obs, dtype=int) if column is None else column.to_numpy()
    return neighbours(np.asarray(adata.obsm[spatial_key]), sections, arguments["n_neighbors"], arguments["radius"])
