"""The tutorials are committed executed, and still run."""

import os
import re
import shutil
from functools import reduce
from pathlib import Path

import pytest

import more_scvi as more

TUTORIALS = sorted((Path(__file__).parents[1] / "tutorials").glob("*.ipynb"))


def cells(path):
    nbformat = pytest.importorskip("nbformat")
    return [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda p: p.stem)
def test_committed_with_outputs_of_one_run(path):
    code = cells(path)
    if not any(c.outputs for c in code):
        pytest.skip(f"{path.name} has no outputs yet: make tutorials")
    assert [c.execution_count for c in code] == list(range(1, len(code) + 1))
    kinds = {o.output_type for c in code for o in c.outputs}
    assert "error" not in kinds
    assert "display_data" in kinds


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda p: p.stem)
def test_names_of_the_package_exist(path):
    named = {name for c in cells(path) for name in re.findall(r"\bmore((?:\.[A-Za-z_]+)+)\(", c.source)}
    assert named
    for name in named:
        reduce(getattr, name.removeprefix(".").split("."), more)


@pytest.mark.slow
@pytest.mark.parametrize("path", TUTORIALS, ids=lambda p: p.stem)
def test_runs(path, tmp_path, monkeypatch):
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    monkeypatch.setitem(os.environ, "TQDM_DISABLE", "1")
    monkeypatch.delitem(os.environ, "MPLBACKEND", raising=False)
    shutil.copy(path, tmp_path)
    notebook = nbformat.read(tmp_path / path.name, as_version=4)
    nbclient.NotebookClient(notebook, timeout=1200, resources={"metadata": {"path": str(tmp_path)}}).execute()
