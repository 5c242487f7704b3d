"""Figures of scib-metrics, where they are safe to use, and its own benchmark table; Leiden clusters, kBET."""

import logging
import random
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import igraph
import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import eigsh
from scipy.stats import chisquare
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.neighbors import NearestNeighbors

from ._check import break_ties, check_embedding, check_integer, check_mask, check_matrix
from ._sc_graph import sc_graph

_NEIGHBORS = {"leiden": 15, "kBET": 50, "cLISI": 90}  # the cell itself counted, as in scib_metrics.benchmark
_MIN_CELLS = 30
_CHUNK = 5000  # every size of chunk is compiled anew
_COMPARABLE = ((0, 5, 6), (0, 6))  # from, below
RESOLUTIONS = tuple(round(0.2 * step, 1) for step in range(1, 11))
"""Resolutions that scib-metrics searches."""


def scib(
    z: ArrayLike,
    labels: ArrayLike,
    batches: ArrayLike,
    hidden: ArrayLike | None = None,
    seed: int = 0,
    max_cells: int | None = 5000,
    reference: ArrayLike | None = None,
) -> dict[str, float]:
    """Metrics of scIB that an embedding can be compared by, on at most ``max_cells`` cells.

    ================  ===============================================================================================
    ``BRAS``          mixing of batches within types, by batch-removal adapted silhouettes (cosine)
    ``kBET``          share of cells whose neighbours within the type show the batches' proportions, mean over types
    ``NMI``, ``ARI``  Leiden clusters against types, at the resolution (of 0.2, 0.4, … 2) with the highest NMI
    ``isolated_F1``   best F1 of any Leiden cluster for the types present in the fewest batches
    ``cLISI``         do neighbours share the type? (median over cells, 1 = all do)
    ``scGraph``       :func:`sc_graph`, if a ``reference`` is given
    ================  ===============================================================================================

    All lie between 0 and 1 (scGraph: -1 and 1), higher is better. Silhouettes of types are left out: they reward
    collapse and are blind to nested batch effects. BRAS and cLISI are those of scib-metrics. Leiden clusters and kBET
    are found as there, kBET freed of a rounding error that makes it differ between calls. ``isolated_F1`` follows scIB
    (scib-metrics has a silhouette for it), at the ten resolutions of NMI (scIB: twenty). Neighbours are exact here and
    equal distances broken at random (scib-metrics: approximate).

    Parameters
    ----------
    z
        Embedding ``(n_cells, n_latent)``.
    labels, batches
        True types and batches ``(n_cells,)``.
    hidden
        Mask of the cells whose label was hidden. All cells are clustered; NMI, ARI and ``isolated_F1`` then compare
        clusters with types on the hidden ones only.
    seed
        Of the subsample and of Leiden.
    max_cells
        Larger data are subsampled to so many random cells, the same for every ``z``; None scores all. The cost grows
        faster than the cells, and JAX compiles for each new size of a type.
    reference
        Uncorrected features of the cells for :func:`sc_graph`, which sees all cells.

    Returns
    -------
    One value per metric; NaN where it does not exist (a single type, a single batch).

    Raises
    ------
    ImportError
        If scib-metrics is not installed.
    ValueError
        If there are fewer than 30 cells, or values that are not finite.

    Examples
    --------
    >>> scores = scib(adata.obsm["X_more"], adata.obs["cell_type"], adata.obs["batch"])  # doctest: +SKIP

    References
    ----------
    Luecken et al. 2022 (scIB), Büttner et al. 2018 (kBET), Korsunsky et al. 2019 (LISI), Rautenstrauch & Ohler 2025
    (BRAS).
    """
    scib_metrics = import_scib_metrics()
    points, y, b = check_embedding(z, labels, batches, flags=False)
    check_integer("seed", seed, 0)
    if max_cells is not None:
        check_integer("max_cells", max_cells, _MIN_CELLS)
    scored = np.ones(len(points), dtype=bool) if hidden is None else check_mask(hidden, "hidden", len(points))
    out = {} if reference is None else {"scGraph": sc_graph(points, reference, y, b)}
    if max_cells is not None and len(points) > max_cells:
        rows = np.sort(np.random.default_rng(seed).choice(len(points), max_cells, replace=False))
        points, y, b, scored = points[rows], y[rows], b[rows], scored[rows]
    if len(points) < _MIN_CELLS:
        raise ValueError(f"z holds {len(points)} cells; neighbour graphs of fewer than {_MIN_CELLS} say nothing.")
    several_types = np.unique(y).size > 1
    shared = pd.DataFrame({"type": y, "batch": b}).groupby("type")["batch"].nunique().max() > 1  # else BRAS fails
    with _quiet():
        neighbours = _neighbours(points, max(_NEIGHBORS.values()))
        near = {name: neighbours.subset_neighbors(min(n, len(points))) for name, n in _NEIGHBORS.items()}
        clusterings = leiden(near["leiden"].knn_graph_connectivities, seed)
        nmi, ari = nmi_ari([clusters[scored] for clusters in clusterings], y[scored])
        return {
            "BRAS": float(scib_metrics.bras(points, y, b, chunk_size=_CHUNK)) if shared else float("nan"),
            "kBET": kbet(near["kBET"].knn_graph_connectivities, y, b),
            "NMI": nmi,
            "ARI": ari,
            "isolated_F1": isolated_f1(clusterings, y, b, scored),
            "cLISI": float(scib_metrics.clisi_knn(near["cLISI"], y)) if several_types else float("nan"),
        } | out


