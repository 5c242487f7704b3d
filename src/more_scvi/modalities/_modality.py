"""What the package must know of a modality, and the modalities that it knows."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Protocol

import numpy as np
import scipy.sparse as sp
from anndata import AnnData
from torch import Tensor

from more_scvi.data._arguments import listing, nearest
from more_scvi.data._matrix import ValueRules
from more_scvi.modalities._peaks import check_peak_genes, genes_of_peaks

Chunks = Callable[[], Iterable[tuple[Any, np.ndarray]]]
"""Called for each pass over the cells; blocks of normalised values with the batch codes of their rows."""


class LinearPath(Protocol):
    """Direct path of a modality, a :class:`torch.nn.Module` with buffers only: fitted once, then a fixed linear map.

    ``features`` lists the features that are used, the most informative first. ``n_components`` and ``n_wide`` are the
    widths of what :meth:`transform` and :meth:`transform_wide` return. ``visible`` is a boolean (features,) mask;
    hidden features are missing, not zero.

    A path may have two more methods for data that lack features. ``complete(x, visible)`` returns both projections, as
    :meth:`transform` and :meth:`transform_wide` do, with the others as expected of those that are there.
    ``doubt(visible, n, rng)`` returns ``n`` draws of what may have to be added to these projections, which add up to
    zero. Without them the other methods answer, and confidence does not fall with the features.

    ``shallow(x, expected)`` says which cells show far fewer features than ``expected``, bool (cells,), and
    ``transform_shallow``, ``doubt_shallow`` give a wide input made for them; without these no cell is shallow.
    """

    features: Tensor
    n_components: int
    n_wide: int

    def normalise(self, x: sp.csr_matrix, visible: np.ndarray | None = None, share: float = 1.0) -> Any:
        """Measured values, csr (cells, features), to what the other methods read.

        ``share`` is that of a cell's total which the visible features usually hold.
        """

    def fit(self, chunks: Chunks, n_batch: int) -> np.ndarray | None:
        """Fit on blocks of (normalised values, batch codes); ``chunks()`` may be called several times.

        Returns which batches are shallow, bool (n_batch,); None where depth means nothing.
        """

    def transform(self, x: Any, visible: np.ndarray | None = None) -> np.ndarray:
        """Normalised values to components, (cells, n_components) float32."""

    def transform_wide(self, x: Any, visible: np.ndarray | None = None) -> np.ndarray:
        """Normalised values to the wide input that the closed-form experts read, (cells, n_wide) float32."""


class Decoder(Protocol):
    """Decoder of masked modelling, a :class:`torch.nn.Module`: from the embedding to a likelihood of target features.

    ``target`` holds measured values as they are, ``totals`` their sum over all features of a cell.
    """

    def fit_average(self, target: sp.csr_matrix, totals: np.ndarray) -> None:
        """Start where every cell is the average cell: csr (cells, targets), (cells,)."""

    def loss(self, z: Tensor, target: Tensor, totals: Tensor, hidden: Tensor) -> Tensor:
        """Negative log-likelihood per hidden target, (cells,); ``hidden`` is boolean (targets,)."""


class Modality(ABC):
    """All that the package must know of one modality. It has no state; derive from it, and register an instance.

    Attributes
    ----------
    name
        Name in ``modalities=`` of ``setup_mudata``, in results and in files.
    title, features
        Words for messages: the modality, and its features in the plural.
    count
        Key of the number of features in the model's ``summary_stats``; by default ``n_`` and the name.
    values
        Which values may be measured, see :class:`more_scvi.data.ValueRules`.
    genes_argument
        Argument of ``setup_mudata`` that says what genes the features speak of; None: the modality's entry in
        ``feature_genes``.
    genes_words
        What else it may be than a column or a matrix, for messages.
    centres_wide
        Whether the wide input is freed of offsets of batches, compared within types.
    imputes_directly
        Whether imputation predicts each feature by itself, for modalities of few features, and not by components.
    imputes_sparse
        Whether imputed values are returned as a sparse matrix.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    features: ClassVar[str]
    count: ClassVar[str | None] = None
    values: ClassVar[ValueRules]
    genes_argument: ClassVar[str | None] = None
    genes_words: ClassVar[str] = ""
    centres_wide: ClassVar[bool] = True
    imputes_directly: ClassVar[bool] = False
    imputes_sparse: ClassVar[bool] = False

    @abstractmethod
    def path(self, n_features: int, data_type: str, n_variable: int, n_components: int, n_wide: int) -> LinearPath:
        """Direct path, not yet fitted; with ``n_variable`` features of those that are many."""

    @abstractmethod
    def decoder(self, data_type: str, n_latent: int, n_features: int) -> Decoder:
        """Decoder of ``n_features`` targets, not yet fitted."""

    def genes(
        self, adata: AnnData, given: Any, others: Mapping[str, AnnData]
    ) -> tuple[list[str], sp.csr_matrix | None]:
        """Genes that the features speak of, and links to them, csr (features, genes) (None: features are genes).

        Parameters
        ----------
        adata
            The modality.
        given
            What the user said: a column of ``var`` with gene names (several separated by ``,`` or ``;``), a pair
            (features × genes matrix, genes), or None: not known.
        others
            All modalities of the data by name.
        """
        if given is None:
            return [], sp.csr_matrix((adata.n_vars, 0), dtype=np.float32)
        argument = self.genes_argument or f"feature_genes[{self.name!r}]"
        if isinstance(given, tuple) and len(given) == 2:
            matrix, genes = check_peak_genes(given[0], list(given[1]), adata.n_vars, self.features), given[1]
        elif isinstance(given, str) and given in adata.var:
            matrix, genes = genes_of_peaks(adata.var[given], self.features)
        elif isinstance(given, str):
            raise KeyError(
                f"{argument}={given!r} is not a column of the {self.title} modality's var"
                f" ({list(adata.var.columns)}){self.genes_words}."
            )
        else:
            raise TypeError(
                f"{argument}={given!r} is a {type(given).__name__}; give a column of the {self.title} modality's var"
                f"{self.genes_words}, or (matrix, genes) with a {self.features} × genes matrix."
            )
        return [str(g) for g in genes], matrix

    def imputed(self, x: sp.csr_matrix, path: LinearPath) -> Any:
        """Measured values on the scale on which imputation is linear, (cells, features)."""
        return path.normalise(x)

    @abstractmethod
    def expected(self, values: np.ndarray) -> np.ndarray:
        """Imputed values, (cells, features), on the scale that users get; float32."""


