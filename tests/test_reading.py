"""Files of strangers: pipes, devices, bombs and depths are refused at once, in words that name the file."""

import gzip
import json
import os

import pytest

from more_scvi import _files
from more_scvi._files import read_bytes, read_json, unzip_text


def pipe(path):
    os.mkfifo(path)


def device(path):
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("read", [read_bytes, read_json])
@pytest.mark.parametrize("make", [pipe, device, os.mkdir])
def test_only_regular_files_are_opened(tmp_path, make, read):
    make(tmp_path / "x")
    with pytest.raises(ValueError, match=r"x is a folder, a pipe or a device"):
        read(tmp_path / "x")


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="x not found"):
        read_bytes(tmp_path / "x")


def test_no_more_is_read_than_was_agreed(tmp_path):
    (tmp_path / "x").write_bytes(b"12345")
    assert read_bytes(tmp_path / "x", 5) == b"12345"
    with pytest.raises(ValueError, match="has 5 bytes; at most 4"):
        read_bytes(tmp_path / "x", 4)


@pytest.mark.parametrize(
    "content",
    ["[" * 200_000, "{", "\xff", "", '{"a": ' * 200_000, "1" * 5000],
    ids=["deep", "half", "binary", "empty", "deep objects", "long number"],
)
def test_json_that_cannot_be_read(tmp_path, content):
    (tmp_path / "x").write_text(content, encoding="latin-1")
    with pytest.raises(ValueError, match=r"x is not readable JSON .*Do this\.$"):
        read_json(tmp_path / "x", "Do this.")


def test_json_is_read(tmp_path):
    (tmp_path / "x").write_text(json.dumps({"a": [1, None, "ä"]}))
    assert read_json(tmp_path / "x") == {"a": [1, None, "ä"]}


def test_gzip(monkeypatch):
    packed = gzip.compress("aä".encode())
    assert unzip_text(packed, "x") == "aä"
    monkeypatch.setattr(_files, "MOST_TEXT", 1000)
    for content in (packed[:-9], packed[:5] + b"\xff" * 20, b"no gzip", b"", gzip.compress(b"\xff\xff")):
        with pytest.raises(ValueError, match="^x "):
            unzip_text(content, "x")
    with pytest.raises(ValueError, match="x unpacks to too much"):
        unzip_text(gzip.compress(bytes(10_000_000)), "x")
