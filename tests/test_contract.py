"""The public names. A change here is a change users see: it belongs in CHANGELOG.md."""

from importlib import import_module
from pathlib import Path

import pytest

import more_scvi

NAMESPACES = ["backbones", "data", "evaluation", "losses", "model", "module", "pl", "pretraining", "train"]
PRESENT = [n for n in NAMESPACES if (Path(more_scvi.__file__).parent / n / "__init__.py").exists()]


def test_top_level_names():
    assert more_scvi.__all__ == ["MoRE", *NAMESPACES]
    assert set(more_scvi.__all__) <= set(dir(more_scvi))


@pytest.mark.parametrize("namespace", PRESENT)
def test_namespace_exports_what_it_lists(namespace):
    module = import_module(f"more_scvi.{namespace}")
    assert len(module.__all__) == len(set(module.__all__))
    for name in module.__all__:
        assert getattr(module, name).__doc__, f"{namespace}.{name} has no docstring"


def test_unknown_name_lists_the_legal_ones():
    with pytest.raises(AttributeError, match="backbones"):
        _ = more_scvi.tl
