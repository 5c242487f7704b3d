"""The linear base of cells: fitted once by :func:`fit_base`, read by :func:`prepare`.

``fit_base`` is the only place that fits before training, and ``train`` its only caller. ``prepare`` is pure: what it
returns follows from its arguments, and it changes none of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.sparse as sp

from more_scvi._threads import one_thread
from more_scvi.backbones._base import Backbone
from more_scvi.backbones._cache import FeatureCache, compute_features, make_panels
from more_scvi.base._arrays import Arrays, MaskedTargets, MaskedViews, scatter, scatter_rows
from more_scvi.base._bridge import MIN_PAIRS
from more_scvi.base._features import Features, fit_direct, gene_values, read_features, read_masked, wide_view
from more_scvi.base._linear import LinearBase, ModalityBase
from more_scvi.base._missing import average_cells, doubts, seen_part
from more_scvi.base._shared_space import SharedSpace, fit_shared_space
from more_scvi.base._shares import covered, path_shares
from more_scvi.data._genes import match_genes
from more_scvi.data._measured import CellSet, Measured
from more_scvi.data._silent import say_silent, silent_features
from more_scvi.modalities._modality import get_modality

MANY_WEIGHTS = 10_000_000
"""Weights of a backbone from which on several threads pay. Source: plain value, not tuned."""

N_LINKED_GENES = 2000
"""Genes at most that link modalities which share no cell."""


@dataclass(frozen=True)
class FrozenReader:
    """The frozen backbone and what it reads.

    Attributes
    ----------
    backbone
        None: there is none.
    modalities
        Those that it reads: enough of their features speak of genes it knows.
    overlaps
        Per modality, share of its genes that the backbone knows.
    cache_dir
        Where features are kept; None: in memory.
    """

    backbone: Backbone | None
    modalities: tuple[str, ...]
    overlaps: Mapping[str, float]
    cache_dir: str | None

    @property
    def is_small(self) -> bool:
        """Whether one thread is enough for the backbone, see :func:`more_scvi._threads.one_thread`."""
        return self.backbone is None or self.backbone.n_parameters() < MANY_WEIGHTS

    def read(self, measured: Measured, panels: np.ndarray | None, device: str) -> FeatureCache | None:
        """Features of a modality, or None where the backbone does not read it; the heavy step.

        ``panels``: bool (views, genes) that stay visible in further views; None: no views.
        """
        if not self.reads(measured):
            return None
        assert self.backbone is not None
        with one_thread(self.is_small):
            return compute_features(
                self.backbone,
                measured.source,
                measured.source_genes,
                panels=panels,
                normalised=measured.normalised,
                cache_dir=self.cache_dir,
                device=device,
            )

    def shift(self, measured: Measured, base: ModalityBase, device: str) -> np.ndarray | None:
        """What features of the average cell lack for what is missing, (features,); None where nothing is.

        Features that the user computed are taken as they are.
        """
        if measured.visible is None or measured.given is not None or not self.reads(measured):
            return None
        assert self.backbone is not None
        average, means = average_cells(base), []
        for part in (replace(measured, visible=None), measured):
            options: dict[str, Any] = {
                "normalised": measured.normalised,
                "device": device,
                "progress": False,
                "dtype": "float32",
            }
            with one_thread(self.is_small):
                cache = compute_features(self.backbone, seen_part(part, average), part.source_genes, **options)
            means.append(cache.full.mean(0))
        return means[0] - means[1]

    def reads(self, measured: Measured) -> bool:
        """Whether the backbone reads a modality, and knows any of what is there."""
        if self.backbone is None or measured.modality not in self.modalities:
            return False
        vocabulary = None if measured.visible is None or measured.given is not None else self.backbone.vocabulary
        return vocabulary is None or match_genes(measured.source_genes, vocabulary).n_matched > 0

    def identities(self, names: list[str]) -> list[str]:
        """One name per gene, the same for symbols and Ensembl ids that the backbone knows."""
        folded = [name.casefold() for name in names]
        if self.backbone is None or self.backbone.vocabulary is None:
            return folded
        index = match_genes(names, self.backbone.vocabulary).vocab_index
        return [name if i < 0 else f"#{i}" for name, i in zip(folded, index, strict=True)]


def gene_panels(measured: Measured, n_views: int, seed: int) -> np.ndarray:
    """Panels of genes that the masked views show, (views, genes) bool."""
    n_genes = len(measured.gene_names) if measured.links is not None else measured.reader.shape[1]
    return make_panels(max(n_genes, 1), n_views, seed=seed)[:, :n_genes]  # which takes no 0 genes


def fit_base(
    cells: CellSet, linear: LinearBase, frozen: FrozenReader, caches: Mapping[str, FeatureCache | None], seed: int
) -> dict[str, Features]:
    """Fit direct paths, shares, centring and rotation of every modality; no label is read.

    Parameters
    ----------
    cells
        The registered cells.
    linear
        What is fitted.
    frozen, caches
        The backbone, and its features per modality.
    seed
        Seed of the choice of cells where not all can be looked at.

    Returns
    -------
    Features of each modality, which :func:`prepare` takes.
    """
    out = {}
    for modality, measured in cells.measured.items():
        base, cache = linear.base(modality), caches[modality]
        batch, covariates = cells.batch[measured.cells], cells.covariates[measured.cells]
        fit_direct(measured, base, batch)
        features = read_features(measured, base, None if cache is None else cache.full)
        coverage, paths = 1.0, features.paths
        if {"frozen", "direct"} <= set(paths):
            blocks = np.split(paths["frozen"], base.n_blocks, axis=1)  # training finds the best of them
            coverage = max(covered(block, paths["direct"], batch, seed) for block in blocks)
        shares = path_shares(base.path_names, len(batch), frozen.overlaps[modality], coverage)
        base.fit(paths, batch, covariates, shares)
        if "frozen" in paths:
            base.fit_guess(features.wide, paths["frozen"], batch)
        out[modality] = features
    return out


def fit_space(cells: CellSet, linear: LinearBase, frozen: FrozenReader, base: np.ndarray, n_latent: int) -> SharedSpace:
    """Fit the space that modalities share, and the links between those that no cell has both of.

    ``base``: joined bases of the cells, (cells, width).
    """
    bridge = _gene_bridge(cells, linear, frozen)
    space = fit_shared_space(
        [base[:, linear.layout.columns(name)] for name in linear.layout.modalities],
        cells.present,
        n_latent,
        [bridge.get(name) for name in linear.layout.modalities],
    )
    linear.store_links(space.links)
    linear.fitted.fill_(True)
    return space


def join_bases(cells: CellSet, linear: LinearBase, features: Mapping[str, Features]) -> np.ndarray:
    """Bases of all modalities side by side before :meth:`ModalityBase.shift`, (cells, width) float32."""
    out = np.zeros((len(cells), linear.layout.width), np.float32)
    for modality, measured in cells.measured.items():
        rows = measured.cells
        own = linear.base(modality).transform(features[modality].paths, cells.batch[rows], cells.covariates[rows])
        out[rows, linear.layout.columns(modality)] = own
    return out


def without_silent(cells: CellSet, linear: LinearBase) -> CellSet:
    """Cells in which features that look as if they had not been measured are missing instead of zero; this is said."""
    measured = {}
    for name, part in cells.measured.items():
        detected = linear.base(name).detected.cpu().numpy()
        silent = silent_features(part.reader, detected if part.visible is None else detected * part.visible)
        if silent is not None:
            say_silent(silent, get_modality(name).features)
            seen = ~silent if part.visible is None else part.visible & ~silent
            part = replace(part, visible=seen)
        measured[name] = part
    return replace(cells, measured=measured)


def prepare(cells: CellSet, linear: LinearBase, features: Mapping[str, Features]) -> Arrays:
    """What module and annotator read of cells.

    Parameters
    ----------
    cells
        Registered cells or others.
    linear
        The fitted linear base.
    features
        Per modality, from :func:`fit_base` or :func:`more_scvi.base.read_features`.
    """
    layout = linear.layout
    base = join_bases(cells, linear, features)
    wide = np.zeros((len(cells), linear.n_wide), np.float16)
    wide[:, sum(layout.wide_widths) :] = linear.link_coordinates(base, cells.present)
    shallow = np.zeros(len(cells), bool)
    for modality, measured in cells.measured.items():
        rows, columns, part = measured.cells, layout.columns(modality), linear.base(modality)
        own, batch = base[rows, columns], cells.batch[rows]
        few = np.where(batch < 0, features[modality].few, part.shallow.cpu().numpy()[batch])
        shallow[rows] |= few
        wide[rows, layout.wide_columns(modality)] = wide_view(part, features[modality], own, batch, few)
        base[rows, columns] = part.shift(own, batch)
    return Arrays(base, cells.present, wide, cells.batch, cells.domain, shallow, doubts(cells, linear))


def all_alike(
    arrays: Arrays, cells: CellSet, linear: LinearBase, features: Mapping[str, Features], shallow: bool
) -> Arrays:
    """Arrays in which all cells have the wide input of shallow ones, or that of the others, for experts to learn from.

    ``arrays``: from :func:`prepare`, like the other arguments.
    """
    wide = arrays.wide.copy()
    for modality, measured in cells.measured.items():
        own, rows = features[modality], measured.cells
        if own.shallow is not None:
            start = linear.layout.wide_columns(modality).start
            usual = own.shallow if shallow else linear.base(modality).centre_wide(own.wide, cells.batch[rows])
            wide[rows, start : start + usual.shape[1]] = usual  # the niche, which comes last, is that of all
    return replace(arrays, wide=wide)


def prepare_masked(
    cells: CellSet,
    linear: LinearBase,
    features: Mapping[str, Features],
    caches: Mapping[str, FeatureCache | None],
    panels: Mapping[str, np.ndarray],
    seed: int,
) -> MaskedViews:
    """Masked views of the registered cells, before :meth:`ModalityBase.shift`.

    Parameters
    ----------
    cells, linear, features
        As in :func:`prepare`.
    caches
        Per modality, what the backbone says of whole cells and of views.
    panels
        Per modality, genes that the views show, from :func:`gene_panels`.
    seed
        Seed of the panels of features without a gene.
    """
    n_views = len(next(iter(panels.values())))
    base = np.zeros((len(cells), n_views, linear.layout.width), np.float16)
    targets = {}
    for modality, measured in cells.measured.items():
        rows, cache = measured.cells, caches[modality]
        own, target = read_masked(
            measured,
            linear.base(modality),
            measured.feature_panels(panels[modality], seed),
            None if cache is None else cache.views,
            features[modality],
            cells.batch[rows],
            cells.covariates[rows],
        )
        base[rows, :, linear.layout.columns(modality)] = own
        targets[modality] = MaskedTargets(
            target.hidden, scatter_rows(target.target, rows, len(cells)), scatter(target.totals, rows, len(cells))
        )
    return MaskedViews(base, targets)


def _gene_bridge(cells: CellSet, linear: LinearBase, frozen: FrozenReader) -> dict[str, tuple[np.ndarray, list[str]]]:
    """Values of the genes that several modalities speak of, where some modalities share no cell."""
    both = cells.present.T.astype(np.int64) @ cells.present
    if len(cells.measured) == 1 or (both >= MIN_PAIRS).all():  # then pairs of cells link all modalities
        return {}
    names = {name: frozen.identities(measured.gene_names) for name, measured in cells.measured.items()}
    counts: dict[str, int] = {}
    for own in names.values():
        for name in set(own):
            counts[name] = counts.get(name, 0) + 1
    out = {}
    for modality, measured in cells.measured.items():
        wanted = list(dict.fromkeys(name for name in names[modality] if counts[name] > 1))[:N_LINKED_GENES]
        if not wanted:
            continue
        column = {name: at for at, name in enumerate(wanted)}
        at = np.array([column.get(name, -1) for name in names[modality]])
        known = np.flatnonzero(at >= 0)
        choose = sp.csr_matrix((np.ones(len(known), np.float32), (known, at[known])), (len(at), len(wanted)))
        links = choose if measured.links is None else measured.links @ choose
        out[modality] = (gene_values(measured, linear.base(modality), links), wanted)
    return out
