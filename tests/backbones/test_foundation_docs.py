"""The pages on foundation models: what they show in Python runs on files as the tools write them."""

import re
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

import more_scvi as more
from more_scvi.backbones import _registry
from more_scvi.data import simulate_batches

FOLDER = Path(__file__).parents[2] / "docs" / "foundation"
RNG = np.random.default_rng(0)


def features(adata, width, dtype=np.float32):
    return RNG.normal(size=(adata.n_obs, width)).astype(dtype)


def write_uce(adata):
    """Genes and cells with few counts are gone; the rest is in order, under its names."""
    kept = adata[np.arange(adata.n_obs) % 7 > 0, :30].copy()
    kept.obsm["X_uce"] = features(kept, 1280)
    Path("uce").mkdir()
    kept.write_h5ad("uce/cells_uce_adata.h5ad")
    return pd.DataFrame(kept.obsm["X_uce"], kept.obs_names)


def write_scimilarity(adata):
    """All cells, written by the user."""
    written = adata.copy()
    written.obsm["X_scimilarity"] = features(adata, 128)
    written.write_h5ad("cells_scimilarity.h5ad")
    return pd.DataFrame(written.obsm["X_scimilarity"], written.obs_names)


def write_nicheformer(adata):
    """All cells, in the genes of the model."""
    written = anndata.AnnData(np.zeros((adata.n_obs, 5), np.float32), obs=adata.obs.assign(modality=3, specie=5))
    written.obsm["X_niche_embeddings"] = features(adata, 512)
    written.write_h5ad("data_with_embeddings.h5ad")
    return pd.DataFrame(written.obsm["X_niche_embeddings"], written.obs_names)


def write_transcriptformer(adata):
    """No X, no names of cells: columns of obs as text, rows called 0, 1, ...; half precision on a GPU."""
    obs = pd.DataFrame({"donor": adata.obs["donor"].astype(str).tolist(), "cell": list(adata.obs_names)})
    written = anndata.AnnData(obs=obs, obsm={"embeddings": features(adata, 2048, np.float16)})
    assert list(written.obs_names[:2]) == ["0", "1"]
    Path("tf_out").mkdir()
    written.write_h5ad("tf_out/embeddings.h5ad")
    return pd.DataFrame(written.obsm["embeddings"], adata.obs_names)


def write_scfoundation(adata):
    """An array without names."""
    np.save("cells_embedding.npy", found := features(adata, 3072))
    return pd.DataFrame(found, adata.obs_names)


def write_stack(adata):
    """Features are X; names are those of --obs-source, here of a file without its last cells (another species)."""
    kept = adata[:-9]
    var = pd.DataFrame(index=[f"latent_{i}" for i in range(1600)])
    anndata.AnnData(features(kept, 1600), obs=kept.obs.copy(), var=var).write_h5ad("stack.h5ad")
    return pd.DataFrame(anndata.read_h5ad("stack.h5ad").X, kept.obs_names)


WRITTEN = {  # page -> writer of the file that the model's own tool leaves
    "uce": write_uce,
    "scimilarity": write_scimilarity,
    "nicheformer": write_nicheformer,
    "transcriptformer": write_transcriptformer,
    "scfoundation": write_scfoundation,
    "stack": write_stack,
}


def python_of(page):
    return re.findall(r"```python\n(.*?)```", (FOLDER / f"{page}.md").read_text(), re.DOTALL)


