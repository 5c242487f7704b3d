"""``more-mini``: the bundled backbone. Gene programs (linear, exact) plus a pre-trained transformer residual."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self, get_args

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from more_scvi._files import json_object, read_json
from more_scvi._saved import SUMS, check_tensors, read_saved, unpack, write_saved
from more_scvi.data._genes import GeneMatch, GeneVocabulary

from ._base import MOST_LAYERS, Backbone, Matrix, TopLayers, visible_counts
from ._programs import ProgramFront, ProgramTransformer

BUNDLED = Path(__file__).parent / "weights" / "more-mini"
CONFIG, WEIGHTS, GENES = "config.json", "model.safetensors", "genes.tsv.gz"
FILES = (WEIGHTS, GENES)
FORMAT = "more-mini"
_RESTORE = "Restore the folder from its source, or reinstall more_scvi for the bundled weights."
WeightsKind = Literal["pretrained", "untrained", "random"]
_NOT_LOADED = {"pretrained": (), "untrained": ("transformer.readout",), "random": ("transformer.",)}
# Matrix products may round differently for another number of rows. Cells therefore pass the transformer in blocks of
# one fixed size, the last one padded: features do not depend, not even in the last bit, on how cells are chunked.
_BLOCK = 128


@dataclass(frozen=True)
class MoreMiniSizes:
    """Sizes of a ``more-mini``; everything needed to build it empty.

    Attributes
    ----------
    n_genes, n_components, n_sets, n_members
        Vocabulary, SVD components, gene sets, gene–set pairs.
    n_features
        Width of the cell feature.
    n_tokens, d_model, n_layers, n_heads
        The transformer.
    target_sum
        Counts every cell is scaled to.
    """

    n_genes: int
    n_components: int
    n_sets: int
    n_members: int
    n_features: int = 128
    n_tokens: int = 16
    d_model: int = 64
    n_layers: int = 3
    n_heads: int = 4
    target_sum: float = 1e4


class MoreMini(Backbone):
    """Frozen transformer over gene-program tokens, for human and mouse RNA.

    The feature of a cell is linear program features (:mod:`more_scvi.backbones`' front: exact on sparse counts, genes
    that were not measured are left out and the rest renormalised) plus the residual of a small transformer, which
    pre-training learned on studies listed in the folder's ``MODEL_CARD.md``.

    Parameters
    ----------
    sizes
        Sizes of all tables.
    vocabulary
        The genes, in the order of the tables.
    state
        Tensors; None leaves the tables at zero, for a caller that fills them.

    Examples
    --------
    >>> backbone = MoreMini.load()
    >>> match = match_genes(adata.var_names, backbone.vocabulary)  # doctest: +SKIP
    >>> backbone.encode(adata.layers["counts"], match).shape  # doctest: +SKIP
    (2638, 128)
    """

    name = "more-mini"
    vocabulary: GeneVocabulary

    def __init__(
        self, sizes: MoreMiniSizes, vocabulary: GeneVocabulary, state: Mapping[str, Tensor] | None = None
    ) -> None:
        super().__init__()
        if len(vocabulary) != sizes.n_genes:
            raise ValueError(f"MoreMini: the vocabulary has {len(vocabulary)} genes, the tables {sizes.n_genes}.")
        self.sizes, self.vocabulary = sizes, vocabulary
        self.n_features, self.token_width, self.n_layers = sizes.n_features, sizes.d_model, sizes.n_layers
        self.front = ProgramFront(
            sizes.n_genes, sizes.n_components, sizes.n_sets, sizes.n_members, sizes.n_features, sizes.target_sum
        )
        self.transformer = ProgramTransformer(
            sizes.n_features, sizes.n_tokens, sizes.d_model, sizes.n_layers, sizes.n_heads
        )
        if state is not None:
            self.load_state_dict(state)
        self.freeze()

    @classmethod
    def load(cls, path: str | Path | None = None, *, weights: WeightsKind = "pretrained", seed: int = 0) -> Self:
        """Read a weights folder.

        Parameters
        ----------
        path
            Folder with ``config.json``, ``model.safetensors`` and ``genes.tsv.gz``; None: the bundled one.
        weights
            ``"pretrained"``, or one of two controls: ``"untrained"`` (linear program features only, the residual is
            zero) and ``"random"`` (a transformer with random weights instead of the pre-trained ones).
        seed
            Seed of the random weights.

        Raises
        ------
        ValueError
            If ``weights`` is unknown, or a file is missing, truncated, changed or does not fit the config.
        """
        if weights not in get_args(WeightsKind):
            raise ValueError(f"weights={weights!r} is unknown: choose one of {', '.join(get_args(WeightsKind))}.")
        folder = BUNDLED if path is None else Path(path)
        try:
            config, files = read_saved(folder / CONFIG, _read_config, FILES, _RESTORE)
        except FileNotFoundError as error:
            raise ValueError(str(error)) from None
        vocabulary = GeneVocabulary.from_bytes(files[GENES], folder / GENES)
        try:
            sizes = MoreMiniSizes(**config["sizes"])
            if sizes.n_layers > MOST_LAYERS:
                raise ValueError(f"n_layers is {sizes.n_layers}, at most {MOST_LAYERS} are built")
            with torch.device("meta"):  # sizes are believed once the tensors have them
                expected = cls(sizes, vocabulary).state_dict()
        except (TypeError, ValueError, RuntimeError, ZeroDivisionError) as error:
            raise ValueError(f"{folder}/config.json: unexpected sizes ({error}). Restore the folder.") from error
        tensors = unpack(files[WEIGHTS], folder / WEIGHTS, _RESTORE)
        check_tensors(tensors, expected, folder / WEIGHTS, f"It and {CONFIG} must be of one save. {_RESTORE}")
        kept = {k: v.to(expected[k].dtype) for k, v in tensors.items() if not k.startswith(_NOT_LOADED[weights])}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            backbone = cls(sizes, vocabulary)
            if weights == "random":
                backbone.transformer.randomise_readout()
        backbone.load_state_dict(kept, strict=False)  # controls keep their random or zero weights
        return backbone

    def save(self, folder: str | Path) -> None:
        """Write a weights folder that :meth:`load` reads (float16; files are replaced atomically)."""
        state = self.state_dict().items()
        tensors = {k: (v.half() if v.is_floating_point() else v).cpu().contiguous() for k, v in state}
        config = {"format": FORMAT, "version": 1, "sizes": asdict(self.sizes)}
        files: dict[str, Any] = {WEIGHTS: save(tensors), GENES: self.vocabulary.to_bytes()}
        write_saved(Path(folder) / CONFIG, config, files, FILES)

    def read_tokens(self, tokens: Tensor) -> Tensor:
        """Mean of the normalised tokens after the frozen layers; see :meth:`Backbone.read_tokens`."""
        if tokens.device != self.device:  # no submodule of the model, so that it was not moved along
            self.to(tokens.device)
        return self.transformer.read_tokens(tokens)

    def config(self) -> dict[str, Any]:
        """Sizes of the tables."""
        return asdict(self.sizes)

    def encode(
        self, x: Matrix, match: GeneMatch | None, *, visible: np.ndarray | None = None, normalised: bool = False
    ) -> np.ndarray:
        """Features of the cells in ``x``; see :meth:`Backbone.encode`.

        Raises
        ------
        ValueError
            If no visible gene is in the vocabulary, sizes disagree, or ``x`` holds negative or non-finite values.
        """
        features, context = self._linear(x, match, visible, normalised)
        return features + self._blocks(self.transformer, features, context, np.float32)

    def _linear(
        self, x: Matrix, match: GeneMatch | None, visible: np.ndarray | None, normalised: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """Linear features and context of cells, by the genes that are visible and known."""
        counts, genes = visible_counts(self.name, x, match, visible, normalised, np.float32)
        if not len(genes):
            raise ValueError(
                "No visible gene is in the vocabulary of more-mini (human or mouse symbols or Ensembl ids): "
                "name the column of adata.var that holds them as gene_key."
            )
        return self.front.encode(counts, genes)

    def tokens(
        self, x: Matrix, match: GeneMatch | None, *, depth: int, normalised: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """What enters the last ``depth`` layers: context and programs, all kept; see :meth:`Backbone.tokens`."""
        self._check_depth(depth)
        features, context = self._linear(x, match, None, normalised)
        values = self._blocks(lambda f, c: self.transformer.tokens(f, c, depth), features, context, np.float16)
        return values, np.ones(values.shape[:2], dtype=bool)

    def top_layers(self, depth: int) -> TopLayers:
        """The last ``depth`` layers and what they add to the linear features; see :meth:`Backbone.top_layers`."""
        self._check_depth(depth)
        return self.transformer.top_layers(depth)

    @torch.no_grad()
    def _blocks(
        self, network: Callable[[Tensor, Tensor], Tensor], features: np.ndarray, context: np.ndarray, dtype: type
    ) -> np.ndarray:
        """``network`` of features and context, (cells, ...), in blocks of one fixed size."""
        device = self.device
        parts: list[np.ndarray] = []
        for start in range(0, max(len(features), 1), _BLOCK):
            n = min(_BLOCK, len(features) - start)
            rows = (np.pad(a[start : start + n], ((0, _BLOCK - n), (0, 0))) for a in (features, context))
            h, c = (torch.from_numpy(padded).to(device) for padded in rows)
            parts.append(network(h, c).float().cpu().numpy()[:n].astype(dtype, copy=False))  # NumPy has no bfloat16
        return np.concatenate(parts)


def is_more_mini(folder: Path) -> bool:
    """Whether the folder's ``config.json`` says that it holds ``more-mini`` weights."""
    return json_object(folder / CONFIG).get("format") == FORMAT


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
