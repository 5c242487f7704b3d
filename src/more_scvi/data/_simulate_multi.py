"""Simulated cells with RNA, chromatin accessibility and surface proteins, driven by one known state per cell."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from scipy.sparse import csr_matrix
from scipy.special import softmax

from more_scvi._compat import no_pull
from more_scvi.data._arguments import check_integer, check_mapping, check_number, check_option, listing, nearest
from more_scvi.data._simulate import check_distinct

MODALITIES = ("rna", "atac", "protein")
DEPTH = {"rna": 2000.0, "atac": 800.0, "protein": 500.0}
"""Median counts of a cell."""

PROTEIN_DISPERSION = 10.0
"""Inverse overdispersion of antibody counts, as in CITE-seq data (variance = mean + mean² / 10)."""

GENE_LENGTH, GENE_DISTANCE, PEAK_WIDTH, PEAK_STEP = 20_000, 200_000, 500, 1_000
"""Made-up geometry in bases: gene bodies, and the room of a gene, are far wider than its peaks."""


def simulate_multiomics(
    n_cells: int = 600,
    n_types: int = 4,
    n_batches: int = 2,
    *,
    modalities: Sequence[str] = MODALITIES,
    n_genes: int = 300,
    n_peaks: int = 1000,
    n_proteins: int = 20,
    pattern: Mapping[str, Sequence[str]] | None = None,
    gene_names: Sequence[str] | None = None,
    protein_names: Sequence[str] | None = None,
    depth: Mapping[str, float] | None = None,
    background: float = 0.2,
    markers: float = 0.1,
    batch_sd: float = 0.3,
    n_factors: int = 1,
    seed: int = 0,
    return_full: bool = False,
) -> MuData | tuple[MuData, MuData]:
    r"""Counts of three modalities of the same cells, each following the expression of its genes.

    Cell :math:`i` has a type :math:`t` and continuous states :math:`s_{ik}`. They set the log expression of gene
    :math:`g`, :math:`\eta_{ig} = \mu_g + \alpha_{tg} + \sum_k s_{ik} \beta_{ktg}`, and with it all modalities
    (:math:`b`: batch, :math:`\gamma`: batch effects, drawn for each modality):

    - RNA: Poisson, with shares :math:`\mathrm{softmax}_g(\eta_{ig} + \gamma_{bg})` of the depth of the cell.
    - ATAC: Poisson, with shares :math:`\mathrm{softmax}_j(\nu_j + w_j (\eta_{ig} - \bar\eta_g) + \gamma_{bj})` of peak
      :math:`j` of gene :math:`g`; :math:`w_j` is between 0.5 and 1.5.
    - Protein: negative binomial (dispersion 10) around :math:`(a_p + z_{ip} f_p e^{h_{ip} / 2}) e^{\gamma_{bp}}` times
      the depth of the cell. :math:`h_{ip}` is the :math:`\eta` of the gene of protein :math:`p`, scaled so that its 5%
      and 95% quantiles are -1 and 1; the cell carries the protein (:math:`z_{ip} = 1`) with probability
      :math:`1 / (1 + e^{-4 h_{ip}})`; the ambient share :math:`a_p` is found in every cell.

    Depths vary log-normally (0.3) and independently. The draws of a modality depend neither on `modalities` nor on
    `pattern`.

    Parameters
    ----------
    n_cells, n_types, n_batches
        Sizes; cells are divided evenly among the batches, types are drawn evenly.
    modalities
        Which of ``"rna"``, ``"atac"``, ``"protein"`` to return.
    n_genes, n_peaks, n_proteins
        Features. Each gene has ``n_peaks / n_genes`` peaks, up to rounding; each protein follows one gene, those whose
        expression varies most in units of noise.
    pattern
        Batch -> modalities measured in it, e.g. ``{"batch1": ("rna",)}``; its cells are absent from the others.
        Batches left out have all.
    gene_names
        ``n_genes`` names, e.g. symbols a backbone knows; also in the ``var["gene"]`` of peaks and proteins. Default:
        ``gene0``, ``gene1``, …
    protein_names
        ``n_proteins`` names. Default: ``prot_`` and the name of the gene.
    depth
        Modality -> median counts of a cell; default 2000 (RNA), 800 (ATAC), 500 (protein).
    background
        Ambient share of all antibody counts, in [0, 1).
    markers
        Share of genes that move with each type, and again with each state inside it (standard deviations 1 and 0.5 in
        log units).
    batch_sd
        Standard deviation of the batch effects in log units; 0: none.
    n_factors
        Number of continuous states of a cell.
    seed
        Seed of every draw.
    return_full
        Also return all modalities of all cells, that is what `pattern` hides.

    Returns
    -------
    MuData
        One AnnData per modality, ``X``: CSR counts, float32. ``obs``, also that of each modality: ``cell_type``,
        ``batch`` (categories), ``state`` (standard normal, the first continuous state); ``obsm["state"]``: all of them,
        ``(n_cells, n_factors)``. ``var["gene"]`` of ATAC and protein: the gene a feature follows; ``var`` of ATAC:
        ``chrom``, ``start``, ``end`` (0-based, half-open). ``uns["genes"]``: table with ``symbol``, ``chrom``,
        ``start``, ``end`` (1-based, both included), ``strand`` of all genes, made up; peaks overlap the body of their
        own gene, the first one its promoter (the 500 bases upstream), and are far from any other.
    MuData
        With `return_full`: the same cells without `pattern`, under the same names.

    Raises
    ------
    ValueError
        Names of the wrong number, unknown batches or modalities, a modality measured in no batch, or a setting outside
        its range.

    Examples
    --------
    >>> import more_scvi as more
    >>> mdata = more.data.simulate_multiomics(n_cells=200, pattern={"batch1": ("rna",)})
    >>> {name: adata.n_obs for name, adata in mdata.mod.items()}
    {'rna': 200, 'atac': 100, 'protein': 100}
    """
    sizes = {"n_cells": n_cells, "n_types": n_types, "n_batches": n_batches, "n_peaks": n_peaks, "n_factors": n_factors}
    for name, size in sizes.items():
        check_integer(name, size)
    chosen = _check_modalities("modalities", modalities, MODALITIES)
    batch_names = [f"batch{b}" for b in range(n_batches)]
    measured = _check_pattern(pattern, batch_names, chosen)
    depths = {**DEPTH, **check_mapping("depth", depth)}
    for name, value in depths.items():
        check_option("a key of depth", name, DEPTH)
        check_number(f"depth[{name!r}]", value, 1)
    check_number("background", background, 0, 1 - 1e-9)  # 1 would leave no foreground
    if not 1 <= n_proteins <= n_genes:
        raise ValueError(
            f"n_proteins={n_proteins} must be 1 to n_genes = {n_genes}: each protein follows its own gene."
        )
    genes = check_distinct("gene_names", gene_names, [f"gene{g}" for g in range(n_genes)])
    rng = np.random.default_rng(seed)
    batch = np.sort(np.arange(n_cells) % n_batches)
    cell_type = rng.integers(n_types, size=n_cells)
    state = rng.standard_normal((n_cells, n_factors))
    moved = rng.random((1 + n_factors, n_types, n_genes)) < markers
    effects = rng.normal(0, 1, moved.shape) * moved
    mean = rng.normal(0, 1.5, n_genes)
    expression = mean + effects[0][cell_type] + 0.5 * np.einsum("ik,kig->ig", state, effects[1:, cell_type])
    obs = pd.DataFrame(
        {
            "cell_type": pd.Categorical([f"type{t}" for t in cell_type], [f"type{t}" for t in range(n_types)]),
            "batch": pd.Categorical([batch_names[b] for b in batch], batch_names),
            "state": state[:, 0],
        },
        index=[f"cell{i}" for i in range(n_cells)],
    )
    annotation = _place_genes(genes, n_peaks)
    followed = _variable_genes(expression, n_proteins, depths["rna"])
    given = check_distinct("protein_names", protein_names, [f"prot_{genes[g]}" for g in followed])

    def rna(cell_depth: np.ndarray, own: np.random.Generator) -> tuple[np.ndarray, pd.DataFrame]:
        return _share_counts(expression, batch, batch_sd, cell_depth, own), pd.DataFrame(index=genes)

    def atac(cell_depth: np.ndarray, own: np.random.Generator) -> tuple[np.ndarray, pd.DataFrame]:
        var, gene = _place_peaks(annotation, n_peaks)
        basic = 0.5 * mean[gene] + own.normal(0, 0.7, n_peaks)
        weight = own.uniform(0.5, 1.5, n_peaks)
        centred = (expression - expression.mean(0))[:, gene]
        return _share_counts(basic + weight * centred, batch, batch_sd, cell_depth, own), var

    def protein(cell_depth: np.ndarray, own: np.random.Generator) -> tuple[np.ndarray, pd.DataFrame]:
        var = pd.DataFrame({"gene": [genes[g] for g in followed]}, index=given)
        return _protein_counts(expression[:, followed], batch, batch_sd, background, cell_depth, own), var

    parts = {}
    for k, (name, draw) in enumerate(zip(MODALITIES, (rna, atac, protein), strict=True)):
        if name in chosen:
            own = np.random.default_rng([seed, k])  # counts do not depend on which other modalities are drawn
            counts, var = draw(depths[name] * own.lognormal(0, 0.3, (n_cells, 1)), own)
            parts[name] = AnnData(csr_matrix(counts, dtype=np.float32), obs=obs.copy(), var=var)
    has = {name: np.array([name in measured[batch_names[b]] for b in batch]) for name in chosen}
    shown = _assemble({name: parts[name][has[name]].copy() for name in chosen}, obs, state, annotation)
    return (shown, _assemble(parts, obs, state, annotation)) if return_full else shown


def _check_modalities(argument: str, given: Any, legal: Sequence[str]) -> tuple[str, ...]:
    """`given` in the order of `legal`; ValueError if it is empty, a bare string or holds anything else."""
    names = [given] if isinstance(given, str) or given is None else list(given)
    wrong = [name for name in names if name not in legal]
    if wrong or not names or isinstance(given, str):
        hint = nearest(wrong[0], legal) if wrong else ""
        raise ValueError(f"{argument}={given!r} must be a tuple of at least one of {listing(legal)}.{hint}")
    return tuple(name for name in legal if name in names)


def _check_pattern(pattern: Any, batches: Sequence[str], chosen: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Modalities of every batch; ValueError for unknown ones and for a modality that no batch has."""
    measured = dict.fromkeys(batches, chosen)
    for batch, names in check_mapping("pattern", pattern).items():
        check_option("a batch of pattern", batch, batches)
        measured[batch] = _check_modalities(f"pattern[{batch!r}]", names, chosen)
    nowhere = [name for name in chosen if not any(name in names for names in measured.values())]
    if nowhere:
        raise ValueError(f"pattern measures {listing(nowhere)} in no batch; leave it out of modalities instead.")
    return measured