@pytest.fixture
def adata(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    genes = more.backbones.get_backbone("more-mini").vocabulary.human_symbol[:40]
    adata = simulate_batches(60, n_genes=40, n_types=2, gene_names=genes)
    adata.obs = adata.obs.rename(columns={"batch": "donor"})
    adata.layers["counts"] = adata.X.copy()
    return adata


def test_every_page_is_listed():
    pages = {path.stem for path in FOLDER.glob("*.md")}
    assert pages == {"index", "own", "geneformer", "scgpt", *WRITTEN}
    index, toctree = (FOLDER / "index.md").read_text(), (FOLDER.parent / "index.md").read_text()
    assert all(f"({page}.md)" in index and f"foundation/{page}\n" in toctree for page in pages - {"index"})


@pytest.mark.parametrize("page", WRITTEN)
def test_features_of_other_tools_reach_the_model(adata, page):
    written = WRITTEN[page](adata)
    names = {"adata": adata, "anndata": anndata, "more": more, "numpy": np}
    (code,) = python_of(page)
    exec(compile(code, page, "exec"), names)
    model, used = names["model"], names["adata"]
    assert model.backbone.name == "precomputed" and model.backbone.n_features == written.shape[1]
    assert used.n_obs == len(written)
    (given,) = [v for k, v in used.obsm.items() if k.startswith("X_")]
    np.testing.assert_array_equal(given, written.loc[used.obs_names])


class TestAnyOther:
    """Features of a tool that dropped cells and sorted the rest."""

    @pytest.fixture
    def written(self, adata):
        rows = RNG.permutation(adata.n_obs)[:-10]
        found = anndata.AnnData(obs=pd.DataFrame(index=adata.obs_names[rows]))
        found.obsm["X_theirs"] = features(found, 6)
        return found

    def test_the_example_aligns_them(self, adata, written):
        more.MoRE.setup_anndata(adata, batch_key="donor")
        code = re.search(r"```py\n(features = .*?)```", (FOLDER / "index.md").read_text(), re.DOTALL)[1]
        setup, use = code.split("model = ")
        names = {"adata": adata, "embedded": written, "more": more, "pandas": pd}
        exec(compile(setup, "index", "exec"), names)
        more.MoRE.setup_anndata(names["adata"], batch_key="donor")
        exec(compile(f"model = {use}", "index", "exec"), names)
        used, where = names["adata"], written.obs_names.get_indexer(names["adata"].obs_names)
        assert used.n_obs == adata.n_obs - 10
        np.testing.assert_array_equal(used.obsm["X_theirs"], written.obsm["X_theirs"][where])
        assert names["model"].backbone.n_features == 6

    def test_rows_of_other_cells_are_refused(self, adata, written):
        table = pd.DataFrame(written.obsm["X_theirs"], written.obs_names)
        with pytest.raises(ValueError, match="shape|length"):
            adata.obsm["X_theirs"] = written.obsm["X_theirs"]
        kept = adata[adata.obs_names.isin(table.index)].copy()
        with pytest.raises(ValueError, match=r"index.* obs"):
            kept.obsm["X_theirs"] = table  # as many rows, in another order
        adata.obsm["X_theirs"] = table.reindex(adata.obs_names)
        more.MoRE.setup_anndata(adata, batch_key="donor")
        with pytest.raises(ValueError, match=r"60 values that are not finite, in 10 cells \('.*leave such cells out"):
            more.MoRE(adata, backbone="precomputed", backbone_kwargs={"obsm_key": "X_theirs"})


def test_the_example_of_a_backbone_runs(adata, monkeypatch):
    monkeypatch.setattr(_registry, "_REGISTRY", dict(_registry._REGISTRY))
    train = more.MoRE.train
    monkeypatch.setattr(more.MoRE, "train", lambda self: train(self, max_epochs=1, enable_progress_bar=False))
    Path("vectors").mkdir()
    vectors = np.random.default_rng(0).normal(size=(30, 5)).astype(np.float32)
    np.save("vectors/vectors.npy", vectors)
    Path("vectors/symbols.txt").write_text("\n".join(adata.var_names[:30]))
    example, use = python_of("own")
    assert 25 <= len(example.splitlines()) <= 40
    names = {"adata": adata}
    exec(compile(example, "own", "exec"), names)
    exec(compile(use, "own", "exec"), names)
    model = names["model"]
    assert model.backbone.name == "gene-vectors" and model.is_trained_
    match = more.data.match_genes(adata.var_names, model.backbone.vocabulary)
    logged = np.log1p(adata.X.toarray())[:, :30]
    expected = logged @ vectors / logged.sum(1, keepdims=True)
    np.testing.assert_allclose(model.backbone.encode(adata.X, match), expected, atol=1e-5)
