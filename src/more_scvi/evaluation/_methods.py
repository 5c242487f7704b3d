"""Methods the benchmark compares: the interface, the registry, and the linear methods and controls.

A method is a function ``(adata, batch_key, labels_key, unlabeled, seed, cache_dir) -> MethodResult``. It receives a
data set in which the labels of the split are already replaced by ``unlabeled``, so it cannot leak. Only a method marked
``sees_hidden`` is given all labels; :func:`leak` makes one of any other.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from anndata import AnnData
from numpy.typing import NDArray
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression


@dataclass
class MethodResult:
    """What a method returns.

    Parameters
    ----------
    z
        Embedding ``(n_cells, n_latent)``, or ``None`` for a bare classifier.
    prediction
        Predicted labels ``(n_cells,)``, or ``None`` without a classifier of its own.
    seconds
        CPU seconds of the process per stage: ``setup``, ``features``, ``training``, ``embedding``.
    wall_seconds
        The same by the clock.
    parameters
        Numbers of ``trained`` and ``frozen`` weights.
    peak_memory
        Growth of the resident memory in bytes while the method ran; filled in by the runner.
    """

    z: NDArray[np.float32] | None
    prediction: NDArray | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    wall_seconds: dict[str, float] = field(default_factory=dict)
    parameters: dict[str, int] = field(default_factory=dict)
    peak_memory: float | None = None


@dataclass(frozen=True)
class Method:
    """A named method; ``seeded`` says whether its result depends on the seed beyond the split."""

    name: str
    function: Callable[..., MethodResult]
    seeded: bool = True
    sees_hidden: bool = False

    def __call__(
        self,
        adata: AnnData,
        batch_key: str = "batch",
        labels_key: str = "cell_type",
        unlabeled: str = "Unknown",
        seed: int = 0,
        cache_dir: Path | None = None,
    ) -> MethodResult:
        """Run on a data set whose hidden labels read ``unlabeled``; ``cache_dir`` holds label-free work for reuse."""
        return self.function(adata, batch_key, labels_key, unlabeled, seed, cache_dir)


class Stopwatch:
    """CPU and wall seconds per stage: ``with watch("training"): ...``."""

    def __init__(self, **seconds: float) -> None:
        self.cpu: dict[str, float] = dict(seconds)
        self.wall: dict[str, float] = dict(seconds)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Add the seconds of the block to ``stage``."""
        cpu, wall = time.process_time(), time.perf_counter()
        yield
        self.cpu[stage] = self.cpu.get(stage, 0.0) + time.process_time() - cpu
        self.wall[stage] = self.wall.get(stage, 0.0) + time.perf_counter() - wall


_METHODS: dict[str, Method] = {}


def register_method(method: Method) -> Method:
    """Make a method known by its name; a later one of the same name replaces it."""
    _METHODS[method.name] = method
    return method


def list_methods() -> list[str]:
    """Names that :func:`get_method` knows."""
    return sorted(_METHODS)


def get_method(name: str, base: str | None = None, **options: Any) -> Method:
    """A method by name, or a variant of one.

    Parameters
    ----------
    name
        Registered name, or the name of the new variant. ``"LEAK:<name>"`` is that method given the hidden labels.
    base
        Method the variant derives from.
    options
        Keyword arguments of the base method's function, e.g. ``plan_kwargs={"lambda_keep": 0}`` for ``more``.

    Raises
    ------
    KeyError
        For an unknown name.

    Examples
    --------
    >>> get_method("scvi-short", base="scvi", minibatches=100).name
    'scvi-short'
    """
    key = base or name
    if key.startswith("LEAK:"):
        method = leak(get_method(key[5:]))
    elif key in _METHODS:
        method = _METHODS[key]
    else:
        raise KeyError(f"Method {key!r} is unknown; known are {', '.join(list_methods())}, or LEAK:<one of them>.")
    if options:
        method = replace(method, function=partial(method.function, **options))
    return replace(method, name=name)


def leak(method: Method) -> Method:
    """The same method, but given every label: a ceiling, and what a comparison that leaks would report."""
    return replace(method, name=f"LEAK:{method.name}", sees_hidden=True)


def prepared_seconds(adata: AnnData, *steps: str) -> float:
    """CPU seconds that the shared features took (:func:`~more_scvi.evaluation.prepare`), for methods that use them."""
    return float(sum(adata.uns["prepare_seconds"][step] for step in steps))


def centred_pcs(adata: AnnData, batch_key: str) -> NDArray[np.float32]:
    """PCs of a prepared data set with the mean of each batch removed, ``(n_cells, n_pcs)``."""
    z, batches = adata.obsm["X_pca"].copy(), adata.obs[batch_key].astype(str).to_numpy()
    for name in np.unique(batches):
        z[batches == name] -= z[batches == name].mean(axis=0)
    return z


