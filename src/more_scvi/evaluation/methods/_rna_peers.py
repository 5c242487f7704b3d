"""Harmony (Korsunsky et al. 2019) and Scanorama (Hie et al. 2019)."""

import io
import logging
import random
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from more_scvi.evaluation._data import BATCH_KEY, batches_of

from ._method import Given, Method, Result, register_method
from ._shared import rna, shared_watch, variable_genes


@register_method
class Harmony(Method):
    """Harmony on the principal components (Korsunsky et al. 2019), at the defaults of harmonypy."""

    name = "harmony"
    seeded = True
    needs = ("rna",)
    whole = True

    def run(self, given: Given) -> Result:
        import harmonypy

        logging.getLogger("harmonypy").setLevel(logging.WARNING)
        watch = shared_watch(given.data)
        pcs = rna(given.data).obsm["view"]
        obs = pd.DataFrame({BATCH_KEY: batches_of(given.data)})
        with watch("training"):
            z = harmonypy.run_harmony(pcs, obs, BATCH_KEY, random_state=given.seed).Z_corr  # cells × PCs from 2.0 on
        if z.shape != pcs.shape:
            raise RuntimeError(f"harmonypy returned {z.shape} for PCs of shape {pcs.shape}; install harmonypy >= 2.0.")
        return Result(np.asarray(z, dtype=np.float32), None, None, watch.cpu, watch.wall)


@register_method
class Scanorama(Method):
    """Batches stitched by mutual nearest neighbours of the log-normalised highly variable genes."""

    name = "scanorama"
    seeded = True
    needs = whole = ("rna",)

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
        watch = shared_watch(given.data, steps=("normalise", "genes"))
        with watch("training"), _contained():
            x = csr_matrix(variable_genes(given.data))
            parts, genes = [x[batches == name] for name in names], np.arange(x.shape[1]).astype(str)
            found, _ = scanorama.integrate(parts, [genes] * len(parts), dimred=n_components, seed=given.seed, verbose=0)
            z = np.empty((len(batches), found[0].shape[1]), dtype=np.float32)
            for name, part in zip(names, found, strict=True):
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
