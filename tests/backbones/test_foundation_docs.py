"""The pages on foundation models: what they show in Python runs on files as the tools write them."""

import re
from pathlib import Path

import anndata
import numpy as np
import pytest

import more_scvi as more
from more_scvi.backbones import _registry
from more_scvi.data import simulate_batches

FOLDER = Path(__file__).parents[2] / "docs" / "foundation"
WRITTEN = {  # page -> file that the model's own tool leaves, key in obsm
    "uce": ("uce/cells_uce_adata.h5ad", "X_uce"),
    "scimilarity": ("cells_scimilarity.h5ad", "X_scimilarity"),
    "nicheformer": ("data_with_embeddings.h5ad", "X_niche_embeddings"),
    "transcriptformer": ("tf_out/embeddings.h5ad", "embeddings"),
    "scfoundation": ("cells_embedding.npy", None),
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
    assert pages == {"index", "own", *WRITTEN}
    index = (FOLDER / "index.md").read_text()
    assert all(f"({page}.md)" in index for page in pages - {"index"})


@pytest.mark.parametrize("page", WRITTEN)
def test_features_of_other_tools_reach_the_model(adata, page):
    path, key = WRITTEN[page]
    features = np.random.default_rng(0).normal(size=(adata.n_obs, 12)).astype(np.float32)
    Path(path).parent.mkdir(exist_ok=True)
    if key is None:
        np.save(path, features)
    else:
        written = adata.copy()
        written.obsm[key] = features
        written[::-1].copy().write_h5ad(path)
    names = {"adata": adata, "anndata": anndata, "more": more, "numpy": np}
    (code,) = python_of(page)
    exec(compile(code, page, "exec"), names)
    model = names["model"]
    assert model.backbone.name == "precomputed" and model.backbone.n_features == 12
    where = {name: at for at, name in enumerate(adata.obs_names)}
    order = [where[name] for name in names["adata"].obs_names]
    (given,) = [v for k, v in names["adata"].obsm.items() if k.startswith("X_")]
    np.testing.assert_array_equal(given, features[order])


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
