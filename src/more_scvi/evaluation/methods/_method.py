"""The interface of methods, and the registry that knows them by name.

Adding a method is one class::

    @register_method
    class Mine(Method):
        name = "mine"

        def run(self, given: Given, n_latent: int = 30) -> Result:
            z = ...  # an embedding of the cells of given.data
            return Result(z)

A method receives data whose hidden labels already read ``"Unknown"`` and in which nothing else of the user's is left,
so it cannot leak. Only one that declares ``sees_hidden`` is given all labels; :func:`leak` makes one of any other.
"""

import copy
import inspect
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import pandas as pd
from mudata import MuData
from numpy.typing import NDArray

from more_scvi.evaluation._data import Data, modalities, share_genes
from more_scvi.evaluation._store import file_name


@dataclass
class Given:
    """What a method receives.

    Parameters
    ----------
    data
        AnnData (RNA) or MuData with counts in ``X``, ``obs["batch"]`` and ``obs["cell_type"]``; hidden labels read
        ``"Unknown"``. Modalities carry the shared features of :func:`~more_scvi.evaluation.prepare`.
    seed
        Seed of every random draw.
    cache_dir
        Folder for label-free work that splits share; ``None``: keep nothing.
    query
        Cells of a batch that must not be trained on (``S2b``), without labels. Only methods that declare
        ``maps_queries`` are given one; they return the cells of ``data`` followed by those of ``query``. It has the
        genes of ``data``, fewer only for methods that declare ``any_genes``: the others are given the shared ones.
    rounds
        Batches of ``query`` in the order in which they join the reference ``data`` (``S10``), some labels of theirs
        among them; for methods that declare ``grows``, which return the cells in the same order.
    counterparts
        The same cells with no modality hidden and no label at all (``S6``): may be looked at after training only, to
        embed what was hidden.
    """

    data: Data
    seed: int = 0
    cache_dir: Path | None = None
    query: Data | None = None
    counterparts: MuData | None = None
    rounds: tuple[str, ...] = ()


@dataclass
class Result:
    """What a method returns; all but ``z`` may stay empty.

    Parameters
    ----------
    z
        Embedding ``(n_cells, n_latent)``, or ``None`` for a bare classifier.
    prediction
        Predicted labels ``(n_cells,)``, or ``None`` without a classifier of its own.
    probability
        Probabilities of that classifier, cells × types.
    seconds
        CPU seconds of the process per stage: ``setup``, ``features``, ``training``, ``embedding``.
    wall_seconds
        The same by the clock.
    parameters
        Numbers of ``trained`` and ``frozen`` weights.
    imputed
        Modality → values for all cells ``(n_cells, n_features)``, on the scale of log1p counts.
    unimodal
        Modality → embedding of all cells from that modality alone ``(n_cells, n_latent)``, hidden ones included.
    notes
        What a reader of the table must know, e.g. the length of training; JSON-serialisable.
    novelty
        Novelty ``(n_cells,)``, high for cells unlike anything labelled; ``None``: one minus the largest probability.
    before
        What a method that ``grows`` said of the reference's cells before anything was added: embedding ``(n_reference,
        n_latent)`` and predicted labels ``(n_reference,)``.
    model
        The trained model, for reports; never stored.
    """

    z: NDArray[np.float32] | None
    prediction: NDArray | None = None
    probability: pd.DataFrame | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    wall_seconds: dict[str, float] = field(default_factory=dict)
    parameters: dict[str, int] = field(default_factory=dict)
    imputed: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    unimodal: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    novelty: NDArray[np.float64] | None = None
    before: tuple[NDArray, NDArray] | None = None
    model: Any = None


