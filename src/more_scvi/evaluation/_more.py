"""MoRE as a method of the benchmark, through its public interface only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from anndata import AnnData

from ._methods import Method, MethodResult, Stopwatch, register_method


def _more(
    adata: AnnData,
    batch_key: str,
    labels_key: str,
    unlabeled: str,
    seed: int,
    cache_dir: Path | None,
    setup_kwargs: dict[str, Any] | None = None,
    model_kwargs: dict[str, Any] | None = None,
    train_kwargs: dict[str, Any] | None = None,
) -> MethodResult:
    """MoRE at its defaults; variants give arguments of ``setup_anndata``, the constructor and ``train``.

    Features are computed anew for every split, so that ``training`` always includes them.
    """
    from more_scvi.model import MoRE

    watch = Stopwatch()
    with watch("setup"):
        MoRE.setup_anndata(
            adata,
            layer="counts",
            batch_key=batch_key,
            labels_key=labels_key,
            unlabeled_category=unlabeled,
            **(setup_kwargs or {}),
        )
        model = MoRE(adata, **{"seed": seed, **(model_kwargs or {})})
    with watch("training"):
        model.train(**{"enable_progress_bar": False, **(train_kwargs or {})})
    with watch("embedding"):
        z = model.get_latent_representation(obsm_key=None)
    with watch("embedding"):
        prediction = np.asarray(model.predict()).astype(str)
    total = model.parameter_counts().loc["total"]
    parameters = {key: int(total[key]) for key in ("trained", "frozen")}
    return MethodResult(z, prediction, watch.cpu, watch.wall, parameters)


register_method(Method("more", _more))
