"""What ``train`` does before the first step and after the last: everything that is fitted in closed form."""

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from anndata import AnnData
from mudata import MuData

from more_scvi.annotate._annotator import Lessons
from more_scvi.base._arrays import Arrays, MaskedViews
from more_scvi.base._clusters import shared_clusters
from more_scvi.base._offsets import CLUSTER_PRIOR, TYPE_PRIOR
from more_scvi.base._prepare import all_alike, fit_base, fit_space, gene_panels, join_bases, prepare, prepare_masked
from more_scvi.model._forward import forward
from more_scvi.model._imputers import fit_imputers
from more_scvi.model._inside import inside_arrays, moved
from more_scvi.model._reader import Reader
from more_scvi.module._module import MoREModule
from more_scvi.train._data import TrainingSet


def make_training_set(
    reader: Reader, data: AnnData | MuData, train_cells: np.ndarray, n_views: int, seed: int, device: str
) -> TrainingSet:
    """Fit the linear base if it is new, learn what labels teach before training, and return what training reads.

    Parameters
    ----------
    reader
        Reads the data; its module is fitted.
    data
        The registered data.
    train_cells
        Positions of the training cells; labels of others are not looked at.
    n_views
        Masked views per cell; 0: none.
    seed
        Seed.
    device
        Torch device of the backbone.
    """
    if reader.schema.is_query:
        return _query_set(reader, data, train_cells, device)
    module, cells = reader.module, reader.cells(data)
    new = not bool(module.linear.fitted)
    panels = {name: gene_panels(m, n_views, seed) for name, m in cells.measured.items()} if n_views else None
    caches = reader.caches(cells, device, panels)
    if new:
        features = fit_base(cells, module.linear, reader.frozen, caches, seed)
        base = join_bases(cells, module.linear, features)
        module.start_at(fit_space(cells, module.linear, reader.frozen, base, module.n_latent))
    else:
        features = reader.features(cells, caches)
    for name in module.modalities:
        module.base(name).composition.zero_()  # labels may be others than last time
    labels = reader.schema.label_codes(data)
    visible = np.full(len(cells), -1)
    visible[train_cells] = labels[train_cells]
    for name, part in cells.measured.items():
        module.base(name).fit_wide(features[name].wide, cells.batch[part.cells], visible[part.cells], module.strength)
    arrays = prepare(cells, module.linear, features)
    masked = None
    if panels is not None:
        masked = prepare_masked(cells, module.linear, features, caches, panels, seed)
        if new:
            for name, target in masked.targets.items():
                rows = cells.measured[name].cells
                module.decoders[name].fit_average(target.target[rows], target.totals[rows])  # type: ignore[operator]
    lessons = None
    if module.annotator is not None and module.classifier is not None:
        deep, thin = arrays, None
        if module.annotator.shallow_experts is not None:
            of = arrays, cells, module.linear, features
            thin = all_alike(*of, shallow=True)
            deep = all_alike(*of, shallow=False) if arrays.shallow.any() else arrays
        lessons = module.annotator.teach(arrays, deep, thin, labels, train_cells, seed)
        taught = lessons.labels[train_cells]
        seen = np.bincount(taught[taught >= 0], minlength=module.n_labels) > 0
        module.classifier.open_classes.copy_(torch.from_numpy(seen))
        if not lessons.keeps_niche:
            module.close_niche()
    types, prior, clusters = np.full(len(cells), -1), TYPE_PRIOR, None
    if lessons is not None:
        types = lessons.types
    elif module.n_domains > 1:
        types = clusters = find_clusters(module, arrays, seed)
        prior = CLUSTER_PRIOR
    arrays, masked = at_equal_composition(module, arrays, masked, types, prior)
    inside = None
    if module.inside is not None:
        assert reader.frozen.backbone is not None
        inside = inside_arrays(cells, features, module, reader.frozen.backbone, reader.depth, device)
    return TrainingSet(arrays, lessons, masked, inside, clusters)


def find_clusters(module: MoREModule, arrays: Arrays, seed: int) -> np.ndarray:
    """Clusters over all batches that stand in for types where there are no labels: codes, (cells,)."""
    base = arrays.base.copy()
    for at, name in enumerate(module.modalities):  # the mean of a batch says nothing of where its types lie
        rows = np.flatnonzero(arrays.present[:, at])
        base[rows, module.layout.columns(name)] += module.base(name).own_means()[arrays.batch[rows]]
    z = forward(module, replace(arrays, base=base), lambda out: out["adapted"])
    return shared_clusters(z, arrays.domain, module.domain_strength, seed)


def _query_set(reader: Reader, data: AnnData | MuData, train_cells: np.ndarray, device: str) -> TrainingSet:
    """As :func:`make_training_set` for a query: what was fitted on the reference in closed form stays as it is."""
    module, cells = reader.module, reader.measured(data)
    features = reader.features(cells, reader.caches(cells, device))
    arrays, lessons, inside = prepare(cells, module.linear, features), None, None
    if module.annotator is not None:
        labels = reader.schema.label_codes(data)
        labels = np.where(labels < module.n_labels, labels, -1)  # the trained head knows no new types
        visible = np.full(len(cells), -1)
        visible[train_cells] = labels[train_cells]
        guess, share = module.annotator.say(arrays)
        lessons = Lessons(labels, visible, guess, share, True)
    if module.inside is not None:
        assert reader.frozen.backbone is not None
        inside = inside_arrays(cells, features, module, reader.frozen.backbone, reader.depth, device)
    return TrainingSet(arrays, lessons, None, inside)


