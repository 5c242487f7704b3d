import json
import signal
import subprocess
import sys
from importlib.metadata import version

import anndata
import numpy as np
import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from more_scvi.cli import app
from more_scvi.cli._shared import check_written, plainly, read, show, write
from more_scvi.data import load_demo, simulate_batches, simulate_multiomics
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


def test_genes_that_no_backbone_knows_are_told_the_way_on(tmp_path):
    path, arguments = tmp_path / "cells.h5ad", ["--batch", "batch", "--max-epochs", 1]
    simulate_batches(120, 60, 3, 2).write_h5ad(path)
    result = run("integrate", path, "-o", tmp_path / "out.h5ad", *arguments)
    assert result.exit_code == 2 and "--backbone none" in " ".join(result.output.split())
    result = run("integrate", path, "-o", tmp_path / "out.h5ad", "--backbone", "none", *arguments)
    assert result.exit_code == 0, result.output
    assert anndata.read_h5ad(tmp_path / "out.h5ad").obsm["X_more"].shape[0] == 120


def test_integrate_changes_nothing_but_what_it_adds(cells, tmp_path):
    """Onto the input, by a link; entries under scvi-tools' names, mode, nullable strings; counts in ``raw``."""
    adata = anndata.read_h5ad(cells)[:60].copy()
    adata.raw = adata
    adata = adata[:, :50].copy()
    adata.X = adata.X.toarray() - 3.5  # no model would take it
    adata.obs["_scvi_batch"], adata.obs["note"] = "mine", pd.array(["a", None] * 30, dtype="string")
    adata.uns["_scvi_uuid"], adata.uns["_scvi_mine"] = "mine", np.arange(3)
    path, link = tmp_path / "cells.h5ad", tmp_path / "link.h5ad"
    write(adata, path)
    path.chmod(0o640)
    link.symlink_to("cells.h5ad")
    result = run("integrate", link, "-o", link, "--batch", "platform", "--layer", "raw", "--max-epochs", 1)
    assert result.exit_code == 0, result.output
    after = anndata.read_h5ad(path)
    assert after.obsm["X_more"].shape[0] == 60
    pd.testing.assert_frame_equal(after.obs, read(path).obs[list(adata.obs)])
    assert list(after.obs["note"].isna()) == [False, True] * 30 and set(after.obs["_scvi_batch"]) == {"mine"}
    assert after.uns["_scvi_uuid"] == "mine" and list(after.uns["_scvi_mine"]) == [0, 1, 2]
    assert set(after.uns) == {"_scvi_uuid", "_scvi_mine"}
    assert np.array_equal(after.X, adata.X) and (after.raw.X != adata.raw.X).nnz == 0
    assert link.is_symlink() and path.stat().st_mode & 0o777 == 0o640
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cells.h5ad", "link.h5ad"]


@pytest.mark.parametrize("infer", [False, True], ids=["object", "infer_string"])
def test_strings_of_every_kind_are_written(cells, tmp_path, infer):
    if infer and version("anndata") < "0.12":
        pytest.skip("anndata 0.11 cannot write it, which is said before training")
    with pd.option_context("future.infer_string", infer):
        adata = read(cells)[:9].copy()
        adata.obs["plain"] = pd.Series(list("abcabcabc"), index=adata.obs_names)
        adata.obs["nullable"] = pd.array(["a", None, "b"] * 3, dtype="string")
        adata.obs["whole"] = pd.array([1, None, 2] * 3, dtype="Int64")
        check_written(adata)
        write(adata, tmp_path / "a.h5ad")
    after = read(tmp_path / "a.h5ad")
    for name in ("plain", "nullable", "whole"):
        assert list(after.obs[name].dropna()) == list(adata.obs[name].dropna())


def test_what_cannot_be_written_is_known_before_training(cells, tmp_path, monkeypatch):
    monkeypatch.setattr(MoRE, "train", lambda *_, **__: pytest.fail("trained"))
    adata = read(cells)
    adata.uns["thing"] = object()
    monkeypatch.setattr("more_scvi.cli._integrate.read", lambda _: adata)
    result = run("integrate", cells, "-o", tmp_path / "a.h5ad")
    assert result.exit_code == 2 and "could not be written again" in result.stderr and "thing" in result.stderr
    assert not list(tmp_path.iterdir())


def test_zarr_stores_are_read(cells, tmp_path):
    pytest.importorskip("zarr", reason="anndata needs it from 0.12 on")
    adata = read(cells)[:9, :20].copy()
    adata.write_zarr(tmp_path / "cells.zarr")
    assert (read(tmp_path / "cells.zarr").X != adata.X).nnz == 0
    mdata = simulate_multiomics(9, modalities=("rna", "protein"), n_genes=20, gene_names=adata.var_names)
    mdata.write_zarr(tmp_path / "several.zarr")
    mdata.write_h5mu(tmp_path / "several.h5mu")
    assert list(read(tmp_path / "several.zarr", several=True).mod) == ["rna", "protein"]
    for name in ("several.zarr", "several.h5mu"):
        with pytest.raises(ValueError, match=f"{name} holds several modalities. Use MoRE.setup_mudata"):
            read(tmp_path / name)