def _place_genes(genes: Sequence[str], n_peaks: int) -> pd.DataFrame:
    """Made-up positions: genes in equal distances on up to 22 chromosomes, strands in turn."""
    n = len(genes)
    chromosome = np.arange(n) * min(22, n) // n
    first = np.searchsorted(chromosome, chromosome)
    length = max(GENE_LENGTH, PEAK_STEP * (n_peaks // n + 2))  # room for all peaks of a gene
    start = (np.arange(n) - first) * (length + GENE_DISTANCE) + GENE_DISTANCE
    return pd.DataFrame(
        {
            "symbol": list(genes),
            "chrom": [f"chr{c + 1}" for c in chromosome],
            "start": start + 1,
            "end": start + length,
            "strand": np.where(np.arange(n) % 2 == 0, "+", "-"),
        },
        index=list(genes),
    )


def _place_peaks(annotation: pd.DataFrame, n_peaks: int) -> tuple[pd.DataFrame, np.ndarray]:
    """Table of peaks (0-based, half-open) and the position of their genes: promoter first, then along the body."""
    n = len(annotation)
    gene = np.sort(np.arange(n_peaks) % n)
    number = np.arange(n_peaks) - np.searchsorted(gene, gene)
    forward = annotation["strand"].to_numpy()[gene] == "+"
    # downstream of the first base; one base overlaps
    offset = np.where(number == 0, -PEAK_WIDTH + 1, number * PEAK_STEP)
    chrom, first, last = (annotation[column].to_numpy()[gene] for column in ("chrom", "start", "end"))
    start = np.where(forward, first - 1 + offset, last - offset - PEAK_WIDTH)
    names = [f"{c}:{s}-{s + PEAK_WIDTH}" for c, s in zip(chrom, start, strict=True)]
    table = {"gene": annotation.index[gene], "chrom": chrom, "start": start, "end": start + PEAK_WIDTH}
    return pd.DataFrame({key: np.asarray(value) for key, value in table.items()}, index=names), gene


def _variable_genes(expression: np.ndarray, n: int, depth: float) -> np.ndarray:
    """The `n` genes that vary most in units of noise, most variable first.

    Noise, in log units: 1 / counts from counting, and 0.1 for batches and all else, so that a strong gene that hardly
    varies is not preferred.
    """
    counts = softmax(expression, axis=1).mean(0) * depth
    return np.argsort(-expression.var(0) / (1 / counts + 0.1), kind="stable")[:n]


def _share_counts(
    log_rate: np.ndarray, batch: np.ndarray, batch_sd: float, depth: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Poisson counts (cells, features) with shares softmax(log_rate + batch effect) of the depth."""
    effect = rng.normal(0, batch_sd, (batch.max() + 1, log_rate.shape[1]))
    return rng.poisson(softmax(log_rate + effect[batch], axis=1) * depth)


def _protein_counts(
    expression: np.ndarray,
    batch: np.ndarray,
    batch_sd: float,
    background: float,
    depth: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """Negative binomial counts (cells, proteins): ambient everywhere, more in the cells that carry the protein."""
    n_cells, n = expression.shape
    low, high = np.quantile(expression, [0.05, 0.95], axis=0)
    scaled = (2 * expression - low - high) / np.maximum(high - low, 1e-9)  # a gene may not vary
    carries = rng.random((n_cells, n)) < 1 / (1 + np.exp(-4 * scaled))
    foreground = rng.lognormal(0, 0.5, n) * carries * np.exp(scaled / 2)
    foreground /= foreground.sum(1).mean()  # so that `background` is a share of the counts
    ambient = foreground.mean(0) + 0.1 / n  # proteins that no cell carries are in the soup, too
    ambient /= ambient.sum()
    effect = np.exp(rng.normal(0, batch_sd, (batch.max() + 1, n)))
    mean = depth * (background * ambient + (1 - background) * foreground) * effect[batch]
    return rng.poisson(mean * rng.gamma(PROTEIN_DISPERSION, 1 / PROTEIN_DISPERSION, mean.shape))  # gamma × Poisson: NB


def _assemble(parts: dict[str, AnnData], obs: pd.DataFrame, state: np.ndarray, annotation: pd.DataFrame) -> MuData:
    """MuData with the truth of its cells; columns of the modalities are not copied with a prefix."""
    with no_pull():
        mdata = MuData(parts)
    mdata.obs = obs.loc[mdata.obs_names]
    mdata.obsm["state"] = state[obs.index.get_indexer(mdata.obs_names)]
    mdata.uns["genes"] = annotation.copy()
    return mdata
