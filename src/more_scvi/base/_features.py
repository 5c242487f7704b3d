"""From the matrix of one modality to the features of its paths, block by block; every function only reads."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch

from more_scvi.base._arrays import MaskedTargets
from more_scvi.base._linear import ModalityBase
from more_scvi.base._missing import complete_frozen, completes
from more_scvi.base._path import batch_means
from more_scvi.data._measured import Measured
from more_scvi.data._silent import count_features
from more_scvi.data._spatial import niche_means


@dataclass(frozen=True, eq=False)
class Features:
    """Features of one modality before any batch is removed, one row per cell that has it."""

    paths: dict[str, np.ndarray]  # path -> (rows, features), in the order of the base
    wide: np.ndarray  # wide input of the direct path, (rows, n_wide) float32
    few: np.ndarray  # bool (rows,): cells that show far fewer features than the average cell of the training data
    shallow: np.ndarray | None = None  # as wide, for shallow cells, float16; None: depth means nothing


def fit_direct(measured: Measured, base: ModalityBase, batch: np.ndarray) -> None:
    """Fit the direct path, in several passes over the matrix; ``batch``: codes of the rows."""

    def chunks() -> Iterator[tuple[Any, np.ndarray]]:
        for rows, x in measured.reader.chunks():
            yield base.direct.normalise(x), batch[rows]

    shallow = base.direct.fit(chunks, base.n_batch)
    base.shallow.copy_(torch.from_numpy(np.zeros(base.n_batch, bool) if shallow is None else shallow))
    sums, seen = count_features(measured.reader)
    base.level.copy_(torch.from_numpy((sums / max(sums.sum(), 1e-12)).astype(np.float32)))
    base.detected.copy_(torch.from_numpy((seen / max(len(batch), 1)).astype(np.float32)))


def read_features(
    measured: Measured, base: ModalityBase, frozen: np.ndarray | None, shift: np.ndarray | None = None
) -> Features:
    """Features of all paths, those that are missing taken as expected.

    ``frozen``: (rows, features) of the backbone, None where it does not read the modality or knows nothing of what is
    there; ``shift``: what they lack in the average cell for what is missing, None: nothing.
    """
    direct, visible = base.direct, measured.visible
    # of features that are missing the totals lack the counts, too
    share = 1.0 if visible is None else max(float(base.level.cpu().numpy()[visible].sum()), 1e-12)
    blocks = (direct.normalise(x, visible, share) for _, x in measured.reader.chunks())
    whole = visible is not None and completes(base)
    detected = base.detected.cpu().numpy()
    expected = float((detected if visible is None else detected[visible]).sum())

    def read(x: Any) -> tuple[np.ndarray, ...]:
        out = (
            direct.complete(x, visible) if whole else (direct.transform(x, visible), direct.transform_wide(x, visible))
        )
        if not hasattr(direct, "shallow"):
            return (*out, np.zeros(x.shape[0], bool))
        return (*out, direct.shallow(x, expected), direct.transform_shallow(x, visible).astype(np.float16))

    full, wide, *rest = (np.concatenate(part) for part in zip(*map(read, blocks), strict=True))
    paths = {"direct": full}
    if visible is not None and measured.given is None and "frozen" in base.path_names:
        paths["frozen"] = complete_frozen(base, frozen, shift, wide, visible)
    elif frozen is not None:
        paths["frozen"] = np.asarray(frozen, np.float32)
    if measured.niche is not None:
        own = [paths[name] for name in ("frozen", "direct") if name in paths]
        paths["niche"] = niche_means(np.concatenate(own, 1), measured.niche)
    return Features({name: paths[name] for name in base.path_names}, wide, *rest)


def wide_view(
    base: ModalityBase, features: Features, own: np.ndarray, batch: np.ndarray, shallow: np.ndarray
) -> np.ndarray:
    """Wide input of a modality: that of its direct path, and of spatial data the niche's part of the base ``own``.

    ``shallow``: bool (rows,).
    """
    wide = base.centre_wide(features.wide, batch)
    if features.shallow is not None and shallow.any():
        wide = np.where(shallow[:, None], features.shallow, wide)
    return wide if base.niche_columns is None else np.concatenate([wide, own[:, base.niche_columns]], 1)


def read_masked(
    measured: Measured,
    base: ModalityBase,
    panels: np.ndarray,
    frozen: np.ndarray | None,
    full: Features,
    batch: np.ndarray,
    covariates: np.ndarray,
) -> tuple[np.ndarray, MaskedTargets]:
    """Base of cells of which a panel of features is hidden, (rows, views, width) float16, and what is hidden.

    ``panels``: bool (views, features), what each view shows; ``frozen``: (rows, views, features) of the backbone, None
    where it does not read the modality; ``full``: the whole cells, to whose batch means views are centred.
    """
    direct, columns = base.direct, base.targets.cpu().numpy()
    share = np.ones(len(panels)) if measured.normalised else panels @ base.level.cpu().numpy()  # logs have whole totals
    views: list[np.ndarray] = []
    target, totals = [], []
    for _, x in measured.reader.chunks():
        shown = [direct.normalise(x, panel, s) for panel, s in zip(panels, share, strict=True)]
        views.append(np.stack([direct.transform(v, panel) for v, panel in zip(shown, panels, strict=True)], 1))
        target.append(x[:, columns])
        totals.append(np.asarray(x.sum(1), np.float32).ravel())
    paths = {"direct": np.concatenate(views)}
    if frozen is not None:
        shape = (len(paths["direct"]), len(panels), frozen.shape[2])
        paths["frozen"] = frozen if frozen.shape[1] else np.zeros(shape, np.float32)
    if "niche" in full.paths:
        paths["niche"] = np.repeat(full.paths["niche"][:, None], len(panels), 1)  # neighbours are not masked
    means = {name: batch_means(x, batch, base.n_batch) for name, x in full.paths.items()}
    out = np.empty((len(batch), len(panels), base.width), np.float16)
    for k in range(len(panels)):
        views_k = {name: np.asarray(paths[name][:, k], np.float32) for name in means}
        # transform takes off the batch means of whole cells; those of a view are others
        shifted = {n: x + (means[n] - batch_means(x, batch, base.n_batch))[batch] for n, x in views_k.items()}
        out[:, k] = base.transform(shifted, batch, covariates)
    return out, MaskedTargets(~panels[:, columns], sp.vstack(target, "csr"), np.concatenate(totals))


def gene_values(measured: Measured, base: ModalityBase, links: sp.csr_matrix) -> np.ndarray:
    """Normalised features summed up to genes, (rows, genes) float32; ``links``: csr (features, genes)."""
    links = sp.csr_matrix(links, dtype=np.float32)
    blocks = [base.direct.normalise(x) @ links for _, x in measured.reader.chunks()]
    return np.concatenate([b.toarray() if sp.issparse(b) else np.asarray(b) for b in blocks]).astype(np.float32)
