"""Fit the linear front of ``more-mini`` to a pool: gene statistics, programs, whitening. No network, no labels."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from scipy.linalg import eigh, qr
from scipy.sparse import csr_matrix

from more_scvi.backbones._more_mini import MoreMini, MoreMiniSizes
from more_scvi.data._arguments import check_integer, check_number, check_option, check_type

from ._pool import Pool

_MIN_SET = 3
_POWER_ITERATIONS = 4
_OVERSAMPLING = 16


def fit_front(
    pool: Pool,
    gene_sets: Mapping[str, Sequence[str]],
    *,
    n_components: int = 64,
    n_features: int = 192,
    set_weight: float = 0.25,
    min_scale: float = 0.5,
    seed: int = 0,
    **network: int,
) -> MoreMini:
    """Build a ``more-mini`` whose features are linear (the transformer's residual is zero).

    Studies count as the square root of their cells, and everything but the genes' means is measured *within* studies.
    A study only enters the statistics of genes that it measured.

    Parameters
    ----------
    pool
        The cells.
    gene_sets
        Name to human symbols, as :func:`marker_sets` finds them; sets with fewer than three genes in the vocabulary are
        left out.
    n_components
        SVD components of the pool's standardised genes.
    n_features
        Features: the components, then principal components of what the gene sets add to them.
    set_weight
        Standard deviation of the features from gene sets; that of the components is about 1.
    min_scale
        Lower bound of a gene's standard deviation.
    seed
        Seed of the randomised SVD and of the network's weights.
    **network
        ``n_tokens``, ``d_model``, ``n_layers``, ``n_heads`` of the transformer.

    Raises
    ------
    ValueError
        If there are fewer features than components or more than programs.
    """
    check_type("pool", pool, Pool, "what read_pool returns")
    check_type("gene_sets", gene_sets, Mapping, "a dict of names and lists of symbols, as marker_sets returns")
    least = min(pool.counts.shape)
    check_integer("n_components", n_components, 1, least)
    for name, value in {"n_features": n_features, **network}.items():
        check_option("an argument of the network", name, ("n_features", "n_tokens", "d_model", "n_layers", "n_heads"))
        check_integer(name, value)
    check_integer("seed", seed, 0)
    check_number("set_weight", set_weight, 0)
    if not check_number("min_scale", min_scale, 0):
        raise ValueError("min_scale=0 would divide by zero for genes that do not vary; give a positive number.")
    members = _members(pool.vocabulary.human_symbol, gene_sets)
    sizes = MoreMiniSizes(
        n_genes=len(pool.vocabulary), n_components=n_components, n_sets=int(members[:, 1].max(initial=-1)) + 1,
        n_members=len(members), n_features=n_features, **network,
    )  # fmt: skip
    if not n_components <= n_features <= n_components + sizes.n_sets:
        raise ValueError(
            f"fit_front: n_features={n_features} must be at least the {n_components} components and at most these plus "
            f"the {sizes.n_sets} gene sets with three known genes. Change n_features or add gene sets."
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = MoreMini(sizes, pool.vocabulary)
    front = backbone.front

    def fill(**tables: np.ndarray) -> None:
        tensors = {k: torch.as_tensor(v) for k, v in tables.items()}
        # rounded as they will be on disk, so that pre-training sees the front that ships
        rounded = {k: v.half() if v.is_floating_point() else v for k, v in tensors.items()}
        front.load_state_dict(front.state_dict() | rounded)

    share = expected_share(pool)
    fill(gene_share=share * len(share), member_gene=members[:, 0], member_set=members[:, 1])
    y = _normalise(pool, share, sizes.target_sum)
    mean, scale = _gene_statistics(pool, y, min_scale)
    components = _components(pool, y, scale, n_components, seed)
    fill(gene_mean=mean, gene_scale=scale, components=components)
    # The scale of a program and the guess of a partly measured program depend on each other: two rounds settle it.
    fill(program_scale=np.full(n_components + sizes.n_sets, 2.0))
    for _ in range(2):
        scores = _scores(pool, backbone, y)
        spread = np.sqrt(np.maximum(_within(pool, scores).diagonal(), 1e-6))
        fill(program_scale=spread)
    fill(whitening=_features(_within(pool, scores / spread), spread[:n_components], n_features, set_weight))
    return backbone


def _features(covariance: np.ndarray, spread: np.ndarray, n_features: int, set_weight: float) -> np.ndarray:
    """(programs, features): components, half whitened, then whitened leading directions of what the sets add.

    Principal components of all programs together would mostly show what large gene sets share.
    """
    c = len(spread)
    half_whitened = np.eye(len(covariance), c) * np.sqrt(spread / spread.mean())
    rest = np.vstack([-np.linalg.solve(covariance[:c, :c], covariance[:c, c:]), np.eye(len(covariance) - c)])
    values, vectors = eigh(rest.T @ covariance @ rest)
    leading = np.argsort(-values)[: n_features - c]
    whitened = rest @ vectors[:, leading] / np.sqrt(np.maximum(values[leading], 1e-6))
    return np.hstack([half_whitened, set_weight * whitened])


def _members(symbols: Sequence[str], gene_sets: Mapping[str, Sequence[str]]) -> np.ndarray:
    """(pairs, 2) gene and set of every membership."""
    position = {s: i for i, s in enumerate(symbols)}
    sets = [sorted({position[g] for g in genes if g in position}) for genes in gene_sets.values()]
    large = [s for s in sets if len(s) >= _MIN_SET]
    pairs = [(gene, k) for k, genes in enumerate(large) for gene in genes]
    return np.array(pairs, dtype=np.int32).reshape(-1, 2)


def expected_share(pool: Pool) -> np.ndarray:
    """Share of a cell's counts that a gene gets when all genes are measured: sums to 1.

    A study tells the shares among the genes it measured only; their sum is taken from the other studies.
    """
    within = pool.study_means(pool.counts)
    within /= within.sum(1, keepdims=True)
    weight = np.sqrt(np.bincount(pool.study))[:, None] * pool.measured
    share = np.full(pool.counts.shape[1], 1.0 / pool.counts.shape[1])
    for _ in range(20):
        covered = (pool.measured * share).sum(1, keepdims=True)
        share = (weight * within * covered).sum(0) / np.maximum(weight.sum(0), 1e-12)
        share /= share.sum()
    return share


def count_factor(pool: Pool, share: np.ndarray, target_sum: float) -> np.ndarray:
    """(cells,) what counts are multiplied by to sum to what is expected of the genes that the study measured."""
    total = np.asarray(pool.counts.sum(1)).ravel()
    return target_sum * (pool.measured @ share)[pool.study] / np.maximum(total, 1)  # cells may be empty


def _normalise(pool: Pool, share: np.ndarray, target_sum: float) -> csr_matrix:
    """log1p of counts scaled to the expected sum of the genes that the study measured."""
    counts, factor = pool.counts, count_factor(pool, share, target_sum)
    data = np.log1p(counts.data * np.repeat(factor, np.diff(counts.indptr)))
    return csr_matrix((data.astype(np.float32), counts.indices, counts.indptr), counts.shape)


def _gene_statistics(pool: Pool, y: csr_matrix, min_scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean over studies, and standard deviation within studies, of every gene."""
    mean = pool.study_means(y)
    variance = np.maximum(pool.study_means(y.power(2)) - mean**2, 0)  # rounding may lead below 0
    weight = np.sqrt(np.bincount(pool.study))[:, None] * pool.measured
    weight = weight / np.maximum(weight.sum(0), 1e-12)
    return (weight * mean).sum(0), np.maximum(np.sqrt((weight * variance).sum(0)), min_scale)


def _components(pool: Pool, y: csr_matrix, scale: np.ndarray, n_components: int, seed: int) -> np.ndarray:
    """(genes, components) right singular vectors of the standardised genes, centred by study, cells weighted.

    Randomised SVD (Halko et al. 2011) with the centring applied implicitly, so that the matrix stays sparse.
    """
    standardised = csr_matrix((y.data / scale[y.indices].astype(np.float32), y.indices, y.indptr), y.shape)
    centre = (pool.study_means(y) / scale).astype(np.float32)
    weight = np.sqrt(pool.cell_weights()).astype(np.float32)[:, None]
    one_hot = csr_matrix((np.ones(len(pool.study), np.float32), (np.arange(len(pool.study)), pool.study)))
    transposed = standardised.T.tocsr()  # products run over rows in both directions

    def forward(v: np.ndarray) -> np.ndarray:
        return weight * (standardised @ v - (centre @ v)[pool.study])

    def backward(u: np.ndarray) -> np.ndarray:
        u = weight * u
        return transposed @ u - centre.T @ (one_hot.T @ u)

    rng = np.random.default_rng(seed)
    basis = rng.standard_normal((y.shape[1], n_components + _OVERSAMPLING)).astype(np.float32)
    for _ in range(_POWER_ITERATIONS):
        basis = qr(backward(forward(basis)), mode="economic")[0]  # else all columns turn to the first axis
    left = forward(basis)
    _, vectors = eigh(left.T @ left)
    return basis @ vectors[:, ::-1][:, :n_components]  # eigh sorts from small to large


def _scores(pool: Pool, backbone: MoreMini, y: csr_matrix) -> np.ndarray:
    """(cells, programs) scores of all cells, every study with the genes it measured."""
    mean, scale = (getattr(backbone.front, name).numpy() for name in ("gene_mean", "gene_scale"))
    scores = np.empty((len(pool.study), len(backbone.front.program_scale)), dtype=np.float32)
    for s in range(len(pool.studies)):
        genes, cells = np.flatnonzero(pool.measured[s]), np.flatnonzero(pool.study == s)
        weights = (backbone.front.program_weights(genes) / scale[genes, None]).astype(np.float32)
        scores[cells] = y[cells][:, genes] @ weights - mean[genes] @ weights
    return scores


def _within(pool: Pool, scores: np.ndarray) -> np.ndarray:
    """Weighted covariance within studies."""
    centred = (scores - pool.study_means(scores)[pool.study]) * np.sqrt(pool.cell_weights())[:, None]
    return centred.T @ centred
