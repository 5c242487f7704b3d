"""What must be there before a question can be answered."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from anndata import AnnData
from mudata import MuData

if TYPE_CHECKING:
    from more_scvi.model._more import MoRE


def registered(model: MoRE, method: str) -> AnnData | MuData:
    """The registered data; refuses ``method`` if the model was loaded without them."""
    if model.adata is None:
        raise ValueError(
            f"{method} needs the registered cells, but the model was loaded without data (adata=False); load it with "
            "MoRE.load(dir, adata=adata)."
        )
    return model.adata


def check_trained(model: MoRE) -> None:
    """Refuse questions to a model that has seen no data; warn of one whose training has not ended."""
    if not bool(model.module.linear.fitted):
        raise RuntimeError("The model is not trained; call model.train() first.")
    if not model.is_trained_:
        warnings.warn(
            "Training has not ended: these answers are those of a model on its way.", UserWarning, stacklevel=3
        )
