"""Imports follow the data: a folder imports only from itself and from folders before it."""

import ast
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import more_scvi

ROOT = Path(more_scvi.__file__).parent
ORDER = [
    "losses",
    "data",
    "modalities",
    "metrics",
    "backbones",
    "base",
    "annotate",
    "module",
    "student",
    "train",
    "diagnosis",
    "model",
    "pretraining",
    "evaluation",
    "pl",
    "report",
    "cli",
]
FORBIDDEN = {"losses": {"anndata", "mudata", "scanpy"}, "module": {"anndata", "mudata", "scanpy"}}
FILES = sorted(p.relative_to(ROOT).as_posix() for p in ROOT.rglob("*.py"))


def layer(path: str) -> str | None:
    """Folder (or `cli`) a file belongs to; None for what every layer may import (`__init__`, `_compat`)."""
    head = path.split("/")[0].removesuffix(".py")
    if head.startswith("_demo"):
        return "cli"
    return head if head in ORDER else None


def imported(path: str, only_run: bool = False) -> set[str]:
    """Absolute dotted names a file imports, relative ones resolved; ``only_run``: not those for type checkers."""
    package = ["more_scvi", *path.split("/")[:-1]]
    names = set()
    tree = ast.parse((ROOT / path).read_text())
    for node in tree.body if only_run else ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            names |= {f"{stem}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", [p for p in FILES if layer(p)])
def test_no_import_runs_back_up(path):
    own = layer(path)
    allowed = {"losses"} if own == "losses" else set(ORDER[: ORDER.index(own) + 1])
    for name in imported(path):
        if name.startswith("more_scvi."):
            other = layer(name.removeprefix("more_scvi.").replace(".", "/"))
            assert other is None or other in allowed, f"{path} ({own}) imports {name} ({other})"
        assert name.split(".")[0] not in FORBIDDEN.get(own, set()), f"{path} ({own}) imports {name}"


@pytest.mark.parametrize("path", FILES)
def test_private_scvi_names_only_in_compat(path):
    private = {
        n for n in imported(path) if n.startswith("scvi.") and any(part.startswith("_") for part in n.split("."))
    }
    assert not private or path == "_compat.py", f"{path} imports {private}"
    assert not any("jax" in n.lower() for n in imported(path)), f"{path} imports jax"


ARCHITECTURE = Path(__file__).parents[1] / "docs" / "architecture.md"


@pytest.fixture
def architecture():
    if not ARCHITECTURE.is_file():
        pytest.skip("the docs are not here")
    return ARCHITECTURE.read_text(encoding="utf-8")


def test_the_architecture_page_lists_files_in_the_order_of_their_imports(architecture):
    listed = re.findall(r"^\d+\. `([^`]+)`: \S", architecture, re.MULTILINE)
    assert 10 <= len(listed) <= 15
    assert set(listed) <= set(FILES)
    assert sorted(listed, key=lambda path: ORDER.index(layer(path))) == listed
    for at, path in enumerate(listed):
        later = {"more_scvi." + other.removesuffix(".py").replace("/", ".") for other in listed[at + 1 :]}
        back = {name for name in imported(path, only_run=True) for module in later if name.startswith(module)}
        assert not back, f"{path} imports {back}, which the page lists after it"


def test_the_architecture_page_names_frozen_types_and_all_folders(architecture):
    names = re.findall(r"^\| `([\w.]+\.[A-Z]\w+)` \|", architecture, re.MULTILINE)
    assert {name.rsplit(".")[-1] for name in names} == {
        *("Measured", "CellSet", "Features", "Arrays", "MaskedViews", "Lessons", "TrainingSet"),
    }
    for name in names:
        module, _, cls = name.rpartition(".")
        assert getattr(import_module(f"more_scvi.{module}"), cls).__dataclass_params__.frozen, name
    rule = architecture.split("**Imports go one way**")[1].split(";")[0]
    assert re.findall(r"`(\w+)`", rule) == ORDER


def test_files_and_functions_of_the_drawing_exist(architecture):
    drawing = (ARCHITECTURE.parent / "_static" / "architecture.svg").read_text(encoding="utf-8")
    for folder, file, also in re.findall(r"\b([a-z]+)/(_?\w+\.py)(?:, (\w+\.py))?", drawing):
        assert {f"{folder}/{name}" for name in (file, also) if name} <= set(FILES)
    for word in re.findall(r"\b(?:prepare|fit_base|fit_space|fit_composition|teach|finish)\b", drawing):
        assert any(re.search(rf"def {word}\(", (ROOT / path).read_text()) for path in FILES), word


@pytest.mark.parametrize("path", [p for p in FILES if not p.endswith("__init__.py")])
def test_names_come_from_the_files_that_define_them(path):
    """Facades are for users: inside the package they would tie files together that know nothing of each other."""
    facades = {p.parent.relative_to(ROOT).as_posix().replace("/", ".") for p in ROOT.rglob("__init__.py")} - {"."}
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").startswith("more_scvi."):
            assert node.module.removeprefix("more_scvi.") not in facades, f"{path}:{node.lineno} imports {node.module}"


def test_every_file_can_be_imported_first():
    """No circle of imports: each file, alone in a new process, finds all it needs."""
    names = ["more_scvi." + p.removesuffix(".py").replace("/", ".") for p in FILES if not p.endswith("__main__.py")]
    code = f"""if True:
        import importlib, sys
        import anndata, lightning, mudata, pandas, scanpy, scipy, sklearn, scvi, torch
        known = set(sys.modules)
        for name in {names!r}:
            for other in [m for m in sys.modules if m.split('.')[0] == 'more_scvi']:
                del sys.modules[other]
            importlib.import_module(name)
    """
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_no_text_holds_a_conflict_of_a_merge():
    """Strings and pages can hold one and run all the same."""
    top = Path(__file__).parents[1]
    files = [path for folder in ("src", "tests", "docs", "benchmarks") for path in (top / folder).rglob("*")]
    texts = [
        path
        for path in files
        if path.suffix in (".py", ".md", ".toml", ".txt", ".ipynb") and "_build" not in path.parts
    ]
    assert len(texts) > 300
    marks = re.compile(r"^(<{7}|>{7}) ", re.MULTILINE)
    assert not [path.name for path in texts if marks.search(path.read_text(encoding="utf-8"))]
