"""The curve of mixing against structure: the same model, trained at several strengths."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from more_scvi.data._arguments import check_number, check_option
from more_scvi.data._batches import batch_keys, batch_levels
from more_scvi.metrics._mixing import cilisi
from more_scvi.metrics._structure import structure
from more_scvi.model._diagnose import evidence_of
from more_scvi.model._forward import check_trained, registered

if TYPE_CHECKING:
    from more_scvi.model._more import MoRE

SHARED = ("_adata", "_adata_manager", "_frame", "_replaced", "_recorded")
"""What models of the same registered data have in common."""


def strength_curve(
    self: MoRE,
    strengths: Sequence[float] = (0, 0.25, 0.5, 1, 2, 4),
    *,
    key: str | None = None,
    **train_kwargs: Any,
) -> pd.DataFrame:
    """Mixing of batches and structure kept by the strength of integration: this model, trained anew at each strength.

    Takes the time of as many trainings; the backbone reads the cells once. This model stays as it is.

    Parameters
    ----------
    strengths
        Numbers >= 0, a training each.
    key
        Of several batch keys the one whose strength is varied; the others keep theirs, and mixing is that of its
        values. ``None``: all have the same strength.
    **train_kwargs
        Arguments of :meth:`train`; without ``max_epochs``, as many as the history of this model shows.

    Returns
    -------
    DataFrame with a row per strength: ``strength``, ``mixing`` (:func:`more_scvi.metrics.cilisi`) and ``structure``
    (:func:`more_scvi.metrics.structure`, against the data's own low-rank view), both within the types of this model
    (visible labels, and predictions for other cells) or its clusters where there are no labels; mixing within
    clusters is measured on fewer neighbours, so that even perfect mixing stays below 0.9. At most 5,000 cells are
    looked at.

    Raises
    ------
    RuntimeError
        Before training.
    ValueError, TypeError
        If there is one batch, a strength is no number >= 0, ``key`` is no batch key, or the model was loaded without
        data.

    Examples
    --------
    >>> table = model.strength_curve()
    >>> more.pl.strength(table, chosen=1.0)
    """
    check_trained(self)
    data, keys = registered(self, "strength_curve"), batch_keys(self.schema.setup["batch_key"])
    values = [check_number("a strength", value, 0.0) for value in np.atleast_1d(np.asarray(strengths, object))]
    if key is not None:
        check_option("key", key, keys)
    if self.schema.is_query:
        raise ValueError(
            "strength_curve trains anew, which a reference with a query does not; ask the reference itself."
        )
    if len(self.batches) < 2:
        raise ValueError("strength_curve compares batches, and there is one; name them with batch_key at setup.")
    evidence, rows = evidence_of(self, data)
    groups = evidence.clusters if evidence.types is None else evidence.types
    assert groups is not None  # of several batches, there are clusters where there are no types
    batches, n = evidence.batches, 10 if evidence.types is None else 30  # clusters are much smaller than types
    if key is not None:
        of_batch = batch_levels(self.batches, len(keys))[:, keys.index(key)].astype(str)
        batches = of_batch[pd.Index(self.batches.astype(str)).get_indexer(batches)]
    own = self.init_arguments["strength"]
    own = dict(own) if isinstance(own, dict) else dict.fromkeys(keys, own)
    table = []
    with tempfile.TemporaryDirectory() as folder:
        for value in values:
            other = _untrained(self, value if key is None else own | {key: value}, folder)
            other.train(**(_training(self) | train_kwargs))
            z = other.get_latent_representation(indices=rows, obsm_key=None)
            kept = structure(z, evidence.direct, groups, evidence.domains)
            table.append({"strength": value, "mixing": cilisi(z, groups, batches, n), "structure": kept})
    return pd.DataFrame(table, columns=["strength", "mixing", "structure"])


def _untrained(model: MoRE, strength: float | dict[str, float], folder: str) -> MoRE:
    """A model like this one, of the same data, that has seen nothing yet; features are kept in ``folder``."""
    arguments = model.init_arguments | {"strength": strength}
    arguments["cache_dir"] = arguments["cache_dir"] or folder
    if arguments["backbone"] == "precomputed" and model.backbone is not None:
        arguments["backbone_kwargs"] = {**arguments["backbone_kwargs"], "n_features": model.backbone.n_features}
    other = type(model)(registry=model.registry_, **arguments)
    other.__dict__.update({name: model.__dict__[name] for name in SHARED})
    other.to_device(model.device)
    return other


def _training(model: MoRE) -> dict[str, Any]:
    """Arguments of a training as long as that of this model."""
    return {
        "max_epochs": max(map(len, (model.history_ or {}).values()), default=None),
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
