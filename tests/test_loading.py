"""Loading a file never runs code from it: nothing unpickles but a reader that lets only plain data through."""

import ast
from pathlib import Path

import more_scvi

ROOT = Path(more_scvi.__file__).parent
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml"}


def refused(code: str) -> list[str]:
    """What of ``code`` could run a file's code."""
    found = []
    for node in ast.walk(ast.parse(code)):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        given = {word.arg: ast.unparse(word.value) for word in node.keywords}
        unsafe = [
            name == "torch.load" and given.get("weights_only") != "True",
            given.get("allow_pickle") == "True",
            name.split(".")[0] in MODULES and name.split(".")[-1] in ("load", "loads", "open", "Unpickler"),
            name.startswith("scvi.model.") and name.endswith((".load", ".load_registry", ".convert_legacy_save")),
            name.split(".")[-1] == "read_pickle" or name in ("eval", "exec"),
        ]
        if any(unsafe):
            found.append(name)
    return found


def test_the_search_finds_what_it_must():
    for code in (
        "torch.load(p)",
        "torch.load(p, weights_only=False)",
        "np.load(p, allow_pickle=True)",
        "pickle.loads(b)",
        "joblib.load(p)",
        "scvi.model.SCVI.load(p)",
        "pd.read_pickle(p)",
    ):
        assert refused(code), code
    assert not refused("torch.load(p, weights_only=True); np.load(p); json.loads(t); safetensors.torch.load_file(p)")


def test_nothing_in_the_package_runs_code_from_a_file():
    files = {str(path.relative_to(ROOT).as_posix()): path for path in ROOT.rglob("*.py")}
    assert {name: refused(path.read_text()) for name, path in files.items() if refused(path.read_text())} == {}
    assert len(files) > 50
