"""The feature cache: every cell passes the backbone once, with all genes and with panels of them hidden."""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from filelock import FileLock
from scipy.sparse import csr_matrix, issparse

from more_scvi.data._arguments import check_integer, check_number, check_option, check_type
from more_scvi.data._genes import GeneMatch, match_genes

from ._base import Backbone
from ._chunks import HASH_ROWS, memory_said, plan_chunks, rows_of, tokens_said
from ._store import FeatureStore

logger = logging.getLogger("more_scvi")
Precision = Literal["auto", "float32", "bfloat16"]
_FEW_GENES = 0.1
_MANY_WEIGHTS = 30_000_000
"""Weights from which products in bfloat16 pay on a CPU without AMX, see ``benchmarks/results/foundation_size.md``."""


@dataclass(frozen=True, eq=False)
class FeatureCache:
    """Features of all cells, made by :func:`compute_features`.

    Attributes
    ----------
    full
        (cells, features), all genes visible.
    views
        (cells, views, features), one per panel; no views for features that have no genes.
    panels
        (views, genes) bool, True where a gene was visible in the view.
    fingerprint
        SHA-256 over backbone, gene names, values, panels and precision.
    """

    full: np.ndarray
    views: np.ndarray
    panels: np.ndarray
    fingerprint: str


def make_panels(n_genes: int, n_panels: int = 3, visible: float = 0.5, seed: int = 0) -> np.ndarray:
    """Random panels of genes that stay visible.

    Parameters
    ----------
    n_genes
        Number of genes of the data.
    n_panels
        Number of panels.
    visible
        Share of the genes that a panel shows, in (0, 1].
    seed
        Seed.

    Returns
    -------
    (n_panels, n_genes) bool, each row with ``round(visible * n_genes)`` True (at least 1).

    Examples
    --------
    >>> make_panels(10, n_panels=2, visible=0.3).sum(axis=1)
    array([3, 3])
    """
    for name, value, least in (("n_genes", n_genes, 1), ("n_panels", n_panels, 0), ("seed", seed, 0)):
        check_integer(name, value, least)
    if not check_number("visible", visible, 0, 1):
        raise ValueError(f"visible={visible} shows no gene; choose a share above 0 and at most 1.")
    rng = np.random.default_rng(seed)
    panels = np.zeros((n_panels, n_genes), dtype=bool)
    for panel in panels:
        panel[rng.permutation(n_genes)[: max(1, round(visible * n_genes))]] = True
    return panels


def compute_features(
    backbone: Backbone,
    x: Any,
    genes: Sequence[str] | None,
    *,
    panels: np.ndarray | None = None,
    normalised: bool = False,
    chunk_size: int = 2048,
    cache_dir: str | Path | None = None,
    precision: Precision = "auto",
    device: str | torch.device = "cpu",
    progress: bool = True,
    dtype: str = "float16",
) -> FeatureCache:
    """Features of all cells: the full view and one view per panel.

    Rows are read in chunks and only these are converted. Features do not depend on the chunk size. What it takes is
    logged before it starts: weights, features, and the most that is at work at once.

    Parameters
    ----------
    backbone
        The frozen backbone; it is moved to ``device`` for the computation and back.
    x
        (cells, genes) values: CSR or CSC matrix or array, dense array, or a backed dataset (anything that slices rows).
    genes
        Names of the columns of ``x``; None only for a backbone without a vocabulary.
    panels
        (views, genes) bool from :func:`make_panels`; None: no views. Ignored by a backbone without a vocabulary.
    normalised
        Whether ``x`` is log1p of counts per 10,000 instead of counts.
    chunk_size
        Most cells per chunk, which is what a kill loses at most. Chunks of a sequence model are smaller: as many cells
        as have some ten thousand tokens.
    cache_dir
        Folder for a file that is memory-mapped and survives a kill: the same call takes up where it stopped, and
        returns at once when all is there. Damaged files are noticed and computed again. None: in memory.
    precision
        Precision of the backbone's matrix products. ``"auto"`` is bfloat16 where that is faster, which is on CUDA
        devices with bfloat16, on CPUs with AMX tiles and, for backbones of 30 million weights or more, on CPUs with
        AVX512-BF16; float32 elsewhere.
    device
        Torch device.
    progress
        Whether to show a progress bar.
    dtype
        Storage type, ``"float16"`` or ``"float32"``.

    Raises
    ------
    ValueError
        If no gene is in the backbone's vocabulary, sizes disagree or an option is unknown.

    Examples
    --------
    >>> cache = compute_features(backbone, adata.X, adata.var_names, panels=make_panels(adata.n_vars))  # doctest: +SKIP
    >>> cache.full.shape, cache.views.shape  # doctest: +SKIP
    ((2638, 128), (2638, 3, 128))
    """
    x = _check(backbone, x, normalised, chunk_size)
    n_cells, n_genes = x.shape
    check_option("dtype", dtype, ("float16", "float32"))
    check_type(
        "cache_dir", cache_dir, str | PathLike | None, "the path of a folder, or None to keep features in memory"
    )
    match, panels = _match(backbone, genes, panels, n_genes)
    with _on_device(backbone, device, precision) as name:
        fingerprint = _fingerprint(backbone, x, genes, panels, [normalised, name, dtype])
        folder = None if cache_dir is None else Path(cache_dir) / f"{backbone.name}-{fingerprint[:16]}"
        store = FeatureStore((n_cells, 1 + len(panels), backbone.n_features), np.dtype(dtype), folder, fingerprint)
        if folder is None or not store.read():  # what is finished may be of another user and not writable
            with _alone(folder):
                store.open()  # reads once more: another process may have finished it while this one waited
                plan = plan_chunks(backbone, x, match, chunk_size, store.n_done)
                if progress and plan.starts and (said := memory_said(backbone, store, plan)):
                    logger.info(said)
                with plan.bar(f"{backbone.name} features", progress) as bar:
                    for start, stop, amount in plan:
                        rows = rows_of(x, start, stop)
                        views = [None, *panels]
                        encoded = [backbone.encode(rows, match, visible=v, normalised=normalised) for v in views]
                        store.write(start, np.stack(encoded, axis=1))
                        bar.update(amount)
        features = store.finish()
    return FeatureCache(features[:, 0], features[:, 1:], panels, fingerprint)


