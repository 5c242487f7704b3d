"""A student: embeds and annotates cells by their expression, on its own; its files and the names of its genes."""

import logging
from collections.abc import Sequence
from importlib.metadata import version
from os import PathLike
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from safetensors.torch import save

from more_scvi._files import read_json
from more_scvi._saved import check_folder, check_tensors, read_saved, unpack, write_saved
from more_scvi.data._arguments import check_indices, check_integer, check_obsm_key, warn
from more_scvi.data._batches import batch_codes, batch_offsets
from more_scvi.data._genes import COLUMNS, GeneVocabulary, match_genes
from more_scvi.data._matrix import check_matrix
from more_scvi.data._objects import check_anndata
from more_scvi.data._rows import RowReader
from more_scvi.data._silent import say_silent, silent_features

from ._network import SIZES, StudentNetwork

logger = logging.getLogger("more_scvi")
LEAST_GENES = 0.05
"""Share of the student's genes that data must have."""

FEW_GENES = 0.5
BLOCK = 4096
WEIGHTS, CARD, GENES = "student.safetensors", "student.json", "genes.tsv.gz"
FILES = (WEIGHTS, GENES)
FORMAT = "more-scvi student"
VERSION = 2
ENTRIES = ("data_type", "layer", "batch_key", "gene_key", "batches", "labels", "genes", "fidelity")
_SIZE_OF = {"genes": "n_variable", "batches": "n_batch", "labels": "n_labels"}
_REMEDY = "Give a folder written by Student.save, or save the student again."