_REGISTRY: dict[str, Modality] = {}


def register_modality(modality: Modality) -> None:
    """Let models read a further modality.

    Parameters
    ----------
    modality
        Instance of a class derived from :class:`Modality`. One of the same name is replaced, if it is of a class of
        the same name.

    Raises
    ------
    TypeError, ValueError
        If it is none, or its name is taken or no Python identifier.
    """
    if not isinstance(modality, Modality):
        kind = f"the class {modality.__name__}" if isinstance(modality, type) else f"a {type(modality).__name__}"
        raise TypeError(f"register_modality takes an instance of a class derived from Modality, not {kind}.")
    name = getattr(modality, "name", None)
    if not isinstance(name, str) or not name.isidentifier():
        raise ValueError(f"name={name!r} of a modality must be a word such as 'methylation'.")
    missing = [attribute for attribute in ("title", "features", "values") if not hasattr(modality, attribute)]
    if missing:
        raise ValueError(f"The modality {name!r} lacks {', '.join(missing)}; set it in its class.")
    known = _REGISTRY.get(name)
    if known is not None and type(known).__qualname__ != type(modality).__qualname__:  # a notebook may run it again
        raise ValueError(f"A modality {name!r} is registered already ({type(known).__qualname__}); give another name.")
    _REGISTRY[name] = modality


def get_modality(name: str) -> Modality:
    """The registered modality of this name.

    Raises
    ------
    ValueError
        If there is none; the message lists those there are.
    """
    if name not in _REGISTRY:
        raise ValueError(
            f"No modality {name!r} is registered; there are {listing(_REGISTRY)}.{nearest(name, _REGISTRY)} One of"
            " your own is registered with more_scvi.modalities.register_modality before a model uses it."
        )
    return _REGISTRY[name]


def list_modalities() -> list[str]:
    """Names of the registered modalities, in the order in which models hold them."""
    return list(_REGISTRY)
