"""Folders of published checkpoints: found on this machine or on a hub, read strictly, without running code."""

from __future__ import annotations

import logging
import pickle
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from more_scvi._reading import read_json
from more_scvi._saved import check_tensors

from ._pickles import DAMAGED, check_file, check_torch_file

logger = logging.getLogger("more_scvi")
# before this version a crafted file could run code in spite of weights_only=True (CVE-2025-32434)
_SAFE_TORCH = (2, 6)
_DAMAGED = (*DAMAGED, OSError, pickle.UnpicklingError, zipfile.BadZipFile, zlib.error)


def optional(package: str, wanted_for: str) -> ModuleType:
    """Import a package of the extra ``foundation``, or say how to install it."""
    try:
        return import_module(package)
    except ImportError as error:
        raise ImportError(
            f'{wanted_for} needs the package {package!r}: pip install "more-scvi[foundation]" ({error})'
        ) from error


def checkpoint_folder(
    backbone: str,
    path: str | Path | None,
    hub_id: str | None,
    revision: str | None,
    subfolder: str | None,
    names: Sequence[str],
    beside: Sequence[str] = (),
) -> Path:
    """The folder with the weights; of a hub's repository ``names`` in it and ``beside`` are downloaded first.

    ``path`` or ``hub_id`` must be given; ``subfolder`` may be of either.
    """
    if (path is None) == (hub_id is None):
        raise ValueError(
            f"Backbone {backbone!r} needs weights: give path='/folder/with/weights' (or the folder itself as backbone),"
            f" or hub_id='owner/name', not {'both' if path is not None else 'none of them'}."
        )
    if path is not None:
        if revision is not None:
            raise ValueError(f"revision={revision!r} belongs to a hub_id; the folder {path} has one version only.")
        root = Path(path)
    else:
        inside = "" if subfolder is None else f"{subfolder.strip('/')}/"
        patterns = [*beside, *(f"{inside}{name}" for name in names)]
        hub = optional("huggingface_hub", f"Backbone {backbone!r} with hub_id={hub_id!r}")
        try:
            root = Path(hub.snapshot_download(hub_id, revision=revision, allow_patterns=patterns))
        except (OSError, ValueError) as error:
            raise ValueError(
                f"hub_id={hub_id!r}, revision={revision!r}: the files are not on this machine and could not be"
                f" downloaded ({type(error).__name__}: {error}). Check name, network and HF_HUB_OFFLINE, or give a"
                " local folder as path=."
            ) from error
        if revision is None:
            logger.info("%s: commit %s; give it as revision= to keep to it.", hub_id, root.name)
    folder = root if subfolder is None else root / subfolder
    if not folder.is_dir():
        held = sorted(p.name for p in root.iterdir() if p.is_dir())[:10] if root.is_dir() else "no such folder"
        raise ValueError(f"{folder} is not a folder (folders in {root}: {held}). Name one with path= and subfolder=.")
    return folder


def read_config(path: Path) -> dict[str, Any]:
    """A JSON object; a ValueError where the file is missing, a git-lfs pointer, or holds anything else."""
    check_file(path)
    found = read_json(path, "Download it again.")
    if not isinstance(found, dict):
        raise ValueError(f"{path}: holds a {type(found).__name__}, expected a JSON object.")
    return found


def read_state(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file or of a file written by ``torch.save``, on the CPU."""
    check_file(path)
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{path}: truncated or damaged ({error}). Download it again.") from None
    found = read_torch(path)
    if not isinstance(found, Mapping) or not all(isinstance(v, Tensor) for v in found.values()):
        raise ValueError(f"{path}: expected tensors by name (a state dict), found a {type(found).__name__}.")
    return dict(found)


def read_torch(path: Path) -> Any:
    """Tensors and plain values of a file written by ``torch.save``, on the CPU."""
    check_file(path)
    if tuple(map(int, torch.__version__.split(".")[:2])) < _SAFE_TORCH:
        raise ImportError(
            f"{path} was written by torch.save, which torch {torch.__version__} cannot read without the risk of running"
            f" code from it. Upgrade torch to 2.6 or newer, or give a .safetensors file."
        )
    try:
        check_torch_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except _DAMAGED as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"{path}: truncated, damaged or not plain tensors ({reason}). Nothing of it was run; download it again."
        ) from None


def fit_state(path: Path, state: Mapping[str, Tensor], shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """The tensors as float32, after checking that they are exactly those of ``shapes``, and finite."""
    check_tensors(state, shapes, path, "The file and its config must be of one published model: download both again.")
    return {name: state[name].float() for name in shapes}


def size_of(
    config: Mapping[str, Any], source: Path, *names: str, default: int | None = None, most: int | None = None
) -> int:
    """A positive integer, ``most`` at most, under the first of ``names`` that ``config`` has; else the default."""
    for name in names:
        if name in config:
            value = config[name]
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{source}: {name} is {value!r}, expected a positive integer.")
            if most is not None and value > most:
                raise ValueError(f"{source}: {name} is {value}; at most {most} can be.")
            return value
    if default is None:
        raise ValueError(f"{source}: has no {' or '.join(names)}; it is not the config of this model.")
    return default
