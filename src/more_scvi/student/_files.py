"""Files of a student: tensors, a JSON card and a table of gene names, written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from more_scvi._reading import read_json
from more_scvi._saved import check_tensors, read_saved, unpack, write_saved
from more_scvi.data._genes import GeneVocabulary

from ._network import SIZES, StudentNetwork

WEIGHTS, CARD, GENES = "student.safetensors", "student.json", "genes.tsv.gz"
FILES = (WEIGHTS, GENES)
FORMAT = "more-scvi student"
VERSION = 2
ENTRIES = ("data_type", "layer", "batch_key", "gene_key", "batches", "labels", "genes", "fidelity")
_SIZE_OF = {"genes": "n_variable", "batches": "n_batch", "labels": "n_labels"}
_REMEDY = "Give a folder written by Student.save, or save the student again."


def write_student(
    dir_path: str | os.PathLike,
    network: StudentNetwork,
    card: Mapping[str, Any],
    vocabulary: GeneVocabulary,
    overwrite: bool,
) -> None:
    """Write the three files; the card last."""
    folder = Path(dir_path)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; give a folder.")
    present = [name for name in (WEIGHTS, CARD, GENES) if (folder / name).exists()]
    if present and not overwrite:
        raise ValueError(f"{folder} already holds {', '.join(present)}; give overwrite=True or another folder.")
    head = {"format": FORMAT, "version": VERSION, "written_by": f"more-scvi {version('more-scvi')}"}
    tensors = save({k: v.detach().cpu().contiguous() for k, v in network.state_dict().items()})
    write_saved(
        folder / CARD, head | dict(card) | network.sizes, {WEIGHTS: tensors, GENES: vocabulary.to_bytes()}, FILES
    )


def read_student(dir_path: str | os.PathLike) -> tuple[StudentNetwork, dict[str, Any], GeneVocabulary]:
    """Network, card and gene names of a folder, checked."""
    folder = Path(dir_path)
    card, files = read_saved(folder / CARD, _read_card, FILES, _REMEDY)
    sizes = {key: card.pop(key) for key in SIZES}
    vocabulary = GeneVocabulary.from_bytes(files[GENES], folder / GENES)
    try:
        with torch.device("meta"):  # sizes are believed once the tensors have them
            expected = StudentNetwork(**sizes).state_dict()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{folder / CARD}: its sizes {sizes} make no student ({error}). {_REMEDY}") from None
    for key, size in _SIZE_OF.items():
        if len(card[key]) != sizes[size]:
            raise ValueError(f"{folder / CARD}: {len(card[key])} {key}, but {size} is {sizes[size]}. {_REMEDY}")
    if len(vocabulary) != sizes["n_genes"]:
        raise ValueError(f"{folder / GENES}: {len(vocabulary)} genes, {CARD} says {sizes['n_genes']}. {_REMEDY}")
    path = folder / WEIGHTS
    tensors = unpack(files[WEIGHTS], path, _REMEDY)
    shapes = {name: tensor.shape for name, tensor in expected.items()}
    check_tensors(tensors, shapes, path, f"It and {CARD} must be of one save. {_REMEDY}")
    if wrong := [name for name, tensor in expected.items() if tensors[name].dtype != tensor.dtype]:
        raise ValueError(f"{path}: the tensors {wrong} are of another type than {CARD} implies. {_REMEDY}")
    network = StudentNetwork(**sizes)
    network.load_state_dict(tensors)
    return network, card, vocabulary


def _read_card(path: Path) -> dict[str, Any]:
    card = read_json(path, _REMEDY)
    if not isinstance(card, dict) or card.get("format") != FORMAT:
        raise ValueError(f"{path} is not the card of a student. {_REMEDY}")
    if card.get("version") != VERSION:
        raise ValueError(
            f"{path} has version {card.get('version')!r}; this more-scvi reads {VERSION}. Distill the student again, or"
            " install the version that wrote it."
        )
    if missing := [key for key in (*SIZES, *ENTRIES) if key not in card]:
        raise ValueError(f"{path} lacks the entries {missing}; it was edited. {_REMEDY}")
    if wrong := [key for key in _SIZE_OF if not isinstance(card[key], list)]:
        raise ValueError(f"{path}: {wrong} must be lists; it was edited. {_REMEDY}")
    return card
