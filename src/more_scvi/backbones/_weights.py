"""Weights folders of ``more-mini``: written whole or not at all, and checked before they are believed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from more_scvi.data import GeneVocabulary

CONFIG, WEIGHTS, GENES = "config.json", "model.safetensors", "genes.tsv.gz"
FORMAT = "more-mini"


def is_more_mini(folder: Path) -> bool:
    """Whether the folder's ``config.json`` says that it holds ``more-mini`` weights."""
    try:
        config = json.loads((folder / CONFIG).read_text())
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and config.get("format") == FORMAT


def sha256(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_weights(
    folder: str | Path, sizes: Mapping[str, Any], vocabulary: GeneVocabulary, state: Mapping[str, Tensor]
) -> None:
    """Write ``config.json``, ``model.safetensors`` (floating-point tensors as float16) and ``genes.tsv.gz``.

    Each file is written beside its place and renamed; ``config.json``, which holds the checksums of the others, last.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {k: (v.half() if v.is_floating_point() else v).cpu().contiguous() for k, v in state.items()}
    temporary = {name: folder / f".{name}.{os.getpid()}.tmp" for name in (WEIGHTS, GENES, CONFIG)}
    save_file(tensors, temporary[WEIGHTS])
    vocabulary.write(temporary[GENES])
    config = {
        "format": FORMAT,
        "version": 1,
        "sizes": dict(sizes),
        "sha256": {name: sha256(temporary[name]) for name in (WEIGHTS, GENES)},
    }
    temporary[CONFIG].write_text(json.dumps(config, indent=2) + "\n")
    for name in (WEIGHTS, GENES, CONFIG):
        temporary[name].chmod(0o644)  # safetensors writes files that only the owner can read
        os.replace(temporary[name], folder / name)


def read_config(folder: Path) -> dict[str, Any]:
    """``config.json`` of a folder, with the checksums of the other files verified.

    Raises
    ------
    ValueError
        If a file is missing, is not what ``config.json`` says, or ``config.json`` itself cannot be read.
    """
    try:
        config = json.loads((folder / CONFIG).read_text())
        sizes, sums = dict(config["sizes"]), dict(config["sha256"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / CONFIG}: not a readable more-mini config ({error!r}). {_RESTORE}") from error
    if config.get("format") != FORMAT or config.get("version") != 1:
        raise ValueError(
            f"{folder / CONFIG}: format {config.get('format')!r} version {config.get('version')!r}, "
            f"expected {FORMAT!r} version 1. Install the more_scvi release that wrote it, or point to other weights."
        )
    for name in (WEIGHTS, GENES):
        if not (folder / name).is_file():
            raise ValueError(f"{folder / name}: missing. {_RESTORE}")
        if sha256(folder / name) != sums.get(name):
            raise ValueError(f"{folder / name}: truncated or changed (its SHA-256 is not that of {CONFIG}). {_RESTORE}")
    return sizes


_RESTORE = "Restore the folder from its source, or reinstall more_scvi for the bundled weights."


def read_tensors(path: Path, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a safetensors file, in the dtypes of ``expected``.

    Raises
    ------
    ValueError
        If the file cannot be read, a tensor is missing, unexpected or of another shape, or a value is not finite.
    """
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path}: not a readable safetensors file ({error}). {_RESTORE}") from error
    missing, unexpected = sorted(expected.keys() - tensors), sorted(tensors.keys() - expected)
    if missing or unexpected:
        raise ValueError(f"{path}: missing tensors {missing}, unexpected tensors {unexpected}. {_RESTORE}")
    for key, wanted in expected.items():
        if tensors[key].shape != wanted.shape:
            raise ValueError(
                f"{path}: tensor {key!r} has shape {tuple(tensors[key].shape)}, "
                f"config.json implies {tuple(wanted.shape)}. {_RESTORE}"
            )
        if not torch.isfinite(tensors[key].float()).all():
            raise ValueError(f"{path}: tensor {key!r} holds NaN or infinite values. {_RESTORE}")
    return {k: tensors[k].to(expected[k].dtype) for k in expected}