def benchmarker(
    adata: AnnData,
    embeddings: Sequence[str],
    batch_key: str,
    labels_key: str,
    pre_integrated_embedding_obsm_key: str = "X_pca",
    neighbor_computer: Callable[[NDArray, int], Any] | None = None,
    **kwargs: Any,
) -> Any:
    """Run the benchmark of scib-metrics on embeddings of an object, and return its ``Benchmarker``.

    The table is then ``get_results()``, the plot ``plot_results_table()``. ``adata`` is left as it is (by itself, the
    ``Benchmarker`` overwrites ``obsm["X_pca"]``). Unlike its default, metrics from silhouettes of types are off and
    Leiden replaces k-means; ask for the published set by ``bio_conservation_metrics=BioConservation()``. Labels of all
    cells are scored, also those a model was trained on: no substitute for hidden labels.

    Parameters
    ----------
    adata
        Holds the embeddings.
    embeddings
        Keys of ``obsm``.
    batch_key, labels_key
        Columns of ``obs``.
    pre_integrated_embedding_obsm_key
        Key in ``obsm`` of principal components before integration, what principal-component regression compares with.
    neighbor_computer
        To its ``prepare``: a function of embedding and number of neighbours that returns its ``NeighborsResults``
        (default: approximate neighbours by pynndescent, which compiles for about a minute at first).
    **kwargs
        To :class:`scib_metrics.benchmark.Benchmarker`.

    Raises
    ------
    ImportError
        If scib-metrics is not installed.
    KeyError
        If a key is missing.

    Examples
    --------
    >>> table = benchmarker(adata, ["X_pca", "X_more"], "batch", "cell_type").get_results()  # doctest: +SKIP
    """
    if isinstance(embeddings, str) or not isinstance(embeddings, Sequence):
        raise TypeError(f"embeddings={embeddings!r} must be a list of obsm keys, e.g. [{embeddings!r}].")
    if not hasattr(adata, "obsm"):
        raise TypeError(f"adata is a {type(adata).__name__}; give an AnnData that holds the embeddings in obsm.")
    for key in (batch_key, labels_key):
        if key not in adata.obs:
            raise KeyError(f"obs has no column {key!r}; it has {', '.join(map(str, adata.obs.columns))}.")
    for key in (*embeddings, pre_integrated_embedding_obsm_key):
        if key not in adata.obsm:
            hint = " Compute it on log-normalised counts, sc.pp.pca(adata)." if key == "X_pca" else ""
            raise KeyError(f"obsm has no {key!r}; it has {', '.join(adata.obsm)}.{hint}")
    import_scib_metrics()
    from scib_metrics.benchmark import Benchmarker, BioConservation

    keys = dict.fromkeys([*embeddings, pre_integrated_embedding_obsm_key])
    light = AnnData(
        obs=adata.obs[[batch_key, labels_key]].astype(str),
        obsm={key: check_matrix(adata.obsm[key], f"obsm[{key!r}]").astype(np.float32) for key in keys},
    )
    off = dict.fromkeys(("isolated_labels", "nmi_ari_cluster_labels_kmeans", "silhouette_label"), False)
    options = {
        "bio_conservation_metrics": BioConservation(nmi_ari_cluster_labels_leiden=True, **off),
        "pre_integrated_embedding_obsm_key": pre_integrated_embedding_obsm_key,
        **kwargs,
    }
    out = Benchmarker(light, batch_key, labels_key, list(embeddings), **options)
    with _quiet():
        out.prepare(neighbor_computer)
        out.benchmark()
    return out


