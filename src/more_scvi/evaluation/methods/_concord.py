"""CONCORD (Zhu et al. 2026): contrastive learning with minibatches of one batch, and neighbours as hard negatives."""

import io
import logging
import random
from contextlib import redirect_stdout

import numpy as np
import torch
from anndata import AnnData

from more_scvi.evaluation._data import BATCH_KEY, batches_of

from ._method import Given, Method, Result, register_method
from ._shared import shared_watch, variable_genes


@register_method
class Concord(Method):
    """CONCORD on the log-normalised highly variable genes, at the defaults of concord-sc."""

    name = "concord"
    seeded = True
    needs = whole = ("rna",)

    def run(self, given: Given, n_epochs: int = 15) -> Result:
        """Train and embed; the global random states, which CONCORD seeds, are put back."""
        try:
            import concord
        except ImportError as error:
            raise ImportError("concord-sc is not installed: pip install concord-sc.") from error
        logging.getLogger("concord").addFilter(_failures)
        watch = shared_watch(given.data, steps=("normalise", "genes"))
        adata = AnnData(variable_genes(given.data).copy())
        adata.obs[BATCH_KEY] = batches_of(given.data)
        adata.obs[BATCH_KEY] = adata.obs[BATCH_KEY].astype("category")
        numbers, words = np.random.get_state(), random.getstate()  # noqa: NPY002
        try:
            with watch("training"), torch.random.fork_rng(devices=[]), redirect_stdout(io.StringIO()):
                options = {"seed": given.seed, "n_epochs": n_epochs, "device": torch.device("cpu"), "num_workers": 0}
                model = concord.Concord(adata, save_dir=None, domain_key=BATCH_KEY, **options)
                model.fit_transform(output_key="concord")
        finally:
            np.random.set_state(numbers)  # noqa: NPY002
            random.setstate(words)
        trained = sum(p.numel() for p in model.model.parameters())
        z = np.asarray(adata.obsm["concord"], dtype=np.float32)
        return Result(z, None, None, watch.cpu, watch.wall, {"trained": trained, "frozen": 0})


def _failures(record: logging.LogRecord) -> bool:
    """Whether it is more than a warning, of which CONCORD has several about what is not asked for here."""
    return record.levelno >= logging.ERROR
