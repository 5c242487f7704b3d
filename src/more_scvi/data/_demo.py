"""The demo's cells: 700 PBMCs that ship with scanpy, half of them measured again by a simulated platform."""

import numpy as np
import scanpy as sc
from anndata import AnnData
from scipy.sparse import csr_matrix, vstack

from ._simulate import simulate_platform


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
    lognorm = csr_matrix(source.raw.X)
    per_value = np.repeat(source.obs["n_counts"].to_numpy(float) / 1e4, np.diff(lognorm.indptr))
    counts = lognorm.copy()
    counts.data = np.rint(np.expm1(lognorm.data.astype(float)) * per_value).astype(np.float32)

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
