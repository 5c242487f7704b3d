"""A pool of five small studies in two species, on disk, with annotation; and gene sets."""

import gzip

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from more_scvi.pretraining import read_pool

N_GENES = 60


def write_table(path, columns, rows):
    with gzip.open(path, "wt") as file:
        file.write("# a comment\n" + "\t".join(columns) + "\n")
        file.writelines("\t".join(map(str, row)) + "\n" for row in rows)


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """Folders pool/ and annotation/."""
    root = tmp_path_factory.mktemp("pretraining")
    (root / "pool").mkdir()
    (root / "annotation").mkdir()
    gene_columns = ["symbol", "ensembl", "chrom", "start", "end", "strand", "biotype"]
    rest = ["chr1", 1, 2, "+", "protein_coding"]
    human = [[f"GENE{i}", f"ENSG{i:011d}", *rest] for i in range(N_GENES)]
    mouse = [[f"Gene{i}", f"ENSMUSG{i:011d}", *rest] for i in range(N_GENES)]
    write_table(root / "annotation/human_genes.tsv.gz", gene_columns, human)
    write_table(root / "annotation/human_genes_grch37.tsv.gz", gene_columns, [["OLD3", human[3][1], *rest], *human[4:]])
    write_table(root / "annotation/mouse_genes.tsv.gz", gene_columns, mouse)
    write_table(root / "annotation/mouse_genes_grcm39.tsv.gz", gene_columns, mouse)
    write_table(
        root / "annotation/human_mouse_orthologues.tsv.gz",
        ["human_symbol", "mouse_symbol", "human_ensembl", "mouse_ensembl", "support_n", "in_mgi", "type"],
        [[h[0], m[0], h[1], m[1], 9, 1, "one2one"] for h, m in zip(human, mouse, strict=True)],
    )
    rng = np.random.default_rng(0)
    profiles = rng.gamma(0.5, 4, size=(4, N_GENES))
    for species, studies, names in (
        ("human", ["A", "B", "D", "E"], [h[0] for h in human]),
        ("mouse", ["C"], [m[0] for m in mouse]),
    ):
        study = np.repeat(studies, 40)
        types = rng.integers(4, size=len(study))
        measured = np.ones((N_GENES, len(studies)), bool)
        measured[50:, 0] = False  # A and C did not measure the last genes
        x = rng.poisson(profiles[types]) * measured[:, [studies.index(s) for s in study]].T
        obs = pd.DataFrame(
            {"study": study, "cell_type": np.where(study == "B", np.char.add("t", types.astype(str)), "")}
        )
        adata = ad.AnnData(csr_matrix(x), obs.set_index(obs.index.astype(str)), pd.DataFrame(index=names))
        adata.varm["measured"] = measured
        adata.uns["measured_studies"] = studies
        adata.write_h5ad(root / f"pool/{species}.h5ad")
    return root


@pytest.fixture(scope="session")
def gene_sets():
    sets = {f"set{k}": [f"GENE{i}" for i in range(10 * k, 10 * k + 8)] for k in range(5)}
    return sets | {"unknown": ["NOTHING", "GENE1"]}


@pytest.fixture(scope="session")
def pool(files):
    return read_pool(files / "pool", files / "annotation", n_genes=60)
