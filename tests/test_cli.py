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
from mudata import MuData
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
    assert MoRE.load(model, adata=False).has_map
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model", "out.h5ad"]


def test_genes_that_no_backbone_knows_are_told_the_way_on(tmp_path):
    path, arguments = tmp_path / "cells.h5ad", ["--batch", "batch", "--max-epochs", 1]
    simulate_batches(120, 60, 3, 2).write_h5ad(path)
    result = run("integrate", path, "-o", tmp_path / "out.h5ad", *arguments)
    assert result.exit_code == 2 and "--backbone none" in " ".join(result.output.split())
    result = run("integrate", path, "-o", tmp_path / "out.h5ad", "--backbone", "none", *arguments)
    assert result.exit_code == 0, result.output
    assert anndata.read_h5ad(tmp_path / "out.h5ad").obsm["X_more"].shape[0] == 120


def test_several_columns_may_name_the_batch(tmp_path):
    cells, model = tmp_path / "cells.h5ad", tmp_path / "model"
    adata = simulate_batches(120, 60, 3, 2)
    adata.obs["lane"] = ["left", "right"] * 60
    adata.write_h5ad(cells)
    arguments = ["--batch", "batch", "--batch", "lane", "--backbone", "none", "--max-epochs", 1]
    result = run("integrate", cells, "-o", tmp_path / "out.h5ad", "--model", model, *arguments)
    assert result.exit_code == 0, result.output
    batches = [f"{batch} / {lane}" for batch in ("batch0", "batch1") for lane in ("left", "right")]
    assert list(MoRE.load(model, adata=False).batches) == batches


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
    monkeypatch.setattr("more_scvi.cli._shared.read", lambda _: adata)
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
    for name in ("several.zarr", "several.h5mu"):
        assert list(read(tmp_path / name).mod) == ["rna", "protein"]
        result = run("integrate", tmp_path / name, "-o", tmp_path / "out.h5ad")
        assert result.exit_code == 2 and "must end in .h5mu" in result.stderr


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


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """RNA and proteins, some cells with one of them alone; columns of mdata.obs, of a modality, and nullable ones."""
    names, pattern = load_demo().var_names[:200], ["both"] * 60 + ["rna"] * 20 + ["prot"] * 20
    mdata = simulate_multiomics(100, modalities=("rna", "protein"), n_genes=200, gene_names=names)
    rna, protein = mdata.mod["rna"].copy(), mdata.mod["protein"].copy()
    rna.layers["raw_counts"] = rna.X.copy()
    rna, protein = (
        part[[p in ("both", name) for p in pattern]].copy() for part, name in ((rna, "rna"), (protein, "prot"))
    )
    mdata = MuData({"gex": rna, "ADT": protein}).copy()
    mdata.obs["note"] = pd.array(["a", None] * 50, dtype="string")
    mdata.uns["mine"], mdata.obsm["X_mine"] = {"a": np.arange(3)}, np.ones((100, 2))
    path = tmp_path_factory.mktemp("several") / "cells.h5mu"
    write(mdata, path)
    return path


@pytest.fixture(scope="module")
def integrated(several):
    """What ``integrate`` wrote of several modalities; the model, its output and its summary."""
    model, out = several.with_name("model"), several.with_name("out.h5mu")
    arguments = ["--batch", "batch", "--labels", "cell_type", "--max-epochs", 1, "--model", model, "--json"]
    result = run("integrate", several, "-o", out, *arguments)
    assert result.exit_code == 0, result.output
    return model, out, json.loads(result.stdout)


def test_integrate_takes_several_modalities_by_their_usual_names(several, integrated):
    _, out, summary = integrated
    assert summary["modalities"] == ["rna (gex)", "protein (ADT)"] and summary["cells"] == 100
    before, after = read(several), read(out)
    assert after.obsm["X_more"].shape == (100, summary["latent"]) and np.isfinite(after.obsm["X_more"]).all()
    assert after.obs["more_confidence"].between(0, 1).all() and after.obs["more_prediction"].notna().all()
    assert set(after.obs) == {*before.obs, "more_prediction", "more_confidence"}
    pd.testing.assert_frame_equal(after.obs[list(before.obs)], before.obs)
    assert list(after.uns) == ["mine"] and set(after.obsm) - {"gex", "ADT"} == {"X_mine", "X_more"}
    for name, part in before.mod.items():
        assert (after.mod[name].X != part.X).sum() == 0
        pd.testing.assert_frame_equal(after.mod[name].obs, part.obs)
        assert set(after.mod[name].layers) == set(part.layers)


