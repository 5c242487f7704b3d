"""The public names and signatures. A change here is a change users see: it belongs in CHANGELOG.md.

``python tests/test_contract.py > tests/public_api.txt`` renews the list.
"""

import inspect
from importlib import import_module
from pathlib import Path

import pytest

import more_scvi

NAMESPACES = (
    *("backbones", "data", "diagnosis", "evaluation", "losses", "metrics", "modalities", "model", "module", "pl"),
    *("pretraining", "report", "student", "train"),
)
WHOLE = (more_scvi.MoRE, more_scvi.Student)
"""Classes of which every public method is part of the contract; of others the constructor is."""
LISTED = Path(__file__).with_name("public_api.txt")


def signature(function) -> str:
    """Names, order, kinds and defaults of the arguments; annotations read otherwise from Python to Python."""
    parameters = inspect.signature(function).parameters.values()
    plain = [p.replace(annotation=p.empty) for p in parameters if p.name not in ("self", "cls")]
    return str(inspect.Signature(plain))


def public_api() -> list[str]:
    """One line per public name: its signature, or the type of a value."""
    lines = []
    for namespace in NAMESPACES:
        module = import_module(f"more_scvi.{namespace}")
        for name in sorted(module.__all__):
            full, found = f"{namespace}.{name}", getattr(module, name)
            if not callable(found):
                lines.append(f"{full}: {type(found).__name__}")
                continue
            made = found.__init__ if isinstance(found, type) else found
            own = (getattr(made, "__module__", None) or "").startswith("more_scvi")  # others follow their versions
            lines.append(full + (signature(found) if own else ""))
            for method in sorted(vars_of(found)) if found in WHOLE else ():
                value = inspect.getattr_static(found, method)
                is_property = isinstance(value, property)
                lines.append(f"{full}.{method}" + ("" if is_property else signature(getattr(found, method))))
    return lines


def vars_of(cls: type) -> set[str]:
    """Public methods and properties that the package itself defines; those of scvi-tools follow its version."""
    own = [base for base in cls.__mro__ if base.__module__.startswith("more_scvi")]
    return {
        name
        for base in own
        for name, value in vars(base).items()
        if not name.startswith("_") and (callable(value) or isinstance(value, property | classmethod | staticmethod))
    }


def test_public_names_and_signatures_are_the_listed_ones():
    assert public_api() == LISTED.read_text(encoding="utf-8").splitlines()


def test_top_level_names():
    assert more_scvi.__all__ == ["MoRE", "Student", *NAMESPACES]
    assert set(more_scvi.__all__) <= set(dir(more_scvi))
    assert more_scvi.MoRE is more_scvi.model.MoRE


@pytest.mark.parametrize("namespace", NAMESPACES)
def test_every_public_name_is_documented(namespace):
    module = import_module(f"more_scvi.{namespace}")
    assert len(module.__all__) == len(set(module.__all__))
    for name in module.__all__:
        assert getattr(module, name).__doc__, f"{namespace}.{name} has no docstring"


@pytest.mark.parametrize("cls", WHOLE)
def test_every_public_method_is_documented(cls):
    assert [name for name in sorted(vars_of(cls)) if not getattr(cls, name).__doc__] == []


def test_unknown_name_lists_the_legal_ones():
    with pytest.raises(AttributeError, match="backbones"):
        _ = more_scvi.tl


if __name__ == "__main__":
    print("\n".join(public_api()))
