"""Fitting a student: ridge regression by folds for the linear part, a short run of AdamW for the residuals."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from scipy.linalg import cho_factor, cho_solve
from scipy.sparse.linalg import eigsh
from torch.nn import functional as F

from more_scvi._progress import progress_bar
from more_scvi.base._path import batch_means
from more_scvi.data._batches import batch_offsets
from more_scvi.modalities.rna import DirectPath

from ._network import CLIP, StudentNetwork, normalise

N_FOLDS = 5
"""Folds of the student's cross-validation."""
PENALTIES = (0.03, 0.1, 0.3, 1.0, 3.0)
"""Ridge penalties that cross-validation chooses among."""
LEAST_LOG = -7.0
"""Log-probabilities of the teacher are cut off here where the classifier's linear start is fitted. Source: plain
value, not tuned."""

FREE = 0.97
"""Share of the penalty that is lifted from the leading principal axes, on which noise is small. Source: plain value,
not tuned."""

FORGET_BATCH = 0.2
"""Share of the cells whose batch the student does not see in a step. Source: plain value, not tuned."""
CHECK_EVERY = 100


@dataclass
class Lesson:
    """What a teacher says about some cells."""

    reader: Any  # rows of a matrix, columns in the order of the student's genes; reader[slice] is csr
    rows: np.ndarray  # (cells,) sorted rows that are used
    batch: np.ndarray  # (cells,) codes; every negative code is a batch that the teacher was not trained on
    z: np.ndarray  # (cells, n_latent) its embedding
    log_probs: np.ndarray | None  # (cells, n_labels) log-probabilities of its labels

    def chunks(self, size: int = 2048) -> Iterator[tuple[np.ndarray, sp.csr_matrix]]:
        """(positions among the cells, csr block) of consecutive cells."""
        for start in range(0, self.reader.shape[0], size):
            stop = min(start + size, self.reader.shape[0])
            here = np.arange(*np.searchsorted(self.rows, [start, stop]))
            if len(here):
                yield here, self.reader[start:stop][self.rows[here] - start]


@dataclass(frozen=True)
class FitSettings:
    """Settings of :func:`fit_student`, described at :meth:`more_scvi.model.MoRE.distill`."""

    n_components: int = 100
    n_panels: int = 4
    n_hidden: int = 256
    max_steps: int = 1000
    batch_size: int = 256
    learning_rate: float = 1e-3
    seed: int = 0
    device: str = "cpu"
    progress: bool = True


def fit_student(
    lessons: Sequence[Lesson], direct: DirectPath, n_batch: int, n_labels: int, normalised: bool, settings: FitSettings
) -> StudentNetwork:
    """Fit a student to what its teacher says of the cells of the lessons, the first of which are the registered ones.

    ``direct`` says which genes are read, and how they are standardised. The linear guess that the residuals learn from
    is out of fold: for a cell that the ridge regression was fitted on it would be better than it is for new cells. Each
    cell is also shown with random halves of the genes missing.
    """
    rng = np.random.default_rng(settings.seed)
    z = np.concatenate([lesson.z for lesson in lessons]).astype(np.float32)
    codes = _distinct(lessons)
    groups, group = np.unique(codes, return_inverse=True)
    fold = rng.permutation(len(z)) % N_FOLDS
    network = _empty(lessons, direct, (len(z), z.shape[1], n_batch, n_labels), normalised, settings)
    front = network.front
    everything = front.visible_map(np.arange(len(front.gene_share)))

    def blocks() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for cells, x in _joined(lessons):
            y = normalise(x, everything, normalised).toarray()
            yield cells, np.clip((y - front.mean.numpy()) / front.std.numpy(), -CLIP, CLIP)

    sums = np.zeros((len(groups), len(front.mean)))
    for cells, x in blocks():
        np.add.at(sums, group[cells], x)
    means = (sums / np.bincount(group)[:, None]).astype(np.float32)
    z_means = batch_means(z, group, len(groups))
    known = groups >= 0
    for table, of in ((front.batch_mean, means), (network.batch_latent, z_means)):
        mean = of[known].mean(0)
        of[~known] = mean  # as they will be centred when the student meets them
        table.copy_(torch.from_numpy(mean).expand(n_batch, -1))  # a batch of no cell: the mean
        table[groups[known]] = torch.from_numpy(of[known])
    targets = z - z_means[group]

    grams = np.zeros((N_FOLDS, len(front.mean), len(front.mean)), np.float32)  # the total less one: without that fold
    products = np.zeros((N_FOLDS, len(front.mean), z.shape[1]), np.float32)
    for cells, x in blocks():
        x = x - means[group[cells]]
        for k in range(N_FOLDS):
            rows = fold[cells] == k
            grams[k] += x[rows].T @ x[rows]
            products[k] += x[rows].T @ targets[cells[rows]]
    _fit_factors(front, grams.sum(0), len(z))
    weight, per_fold = _ridge(grams, products, np.bincount(fold, minlength=N_FOLDS), front.loadings.numpy())
    front.weight.copy_(torch.from_numpy(weight))
    del grams, products  # genes × genes per fold is the largest of all arrays here

    guesses = _guesses(lessons, network, per_fold, fold, codes, settings, rng)
    log_probs = None
    if n_labels:
        log_probs = np.concatenate([np.asarray(lesson.log_probs, np.float32) for lesson in lessons])
        x = np.c_[guesses[0], np.ones(len(z), np.float32)]
        penalty = 0.01 * len(x) * np.eye(x.shape[1])
        solved = torch.from_numpy(np.linalg.solve(x.T @ x + penalty, x.T @ np.maximum(log_probs, LEAST_LOG)))
        network.start.copy_(solved[:-1])
        network.start_bias.copy_(solved[-1])
    codes = np.where(codes >= 0, codes, -1)  # the network has one code for all new batches
    _train(network, guesses, codes, z, log_probs, settings)
    _match_spread(network.eval(), guesses[0], codes, z, log_probs)  # last: it measures what was learned
    return network