def at_equal_composition(
    module: MoREModule, arrays: Arrays, masked: MaskedViews | None, types: np.ndarray, prior: int
) -> tuple[Arrays, MaskedViews | None]:
    """Arrays and views with every batch moved to where it would be if all held types in equal proportions.

    ``types``: codes of types or clusters, (cells,), -1 = unknown; ``prior``: how much they are to be believed.
    """
    base = arrays.base.copy()
    views = None if masked is None else masked.base.copy()
    for at, name in enumerate(module.modalities):
        rows, columns = np.flatnonzero(arrays.present[:, at]), module.layout.columns(name)
        batch = arrays.batch[rows]
        of = base[rows, columns], batch, types[rows], prior, module.strength
        shift = module.base(name).fit_composition(*of)[batch]
        base[rows, columns] -= shift
        if views is not None:
            views[rows, :, columns] -= shift[:, None].astype(np.float16)
    return replace(arrays, base=base), masked if views is None or masked is None else replace(masked, base=views)


def placed_by(module: MoREModule, arrays: Arrays, cells: np.ndarray, types: np.ndarray) -> np.ndarray:
    """Base of some cells, (cells, width), with batches put where they would be if only these types were known.

    ``cells``: positions; ``types``: their codes, -1 = unknown.
    """
    base, batch = arrays.base[cells].copy(), arrays.batch[cells]
    for at, name in enumerate(module.modalities):
        rows, columns = np.flatnonzero(arrays.present[cells, at]), module.layout.columns(name)
        of = base[rows, columns], batch[rows], types[rows], module.strength
        base[rows, columns] = module.base(name).placed_by(*of)
    return base


def finish(reader: Reader, data: AnnData | MuData, cells: TrainingSet, train_cells: np.ndarray, seed: int) -> None:
    """After the last step: classifiers on the embedding, spreads per type and batch, regressions to modalities.

    Nothing of it is read by a loss, so that a checkpoint, which needs it, changes nothing.
    """
    module = reader.module
    arrays = moved(cells.arrays, module, cells.inside)
    if reader.schema.is_query:  # the cells that these were solved on are not here
        reader.remember(reader.key(data), arrays)
        return
    if module.annotator is not None and cells.lessons is not None:
        labels = cells.lessons.labels
        visible = train_cells[labels[train_cells] >= 0]
        if len(visible):
            z = forward(module, arrays, lambda out: out["z_labels"], visible)
            given = reader.schema.label_codes(data) >= 0
            placed = partial(placed_by, module, arrays)
            module.annotator.finish(arrays, z, visible, given[visible], cells.lessons, placed, seed)
            of_given = arrays.batch[train_cells[given[train_cells]]]
            lone = train_cells[~np.isin(arrays.batch[train_cells], of_given)]
            module.annotator.composition.zero_()
            weigh_compositions(module, arrays, lone, np.bincount(labels[visible], minlength=module.n_labels))
            _fit_spread(module, arrays, labels, visible)
    if module.clusters is not None and cells.clusters is not None:
        z = forward(module, arrays, lambda out: out["z_labels"], train_cells)
        module.clusters.fit(z, cells.clusters[train_cells], arrays.present[train_cells])
        if module.clusters.is_fitted:  # few cells do not tell how they scatter
            _fit_spread(module, arrays, cells.clusters, train_cells)
    if len(module.modalities) > 1:
        fit_imputers(reader, data, arrays)
    reader.remember(reader.key(data), arrays)


def weigh_compositions(module: MoREModule, arrays: Arrays, lone: np.ndarray, counts: np.ndarray) -> None:
    """Learn what batches without labels hold, from cells that are measured like labelled ones; not in tissue.

    ``lone``: positions of their cells, whose answers are not weighed yet; ``counts``: labelled cells of each type.
    """
    annotator, classifier = module.annotator, module.classifier
    assert annotator is not None and classifier is not None
    if annotator.niche is not None:
        return
    serves = annotator.gaussian.serves(torch.from_numpy(arrays.present[lone]).to(annotator.composition.device))
    lone = lone[(arrays.domain[lone] >= 0) & serves.cpu().numpy()]
    if not len(lone):
        return

    def read(out: dict[str, Any]) -> torch.Tensor:
        z, present = out["z_labels"], out["present"]
        base = out["base"]
        guess, share = annotator.hear(out["wide"], base, present, out["shallow"], ~out["shallow"])
        voices = annotator.voices(classifier(z).log_softmax(1), z, base, guess, share, present)
        return torch.cat([out["log_probs"][:, None, : module.n_labels], voices], 1)

    said = forward(module, arrays, read, lone, new_types=False)
    annotator.weigh(said[:, 0], said[:, 1:], arrays.domain[lone], arrays.shallow[lone], counts)


def _fit_spread(module: MoREModule, arrays: Arrays, labels: np.ndarray, visible: np.ndarray) -> None:
    """Centres and spreads per type and batch, by visible labels and predictions."""
    if module.spread is None:
        return

    def read(out: dict[str, Any]) -> torch.Tensor:
        return torch.cat([out["z"], out["log_groups"].argmax(1, keepdim=True)], 1)

    z = forward(module, arrays, read)
    types = z[:, -1].astype(np.int64)
    types[visible] = labels[visible]  # a known label counts for more than a prediction
    device = module.spread.scale.device
    x, group, domain = (torch.from_numpy(np.ascontiguousarray(v)).to(device) for v in (z[:, :-1], types, arrays.domain))
    module.spread.fit(x, group, domain, part=module.domain_strength.part)