def test_integrate_takes_names_and_layers_that_are_given(several, tmp_path):
    mdata = read(several)
    renamed = MuData({"first": mdata.mod["gex"], "second": mdata.mod["ADT"]})
    path = tmp_path / "cells.h5mu"
    write(renamed, path)
    arguments = ["integrate", path, "-o", path, "--batch", "batch", "--max-epochs", 1]
    result = run(*arguments)
    assert result.exit_code == 2 and "What are the modalities 'first', 'second'?" in result.stderr
    named = ["--modality", "rna=first", "--modality", "protein=second", "--layer", "raw_counts"]
    result = run(*arguments, *named)
    assert result.exit_code == 0, result.output
    assert read(path).obsm["X_more"].shape[0] == 100


def test_map_embeds_and_annotates_new_cells(cells, mapped, tmp_path):
    """As the API does, onto the query itself; nothing else of it changes."""
    model, _ = mapped
    query = read(cells)[1::2, 30:].copy()
    query.obs["_scvi_batch"], query.obs["note"] = "mine", pd.array(["a"] + [None] * (query.n_obs - 1), dtype="string")
    query.uns["mine"], path, link = np.arange(2), tmp_path / "query.h5ad", tmp_path / "link.h5ad"
    write(query, path)
    path.chmod(0o640)
    link.symlink_to("query.h5ad")
    result = run("map", link, "--model", model, "-o", link, "--json")
    assert result.exit_code == 0, result.output
    summary, after, loaded = json.loads(result.stdout), read(path), MoRE.load(model, adata=False)
    assert np.allclose(after.obsm["X_more"], loaded.get_latent_representation(query, obsm_key=None), atol=1e-5)
    assert np.allclose(after.obsm["X_more_map"], loaded.get_map_coordinates(query, obsm_key=None), atol=1e-4)
    assert list(after.obs["more_prediction"]) == list(loaded.predict(query))
    assert np.allclose(after.obs["more_confidence"], loaded.predict(query, soft=True).max(axis=1), atol=1e-5)
    assert set(after.obs) == {*query.obs, "more_prediction", "more_confidence", "more_novelty"}
    assert np.allclose(after.obs["more_novelty"], loaded.get_novelty(query), atol=1e-5)
    assert "share_novel" not in summary  # a distance to types has no usual size
    assert summary["cells"] == query.n_obs == sum(summary["types"].values())
    n = len(loaded.genes)
    assert summary["genes"] == n - 30 and summary["share_of_genes"] == round((n - 30) / n, 4)
    assert summary["share_unsure"] == round((after.obs["more_confidence"] < 0.5).mean(), 4)
    pd.testing.assert_frame_equal(after.obs[list(query.obs)], read(link).obs[list(query.obs)])
    assert set(after.obs["_scvi_batch"]) == {"mine"} and list(after.uns) == ["mine"] and (after.X != query.X).nnz == 0
    assert link.is_symlink() and path.stat().st_mode & 0o777 == 0o640
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link.h5ad", "query.h5ad"]


def test_map_says_what_is_new_with_the_cells_of_the_reference(cells, mapped, tmp_path):
    model, reference = mapped
    path = tmp_path / "query.h5ad"
    read(cells)[::3].copy().write_h5ad(path)
    result = run("map", path, "--model", model, "-o", path, "--reference", reference, "--json")
    assert result.exit_code == 0, result.output
    novelty = read(path).obs["more_novelty"]
    assert novelty.between(0, 1).all() and novelty.nunique() > 5
    assert json.loads(result.stdout)["share_novel"] == round((novelty > 0.8).mean(), 4)
    people = run("map", path, "--model", model, "-o", tmp_path / "again.h5ad")
    kind = read(path).obs["more_prediction"].iloc[0]
    assert "share_of_genes" in people.stdout and kind in people.stdout and "{" not in people.stdout


def test_map_reads_batch_and_values_where_it_is_told(cells, mapped, tmp_path):
    """A batch column of another name, counts in a layer or in ``raw``: as if they were where the model looks."""
    model, _ = mapped
    query = read(cells)[::3].copy()
    loaded = MoRE.load(model, adata=False)
    z = loaded.get_latent_representation(query, obsm_key=None)
    raw, own = query.copy(), query.obs.drop(columns="platform").assign(lane=query.obs["platform"])
    query = anndata.AnnData(query.X.toarray() - 3.5, obs=own, var=query.var, layers={"counts": query.X})
    query.raw = raw
    for layer in ("counts", "raw"):
        path = tmp_path / f"{layer}.h5ad"
        write(query, path)
        result = run("map", path, "--model", model, "-o", path, "--batch", "lane", "--layer", layer)
        assert result.exit_code == 0, result.output
        after = read(path)
        assert np.allclose(after.obsm["X_more"], z, atol=1e-5)
        assert "platform" not in after.obs and np.array_equal(after.X, query.X) and set(after.layers) == {"counts"}


