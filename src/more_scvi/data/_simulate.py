"""Simulated data with known truth: whole datasets, a second platform on top of measured counts, the demo's cells."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import scanpy as sc
from anndata import AnnData
from scipy.sparse import coo_matrix, csr_matrix, issparse, vstack
from scipy.special import softmax


def check_distinct(argument: str, given: Sequence[str] | None, default: list[str]) -> list[str]:
    """As many different names as there are in `default`, which stands in for None; ValueError otherwise."""
    names = default if given is None else [str(name) for name in given]
    if len(names) != len(default) or len(set(names)) != len(names):
        raise ValueError(
            f"{argument} has {len(names)} names, {len(set(names))} of them different; it must have {len(default)}"
            " different ones."
        )
    return names


def simulate_batches(
    n_cells: int = 600,
    n_genes: int = 300,
    n_types: int = 4,
    n_batches: int = 2,
    *,
    proportions: np.ndarray | None = None,
    depth: float = 2000.0,
    markers: float = 0.1,
    type_sd: float = 1.0,
    state_sd: float = 0.5,
    batch_sd: float = 0.3,
    gene_names: Sequence[str] | None = None,
    seed: int = 0,
) -> AnnData:
    r"""Counts of cell types with a gradient inside each type, measured in several batches.

    The expected share of gene :math:`g` in cell :math:`i` of type :math:`t`, state :math:`s_i` and batch :math:`b` is
    :math:`\mathrm{softmax}_g(\mu_g + \alpha_{tg} + s_i \beta_{tg} + \gamma_{bg})`; counts are Poisson around that
    share times the depth of the cell, which varies log-normally.

    Parameters
    ----------
    n_cells, n_genes, n_types, n_batches
        Sizes; cells are divided evenly among the batches.
    proportions
        ``(n_batches, n_types)`` shares of the types per batch; a zero leaves a type out. Default: even.
    depth
        Median number of counts of a cell.
    markers
        Share of genes that move with each type, and again with the state inside it.
    type_sd, state_sd, batch_sd
        Standard deviations of the effects :math:`\alpha, \beta, \gamma` in log units. ``batch_sd=0``: no batch effect.
    gene_names
        ``n_genes`` names for ``var_names``, e.g. symbols a backbone knows. Default: ``gene0``, ``gene1``, …
    seed
        Seed of every draw.

    Returns
    -------
    AnnData
        ``X``: CSR counts, float32. ``obs``: ``cell_type``, ``batch`` (categories), ``state`` (standard normal, the true
        position inside the type).

    Raises
    ------
    ValueError
        If ``proportions`` or ``gene_names`` do not have the announced size.

    Examples
    --------
    >>> import more_scvi as more
    >>> adata = more.data.simulate_batches(n_cells=200, n_batches=3)
    >>> adata.obs["batch"].nunique()
    3
    """
    rng = np.random.default_rng(seed)
    shares = np.full((n_batches, n_types), 1 / n_types) if proportions is None else np.asarray(proportions, dtype=float)
    if shares.shape != (n_batches, n_types) or (shares < 0).any() or (shares.sum(1) <= 0).any():
        raise ValueError(
            f"proportions has shape {shares.shape}; it must be ({n_batches}, {n_types}) = (n_batches, n_types), "
            "not negative and with a positive sum per batch."
        )
    names = check_distinct("gene_names", gene_names, [f"gene{g}" for g in range(n_genes)])
    batch = np.sort(np.arange(n_cells) % n_batches)
    cell_type = np.array([rng.choice(n_types, p=shares[b] / shares[b].sum()) for b in batch], dtype=int)
    state = rng.standard_normal(n_cells)
    moved = rng.random((2, n_types, n_genes)) < markers
    alpha, beta = rng.normal(0, 1, (2, n_types, n_genes)) * moved * np.array([type_sd, state_sd])[:, None, None]
    gamma = rng.normal(0, batch_sd, (n_batches, n_genes))
    log_rate = rng.normal(0, 1.5, n_genes) + alpha[cell_type] + state[:, None] * beta[cell_type] + gamma[batch]
    counts = rng.poisson(softmax(log_rate, axis=1) * depth * rng.lognormal(0, 0.3, (n_cells, 1)))
    obs = pd.DataFrame(
        {
            "cell_type": pd.Categorical([f"type{t}" for t in cell_type]),
            "batch": pd.Categorical([f"batch{b}" for b in batch]),
            "state": state,
        },
        index=[f"cell{i}" for i in range(n_cells)],
    )
    return AnnData(csr_matrix(counts, dtype=np.float32), obs=obs, var=pd.DataFrame(index=names))


def keep_molecules(counts: csr_matrix, share: np.ndarray, rng: np.random.Generator) -> csr_matrix:
    """Counts of which each molecule is kept with a probability, ``share`` of every stored value; zeros stay stored."""
    kept = counts.copy()
    kept.data = rng.binomial(counts.data.astype(np.int64), share)
    return kept


def simulate_platform(
    counts: csr_matrix | np.ndarray,
    *,
    depth: float = 0.5,
    capture_sd: float = 0.5,
    ambient: float = 0.05,
    seed: int = 0,
) -> csr_matrix:
    r"""Measure cells again with a simulated platform: other depth, other gene-wise efficiency, ambient RNA.

    Each molecule of gene :math:`g` in cell :math:`i` is kept with probability :math:`\min(1, d_i e_g)`, where
    :math:`\log e_g \sim N(-\sigma^2/2, \sigma^2)` and :math:`d_i` varies log-normally (0.2) around ``depth``. To the
    cell are then added :math:`\mathrm{Poisson}(\text{ambient} \cdot n_i)` molecules drawn from the mean profile of all
    cells, where :math:`n_i` is what the cell kept.

    Parameters
    ----------
    counts
        ``(cells, genes)`` whole non-negative numbers, sparse or dense; not changed.
    depth
        Share of molecules that is kept on average, in (0, 1].
    capture_sd
        :math:`\sigma`, in log units; 0: all genes alike.
    ambient
        Ambient molecules per own molecule; 0: none.
    seed
        Seed of every draw.

    Returns
    -------
    csr_matrix
        ``(cells, genes)`` counts, float32.

    Raises
    ------
    ValueError
        If ``counts`` are not counts, or a setting is outside its range.

    Examples
    --------
    >>> import more_scvi as more
    >>> adata = more.data.simulate_batches(n_batches=1)
    >>> again = more.data.simulate_platform(adata.X, depth=0.3)
    >>> bool(again.sum() < adata.X.sum())
    True
    """
    if not 0 < depth <= 1 or capture_sd < 0 or ambient < 0:
        raise ValueError(
            f"depth={depth}, capture_sd={capture_sd}, ambient={ambient}: depth must be in (0, 1], the others ≥ 0."
        )
    own = csr_matrix(counts if issparse(counts) else np.asarray(counts), dtype=np.float64)
    if own.nnz and (own.data.min() < 0 or np.any(own.data != np.rint(own.data))):
        raise ValueError("counts holds negative or fractional values; pass raw counts, e.g. adata.layers['counts'].")
    rng = np.random.default_rng(seed)
    n_cells, n_genes = own.shape
    efficiency = rng.lognormal(-(capture_sd**2) / 2, capture_sd, n_genes)  # of mean 1, so that `depth` is kept
    cell_depth = depth * rng.lognormal(0, 0.2, n_cells)
    rows = np.repeat(np.arange(n_cells), np.diff(own.indptr))
    kept = keep_molecules(own, np.minimum(1, cell_depth[rows] * efficiency[own.indices]), rng)
    profile = np.asarray(kept.sum(0), dtype=float).ravel()
    if ambient > 0 and profile.sum() > 0:
        n_ambient = rng.poisson(ambient * np.asarray(kept.sum(1)).ravel())
        genes = rng.choice(n_genes, size=n_ambient.sum(), p=profile / profile.sum())
        cells = np.repeat(np.arange(n_cells), n_ambient)
        kept = kept + coo_matrix((np.ones(len(genes)), (cells, genes)), shape=own.shape).tocsr()
    result = csr_matrix(kept, dtype=np.float32)
    result.eliminate_zeros()  # of molecules that were all lost
    return result


def load_demo(seed: int = 0) -> AnnData:
    """Load 700 PBMCs in two batches, the second of which is simulated. Works offline.

    The cells are :func:`scanpy.datasets.pbmc68k_reduced` (10x Genomics, 765 genes). Its log-normalised values are
    turned back into the exact counts, since the total of each cell is known. A random half stays as measured
    (``"10x"``); the other half passes through :func:`simulate_platform` (``"simulated"``). No cell is in both.

    Parameters
    ----------
    seed
        Which half, and the draws of the simulation.

    Returns
    -------
    AnnData
        ``X``: CSR counts, 700 × 765. ``obs``: ``cell_type`` (the dataset's ``bulk_labels``), ``platform``.

    Examples
    --------
    >>> import more_scvi as more
    >>> more.data.load_demo().obs["platform"].value_counts().to_dict()
    {'10x': 350, 'simulated': 350}
    """
    source = sc.datasets.pbmc68k_reduced()
    lognorm = csr_matrix(source.raw.X)  # X is scaled: its zeros are lost
    per_value = np.repeat(source.obs["n_counts"].to_numpy(float) / 1e4, np.diff(lognorm.indptr))
    counts = lognorm.copy()
    counts.data = np.rint(np.expm1(lognorm.data.astype(float)) * per_value).astype(np.float32)  # float32 logs round
    order = np.random.default_rng(seed).permutation(source.n_obs)
    measured, simulated = np.sort(order[: source.n_obs // 2]), np.sort(order[source.n_obs // 2 :])
    cells = np.r_[measured, simulated]
    x = vstack([counts[measured], simulate_platform(counts[simulated], seed=seed)], format="csr")
    obs = source.obs[["bulk_labels"]].iloc[cells].rename(columns={"bulk_labels": "cell_type"})
    obs.index.name = None
    obs["platform"] = np.repeat(["10x", "simulated"], [len(measured), len(simulated)])
    obs["platform"] = obs["platform"].astype("category")
    adata = AnnData(x, obs=obs)
    adata.var_names = source.raw.var_names
    return adata
