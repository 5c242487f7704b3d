import anndata as ad
import mudata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import more_scvi as more

from . import methylation  # noqa: F401 registers the modality

N_REGIONS = 60


def methylated(obs: pd.DataFrame, genes, seed: int) -> ad.AnnData:
    """Shares of 30 reads; a region's share follows type and state, the first 30 regions lie at genes."""
    truth, own = np.random.default_rng(0), np.random.default_rng(seed)
    types = obs["cell_type"].cat.codes.to_numpy()
    logits = truth.normal(0, 1, N_REGIONS) + truth.normal(0, 1.2, (types.max() + 1, N_REGIONS))[types]
    logits = logits + obs["state"].to_numpy()[:, None] * truth.normal(0, 0.5, N_REGIONS)
    share = 1 / (1 + np.exp(-logits))
    x = sp.csr_matrix(own.binomial(30, share) / 30, dtype=np.float32)
    var = pd.DataFrame({"gene": [*genes[:30], *[""] * 30]}, index=[f"region{r}" for r in range(N_REGIONS)])
    return ad.AnnData(x, obs=obs.copy(), var=var, obsm={"share": share})


@pytest.fixture(scope="session")
def data() -> tuple[mudata.MuData, ad.AnnData]:
    """RNA of all cells with methylation of most; methylation of further cells, from another batch."""
    genes = more.data.load_demo().var_names[:300].tolist()
    full = more.data.simulate_multiomics(
        n_cells=400, n_types=3, n_batches=3, n_genes=300, n_peaks=300, n_proteins=5, gene_names=genes, seed=1
    )
    rna = full["rna"]
    new = (rna.obs["batch"] == "batch2").to_numpy()
    known = rna[~new].copy()
    met = methylated(known.obs[40:], genes, seed=2)
    return mudata.MuData({"rna": known, "met": met}), methylated(rna.obs[new], genes, seed=3)


@pytest.fixture(scope="session")
def model(data) -> more.MoRE:
    mdata, _ = data
    more.MoRE.setup_mudata(
        mdata,
        {"methylation": "met", "rna": "rna"},
        batch_key="batch",
        labels_key="cell_type",
        feature_genes={"methylation": "gene"},
    )
    model = more.MoRE(mdata, n_components=10, n_wide=30)
    model.train(max_epochs=5, accelerator="cpu")
    return model
