"""Every number that steers results says in the code what it steers and where its value is from."""

import re
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "docs" / "constants.py"
pytestmark = pytest.mark.skipif(not SCRIPT.is_file(), reason="the docs are not here")


@pytest.fixture
def script():
    spec = spec_from_file_location("constants", SCRIPT)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_constant_has_a_source(script):
    found = script.constants()
    assert len(found) > 20
    assert [name for name, _, what, source in found if not (what and source)] == []


def test_a_source_is_a_record_a_paper_or_a_plain_value(script):
    for name, _, _, source in script.constants():
        kind = source.split(" ")[0]
        if kind == "record":
            assert (ROOT / "benchmarks" / "results" / source.removeprefix("record ")).is_file(), name
        else:
            assert source == "plain value, not tuned" or kind == "paper", name


def test_no_more_than_twenty_constants_steer_every_model(script):
    headings = [script.where(name) for name, *_ in script.constants()]
    assert headings.count(script.EVERY) <= 20
    assert set(headings) == {script.EVERY, *script.SPECIAL}


def test_what_is_left_out_exists_in_the_code(script):
    code = "\n".join(path.read_text(encoding="utf-8") for path in script.SOURCE.rglob("*.py"))
    assert [name for name in script.STEERS_NOTHING if not re.search(rf"^[A-Z_, ]*\b{name}\b.*=", code, re.M)] == []


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ('A = 2\n"""Steers a. Source: plain value."""\n', [("x.A", "2", "Steers a.", "plain value")]),
        ("A, B = 1, 0.5\n", [("x.A, B", "(1, 0.5)", "", "")]),
        ('A: dict[str, float] = {"k": -1.0}\n', [("x.A", "{'k': -1.0}", "", "")]),
        ('A = "text"\nb = 3\nC = ("a", 1)\nD = f(3)\n', []),
    ],
)
def test_constants_are_found_in_code(script, tmp_path, monkeypatch, code, expected):
    (tmp_path / "x.py").write_text(code)
    monkeypatch.setattr(script, "SOURCE", tmp_path)
    assert script.constants() == expected