def token_chunks(
    backbone: Backbone,
    x: Any,
    genes: Sequence[str],
    *,
    depth: int,
    normalised: bool = False,
    chunk_size: int = 256,
    device: str | torch.device = "cpu",
    progress: bool = True,
) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Tokens of all cells, chunk by chunk; the caller decides what to keep of them.

    Parameters
    ----------
    backbone
        A backbone with layers that adapters may enter; it is on ``device`` while the chunks are read.
    x, genes, normalised, device, progress
        As in :func:`compute_features`.
    depth
        Number of layers above.
    chunk_size
        Most cells per chunk; fewer where a sequence model reads long ones.

    Yields
    ------
    Rows of the chunk, and the values (cells, tokens, d) float16 and mask (cells, tokens) bool of
    :meth:`Backbone.tokens`.

    Raises
    ------
    ValueError
        If the backbone has not as many layers, or no gene is in its vocabulary.
    """
    x = _check(backbone, x, normalised, chunk_size)
    match, _ = _match(backbone, genes, None, x.shape[1])
    device = torch.device(device)
    faster = _bfloat16_is_faster(device, backbone)
    with _on_device(backbone, device, "float32"):  # bfloat16 around the yield would reach the caller's own work
        plan = plan_chunks(backbone, x, match, chunk_size)
        if progress and (said := tokens_said(backbone, plan, depth)):
            logger.info(said)
        with plan.bar(f"{backbone.name} tokens", progress) as bar:
            for start, stop, amount in plan:
                rows = rows_of(x, start, stop)
                with torch.autocast(device.type, dtype=torch.bfloat16, enabled=faster):
                    values, keep = backbone.tokens(rows, match, depth=depth, normalised=normalised)
                yield slice(start, stop), values, keep
                bar.update(amount)


def _check(backbone: Any, x: Any, normalised: Any, chunk_size: Any) -> Any:
    """Refuse what is no backbone, no matrix of numbers, no flag or no size of chunks; ``x``, if sparse then CSR."""
    check_type("backbone", backbone, Backbone, "one of get_backbone, e.g. get_backbone('more-mini')")
    check_type("normalised", normalised, bool | np.bool_, "True for log1p of counts per 10,000, False for counts")
    check_integer("chunk_size", chunk_size)
    shape = getattr(x, "shape", None)
    if shape is None or len(shape) != 2 or hasattr(x, "obs_names"):  # an AnnData has a shape, too
        raise TypeError(f"x is a {type(x).__name__} of shape {shape}; give a (cells, genes) matrix, such as adata.X.")
    x = x.tocsr() if issparse(x) and x.format != "csr" else x
    kind = rows_of(x, 0, 1).dtype  # what slices rows need not have a dtype of NumPy
    if kind.kind not in "biuf":
        raise TypeError(f"x is a {type(x).__name__} of {kind} values; give a matrix of numbers, such as adata.X.")
    return x


@contextmanager
def _alone(folder: Path | None) -> Iterator[None]:
    """Keep other processes from the same cache: they wait, and then find it finished. The lock dies with its owner."""
    if folder is None:
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / "lock").acquire()
    except OSError as error:
        raise OSError(
            error.errno,
            f"{folder} cannot be written ({error.strerror}) and does not hold the features of all these cells. Name"
            " another cache_dir, or give cache_dir=None to keep features in memory.",
        ) from None
    with lock:
        yield


def _match(
    backbone: Backbone, genes: Sequence[str] | None, panels: np.ndarray | None, n_genes: int
) -> tuple[GeneMatch | None, np.ndarray]:
    """Gene match and panels as an array; both empty for a backbone without a vocabulary."""
    if backbone.vocabulary is None:
        return None, np.zeros((0, n_genes), dtype=bool)
    panels = np.zeros((0, n_genes), dtype=bool) if panels is None else np.asarray(panels)
    if panels.dtype != bool:  # a cast would turn positions into other panels
        raise TypeError(f"panels holds {panels.dtype} values; give booleans (views, genes), as make_panels does.")
    if genes is None or len(genes) != n_genes or panels.ndim != 2 or panels.shape[1] != n_genes:
        n_names = None if genes is None else len(genes)
        raise ValueError(f"x has {n_genes} genes, but there are {n_names} names and panels of shape {panels.shape}.")
    match = match_genes(genes, backbone.vocabulary)
    shown = ", ".join(map(str, list(genes)[:3]))
    if not match.n_matched:
        raise ValueError(
            f"None of the {n_genes} genes ({shown}, ...) is in the vocabulary of {backbone.name!r}. It knows "
            f"names such as {', '.join(backbone.vocabulary.human_symbol[:3])}: name the column of adata.var that holds"
            " such names as gene_key."
        )
    if match.overlap < _FEW_GENES:
        logger.warning(
            "Only %d of %d genes (%s, ...) are in the vocabulary of %s: its features say little about these cells.",
            match.n_matched, n_genes, shown, backbone.name,
        )  # fmt: skip
    return match, panels


def _fingerprint(backbone: Backbone, x: Any, genes: Sequence[str] | None, panels: np.ndarray, options: list) -> str:
    """SHA-256 of all that the features follow from; the same for sparse and dense and for any number type."""
    digest = hashlib.sha256(f"{backbone.fingerprint()}{tuple(x.shape)}{options}".encode())
    digest.update("\n".join(map(str, [] if genes is None else genes)).encode())
    digest.update(np.packbits(panels).tobytes())
    for start in range(0, x.shape[0], HASH_ROWS):
        rows = csr_matrix(rows_of(x, start, start + HASH_ROWS))
        for part in (rows.indptr.astype(np.int64), rows.indices.astype(np.int32), rows.data.astype(np.float32)):
            digest.update(part.tobytes())
    return digest.hexdigest()


@contextmanager
def _on_device(backbone: Backbone, device: str | torch.device, precision: str) -> Iterator[str]:
    """Backbone on the device and products in the chosen precision, whose name is yielded; it is moved back after."""
    if precision not in get_args(Precision):
        raise ValueError(f"precision={precision!r} is unknown: choose one of {', '.join(get_args(Precision))}.")
    try:
        chosen, home = torch.device(device), backbone.device
        if chosen.type == "meta":
            raise TypeError("it holds no values")
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device={device!r} is no device of torch ({error}); give 'cpu' or 'cuda'.") from None
    if precision == "auto":
        precision = "bfloat16" if _bfloat16_is_faster(chosen, backbone) else "float32"
    try:
        backbone.to(chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # the second is that of torch without CUDA
        raise ValueError(f"device={device!r} cannot be used ({error}); give 'cpu' or one of this machine.") from None
    try:
        with torch.autocast(chosen.type, dtype=torch.bfloat16, enabled=precision == "bfloat16"):
            yield precision
    finally:
        backbone.to(home)


def _bfloat16_is_faster(device: torch.device, backbone: Backbone) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    if device.type != "cpu":
        return False
    tiles, products = (  # old torch does not know of them
        getattr(torch.cpu, f"_is_{name}_supported", bool)() for name in ("amx_tile", "avx512_bf16")
    )
    # without tiles a small network spends more on conversions than its products gain
    return tiles or (products and backbone.n_parameters() >= _MANY_WEIGHTS)
