"""Scanorama (Hie et al. 2019)."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

import numpy as np
from scipy.sparse import csr_matrix

from more_scvi.evaluation._data import Data, batches_of, present

from ._method import Given, Method, Result, register_method
from ._shared import rna_watch, variable_genes


@register_method
class Scanorama(Method):
    """Batches stitched by mutual nearest neighbours of the log-normalised highly variable genes."""

    name = "scanorama"
    seeded = True
    needs = ("rna",)

    def suits(self, data: Data, has_query: bool = False) -> bool:
        """Every cell needs RNA."""
        return super().suits(data, has_query) and bool(present(data, "rna").all())

    def run(self, given: Given, n_components: int = 100) -> Result:
        """Integrate with ``scanorama.integrate`` at its defaults; rows keep the order of the cells."""
        try:
            import scanorama
        except ImportError as error:
            raise ImportError('scanorama is not installed: pip install "more-scvi[benchmark]".') from error
        batches = batches_of(given.data)
        names, n_cells = np.unique(batches, return_counts=True)
        if (n_cells < 2).any():
            lone = ", ".join(repr(str(name)) for name in names[n_cells < 2])
            raise ValueError(f"scanorama needs 2 cells of a batch, but {lone} has 1; leave such batches out.")
        watch = rna_watch(given.data, "normalise", "genes")
        with watch("training"), _contained():
            x = csr_matrix(variable_genes(given.data))
            genes = np.arange(x.shape[1]).astype(str)
            parts, _ = scanorama.integrate(
                [x[batches == name] for name in names],
                [genes] * len(names),
                dimred=n_components,
                seed=given.seed,
                verbose=0,
            )
            z = np.empty((len(batches), parts[0].shape[1]), dtype=np.float32)
            for name, part in zip(names, parts, strict=True):
                z[batches == name] = part
        notes = {"integration": "none: there is one batch"} if len(names) == 1 else {}
        return Result(z, None, None, watch.cpu, watch.wall, notes=notes)


@contextmanager
def _contained() -> Iterator[None]:
    """Put back the global random states, which Scanorama seeds, and drop what it prints even when told not to."""
    numbers, words = np.random.get_state(), random.getstate()  # noqa: NPY002
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        np.random.set_state(numbers)  # noqa: NPY002
        random.setstate(words)
