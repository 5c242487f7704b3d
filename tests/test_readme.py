"""What the README shows works: its Python runs, its commands and files exist."""

import re
from pathlib import Path

import mudata
import numpy as np
import pytest
import typer

from more_scvi import MoRE
from more_scvi._compat import no_pull
from more_scvi.cli import app
from more_scvi.data import load_demo, simulate_multiomics

ROOT = Path(__file__).parents[1]
DOCUMENTS = ["README.md", "CONTRIBUTING.md", "docs/quickstart.md", "docs/cli.md"]


def blocks(document: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)


def commands(document: str) -> list[list[str]]:
    lines = "\n".join(blocks(document, "bash")).splitlines()
    return [line.split("#")[0].split() for line in lines if line.strip()]


def test_python_of_the_readme_runs(tmp_path, monkeypatch):
    adata = load_demo()[::5].copy()
    adata.obs = adata.obs.rename(columns={"platform": "donor"})
    adata.write_h5ad(tmp_path / "cells.h5ad")
    monkeypatch.chdir(tmp_path)
    train = MoRE.train
    monkeypatch.setattr(MoRE, "train", lambda self: train(self, max_epochs=1, enable_progress_bar=False))
    first, several, diagnosis = blocks("README.md", "python")
    names: dict = {}
    exec(compile(first, "README.md", "exec"), names)
    assert names["adata"].obsm["X_more"].shape == (adata.n_obs, 50)
    assert set(names["adata"].obs["prediction"]) <= set(adata.obs["cell_type"])
    assert (tmp_path / "my_model").is_dir()

    simulated = simulate_multiomics(120, modalities=("rna", "protein"), gene_names=adata.var_names[:300])
    for part in simulated.mod.values():
        part.obs = part.obs.rename(columns={"batch": "donor"})
    with no_pull():
        names["mdata"] = mudata.MuData({"rna": simulated["rna"], "prot": simulated["protein"][:90].copy()})
    exec(compile(several, "README.md", "exec"), names)
    assert names["mdata"].obsm["X_more"].shape == (120, 50)
    exec(compile(diagnosis, "README.md", "exec"), names)


def test_python_of_the_quickstart_runs(tmp_path, monkeypatch, caplog):
    """Every block word for word, on files of the names that it gives; training is short."""
    monkeypatch.chdir(tmp_path)
    train = MoRE.train
    monkeypatch.setattr(MoRE, "train", lambda self: train(self, max_epochs=1, enable_progress_bar=False))
    single, query, several, spatial, precomputed = blocks("docs/quickstart.md", "python")
    adata = load_demo()[::5].copy()
    adata.obs = adata.obs.rename(columns={"platform": "donor"})
    adata.obs["section"] = adata.obs["donor"]
    adata.write_h5ad("cells.h5ad")
    adata[:40, ::2].copy().write_h5ad("new.h5ad")
    names: dict = {}
    exec(compile(single, "quickstart", "exec"), names)
    assert set(names["adata"].obs["more_prediction"]) <= set(adata.obs["cell_type"])
    assert names["adata"].obsm["X_umap"].shape == (adata.n_obs, 2)
    with pytest.warns(UserWarning, match="taken as missing"):
        exec(compile(query, "quickstart", "exec"), names)
    assert "look as if" not in caplog.text  # of the genes that are there none is zero for want of measurement
    assert names["query"].obsm["X_more"].shape == (40, 50)
    assert set(names["query"].obs["more_prediction"]) <= set(adata.obs["cell_type"])

    rng = np.random.default_rng(0)
    names["adata"].obsm["spatial"] = rng.random((adata.n_obs, 2))
    exec(compile(spatial, "quickstart", "exec"), names)
    names["features"] = rng.normal(size=(adata.n_obs, 12)).astype(np.float32)
    exec(compile(precomputed, "quickstart", "exec"), names)
    assert names["model"].backbone.n_features == 12

    simulated = simulate_multiomics(120, gene_names=adata.var_names[:300])
    for part in simulated.mod.values():
        part.obs = part.obs.rename(columns={"batch": "donor"})
    simulated.uns["genes"].to_csv("gene_annotation.tsv", sep="\t", index=False)
    with no_pull():
        parts = {"rna": simulated["rna"], "atac": simulated["atac"], "prot": simulated["protein"][:90].copy()}
        mudata.MuData(parts).write_h5mu("cells.h5mu")
    exec(compile(several, "quickstart", "exec"), names)
    assert names["mdata"].obsm["X_more"].shape == (120, 50)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_exist(document):
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    cli = typer.main.get_command(app)
    for program, *arguments in commands(document):
        if program == "make":
            assert {a for a in arguments if "=" not in a} <= set(targets), arguments
        if program == "more-scvi":
            options = {o for p in cli.commands[arguments[0]].params for o in p.opts}
            assert {a for a in arguments if a.startswith("-")} <= options, arguments


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_and_images_exist(document):
    for target in re.findall(r"\]\((?!https?:|#)([^)]+)\)", (ROOT / document).read_text()):
        assert ((ROOT / document).parent / target).exists(), target


def test_every_command_and_option_is_documented():
    text = (ROOT / "docs" / "cli.md").read_text()
    cli = typer.main.get_command(app)
    for name, command in cli.commands.items():
        assert f"more-scvi {name}" in text
        for parameter in command.params:
            if name in ("integrate", "evaluate") and parameter.param_type_name == "option":
                assert f"`{parameter.opts[0]}`" in text, parameter.opts
