"""Folders of published checkpoints: found on this machine or on a hub, read strictly, without running code.

Their dictionaries are JSON, or pickles from which nothing but plain values can come.
"""

import io
import logging
import pickle
import pickletools
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import IO, Any, ClassVar

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from more_scvi._files import MOST_TEXT, read_bytes, read_json
from more_scvi._saved import check_tensors

logger = logging.getLogger("more_scvi")
# what reading a damaged pickle may raise, and a damaged file of torch.save
_DAMAGED_PICKLE = (
    RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError, MemoryError, OverflowError,
)  # fmt: skip
_DAMAGED = (*_DAMAGED_PICKLE, OSError, pickle.UnpicklingError, zipfile.BadZipFile, zlib.error)
_LFS_POINTER = b"version https://git-lfs"
_NUMBERS = frozenset(f"{kind}{size}" for kind, sizes in (("i", "1248"), ("u", "1248"), ("f", "248")) for size in sizes)


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
    """All tensors of a safetensors file or of a file written by ``torch.save``, on the CPU.

    They are views of the mapped file, not copies: what is to last must be copied out of them, so that nobody who
    replaces the file changes a network.
    """
    check_file(path)
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{path}: truncated or damaged ({error}). Download it again.") from None
    found = read_torch(path, mapped=zipfile.is_zipfile(path))  # files of torch before 1.6 cannot be
    if not isinstance(found, Mapping) or not all(isinstance(v, Tensor) for v in found.values()):
        raise ValueError(f"{path}: expected tensors by name (a state dict), found a {type(found).__name__}.")
    return dict(found)


def read_torch(path: Path, mapped: bool = False) -> Any:
    """Tensors and plain values of a file written by ``torch.save``, on the CPU; ``mapped``: as views of the file."""
    check_file(path)
    try:
        check_torch_file(path)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except _DAMAGED as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__  # torch adds a page of advice
        raise ValueError(
            f"{path}: truncated, damaged or not plain tensors ({reason}). Nothing of it was run; download it again."
        ) from None