def test_map_takes_several_modalities_or_one_of_them(several, integrated, tmp_path):
    model, _, _ = integrated
    result = run("map", several, "--model", model, "-o", tmp_path / "query.h5mu", "--reference", several, "--json")
    assert result.exit_code == 0, result.output
    summary, after, mdata = json.loads(result.stdout), read(tmp_path / "query.h5mu"), read(several)
    assert (summary["genes"], summary["antibodies"], summary["share_of_antibodies"]) == (200, 20, 1.0)
    assert {"more_prediction", "more_confidence", "more_novelty"} <= set(after.obs) and "note" in after.obs
    assert after.obsm["X_more"].shape[0] == 100 and list(after.uns) == ["mine"]
    rna = mdata.mod["gex"].copy()
    rna.obs["batch"] = (
        mdata.obs["batch"].reindex(rna.obs_names).to_numpy() if "batch" in mdata.obs else rna.obs["batch"]
    )
    write(rna, tmp_path / "rna.h5ad")
    result = run("map", tmp_path / "rna.h5ad", "--model", model, "-o", tmp_path / "rna.h5ad", "--json")
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert (summary["share_of_genes"], summary["share_of_antibodies"]) == (1.0, 0.0)
    parts = {name: part.copy() for name, part in mdata.mod.items()}
    for part in parts.values():
        part.obs = part.obs.rename(columns={"batch": "lane"})[["lane"]]
    write(MuData(parts), tmp_path / "lanes.h5mu")
    for batch in ((), ("--batch", "lane")):
        result = run("map", tmp_path / "lanes.h5mu", "--model", model, "-o", tmp_path / "lanes_out.h5mu", *batch)
        assert result.exit_code == 0, result.output
        same = np.allclose(read(tmp_path / "lanes_out.h5mu").obsm["X_more"], after.obsm["X_more"], atol=1e-5)
        assert same == bool(batch)
    assert "batch" not in read(tmp_path / "lanes_out.h5mu").obs


def test_a_model_without_labels_only_embeds(cells, tmp_path):
    adata, model = read(cells), tmp_path / "model"
    MoRE.setup_anndata(adata, batch_key="platform")
    trained = MoRE(adata, backbone=None)
    trained.train(max_epochs=1, enable_progress_bar=False)
    trained.save(model)
    result = run("map", cells, "--model", model, "-o", tmp_path / "out.h5ad", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["wrote"] == ["obsm/X_more"] and "novelty" not in result.stderr
    assert list(read(tmp_path / "out.h5ad").obs) == list(read(cells).obs)
    result = run("map", cells, "--model", model, "-o", tmp_path / "out.h5ad", "--batch", "label", "--layer", "none")
    assert result.exit_code == 2 and "there is no layer 'none'" in result.stderr


@pytest.fixture(scope="module")
def mapped(cells):
    """A folder with a model and a map, and the file that it was trained on."""
    model, out = cells.with_name("mapped"), cells.with_name("reference.h5ad")
    arguments = ["--batch", "platform", "--labels", "label", "--max-epochs", 1, "--backbone", "none", "--model", model]
    result = run("integrate", cells, "-o", out, *arguments)
    assert result.exit_code == 0, result.output
    return model, out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.h5ad"], "nowhere.h5ad is not a file"),
        (["{cells}", "--model", "nowhere"], "--model nowhere is not a folder. Give one that"),
        (["{cells}", "--model", "{tmp}"], "model.json not found"),
        (["{cells}", "-o", "{tmp}/out.h5mu"], "must end in .h5ad: {cells} holds cells of one modality"),
        (["{cells}", "-o", "{tmp}/out.csv"], "must end in .h5ad, or in .h5mu"),
        (["{cells}", "-o", "{tmp}/no/out.h5ad"], "does not exist. Create"),
        (["{cells}", "--batch", "lane"], "--batch: obs has no column 'lane'; it has cell_type, platform"),
        (["{cells}", "--batch", "lane", "--batch=label"], "with the columns 'platform'; give --batch once for each"),
        (["{cells}", "--layer", "counts"], "--layer: there is no layer 'counts'; there are none"),
        (["{cells}", "--reference", "nowhere.h5ad"], "nowhere.h5ad is not a file"),
        (["{tmp}/notes.h5ad"], "cannot be read as .h5ad"),
        (["{tmp}/empty.h5ad"], "empty.h5ad holds no cells"),
        (["{tmp}/others.h5ad"], "genes"),
    ],
)
def test_map_refuses_and_writes_nothing(cells, mapped, tmp_path, arguments, message):
    (tmp_path / "notes.h5ad").write_text("not HDF5")
    adata = read(cells)[:5].copy()
    adata[:0].copy().write_h5ad(tmp_path / "empty.h5ad")
    adata.var_names = [f"x{i}" for i in range(adata.n_vars)]
    adata.write_h5ad(tmp_path / "others.h5ad")
    there = sorted(path.name for path in tmp_path.iterdir())
    given = [text.format(cells=cells, tmp=tmp_path) for text in arguments]
    result = run("map", "--model", mapped[0], "-o", tmp_path / "out.h5ad", *given)  # the last of an option counts
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    assert message.format(cells=cells) in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == there


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "{tmp}/out.h5ad"], "must end in .h5mu: {several} holds cells of several modalities"),
        (["--modality", "rna"], "--modality rna must be ROLE=NAME"),
        (["--modality", "rna=expression"], "is not a modality of mdata"),
        (["--modality", "gene=gex"], "roles are"),
        (["--layer", "counts"], "no modality has a layer 'counts'; there are raw_counts"),
        (["--batch", "lane"], "lane"),
    ],
)
def test_several_modalities_are_refused_before_training(several, tmp_path, monkeypatch, arguments, message):
    monkeypatch.setattr(MoRE, "train", lambda *_, **__: pytest.fail("trained"))
    rest = [text.format(tmp=tmp_path) for text in arguments]
    given = {"-o": tmp_path / "out.h5mu", **dict(zip(rest[::2], rest[1::2], strict=True))}
    result = run("integrate", several, *(text for pair in given.items() for text in pair))
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    assert message.format(several=several) in result.stderr
    assert not list(tmp_path.iterdir())