class Method(ABC):
    """A named way to embed or annotate cells.

    A subclass sets ``name`` and writes :meth:`run`; its keyword arguments after ``given`` are the options of variants.

    Parameters
    ----------
    variant
        Name of this variant; default: that of the class.
    options
        Keyword arguments of :meth:`run`.

    Raises
    ------
    TypeError
        For an option that :meth:`run` does not have.
    """

    name: str = ""
    seeded: ClassVar[bool] = False
    """Whether the result depends on the seed beyond the split."""
    sees_hidden: bool = False
    """Whether it is given all labels: ceilings and controls."""
    maps_queries: ClassVar[bool] = False
    """Whether it can embed cells that were not trained on (``S2b``)."""
    any_genes: ClassVar[bool] = False
    """Whether it maps a query that lacks genes by itself (``S9``); else it is trained on the genes that both have."""
    grows: ClassVar[bool] = False
    """Whether it can add batches with labels to a reference (``S10``)."""
    needs_labels: ClassVar[bool] = False
    """Whether it cannot run without labels (``S7``)."""
    needs: ClassVar[tuple[str, ...]] = ()
    """Modalities without which it cannot run."""
    whole: ClassVar[bool | tuple[str, ...]] = False
    """Modalities that every cell must have; ``True``: all."""

    def __init__(self, variant: str | None = None, **options: Any):
        known = list(inspect.signature(self.run).parameters)[1:]
        if unknown := [name for name in options if name not in known]:
            raise TypeError(f"Method {self.name!r} has no option {unknown[0]!r}; it has {known}.")
        self.name, self.options = variant or self.name, options

    @abstractmethod
    def run(self, given: Given) -> Result:
        """Train on ``given.data`` and embed or annotate its cells."""

    def __call__(self, given: Given) -> Result:
        """Run with the options of this variant."""
        if given.query is not None and not self.any_genes:
            data, query = share_genes(given.data, given.query)
            given = replace(given, data=data, query=query)
        return self.run(given, **self.options)

    def answers(self, protocol: str) -> bool:
        """Whether the method can answer a protocol: without labels (``S7``), with a reference that grows (``S10``)."""
        blind = protocol == "S7" and self.needs_labels and not self.sees_hidden
        return not blind and (protocol != "S10" or self.grows)

    def suits(self, data: Data, has_query: bool = False) -> bool:
        """Whether the method can run on data with these modalities (and with cells to map)."""
        present = modalities(data)
        gaps = {name for name, adata in present.items() if adata.n_obs < data.n_obs}
        fits = not gaps & set(present if self.whole is True else self.whole or ())
        return set(self.needs) <= set(present) and fits and (self.maps_queries or not has_query)


_METHODS: dict[str, Method] = {}
_M = TypeVar("_M", bound="Method | type[Method]")


def register_method(method: _M) -> _M:
    """Make a method (a class, or an instance with options) known by its name; a later one of that name replaces it."""
    instance = method() if isinstance(method, type) else method
    _METHODS[instance.name] = instance
    return method


def list_methods() -> list[str]:
    """Names that :func:`get_method` knows."""
    return sorted(_METHODS)


def get_method(name: str, base: str | None = None, **options: Any) -> Method:
    """A method by name, or a variant of one.

    Parameters
    ----------
    name
        Registered name, or the name of the new variant. ``"LEAK:<name>"`` is that method given the hidden labels;
        ``"obsm:<key>"`` an embedding that the data already hold in ``.obsm[<key>]``.
    base
        Method the variant derives from.
    options
        Keyword arguments of the base method's ``run``, e.g. ``train_kwargs={"max_epochs": 5}`` for ``more``.

    Raises
    ------
    KeyError
        For an unknown name.
    TypeError
        For an unknown option.
    ValueError
        For a name that no file can have.

    Examples
    --------
    >>> get_method("scvi-short", base="scvi", minibatches=100).name
    'scvi-short'
    """
    key = base or name
    if base:
        file_name(name)  # here, and not after hours
    if key.startswith("LEAK:"):
        leaking = leak(get_method(key[5:], **options))
        leaking.name = name
        return leaking
    if key.startswith("obsm:"):
        return type(_METHODS["obsm"])(name, key=key[5:])
    if key not in _METHODS:
        raise KeyError(
            f"Method {key!r} is unknown. Known are {', '.join(list_methods())}; 'obsm:<key>' takes an embedding of the "
            "data, 'LEAK:<name>' gives a method the hidden labels."
        )
    known = _METHODS[key]
    return type(known)(name, **{**known.options, **options})


def leak(method: Method) -> Method:
    """The same method, but given every label: a ceiling, and what a comparison that leaks would report."""
    leaking = copy.copy(method)
    leaking.name, leaking.sees_hidden = f"LEAK:{method.name}", True
    return leaking