def test_ctrl_c_ends_with_one_line_and_writes_nothing(cells, tmp_path):
    code = """if True:
        import signal, sys
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
        from more_scvi.cli import app
        from torch.optim.optimizer import register_optimizer_step_post_hook
        register_optimizer_step_post_hook(lambda *_: print("a step", file=sys.stderr, flush=True))
        app()
    """
    arguments = ["integrate", cells, "-o", tmp_path / "a.h5ad", "--model", tmp_path / "m", "--max-epochs", "100000"]
    command = [sys.executable, "-c", code, *map(str, arguments)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as child:
        said = ""
        while (line := child.stderr.readline()) and "a step" not in line:
            said += line
        for _ in range(5):  # a signal that reached a place that swallows it is sent again
            child.send_signal(signal.SIGINT)
            try:
                said += child.communicate(timeout=20)[1]
                break
            except subprocess.TimeoutExpired:
                continue
        else:
            child.kill()
    assert child.returncode == 130, said
    assert said.endswith("Interrupted; no output was written.\n")
    assert "Traceback" not in said or "Exception ignored" in said  # jax swallows what reaches it while it collects
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (MemoryError("Unable to allocate 7 GiB"), 1, "not enough memory. Unable to allocate 7 GiB"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 1, "not enough memory"),
        (OSError(28, "No space left on device"), 1, "Error: [Errno 28] No space left"),
        (KeyboardInterrupt(), 130, "Interrupted"),
        (SystemExit(1), 130, "Interrupted"),
    ],
)
def test_what_stops_a_command_is_said_in_a_line(error, code, says):
    def command() -> None:
        raise error

    one = typer.Typer()
    one.command()(plainly(command))
    result = CliRunner().invoke(one)
    assert result.exit_code == code and says in result.stderr and result.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.h5ad", "-o", "{tmp}/out.h5ad"], "nowhere.h5ad is not a file"),
        (["{tmp}", "-o", "{tmp}/out.h5ad"], "is not a file"),
        (["nowhere.zarr", "-o", "{tmp}/out.h5ad"], "nowhere.zarr is not a folder"),
        (["{cells}", "-o", "/proc/out.h5ad"], "--output /proc/out.h5ad cannot be written"),
        (["{cells}", "-o", "/dev/null"], "a device"),
        (["{cells}", "-o", "{tmp}/out.zarr"], "must end in .h5ad"),
        (["{cells}", "-o", "{tmp}/out.h5ad", "--model", "{tmp}/no/folder"], "does not exist. Create"),
        (["{cells}", "-o", "{tmp}/out.h5ad", "--model", "/proc/model"], "--model /proc/model cannot be written"),
        (["{cells}", "-o", "{tmp}/out.h5ad", "--layer", "raw"], "raw"),
        (["{cells}", "-o", "{tmp}/out.h5ad", "--gene-key", "symbol"], "symbol"),
        (["{cells}", "-o", "{tmp}/out.h5ad", "--max-epochs", "0"], "--max-epochs"),
        (["{cells}", "-o", "{tmp}/out.h5ad", "--max-epochs", "many"], "--max-epochs"),
        (["{cells}", "-o", "{tmp}/out.h5ad", "--seed", "-1"], "--seed"),
        (["{cells}", "-o", "{tmp}/out.h5ad", "--seed", "4294967296"], "--seed"),
        (["{cells}", "-o", "{tmp}/out.h5ad", "--backbone", "{tmp}"], "backbone"),
        (["{cells}", "-o", "{tmp}/no/folder/out.h5ad"], "does not exist. Create"),
        (["{cells}", "-o", "{tmp}"], "is a folder"),
        (["{tmp}/notes.h5ad", "-o", "{tmp}/out.h5ad"], "cannot be read as .h5ad"),
        (["{cells}", "-o", "{tmp}/out.h5ad", "--batch", "plattform"], "platform"),
        (["{cells}", "-o", "{tmp}/out.h5ad", "--labels", "type"], "cell_type"),
        (["{cells}", "-o", "{tmp}/out.h5ad", "--layer", "counts"], "counts"),
        (["{cells}", "-o", "{tmp}/out.h5ad", "--backbone", "mini"], "more-mini"),
        (["{cells}", "-o", "{tmp}/out.h5ad", "--model", "{tmp}"], "exists"),
    ],
)
def test_refusals_name_the_mistake_and_write_nothing(cells, tmp_path, monkeypatch, arguments, message):
    monkeypatch.setattr(MoRE, "train", lambda *_, **__: pytest.fail("trained"))
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
        (["{cells}", "--results", "/proc/none/results"], "--results /proc/none/results cannot be written"),
        (["{cells}", "--output", "/proc/page.html"], "--output /proc/page.html cannot be written"),
        (["{cells}", "--seeds", "-1"], "must be whole numbers"),
        (["{cells}", "--layer", "raw"], "no layer 'raw'"),
        (["{tmp}"], "is not a file. Give the path of .h5ad, .h5mu or .zarr"),
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


def test_a_summary_shows_names_and_paths_as_they_are(capsys):
    show(
        {"report": "/tmp/[/b]/page.html", "methods": ["obsm:[red]x", "obsm:[/]"], "[x]": "T cell [CD4]"}, as_json=False
    )
    said = capsys.readouterr().out
    for text in ("/tmp/[/b]/page.html", "obsm:[red]x, obsm:[/]", "[x]", "T cell [CD4]"):
        assert text in said


def test_doctor_names_versions_and_backbones():
    summary = json.loads(run("doctor", "--json").stdout)
    assert {"python", "torch", "scvi-tools", "devices"} <= set(summary)
    assert "more-mini" in summary["backbones"]


def test_demo_refuses_a_missing_folder(tmp_path):
    result = run("demo", "--folder", tmp_path / "none")
    assert result.exit_code == 2
    assert "does not exist" in result.stderr