def test_names_of_modalities_are_for_files_of_several(cells, tmp_path):
    result = run("integrate", cells, "-o", tmp_path / "out.h5ad", "--modality", "rna=X")
    assert result.exit_code == 2 and "these cells have one" in result.stderr


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


def test_evaluate_compares_backbones_and_goes_on_from_stored_results(cells, tmp_path, quick, monkeypatch):
    page, results, before = tmp_path / "page.html", tmp_path / "results", cells.read_bytes()
    arguments = [
        "--batch",
        "platform",
        "--labels",
        "cell_type",
        "--backbones",
        "zeroed,more-mini",
        "--quick",
        "-o",
        page,
    ]
    arguments += ["--protocols", "S1", "--seeds", "0,1", "--results", results]
    first = run("evaluate", cells, *arguments)
    assert first.exit_code == 0, first.output
    assert "With labels for half of the cells (S1), " in " ".join(first.stdout.split())
    text = page.read_text()
    assert "--backbones zeroed,more-mini" in text and "<b>100</b> cells" in text  # at most 100 in a quick look here
    assert all(f">{name}<" in text for name in ("none", "zeroed", "more-mini", "lr_hvg"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page.html", "page.json", "results"]
    assert cells.read_bytes() == before

    monkeypatch.setattr(MoRE, "train", lambda *_, **__: pytest.fail("trained"))
    again = run("evaluate", cells, *arguments)
    assert again.exit_code == 2 and "add --overwrite" in again.stderr
    again = run("evaluate", cells, *arguments, "--overwrite", "--json")
    assert again.exit_code == 0, again.output
    summary = json.loads(again.stdout)
    assert summary["backbones"] == ["none", "zeroed", "more-mini"] and list(summary["sentences"]) == ["S1"]
    assert {row["n"] for row in summary["differences"]} == {2} and summary["report"] == str(page)


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
        (["{cells}", "--backbones", "none", "--methods", "pca"], "--methods does not go with --backbones"),
        (["{cells}", "--backbones", "none", "--prefilter", "scrublet"], "--prefilter does not go with --backbones"),
        (["{cells}", "--gene-key", "symbol"], "--gene-key is read with --backbones only"),
        (["{cells}", "--backbones", ","], "--backbones ',' names nothing"),
        (["{cells}", "--backbones", "zero"], "'zero' is unknown, and no folder. Give one of none, zeroed"),
        (["{cells}", "--backbones", "geneformer:{tmp}/no"], "no is no folder. Give geneformer:FOLDER"),
        (["{cells}", "--backbones", "obsm:X_mine"], "has no 'X_mine'. There are: none"),
        (["{cells}", "--backbones", "none", "--protocols", "S3"], "regimes holds 'S3'; give some of S1"),
        (["{cells}", "--backbones", "none", "--gene-key", "symbol"], "gene_key: var has no column 'symbol'"),
        (["{cells}", "--backbones", "none", "-o", "{tmp}/page.pdf"], "must end in .html"),
        (["{cells}", "--backbones", "none", "-o", "{tmp}/notes.html"], "notes.html exists. Name another --output"),
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