def _distinct(lessons: Sequence[Lesson]) -> np.ndarray:
    """Batch codes of all cells; new batches of different lessons are different."""
    out, lowest = [], 0
    for lesson in lessons:
        codes = np.where(lesson.batch < 0, lesson.batch + lowest, lesson.batch)
        out.append(codes)
        lowest = min(lowest, int(codes.min()))
    return np.concatenate(out)


def _joined(lessons: Sequence[Lesson]) -> Iterator[tuple[np.ndarray, sp.csr_matrix]]:
    start = 0
    for lesson in lessons:
        for cells, x in lesson.chunks():
            yield cells + start, x
        start += len(lesson.rows)


def _empty(
    lessons: Sequence[Lesson],
    direct: DirectPath,
    sizes: tuple[int, int, int, int],
    normalised: bool,
    settings: FitSettings,
) -> StudentNetwork:
    """A network with its genes and their scale, weights still to be fitted; sizes: cells, n_latent, batches, labels."""
    n_cells, n_latent, n_batch, n_labels = sizes
    n_genes, n_variable = lessons[0].reader.shape[1], len(direct.features)
    share, seen = np.zeros((2, n_genes))
    for _, x in _joined(lessons):
        seen += np.bincount(x.indices[x.data != 0], minlength=len(seen))  # a stored zero was not detected
        share += np.asarray((1.0 / np.maximum(np.asarray(x.sum(1)).ravel(), 1e-12)) @ x).ravel()  # cells count alike
    if normalised:
        share[:] = 1.0  # log-normalised values are not scaled to totals
    n_components = max(min(settings.n_components, n_variable - 1, n_cells - 1), 0)  # eigsh cannot find all
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        network = StudentNetwork(
            n_genes, n_variable, n_components, n_latent, n_batch, n_labels, settings.n_hidden, normalised
        )
    front = network.front
    front.gene_share.copy_(torch.from_numpy(share / max(share.sum(), 1e-12)))
    front.detected.copy_(torch.from_numpy(seen / n_cells))
    for table, of in ((front.variable, direct.features), (front.mean, direct.mean), (front.std, direct.std)):
        table.copy_(of)
    return network


