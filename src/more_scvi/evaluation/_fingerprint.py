"""Fingerprints: of data, and of a method, so that results of others are not mistaken for theirs."""

import ast
import hashlib
import inspect
import json
import sys
import textwrap
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from more_scvi.evaluation.methods._method import Method

from ._data import LABELS_KEY, Data, batches_of, modalities
from ._store import installed
from .methods._baselines import Stored

PACKAGE = Path(__file__).parents[1]
METHODS = PACKAGE / "evaluation" / "methods"
JUDGING = ("evaluation", "cli", "pl", "report", "metrics", "diagnosis", "student")
"""Parts of the package that judge and show a model, and do not change what it answers."""
DISTRIBUTIONS = {"scvi": "scvi-tools", "sklearn": "scikit-learn", "harmonypy": "harmonypy", "scanorama": "scanorama"}
DISTRIBUTIONS |= {"concord": "concord-sc"}
"""Libraries whose version may change what a method answers: module → distribution."""


def data_fingerprint(data: Data) -> str:
    """Hash of cells, batches, labels, features, counts and coordinates: everything a method is given."""
    digest = _digest([data.obs_names, batches_of(data), data.obs[LABELS_KEY].astype(str)])
    for name, adata in modalities(data).items():
        _digest([[name], adata.obs_names, adata.var_names], digest)
        x = sparse.csr_matrix(adata.X)
        if not x.has_canonical_format:
            x = x.copy()  # its arrays may be those of the user's data
            x.sum_duplicates()
        for part in (x.indptr.astype(np.int64), x.indices.astype(np.int64), x.data.astype(np.float64)):
            digest.update(part)
    if "spatial" in data.obsm:
        digest.update(np.ascontiguousarray(data.obsm["spatial"], dtype=np.float64))
    return digest.hexdigest()[:16]


def settings(method: Method) -> dict[str, Any]:
    """Options of a method as JSON holds them."""
    return json.loads(json.dumps(method.options, default=_plain, sort_keys=True))


def method_fingerprint(method: Method, data: Data | None = None) -> str:
    """Hash of a method's settings, of the code that it runs, and of the versions of the libraries that it imports.

    Code is the file of its class and those beside it that it imports, without comments and docstrings, and where these
    import MoRE every file of the package that its answers depend on, weights included. What all methods share (their
    interface, features, scores) is not part of it.

    Parameters
    ----------
    method
        The method.
    data
        Data that hold the embedding of an ``"obsm:<key>"`` method.
    """
    parts: list[object] = [method.name, method.sees_hidden, settings(method)]
    if isinstance(method, Stored) and data is not None:
        embedding = np.ascontiguousarray(data.obsm[method.options["key"]])
        parts.append(hashlib.sha256(embedding.tobytes()).hexdigest())
    for cls in (c for c in type(method).__mro__ if issubclass(c, Method) and c is not Method):
        own = cls.__module__.startswith(f"{Method.__module__.rpartition('.')[0]}.")
        text = _source(cls)
        parts += [cls.__qualname__, text, *_dependencies(text, own)]
    return _digest([map(repr, parts)]).hexdigest()[:16]


def _digest(values: Iterable[Iterable[object]], digest: Any = None) -> Any:
    digest = hashlib.sha256() if digest is None else digest
    for row in values:
        digest.update("\0".join(map(str, row)).encode())
    return digest


def _plain(value: object) -> object:
    """Stands for an option that JSON has no word for; never an address, which every process has anew."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, set | frozenset):
        return sorted(map(str, value))
    return str(value) if isinstance(value, Path) else f"{type(value).__module__}.{type(value).__qualname__}"


def _source(cls: type) -> str:
    """Code of the file of a class; of the class alone where there is no file, nothing where there is no code."""
    for of in (sys.modules.get(cls.__module__), cls):
        try:
            return _code(inspect.getsource(of))  # type: ignore[arg-type]
        except (OSError, TypeError, SyntaxError):
            continue
    return ""


@cache
def _code(text: str) -> str:
    """Python without comments, docstrings and layout."""
    tree = ast.parse(textwrap.dedent(text))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)


@cache
def _dependencies(text: str, own: bool) -> tuple[str, ...]:
    """What some code imports, wherever it does: MoRE, versions of libraries, code beside it if it is this package's."""
    found: dict[str, None] = {}
    for node in ast.walk(ast.parse(text)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.level == 1 and own and node.module not in (None, "_method"):
            beside = _code((METHODS / f"{node.module}.py").read_text())
            found |= dict.fromkeys((beside, *_dependencies(beside, own)))
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module or ""]
        for top, _, rest in (name.partition(".") for name in names):
            if top == "more_scvi" and rest.partition(".")[0] not in JUDGING:
                found[package_fingerprint()] = None
            elif top in DISTRIBUTIONS:
                found[f"{top} {installed(DISTRIBUTIONS[top]) or 'none'}"] = None
    return tuple(sorted(found))


@cache
def package_fingerprint() -> str:
    """Hash of code and weights that MoRE's answers depend on."""
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*"), key=lambda path: path.relative_to(PACKAGE).as_posix()):
        parts = path.relative_to(PACKAGE).parts
        if path.suffix not in (".py", ".safetensors") or parts[0] in (*JUDGING, "__init__.py", "_demo.py"):
            continue
        digest.update("/".join(parts).encode())
        digest.update(_code(path.read_text()).encode() if path.suffix == ".py" else path.read_bytes())
    return digest.hexdigest()[:16]
