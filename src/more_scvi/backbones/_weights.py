"""Weights folders of ``more-mini``: written whole or not at all, and checked before they are believed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from more_scvi._reading import json_object, read_json
from more_scvi._saved import SUMS, check_tensors, read_saved, unpack, write_saved
from more_scvi.data._genes import GeneVocabulary

CONFIG, WEIGHTS, GENES = "config.json", "model.safetensors", "genes.tsv.gz"
FILES = (WEIGHTS, GENES)
FORMAT = "more-mini"


def is_more_mini(folder: Path) -> bool:
    """Whether the folder's ``config.json`` says that it holds ``more-mini`` weights."""
    return json_object(folder / CONFIG).get("format") == FORMAT


def write_weights(
    folder: str | Path, sizes: Mapping[str, Any], vocabulary: GeneVocabulary, state: Mapping[str, Tensor]
) -> None:
    """Write ``config.json``, ``model.safetensors`` (floating-point tensors as float16) and ``genes.tsv.gz``.

    Over earlier weights the files get their second name (``model-2.safetensors``); ``config.json``, which holds names
    and checksums, is replaced last.
    """
    tensors = {k: (v.half() if v.is_floating_point() else v).cpu().contiguous() for k, v in state.items()}
    config = {"format": FORMAT, "version": 1, "sizes": dict(sizes)}
    write_saved(Path(folder) / CONFIG, config, {WEIGHTS: save(tensors), GENES: vocabulary.to_bytes()}, FILES)


def read_weights(folder: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Sizes, and the content of the other files, which are those that ``config.json`` was written with."""
    try:
        config, files = read_saved(folder / CONFIG, _read_config, FILES, _RESTORE)
    except FileNotFoundError as error:
        raise ValueError(str(error)) from None
    return config["sizes"], files


def _read_config(path: Path) -> dict[str, Any]:
    config = read_json(path, _RESTORE)
    if not isinstance(config, dict) or not all(isinstance(config.get(key), dict) for key in ("sizes", SUMS)):
        raise ValueError(f"{path}: not a more-mini config. {_RESTORE}")
    if config.get("format") != FORMAT or config.get("version") != 1:
        raise ValueError(
            f"{path}: format {config.get('format')!r} version {config.get('version')!r}, expected {FORMAT!r} version 1."
            " Install the more_scvi release that wrote it, or point to other weights."
        )
    return config


_RESTORE = "Restore the folder from its source, or reinstall more_scvi for the bundled weights."


def fit_tensors(content: bytes, path: Path, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of the weights file, in the dtypes of ``expected``."""
    tensors = unpack(content, path, _RESTORE)
    shapes = {name: tensor.shape for name, tensor in expected.items()}
    check_tensors(tensors, shapes, path, f"It and {CONFIG} must be of one save. {_RESTORE}")
    return {k: tensors[k].to(expected[k].dtype) for k in expected}
