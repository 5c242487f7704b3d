import json

import anndata
import pytest
from typer.testing import CliRunner

from more_scvi.cli import app
from more_scvi.data import load_demo


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    """A file with the labels of the simulated platform hidden."""
    adata = load_demo()[::4].copy()
    adata.obs["label"] = adata.obs["cell_type"].astype(str)
    adata.obs.loc[adata.obs["platform"] == "simulated", "label"] = "Unknown"
    path = tmp_path_factory.mktemp("cli") / "cells.h5ad"
    adata.write_h5ad(path)
    return path


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_integrate_writes_embedding_and_annotation(cells, tmp_path):
    out, model = tmp_path / "out.h5ad", tmp_path / "model"
    arguments = ["--batch", "platform", "--labels", "label", "--max-epochs", 2, "--model", model, "--json"]
    result = run("integrate", cells, "-o", out, *arguments)
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    adata, before = anndata.read_h5ad(out), anndata.read_h5ad(cells)
    assert adata.obsm["X_more"].shape == (before.n_obs, summary["latent"])
    assert set(adata.obs["more_prediction"]) <= set(before.obs["label"]) - {"Unknown"}
    assert adata.obs["more_confidence"].between(0, 1).all()
    assert (adata.X != before.X).nnz == 0
    assert set(adata.obs) == {*before.obs, "more_prediction", "more_confidence"}
    assert model.is_dir()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model", "out.h5ad"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.h5ad", "-o", "{tmp}/out.h5ad"], "nowhere.h5ad is not a file"),
        (["{cells}", "-o", "{tmp}/no/folder/out.h5ad"], "does not exist. Create"),
        (["{cells}", "-o", "{tmp}"], "is a folder"),
        (["{tmp}/notes.h5ad", "-o", "{tmp}/out.h5ad"], "cannot be read as .h5ad"),
        (["{cells}", "-o", "{tmp}/out.h5ad", "--batch", "plattform"], "platform"),
        (["{cells}", "-o", "{tmp}/out.h5ad", "--labels", "type"], "cell_type"),
        (["{cells}", "-o", "{tmp}/out.h5ad", "--layer", "counts"], "counts"),
        (["{cells}", "-o", "{tmp}/out.h5ad", "--backbone", "mini"], "more-mini"),
        (["{cells}", "-o", "{tmp}/out.h5ad", "--model", "{tmp}"], "exists"),
    ],
    ids=["missing", "no-folder", "folder", "not-h5ad", "batch", "labels", "layer", "backbone", "model"],
)
def test_refusals_name_the_mistake_and_write_nothing(cells, tmp_path, arguments, message):
    (tmp_path / "notes.h5ad").write_text("not HDF5")
    result = run("integrate", *(a.format(cells=cells, tmp=tmp_path) for a in arguments))
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stdout == ""
    assert [p.name for p in tmp_path.iterdir()] == ["notes.h5ad"]


def test_doctor_names_versions_and_backbones():
    summary = json.loads(run("doctor", "--json").stdout)
    assert {"python", "torch", "scvi-tools", "devices"} <= set(summary)
    assert "more-mini" in summary["backbones"]


def test_demo_refuses_a_missing_folder(tmp_path):
    result = run("demo", "--folder", tmp_path / "none")
    assert result.exit_code == 2
    assert "does not exist" in result.stderr