def visible_labels(adata: AnnData, labels_key: str, unlabeled: str) -> tuple[NDArray, NDArray[np.bool_]]:
    """Labels as text and the mask of cells that have one."""
    labels = adata.obs[labels_key].astype(str).to_numpy()
    return labels, labels != unlabeled


def _linear_watch(adata: AnnData) -> Stopwatch:
    return Stopwatch(features=prepared_seconds(adata, "normalise", "genes", "pca"))


def _pca_raw(adata: AnnData, batch_key: str, labels_key: str, unlabeled: str, seed: int, cache_dir: Path | None):
    watch = _linear_watch(adata)
    return MethodResult(adata.obsm["X_pca"], None, watch.cpu, watch.wall)


def _pca(adata: AnnData, batch_key: str, labels_key: str, unlabeled: str, seed: int, cache_dir: Path | None):
    watch = _linear_watch(adata)
    with watch("embedding"):
        z = centred_pcs(adata, batch_key)
    return MethodResult(z, None, watch.cpu, watch.wall)


def _fit_lr(adata: AnnData, labels_key: str, unlabeled: str) -> tuple[LogisticRegression, MethodResult]:
    """Logistic regression on the log-normalised genes, and its result without an embedding."""
    watch = Stopwatch(features=prepared_seconds(adata, "normalise", "genes"))
    labels, visible = visible_labels(adata, labels_key, unlabeled)
    with watch("training"):
        x = adata.layers["lognorm"][:, adata.var["highly_variable"].to_numpy()]
        model = LogisticRegression(C=1.0, max_iter=300).fit(x[visible], labels[visible])
    with watch("embedding"):
        prediction = model.predict(x)
    parameters = {"trained": int(model.coef_.size + model.intercept_.size), "frozen": 0}
    return model, MethodResult(None, prediction, watch.cpu, watch.wall, parameters)


def _lr_hvg(adata: AnnData, batch_key: str, labels_key: str, unlabeled: str, seed: int, cache_dir: Path | None):
    return _fit_lr(adata, labels_key, unlabeled)[1]


def _lr_onehot(adata: AnnData, batch_key: str, labels_key: str, unlabeled: str, seed: int, cache_dir: Path | None):
    _, result = _fit_lr(adata, labels_key, unlabeled)
    _, code = np.unique(np.asarray(result.prediction), return_inverse=True)
    result.z = np.eye(code.max() + 1, dtype=np.float32)[code]
    return result


def _lr_logits(adata: AnnData, batch_key: str, labels_key: str, unlabeled: str, seed: int, cache_dir: Path | None):
    model, result = _fit_lr(adata, labels_key, unlabeled)
    genes = adata.layers["lognorm"][:, adata.var["highly_variable"].to_numpy()]
    result.z = model.decision_function(genes).reshape(adata.n_obs, -1).astype(np.float32)
    return result


def _random(adata: AnnData, batch_key: str, labels_key: str, unlabeled: str, seed: int, cache_dir: Path | None):
    return MethodResult(np.random.default_rng(seed).standard_normal((adata.n_obs, 30)).astype(np.float32))


def _lda(adata: AnnData, batch_key: str, labels_key: str, unlabeled: str, seed: int, cache_dir: Path | None):
    watch = _linear_watch(adata)
    labels, visible = visible_labels(adata, labels_key, unlabeled)
    with watch("training"):
        x = centred_pcs(adata, batch_key)
        model = LinearDiscriminantAnalysis().fit(x[visible], labels[visible])
    with watch("embedding"):
        z, prediction = model.transform(x).astype(np.float32), model.predict(x)
    return MethodResult(z, prediction, watch.cpu, watch.wall, {"trained": int(model.scalings_.size), "frozen": 0})


def _harmony(adata: AnnData, batch_key: str, labels_key: str, unlabeled: str, seed: int, cache_dir: Path | None):
    import harmonypy

    logging.getLogger("harmonypy").setLevel(logging.WARNING)
    watch = _linear_watch(adata)
    pcs = adata.obsm["X_pca"]
    with watch("training"):
        z = harmonypy.run_harmony(pcs, adata.obs, batch_key, random_state=seed).Z_corr
    # harmonypy 2 returns cells × PCs, older versions PCs × cells
    z = z if z.shape == pcs.shape else z.T
    if z.shape != pcs.shape:
        raise RuntimeError(f"harmonypy returned {z.T.shape} for PCs of shape {pcs.shape}.")
    return MethodResult(np.asarray(z, dtype=np.float32), None, watch.cpu, watch.wall)


for _method in (
    Method("pca_raw", _pca_raw, seeded=False),
    Method("pca", _pca, seeded=False),
    Method("lr_hvg", _lr_hvg, seeded=False),
    Method("harmony", _harmony),
    Method("lda", _lda, seeded=False),
    Method("random", _random),
    Method("onehot-LR", _lr_onehot, seeded=False),
    Method("LEAK", _lr_logits, seeded=False, sees_hidden=True),
):
    register_method(_method)