class Student:
    """A small model that was distilled from a :class:`more_scvi.model.MoRE`: expression in, embedding and labels out.

    It needs neither backbone nor teacher nor training data. Made by :meth:`more_scvi.model.MoRE.distill`, read by
    :meth:`load`.

    Genes are found by symbol or Ensembl id, in any order and case; human and mouse names are told apart. Genes that the
    data lack count as missing, not as zero. Cells of batches that the teacher knew (``obs[batch_key]``) are corrected
    as it corrected them; those of a new batch, as the known ones are in the mean.

    Parameters
    ----------
    network
        The fitted network.
    card
        What goes with it: ``data_type``, ``layer``, ``batch_key``, ``gene_key``, ``batches``, ``labels``, ``fidelity``.
    vocabulary
        Names of the genes.

    Examples
    --------
    >>> student = model.distill()
    >>> student.save("student/")
    >>> z = more.Student.load("student/").get_latent_representation(adata)
    """

    def __init__(self, network: StudentNetwork, card: dict[str, Any], vocabulary: GeneVocabulary) -> None:
        self.network, self._card, self._vocabulary = network.eval(), card, vocabulary

    @property
    def labels(self) -> np.ndarray:
        """Labels it tells apart, (labels,); empty if the teacher had none."""
        return np.array(self._card["labels"], dtype=object)

    @property
    def batches(self) -> np.ndarray:
        """Batches it knows."""
        return np.array(self._card["batches"], dtype=object)

    @property
    def genes(self) -> np.ndarray:
        """Genes it reads, most variable first, by the names of the training data."""
        return np.array(self._card["genes"], dtype=object)

    @property
    def n_latent(self) -> int:
        """Width of the embedding."""
        return self.network.sizes["n_latent"]

    @property
    def fidelity(self) -> dict[str, Any] | None:
        """What was lost on cells that were kept back (:meth:`more_scvi.model.MoRE.student_fidelity`), or None."""
        return self._card["fidelity"]

    def n_parameters(self) -> int:
        """Number of all weights and tables."""
        return sum(tensor.numel() for tensor in self.network.state_dict().values())

    def __repr__(self) -> str:
        return (
            f"Student with {len(self.genes)} genes, {len(self.batches)} batches, {len(self.labels)} labels, "
            f"n_latent {self.n_latent}, {self.n_parameters():,} numbers"
        )

    def get_latent_representation(
        self,
        adata: AnnData,
        indices: Sequence[int] | Sequence[bool] | slice | None = None,
        batch_size: int = BLOCK,
        obsm_key: str | None = "X_student",
    ) -> np.ndarray:
        """Embedding of cells in the teacher's space.

        Parameters
        ----------
        adata
            Cells, in memory or backed; values of the kind the teacher was trained on, in the same layer.
        indices
            Cells to return: positions (also negative), booleans or a slice. A new batch lies at the mean of the
            known ones.
        batch_size
            Cells that are read at a time; the matrix is never made dense.
        obsm_key
            Where to write the embedding when all cells are asked for; ``None`` writes nothing.

        Returns
        -------
        (cells, n_latent) float32.

        Raises
        ------
        TypeError, KeyError, ValueError
            For anything but an AnnData, a missing layer, values that are not finite, negative or of another kind, too
            few known genes, missing values in the batch column, or illegal indices.
        """
        check_obsm_key(obsm_key)
        z = self._run(adata, indices, batch_size)[0]
        if indices is None and obsm_key is not None and not adata.is_view:
            adata.obsm[obsm_key] = z
        return z

    def predict(
        self,
        adata: AnnData,
        indices: Sequence[int] | Sequence[bool] | slice | None = None,
        soft: bool = False,
        batch_size: int = BLOCK,
    ) -> np.ndarray | pd.DataFrame:
        """Labels of cells.

        Parameters
        ----------
        adata, indices, batch_size
            As in :meth:`get_latent_representation`.
        soft
            Return class probabilities instead of labels.

        Returns
        -------
        Labels as text, (cells,); or a DataFrame cells × labels of probabilities, rows adding up to 1.

        Raises
        ------
        ValueError
            If the teacher had no labels.
        """
        if not len(self.labels):
            raise ValueError("predict needs labels, but the teacher had none; train it with labels_key and distill it.")
        p = self._run(adata, indices, batch_size)[1]
        if not soft:
            return self.labels[p.argmax(1)]
        names = adata.obs_names[check_indices(indices, adata.n_obs)]
        return pd.DataFrame(p, index=names, columns=list(self.labels))

    def save(self, dir_path: str | PathLike, overwrite: bool = False) -> None:
        """Write ``student.safetensors``, ``genes.tsv.gz`` and ``student.json`` (nothing of the training cells).

        Parameters
        ----------
        dir_path
            Folder; created if needed.
        overwrite
            Replace files of an earlier save.

        Raises
        ------
        ValueError
            If the files exist and ``overwrite`` is False, or ``dir_path`` is a file.
        """
        folder = check_folder(dir_path, (WEIGHTS, CARD, GENES), overwrite)
        head = {"format": FORMAT, "version": VERSION, "written_by": f"more-scvi {version('more-scvi')}"}
        state = {k: v.detach().cpu().contiguous() for k, v in self.network.state_dict().items()}
        content = head | self._card | self.network.sizes
        write_saved(folder / CARD, content, {WEIGHTS: save(state), GENES: self._vocabulary.to_bytes()}, FILES)

    @classmethod
    def load(cls, dir_path: str | PathLike) -> Self:
        """Read a student that :meth:`save` wrote; no backbone, teacher or training data is needed.

        Raises
        ------
        FileNotFoundError
            If a file is missing.
        ValueError
            If a file is truncated, edited or not what :meth:`save` writes.
        """
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
        check_tensors(tensors, expected, path, f"It and {CARD} must be of one save. {_REMEDY}")
        if wrong := [name for name, tensor in expected.items() if tensors[name].dtype != tensor.dtype]:
            raise ValueError(f"{path}: the tensors {wrong} are of another type than {CARD} implies. {_REMEDY}")
        network = StudentNetwork(**sizes)
        network.load_state_dict(tensors)
        return cls(network, card, vocabulary)

    def _run(self, adata: AnnData, indices: Any, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
        """Embedding and probabilities of the chosen cells."""
        size = check_integer("batch_size", batch_size)
        if type(adata).__name__ == "MuData":
            raise TypeError(
                "adata is a MuData; a student reads RNA alone: give mdata.mod['rna'], with the batch column in its obs."
            )
        check_anndata(adata)
        chosen = check_indices(indices, adata.n_obs)
        check_matrix(adata, layer=self._card["layer"], data_type=self._card["data_type"], query=True)
        front = self.network.front
        reader, index = RowReader(adata, self._card["layer"]), self._match(adata)
        silent = silent_features(reader, np.where(index >= 0, front.detected.numpy()[index], 0.0))
        if silent is not None:
            say_silent(silent, "genes")
            index = np.where(silent, -1, index)
        there, doubt = front.visible_map(index), torch.from_numpy(front.doubt(index))
        raw = np.empty((adata.n_obs, self.n_latent), np.float32)
        codes = batch_codes(adata.obs, self._card["batch_key"], self.batches)
        needed = np.zeros(adata.n_obs, dtype=bool)
        needed[chosen] = True
        for start in range(0, adata.n_obs, size):
            block = slice(start, min(start + size, adata.n_obs))
            if needed[block].any():
                raw[block] = front.project(reader[block], there)
        kept = np.flatnonzero(needed)
        raw[kept] -= batch_offsets(codes[kept], there.centres)
        z = np.empty((len(chosen), self.n_latent), np.float32)
        p = np.empty((len(chosen), len(self.labels)), np.float32)
        with torch.inference_mode():
            for start in range(0, len(chosen), size):
                rows = chosen[start : start + size]
                h, batch = torch.from_numpy(raw[rows]), torch.from_numpy(np.maximum(codes[rows], -1))
                out, logits = self.network(h, batch)
                z[start : start + size] = out.numpy()
                if logits is not None:
                    drawn = [self.network(h + more, batch)[1].softmax(1) for more in doubt] or [logits.softmax(1)]
                    p[start : start + size] = torch.stack(drawn).mean(0).numpy()
        return z, p

    def _match(self, adata: AnnData) -> np.ndarray:
        """Position of each column of the data among the student's genes, -1 where it is not one."""
        key = self._card["gene_key"]
        names = adata.var_names if key is None or key not in adata.var else adata.var[key].astype(str)
        index = match_genes(list(map(str, names)), self._vocabulary, spellings=True).vocab_index
        share = float(np.isin(self.network.front.variable.numpy(), index).mean())
        if share < LEAST_GENES:
            raise ValueError(
                f"{share:.1%} of the {len(self.genes)} genes of the student are in adata (needed: {LEAST_GENES:.0%}):"
                f" yours are {', '.join(map(repr, list(names)[:3]))}, it reads"
                f" {', '.join(map(repr, self.genes[:3]))}. Give gene symbols or Ensembl ids in adata.var_names"
                + (f" or adata.var[{key!r}]." if key is not None else ".")
            )
        if share < 1:
            logger.info("%.0f%% of the student's genes are in adata; the others count as missing.", 100 * share)
        if share < FEW_GENES:
            warn(
                f"adata has {share:.0%} of the {len(self.genes)} genes of the student; the others count as missing, and"
                " the embedding is less sure."
            )
        return index


def student_vocabulary(
    names: Sequence[str], var_names: Sequence[str], vocabulary: GeneVocabulary | None
) -> GeneVocabulary:
    """Every name of each gene: those of the training data, and those that the teacher's backbone knows for it.

    ``names`` are what the backbone was told (``gene_key``), ``vocabulary`` is that of the backbone, if it has one.
    """
    own = [str(name) for name in names]
    index = np.full(len(own), -1) if vocabulary is None else match_genes(own, vocabulary).vocab_index
    columns: dict[str, list[str]] = {column: [] for column in COLUMNS}
    for name, other, at in zip(own, map(str, var_names), index, strict=True):
        for column in COLUMNS:
            entry = "" if at < 0 or vocabulary is None else getattr(vocabulary, column)[at]
            if column.endswith("alias"):
                entry = "|".join(dict.fromkeys(part for part in (*entry.split("|"), name, other) if part))
            elif at < 0 and column.endswith("symbol"):
                entry = name
            columns[column].append(entry)
    made = GeneVocabulary(*(tuple(columns[column]) for column in COLUMNS))
    if np.array_equal(match_genes(own, made).vocab_index, np.arange(len(own))):
        return made
    # names that the rules of matching cannot tell apart
    return GeneVocabulary(tuple(own), ("",) * len(own), tuple(own))


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
