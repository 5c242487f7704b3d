"""What pre-training reads: features of the pool, corrupted views of them, neighbours and clusters; and minibatches.

The front of ``more-mini`` is linear and fixed, so every corrupted view is made once and any network trains at full
speed on the results. Cells are corrupted in blocks of one study, as a platform would corrupt them:

1. binomial thinning to a depth drawn per cell, log-uniform in 150 to 8,000 counts;
2. ambient counts: up to a tenth of the depth, drawn from the study's mean profile;
3. gene-wise scaling by a log-normal factor of the block, sigma up to 0.6;
4. gene panels: views 2k and 2k + 1 show two panels of the block that share no gene. One holds 4 to 60 % of the measured
   genes (log-uniform, as panels and preselected genes of published data do), the other a third to two thirds of the
   rest.

A minibatch is groups of cells of one block each, in two views that show different genes.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.sparse import coo_matrix, csr_matrix
from scvi.utils import track
from torch import Tensor
from torch.utils.data import IterableDataset

from more_scvi.backbones._more_mini import MoreMini
from more_scvi.data._arguments import check_integer, check_type

from ._neighbours import clusters, nearest
from ._pool import Pool
from ._programs import count_factor, expected_share

_BLOCK = 1000
_DEPTH = (150.0, 8000.0)
_PANEL, _SECOND_PANEL = (0.04, 0.6), (1 / 3, 2 / 3)
_MAX_SIGMA = 0.6
_MAX_AMBIENT = 0.1
_CLIP = 5.0


@dataclass(frozen=True, eq=False)
class Views:
    """Inputs and targets of pre-training, cells in the order of the pool.

    Attributes
    ----------
    features
        (1 + views, cells, features) float16, the clean view first.
    context
        (1 + views, cells, context) float16.
    block
        (cells,) number of the block: cells of one study that share their corruptions.
    neighbours
        (cells, k) nearest cells of the same block by principal components of the clean counts.
    cluster
        (cells,) number of the cluster, which lies within a block: a Leiden cluster of the graph of neighbours.
    panels
        (blocks, 1 + views, genes) bool, True where a view of the block shows the gene.
    """

    features: np.ndarray
    context: np.ndarray
    block: np.ndarray
    neighbours: np.ndarray
    cluster: np.ndarray
    panels: np.ndarray


def make_views(pool: Pool, backbone: MoreMini, *, n_views: int = 8, n_neighbours: int = 8, seed: int = 0) -> Views:
    """Corrupt the pool and pass it through the linear front.

    Parameters
    ----------
    pool
        The cells.
    backbone
        Its front is used.
    n_views
        Corrupted views, an even number.
    n_neighbours
        Neighbours per cell.
    seed
        Seed.
    """
    check_sources(pool, backbone)
    check_integer("n_views", n_views, 2)
    if n_views % 2:
        raise ValueError(f"n_views={n_views} is odd; views come in pairs that share no gene: give {n_views + 1}.")
    check_integer("n_neighbours", n_neighbours)
    check_integer("seed", seed, 0)
    n_cells = len(pool.study)
    features = np.zeros((1 + n_views, n_cells, backbone.n_features), np.float16)
    context = np.zeros((1 + n_views, n_cells, 3), np.float16)
    block = _blocks(pool.study, np.random.default_rng(seed))
    neighbours, cluster = np.zeros((n_cells, n_neighbours), np.int64), np.zeros(n_cells, np.int64)
    panels = np.zeros((block.max() + 1, 1 + n_views, pool.counts.shape[1]), bool)
    profiles = pool.study_means(pool.counts)
    for b in track(range(block.max() + 1), description="Corrupting the pool"):
        rng = np.random.default_rng([seed, b])  # a block's corruption does not hang on the blocks before it
        cells = np.flatnonzero(block == b)
        study = pool.study[cells[0]]
        counts, measured = pool.counts[cells], np.flatnonzero(pool.measured[study])
        near = nearest(counts[:, measured], n_neighbours, seed)
        neighbours[cells] = cells[near]
        cluster[cells] = cluster.max() + 1 + clusters(near)
        panels[b, 0, measured] = True
        features[0, cells], context[0, cells] = backbone.front.encode(counts[:, measured].astype(float), measured)
        for pair in range(n_views // 2):
            order = rng.permutation(len(measured))
            cut = max(1, int(len(measured) * math.exp(rng.uniform(*np.log(_PANEL)))))
            end = cut + max(1, int((len(measured) - cut) * rng.uniform(*_SECOND_PANEL)))
            for view, panel in enumerate((order[:cut], order[cut:end]), start=1 + 2 * pair):
                genes = measured[np.sort(panel)]
                panels[b, view, genes] = True
                seen = _corrupt(counts, profiles[study], rng)[:, genes]
                features[view, cells], context[view, cells] = backbone.front.encode(seen, genes)
    return Views(features, context, block, neighbours, np.unique(cluster, return_inverse=True)[1], panels)


def check_sources(pool: Any, backbone: Any) -> None:
    """Refuse what is no pool or no ``more-mini``, and a pair of which the genes differ."""
    check_type("pool", pool, Pool, "what read_pool returns")
    check_type("backbone", backbone, MoreMini, "what fit_front returns")
    if pool.vocabulary.human_symbol != backbone.vocabulary.human_symbol:
        raise ValueError(
            f"pool has {len(pool.vocabulary)} genes, backbone {len(backbone.vocabulary)}, and they are not the same in"
            " the same order; fit the front on this pool: fit_front(pool, marker_sets(pool))."
        )


def _blocks(study: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Random blocks of at most 1,000 cells of one study."""
    block = np.zeros(len(study), np.int64)
    n = 0
    for s in range(study.max() + 1):
        cells = rng.permutation(np.flatnonzero(study == s))
        for part in np.array_split(cells, -(-len(cells) // _BLOCK)):
            block[part] = n
            n += 1
    return block


def _corrupt(counts: csr_matrix, profile: np.ndarray, rng: np.random.Generator) -> csr_matrix:
    """Thinning, ambient counts and gene-wise scaling of the cells of one block."""
    total = np.maximum(np.asarray(counts.sum(1)).ravel(), 1)
    depth = np.exp(rng.uniform(math.log(_DEPTH[0]), math.log(_DEPTH[1]), size=len(total)))
    per_count = np.repeat(np.minimum(depth / total, 1), np.diff(counts.indptr))  # thinning adds no count
    thinned = csr_matrix(
        (rng.binomial(counts.data.astype(np.int64), per_count).astype(float), counts.indices, counts.indptr),
        counts.shape,
    )
    n_ambient = rng.poisson(np.minimum(depth, total) * rng.uniform(0, _MAX_AMBIENT))
    genes = rng.choice(len(profile), size=n_ambient.sum(), p=profile / profile.sum())
    ambient = coo_matrix((np.ones(len(genes)), (np.repeat(np.arange(len(total)), n_ambient), genes)), counts.shape)
    noisy = (thinned + ambient.tocsr()).tocsr()
    noisy.eliminate_zeros()
    factor = np.exp(rng.normal(0, rng.uniform(0, _MAX_SIGMA), size=len(profile)))
    noisy.data *= factor[noisy.indices]
    return noisy


@dataclass(frozen=True, eq=False)
class Decoder:
    """Standardised expression of the pool, cell by cell, and the linear map to it from clean features."""

    weight: np.ndarray  # (features, genes) float32: ridge regression on clean features, within studies
    factor: np.ndarray  # (cells,) what a count is multiplied by before log1p
    mean: np.ndarray  # (genes,) of the front
    scale: np.ndarray  # (genes,) of the front

    def expression(self, pool: Pool, cells: np.ndarray, genes: np.ndarray) -> np.ndarray:
        """(cells, genes) standardised expression."""
        x = pool.counts[cells][:, genes].toarray() * self.factor[cells, None]
        return np.clip((np.log1p(x) - self.mean[genes]) / self.scale[genes], -_CLIP, _CLIP)


def fit_decoder(pool: Pool, clean: np.ndarray, mean: np.ndarray, scale: np.ndarray, target_sum: float) -> Decoder:
    """Regress standardised expression on clean features (cells, features), both centred within studies.

    The weights of a gene that few studies measured are shrunk by their share. Counts stay sparse.
    """
    factor = count_factor(pool, expected_share(pool), target_sum).astype(np.float32)
    weight = np.zeros((clean.shape[1], pool.counts.shape[1]), np.float64)
    gram = np.zeros((clean.shape[1], clean.shape[1]))
    for s in range(len(pool.studies)):
        cells = np.flatnonzero(pool.study == s)
        y = pool.counts[cells]
        y.data = np.log1p(y.data * np.repeat(factor[cells], np.diff(y.indptr)))
        f = clean[cells].astype(np.float64)
        f -= f.mean(0)
        share = 1.0 / np.sqrt(len(cells))  # a study counts as the square root of its cells
        weight += share * (y.T @ f).T / scale * pool.measured[s]
        gram += share * f.T @ f
    gram += 1e-2 * np.trace(gram) / len(gram) * np.eye(len(gram))
    return Decoder(np.linalg.solve(gram, weight).astype(np.float32), factor, mean, scale)


class Minibatch(NamedTuple):
    """One step; the first axis of features and context are the two views."""

    features: Tensor  # (2, groups, cells, features)
    context: Tensor  # (2, groups, cells, context)
    target: Tensor  # (groups, cells, features) clean features, smoothed over neighbours
    cluster: Tensor  # (groups, cells) number of the cluster
    hidden: Tensor  # (groups, cells, genes) standardised expression of genes that the first view hides
    decoder: Tensor  # (groups, features, genes) decoder of these genes


class Sampler(IterableDataset):
    """Minibatches from ``start`` to ``stop``; what a step holds depends on the seed and its number only.

    A step has ``n_groups`` groups of ``n_cells`` cells and ``n_hidden`` hidden genes each; ``smoothing`` is the share
    of a cell's neighbours in its target.
    """

    def __init__(
        self, pool: Pool, views: Views, decoder: Decoder, start: int, stop: int, *, n_groups: int, n_cells: int,
        n_hidden: int, smoothing: float, seed: int,
    ) -> None:  # fmt: skip
        self.pool, self.views, self.decoder = pool, views, decoder
        self.start, self.stop, self.seed = start, stop, seed
        self.n_groups, self.n_cells, self.n_hidden, self.smoothing = n_groups, n_cells, n_hidden, smoothing
        self.members = [np.flatnonzero(views.block == b) for b in range(views.block.max() + 1)]
        blocks = np.array([pool.study[m[0]] for m in self.members])
        weight = np.sqrt(np.bincount(pool.study))[blocks] / np.bincount(blocks)[blocks]  # shared by a study's blocks
        self.weight = weight / weight.sum()
        self.rarity = 1.0 / np.sqrt(np.bincount(views.cluster))[views.cluster]

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[Minibatch]:
        for step in range(self.start, self.stop):
            yield self.draw(step)

    def draw(self, step: int) -> Minibatch:
        """The minibatch of a step."""
        views = self.views
        rng = np.random.default_rng([self.seed, step])  # a resumed run draws what an uninterrupted one would
        blocks = rng.choice(len(self.members), self.n_groups, p=self.weight)
        cells = np.stack([self._group(rng, self.members[b]) for b in blocks])
        pair = int(rng.integers((len(views.features) - 1) // 2))
        shown = [1 + 2 * pair, 2 + 2 * pair]
        genes = np.stack([self._hidden(rng, b, shown[0]) for b in blocks])
        if rng.random() < 0.5:
            shown[1] = 0  # the clean view, beside the smaller panel
        clean = views.features[0]
        around = clean[views.neighbours[cells]].astype(np.float32).mean(2)
        target = (1 - self.smoothing) * clean[cells].astype(np.float32) + self.smoothing * around
        hidden = np.stack([self.decoder.expression(self.pool, c, g) for c, g in zip(cells, genes, strict=True)])
        return Minibatch(
            features=torch.from_numpy(np.stack([views.features[v, cells] for v in shown])).float(),
            context=torch.from_numpy(np.stack([views.context[v, cells] for v in shown])).float(),
            target=torch.from_numpy(target),
            cluster=torch.from_numpy(views.cluster[cells]),
            hidden=torch.from_numpy(hidden.astype(np.float32)),
            decoder=torch.from_numpy(self.decoder.weight[:, genes].transpose(1, 0, 2).copy()),
        )

    def _group(self, rng: np.random.Generator, members: np.ndarray) -> np.ndarray:
        """Cells of one block: drawn ones, small clusters more often, then a neighbour of each."""
        half = self.n_cells // 2
        p = self.rarity[members] / self.rarity[members].sum()
        drawn = rng.choice(members, half, replace=len(members) < half, p=p)
        column = rng.integers(self.views.neighbours.shape[1], size=half)
        return np.concatenate([drawn, self.views.neighbours[drawn, column]])

    def _hidden(self, rng: np.random.Generator, block: int, view: int) -> np.ndarray:
        """Genes that the block measured and the view does not show."""
        genes = np.flatnonzero(self.views.panels[block, 0] & ~self.views.panels[block, view])
        return rng.choice(genes, self.n_hidden, replace=len(genes) < self.n_hidden)