def fit_state(path: Path, state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, after checking that they are finite and have exactly the names and shapes expected.

    Whatever their type, ``load_state_dict`` copies them into float32; a copy here would be a second one.
    """
    check_tensors(state, expected, path, "The file and its config must be of one published model: download both again.")
    return {name: state[name] for name in expected}


def size_of(
    config: Mapping[str, Any], source: Path, *names: str, default: int | None = None, most: int | None = None
) -> int:
    """A positive integer, ``most`` at most, under the first of ``names`` that ``config`` has; else the default."""
    for name in names:
        if name in config:
            value = config[name]
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:  # true is an integer in Python
                raise ValueError(f"{source}: {name} is {value!r}, expected a positive integer.")
            if most is not None and value > most:
                raise ValueError(f"{source}: {name} is {value}; at most {most} can be.")
            return value
    if default is None:
        raise ValueError(f"{source}: has no {' or '.join(names)}; it is not the config of this model.")
    return default


class _NumberType:
    """Stands in for ``numpy.dtype`` while reading: knows the types of single numbers and nothing else."""

    def __init__(self, code: object, align: object = False, copy: object = True) -> None:
        if code not in _NUMBERS:
            raise pickle.UnpicklingError(f"the numpy type {code!r} is not a number")
        self.code, self.order = str(code), "<"

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError("a numpy type has an unknown byte order")
        self.order = state[1]


def _number(kind: object, raw: object = b"") -> int | float:
    """Stands in for numpy's scalar constructor: a Python number from its bytes."""
    if not isinstance(kind, _NumberType) or not isinstance(raw, bytes):
        raise pickle.UnpicklingError("a numpy value is not a single number")
    values = np.frombuffer(raw, dtype=np.dtype(kind.order + kind.code))
    if len(values) != 1:
        raise pickle.UnpicklingError("a numpy value is not a single number")
    return values[0].item()


class _PlainUnpickler(pickle.Unpickler):
    """Builds dictionaries, strings and numbers; whatever else a file asks for is refused, never imported or called."""

    # made anew for each use, as a file may set attributes of what it is given
    _STAND_INS: ClassVar[dict[tuple[str, str], Callable[[], Any]]] = {
        ("numpy.core.multiarray", "scalar"): lambda: lambda *given: _number(*given),
        ("numpy._core.multiarray", "scalar"): lambda: lambda *given: _number(*given),
        ("numpy", "dtype"): lambda: type("NumberType", (_NumberType,), {}),
    }

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._STAND_INS[module, name]()
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no dictionary needs") from None


_MOST_NESTED = 1000
_EFFECTS = {
    op.name: (
        pickletools.markobject in op.stack_before,
        sum(kind not in (pickletools.markobject, pickletools.stackslice) for kind in op.stack_before),
        len(op.stack_after),
    )
    for op in pickletools.opcodes
}


def check_pickle(handle: IO[bytes]) -> None:
    """Read over one pickle without building anything; a ValueError if building it would never end.

    Tuples that hold a tuple several times grow with every level, and whoever hashes or compares one walks all of it. So
    the entries of each tuple are counted, with all that is nested in it. Places in the memo cost memory up to the
    highest one.
    """
    stack: list[int | None] = []  # entries of the values, None: a mark
    memo: dict[int, int] = {}
    for n, (op, argument, _) in enumerate(pickletools.genops(handle)):
        marked, n_taken, n_left = _EFFECTS[op.name]
        taken: list[int | None] = []
        while marked and (top := stack.pop()) is not None:
            taken.append(top)
        taken += [stack.pop() for _ in range(n_taken)]
        sizes = [1 if size is None else size for size in taken]
        if op.name.startswith("TUPLE"):
            size = 1 + sum(sizes)
        elif op.name.endswith("GET"):
            size = memo.get(int(argument or 0), 1)
        else:
            size = max(sizes, default=1)
        stack += [None] if op.name == "MARK" else [size] * n_left
        if op.name.endswith("PUT") or op.name == "MEMOIZE":
            place = len(memo) if argument is None else int(argument)
            memo[place] = stack[-1] or 1
        else:
            place = 0
        if size > _MOST_NESTED or place > n:
            raise ValueError("tuples in tuples, or places in the memo, beyond all measure")


def check_torch_file(path: Path) -> None:
    """Raise a ValueError if a file of ``torch.save`` unpacks to more than it holds, or its pickles never end."""
    if not zipfile.is_zipfile(path):
        with path.open("rb") as handle:
            for _ in range(5):  # mark, version, system, tensors, their keys; raw values follow
                check_pickle(handle)
        return
    with zipfile.ZipFile(path) as records:
        if sum(record.file_size for record in records.infolist()) > path.stat().st_size:
            raise ValueError("its records unpack to more than the file holds")
        if any(record.compress_type != zipfile.ZIP_STORED for record in records.infolist()):
            raise ValueError("its records are compressed, which torch never does")  # a map would show them packed
        for name in records.namelist():
            if name.endswith(".pkl"):
                check_pickle(io.BytesIO(records.read(name)))


def check_file(path: Path) -> None:
    """Raise a ValueError if ``path`` is no file, or only the pointer that git leaves where git-lfs is missing."""
    if not path.is_file():
        held = sorted(p.name for p in path.parent.iterdir())[:10] if path.parent.is_dir() else "no such folder"
        raise ValueError(f"{path}: missing ({held}). Give the folder as it was published.")
    with path.open("rb") as handle:
        start = handle.read(len(_LFS_POINTER))
    if start == _LFS_POINTER:
        raise ValueError(
            f"{path}: a git-lfs pointer of a few bytes, not the file itself. Run `git lfs pull` in the clone, or"
            " download the file with huggingface_hub."
        )


def read_dictionary(path: Path) -> dict[str, Any]:
    """Names to numbers or strings, from a ``.json`` file or a pickle of plain values, numpy numbers among them."""
    check_file(path)
    try:
        if path.suffix == ".json":
            found = read_json(path)
        else:
            content = io.BytesIO(read_bytes(path, MOST_TEXT))
            check_pickle(content)
            content.seek(0)
            found = _PlainUnpickler(content).load()
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path}: not a plain dictionary ({error}). It was not loaded; take the file from its original source, or"
            " give a JSON copy."
        ) from None
    except _DAMAGED_PICKLE as error:
        raise ValueError(f"{path}: truncated or damaged ({error!r}). Download it again.") from None
    if not isinstance(found, dict) or not found:
        raise ValueError(f"{path}: holds a {type(found).__name__}, expected a dictionary that is not empty.")
    bad = next(((k, v) for k, v in found.items() if not _plain(k, v)), None)
    if bad is not None:
        kinds = " to ".join(type(part).__name__ for part in bad)  # the values themselves may be without end
        raise ValueError(f"{path}: an entry leads from {kinds}, expected a name and a number or a name.")
    return found


def check_ids(path: Path, tokens: dict[str, Any]) -> None:
    """Raise a ValueError unless the values are the numbers 0 to n - 1, each once."""
    ids = list(tokens.values())
    if any(not isinstance(i, int) for i in ids) or sorted(ids) != list(range(len(ids))):
        raise ValueError(f"{path}: token ids are not the numbers 0 to {len(ids) - 1}, each once. Download it again.")


def _plain(key: object, value: object) -> bool:
    return isinstance(key, str) and isinstance(value, int | float | str) and not isinstance(value, bool)
