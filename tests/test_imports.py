"""Imports follow the data: a folder imports only from itself and from folders before it."""

import ast
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


def imported(path: str) -> set[str]:
    """Absolute dotted names a file imports, relative ones resolved."""
    package = ["more_scvi", *path.split("/")[:-1]]
    names = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
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