def _ridge(grams: np.ndarray, products: np.ndarray, n: np.ndarray, axes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights on all cells and without each fold, at the penalty with the least error out of fold."""
    gram, product = grams.sum(0), products.sum(0)
    shape = np.eye(len(gram), dtype=np.float32) - np.float32(FREE) * (axes @ axes.T)

    def solve(a: np.ndarray, b: np.ndarray, cells: int, penalty: float) -> np.ndarray:
        a = a + np.float32(penalty * cells) * shape
        return cho_solve(cho_factor(a, overwrite_a=True, check_finite=False), b, check_finite=False)

    errors = []
    for penalty in PENALTIES:  # all folds agree on it, one is enough to choose
        weight = solve(gram - grams[0], product - products[0], int(n[1:].sum()), penalty)
        errors.append(float(np.vdot(weight, grams[0] @ weight) - 2 * np.vdot(weight, products[0])))  # and a constant
    penalty = PENALTIES[int(np.argmin(errors))]
    folds = zip(grams, products, n, strict=True)
    per_fold = np.stack([solve(gram - g, product - p, int(n.sum() - m), penalty) for g, p, m in folds])
    return solve(gram, product, int(n.sum()), penalty), per_fold


def _fit_factors(front: Any, gram: np.ndarray, n: int) -> None:
    """Factor model of the genes from their covariance within batches."""
    k = len(front.variances)
    if not k:
        return
    covariance = gram / n
    values, vectors = eigsh(covariance, k=k, which="LA", v0=np.ones(len(gram)))  # ARPACK would draw its start
    noise = max((np.trace(covariance) - values.sum()) / max(len(gram) - k, 1), 1e-3)  # of the mean axis left out
    front.loadings.copy_(torch.from_numpy(np.ascontiguousarray(vectors)))
    front.variances.copy_(torch.from_numpy(np.maximum(values - noise, 1e-3 * noise)))
    front.noise.fill_(float(noise))


def _guesses(
    lessons: Sequence[Lesson],
    network: StudentNetwork,
    per_fold: np.ndarray,
    fold: np.ndarray,
    codes: np.ndarray,
    settings: FitSettings,
    rng: np.random.Generator,
) -> np.ndarray:
    """Centred linear guesses out of fold, (1 + panels, cells, n_latent): of all genes, and of random halves."""
    front, n, n_genes = network.front, len(fold), len(network.front.gene_share)
    shown = [np.arange(n_genes)]
    for _ in range(settings.n_panels):
        shown.append(np.where(rng.random(n_genes) < rng.uniform(0.25, 0.75), np.arange(n_genes), -1))
    out = np.zeros((len(shown), n, front.weight.shape[1]), np.float32)
    for v, index in enumerate(shown):
        maps = [front.visible_map(index, weight) for weight in per_fold]
        raw = out[v]
        for cells, x in _joined(lessons):
            for k, there in enumerate(maps):
                rows = fold[cells] == k
                raw[cells[rows]] = front.project(x[rows], there)
        for k, there in enumerate(maps):
            rows = fold == k
            raw[rows] -= batch_offsets(codes[rows], there.centres)
    return out


def _train(
    network: StudentNetwork,
    guesses: np.ndarray,
    batch: np.ndarray,
    z: np.ndarray,
    log_probs: np.ndarray | None,
    settings: FitSettings,
) -> None:
    """AdamW on random cells and views; what has the least error on a tenth of the cells is kept, the start at worst."""
    rng = np.random.default_rng(settings.seed + 1)  # the folds were drawn with the seed itself
    device, n = torch.device(settings.device), len(z)
    network.to(device).train()
    tensors = [torch.from_numpy(a).to(device) for a in (guesses, batch, z)]
    probs = None if log_probs is None else torch.from_numpy(log_probs).to(device).exp()
    order = rng.permutation(n)
    held, fit = order[: max(n // 10, 1)], order[max(n // 10, 1) :]
    variance = z.var(0).sum().item()

    def losses(view: np.ndarray, cells: np.ndarray, codes: torch.Tensor) -> dict[str, torch.Tensor]:
        v, c = (torch.from_numpy(a).to(device) for a in (view, cells))
        predicted, logits = network(tensors[0][v, c], codes)
        out = {"residual": (predicted - tensors[2][c]).pow(2).sum(1).mean() / variance}
        if logits is not None and probs is not None:
            out["classifier"] = F.kl_div(logits.log_softmax(1), probs[c], reduction="batchmean")
        return out

    best: dict[str, tuple[float, dict[str, torch.Tensor]]] = {}

    def keep_best() -> None:
        network.eval()
        with torch.no_grad():
            parts = np.array_split(held, -(-len(held) // 4096))
            codes = [torch.from_numpy(batch[p]).to(device) for p in parts]
            found = [losses(np.zeros(len(p), int), p, c) for p, c in zip(parts, codes, strict=True)]
        for name in found[0]:  # the residuals share no weight, each has its own best moment
            error = sum(float(f[name]) * len(p) for f, p in zip(found, parts, strict=True))
            if name not in best or error < best[name][0]:
                state = network.get_submodule(name).state_dict()
                best[name] = error, {k: v.detach().clone() for k, v in state.items()}
        network.train()

    parameters = [p for p in network.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=0.01)
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda t: min((t + 1) / 50, 1.0) * (1 - 0.99 * t / settings.max_steps)
    )
    keep_best()
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        for step in progress_bar(range(settings.max_steps), desc="distilling", show=settings.progress):
            cells = rng.choice(fit, min(settings.batch_size, len(fit)))
            # half of the cells with all genes, half with some missing
            view = rng.integers(1, len(guesses), len(cells)) if len(guesses) > 1 else np.zeros(len(cells), int)
            view[rng.random(len(cells)) < 0.5] = 0
            codes = batch[cells].copy()
            codes[rng.random(len(cells)) < FORGET_BATCH] = -1
            value = torch.stack(list(losses(view, cells, torch.from_numpy(codes).to(device)).values())).sum()
            optimiser.zero_grad(set_to_none=True)
            value.backward()
            optimiser.step()
            rate.step()
            if (step + 1) % CHECK_EVERY == 0 or step + 1 == settings.max_steps:
                keep_best()
    for name, (_, state) in best.items():
        network.get_submodule(name).load_state_dict(state)
    network.to("cpu")


def _match_spread(
    network: StudentNetwork, guess: np.ndarray, batch: np.ndarray, z: np.ndarray, log_probs: np.ndarray | None
) -> None:
    """Measure how far types scatter in each batch: in the student's embedding of guesses out of fold, and in ``z``."""
    types = np.zeros(len(z), np.int64) if log_probs is None else log_probs.argmax(1)
    with torch.no_grad():
        blocks = np.array_split(np.arange(len(z)), -(-len(z) // 4096))
        said = [network(torch.from_numpy(guess[rows]), torch.from_numpy(batch[rows]))[0] for rows in blocks]
        network.spread.fit(torch.cat(said), torch.from_numpy(types), torch.from_numpy(batch), torch.from_numpy(z))
