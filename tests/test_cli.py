import json

import anndata
import pytest
from typer.testing import CliRunner

from more_scvi.cli import app
from more_scvi.data import load_demo, simulate_multiomics
from more_scvi.model import MoRE


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    """A file with the labels of the simulated platform hidden."""
    adata = load_demo()[::4].copy()
    adata.obs["label"] = adata.obs["cell_type"].astype(str)
    adata.obs.loc[adata.obs["platform"] == "simulated", "label"] = "Unknown"
    adata.obs["empty"], adata.obs["same"] = "Unknown", "a"
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


@pytest.fixture
def quick(monkeypatch):
    """One epoch, and 100 cells in a quick look."""
    train = MoRE.train
    monkeypatch.setattr(MoRE, "train", lambda self, **kwargs: train(self, max_epochs=1, **kwargs))
    monkeypatch.setattr("more_scvi.cli._evaluate.QUICK_CELLS", 100)


def test_evaluate_writes_a_report_and_goes_on_from_stored_results(cells, tmp_path, quick):
    page, results, before = tmp_path / "page.html", tmp_path / "results", cells.read_bytes()
    arguments = [cells, "--batch", "platform", "--labels", "cell_type", "--quick", "--results", results, "--json"]
    first = run("evaluate", *arguments, "--methods", "pca_raw", "-o", page)
    assert first.exit_code == 0, first.output
    summary, twin = json.loads(first.stdout), json.loads((tmp_path / "page.json").read_text())
    assert summary["report"] == str(page) and summary["cells"] == twin["data"]["cells"] == 100
    assert set(summary["methods"]) == {"more", "pca_raw"}  # MoRE is always there
    assert list(twin["protocols"]) == ["S1"] and twin["data"]["name"] == "cells"
    assert "100 of 175 cells" in twin["notes"][0]
    assert summary["verdict"] == twin["verdict"] and summary["verdict"] in page.read_text()
    assert "--methods pca_raw" in twin["command"] and "--quick" in twin["command"]
    assert cells.read_bytes() == before

    stored = {path: path.stat().st_mtime_ns for path in results.rglob("*.json")}
    assert {"more.json", "pca_raw.json", "split.json"} == {path.name for path in stored}
    again = run("evaluate", *arguments, "--methods", "lr_hvg", "-o", page, "--overwrite")
    assert again.exit_code == 0, again.output
    assert set(json.loads(again.stdout)["methods"]) == {"more", "lr_hvg"}  # what is asked for, not all that is stored
    kept = [results / path for path in stored if path.name != "split.json"]
    assert [path.stat().st_mtime_ns for path in kept] == [stored[path] for path in kept]  # not computed again


def test_evaluate_reads_several_modalities(tmp_path, quick, monkeypatch):
    monkeypatch.setattr("more_scvi.cli._evaluate.SEVERAL_METHODS", ("more", "blocks"))
    names = load_demo().var_names[:300]
    simulate_multiomics(90, modalities=("rna", "protein"), gene_names=names).write_h5mu(tmp_path / "cells.h5mu")
    arguments = ["--batch", "batch", "--labels", "cell_type", "--protocols", "S1", "--seeds", "3"]
    result = run("evaluate", tmp_path / "cells.h5mu", *arguments, "-o", tmp_path / "page.html")
    assert result.exit_code == 0, result.output
    twin = json.loads((tmp_path / "page.json").read_text())
    assert twin["data"]["features"] == {"rna": 300, "prot": 20}
    assert twin["shown"]["split"] == "S1_r0_s3"
    assert set(twin["modality_weights"]["type0"]) == {"rna", "protein"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.h5mu"], "nowhere.h5mu is not a file"),
        (["{tmp}/notes.h5ad"], "cannot be read as .h5ad"),
        (["{cells}", "-o", "{tmp}/no/page.html"], "does not exist. Create"),
        (["{cells}", "-o", "{tmp}/page.pdf"], "must end in .html"),
        (["{cells}", "-o", "{tmp}/notes.html"], "notes.html exists. Name another --output, or add --overwrite"),
        (["{cells}", "-o", "{tmp}/numbers.html"], "numbers.json exists"),
        (["{cells}", "--batch", "plattform"], "batch_key: obs has no column 'plattform'; it has cell_type, platform"),
        (["{cells}", "--labels", "type"], "labels_key: obs has no column 'type'"),
        (["{cells}", "--labels", "empty"], "has 0 label(s)"),
        (["{cells}", "--labels", "same"], "has 1 label(s)"),
        (["{cells}", "--layer", "counts"], "no layer 'counts'"),
        (["{cells}", "--methods", "pca,magic"], "Method 'magic' is unknown. Known are"),
        (["{cells}", "--methods", "obsm:X_mine"], "obsm has no array 'X_mine'"),
        (["{cells}", "--methods", ","], "names nothing"),
        (["{cells}", "--protocols", "S1,S9"], "protocol 'S9' is unknown"),
        (["{cells}", "--protocols", "S2a", "--batch", "same"], "there is only one ('a')"),
        (["{cells}", "--seeds", "0,one"], "must be whole numbers"),
        (["{cells}", "--prefilter", "doublets"], "choose one of 'scrublet'"),
        (["{cells}", "--results", "{tmp}/notes.html"], "is a file. Give a folder"),
    ],
)
def test_evaluate_refuses_before_it_trains_and_writes_nothing(cells, tmp_path, monkeypatch, arguments, message):
    monkeypatch.setattr(MoRE, "train", lambda *_, **__: pytest.fail("trained"))
    monkeypatch.chdir(tmp_path)
    there = ["notes.h5ad", "notes.html", "numbers.json"]
    for name in there:
        (tmp_path / name).write_text("mine")
    given = {"--batch": "platform", "--labels": "cell_type", **dict(zip(arguments[1::2], arguments[2::2], strict=True))}
    flat = [arguments[0], *(text for pair in given.items() for text in pair)]
    result = run("evaluate", *(text.format(cells=cells, tmp=tmp_path) for text in flat))
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr and result.stderr.startswith("Error: ") and result.stderr.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == there
    assert all((tmp_path / name).read_text() == "mine" for name in there)


def test_doctor_names_versions_and_backbones():
    summary = json.loads(run("doctor", "--json").stdout)
    assert {"python", "torch", "scvi-tools", "devices"} <= set(summary)
    assert "more-mini" in summary["backbones"]


def test_demo_refuses_a_missing_folder(tmp_path):
    result = run("demo", "--folder", tmp_path / "none")
    assert result.exit_code == 2
    assert "does not exist" in result.stderr