@cache
def import_scib_metrics() -> Any:
    """scib-metrics, imported on first use; warns then if its figures cannot be compared with the project's."""
    try:
        import scib_metrics
    except ImportError as error:
        raise ImportError('scib-metrics is needed for this: pip install "more-scvi[benchmark]".') from error
    numbers = tuple(int(part) for part in re.findall(r"\d+", scib_metrics.__version__)[:3])
    low, high = _COMPARABLE
    if not low <= numbers < high:
        warnings.warn(
            f"scib-metrics {scib_metrics.__version__} is installed; figures of versions before 0.5.6 or from 0.6.0 "
            'cannot be compared with those of 0.5.6 to 0.5.x. Install pip install "scib-metrics>=0.5.6,<0.6", or name '
            "the version beside every figure.",
            stacklevel=3,
        )
    return scib_metrics


def _neighbours(z: NDArray[np.float64], n_neighbors: int) -> Any:
    """Exact neighbours, the cell itself first, in the form that scib-metrics takes."""
    from scib_metrics.nearest_neighbors import NeighborsResults

    search = NearestNeighbors(n_neighbors=min(n_neighbors, len(z)) - 1).fit(break_ties(z))
    distances, indices = search.kneighbors()
    own = np.arange(len(z))[:, None]
    return NeighborsResults(np.hstack([own, indices]), np.hstack([np.zeros_like(own, dtype=float), distances]))


@contextmanager
def _quiet() -> Iterator[None]:
    """No notes of scib-metrics on types it leaves out, nor of its neighbour search on small types."""
    logger = logging.getLogger("scib_metrics")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="pynndescent")
            yield
    finally:
        logger.setLevel(level)


def leiden(graph: sparse.spmatrix, seed: int) -> list[NDArray[np.int64]]:
    """Clusters of every cell at each of the :data:`RESOLUTIONS`, as scib-metrics finds them."""
    edges = igraph.Graph.Weighted_Adjacency(graph, mode="directed")
    edges.to_undirected(mode="each")
    clusterings = []
    try:
        for resolution in RESOLUTIONS:
            igraph.set_random_number_generator(random.Random(seed))
            found = edges.community_leiden(objective_function="modularity", weights="weight", resolution=resolution)
            clusterings.append(np.asarray(found.membership))
    finally:
        igraph.set_random_number_generator(random)  # igraph's own default, which others may rely on
    return clusterings


def nmi_ari(clusterings: list[NDArray[np.int64]], labels: NDArray) -> tuple[float, float]:
    """NMI and ARI of the clustering with the highest NMI; NaN if there is one type only."""
    if np.unique(labels).size < 2:
        return float("nan"), float("nan")
    scores = [normalized_mutual_info_score(labels, clusters) for clusters in clusterings]
    best = clusterings[int(np.argmax(scores))]
    return float(max(scores)), float(adjusted_rand_score(labels, best))


