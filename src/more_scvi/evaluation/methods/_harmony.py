"""Harmony."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd

from more_scvi.evaluation._data import BATCH_KEY, batches_of

from ._method import Given, Method, Result, register_method
from ._shared import rna, rna_watch


@register_method
class Harmony(Method):
    """Harmony on the principal components (Korsunsky et al. 2019), at the defaults of harmonypy."""

    name = "harmony"
    seeded = True
    needs = ("rna",)
    whole = True

    def run(self, given: Given) -> Result:
        """Correct the shared PCs."""
        import harmonypy

        logging.getLogger("harmonypy").setLevel(logging.WARNING)
        watch = rna_watch(given.data)
        pcs = rna(given.data).obsm["view"]
        obs = pd.DataFrame({BATCH_KEY: batches_of(given.data)})
        with watch("training"):
            z = harmonypy.run_harmony(pcs, obs, BATCH_KEY, random_state=given.seed).Z_corr
        # harmonypy 2 returns cells × PCs, older versions PCs × cells
        z = z if z.shape == pcs.shape else z.T
        if z.shape != pcs.shape:
            raise RuntimeError(f"harmonypy returned {z.T.shape} for PCs of shape {pcs.shape}.")
        return Result(np.asarray(z, dtype=np.float32), None, None, watch.cpu, watch.wall)