def isolated_f1(
    clusterings: list[NDArray[np.int64]], labels: NDArray, batches: NDArray, scored: NDArray[np.bool_]
) -> float:
    """Mean over isolated types of the best F1 that any one cluster reaches for the type.

    Isolated are the types in the fewest batches (all types, if all are in as many). F1 is counted on ``scored`` cells.
    """
    pairs = pd.DataFrame({"type": labels, "batch": batches}).drop_duplicates()
    if pairs["batch"].nunique() < 2:
        return float("nan")
    n_batches = pairs.groupby("type").size()
    isolated = np.intersect1d(n_batches.index[n_batches == n_batches.min()], labels[scored])
    scores = [max(_best_f1(clusters[scored], labels[scored] == name) for clusters in clusterings) for name in isolated]
    return float(np.mean(scores)) if scores else float("nan")


def _best_f1(clusters: NDArray[np.int64], member: NDArray[np.bool_]) -> float:
    inside, sizes = np.bincount(clusters, weights=member), np.bincount(clusters)
    return float((2 * inside / (sizes + member.sum())).max())


def kbet(graph: sparse.spmatrix, labels: NDArray, batches: NDArray, alpha: float = 0.05, min_cells: int = 10) -> float:
    """Share of cells around which batches are as frequent as in the type (chi-squared test), mean over types.

    Neighbours within a type are those of a diffusion map of its part of the neighbour graph. A type whose part falls
    into pieces too small to test scores 0; types of one batch or fewer than ``min_cells`` cells are left out. The same
    as ``scib_metrics.kbet_per_label`` of 0.5, with one repair: there the first eigenvalue, 1, is weighted by
    ``e / (1 - e)`` in single precision unless it comes out as exactly 1, so that the score of a type depends on
    rounding (and differs between calls).
    """
    graph = sparse.csr_matrix(graph)
    scores = []
    for name in np.unique(labels):
        rows = np.flatnonzero(labels == name)
        counts = np.unique(batches[rows], return_counts=True)[1]
        if rows.size < min_cells or counts.size < 2:
            continue
        k = int(min(70, max(10, counts.mean() // 4)))  # as scib-metrics chooses it
        part = graph[rows][:, rows]
        member = connected_components(part)[1]
        kept = np.flatnonzero((np.bincount(member) >= 3 * k)[member]) if member.any() else np.arange(rows.size)
        # in a piece of fewer than three neighbourhoods, a neighbourhood is the piece and not a sample of it
        testable = kept.size >= 0.75 * rows.size
        scores.append(_accepted(part[kept][:, kept], batches[rows][kept], k, alpha) if testable else 0.0)
    return float(np.mean(scores)) if scores else float("nan")


def _accepted(graph: sparse.csr_matrix, batches: NDArray, k: int, alpha: float) -> float:
    code = np.unique(batches, return_inverse=True)[1]
    expected = np.bincount(code) / code.size
    if expected.size < 2:
        return 0.0
    n = min(k + 1, code.size)  # the cell itself is counted
    points = _diffusion_map(graph)
    nearest = NearestNeighbors(n_neighbors=n).fit(points).kneighbors(points, return_distance=False)
    observed = np.stack([(code[nearest] == i).sum(axis=1) for i in range(expected.size)], axis=1)
    return float(np.mean(chisquare(observed, n * expected, axis=1).pvalue >= alpha))


def _diffusion_map(graph: sparse.csr_matrix) -> NDArray[np.float64]:
    """Coordinates whose Euclidean distances are diffusion distances, summed over all times."""
    density = sparse.diags(1 / np.asarray(graph.sum(axis=0)).ravel())
    kernel = density @ graph @ density
    degree = sparse.diags(1 / np.sqrt(np.asarray(kernel.sum(axis=0)).ravel()))
    transitions = (degree @ kernel @ degree).astype(np.float64)
    size = transitions.shape[0]
    n = min(100, size - 1)
    if size <= 1000:  # smaller ones are decomposed exactly
        values, vectors = np.linalg.eigh(transitions.toarray())
        largest = np.argsort(-np.abs(values))[:n]
        values, vectors = values[largest], vectors[:, largest]
    else:
        values, vectors = eigsh(transitions, k=n, v0=np.ones(size))  # ARPACK would draw its start at random
    trivial = values > 1 - 1e-5  # 1 but for rounding; summed over all times it would be without limit
    return vectors * np.where(trivial, 1, values / np.where(trivial, 1, 1 - values))
