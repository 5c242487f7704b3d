r"""What ``train`` learns of a query: the refinement of its new batches, if it helps cells that were held out.

Beside that, what new batches without labels hold (:mod:`more_scvi.annotate._composition`). Everything else is frozen,
so cells pass adapters and fusion once; what is left are a few numbers per batch. They are fitted on all cells at a
time, by the distance of the types' centres in a new batch from those of the reference,

.. math:: D = \frac{\sum_t w_t \lVert m_t - \mu_t \rVert^2}{\sigma^2 \sum_t w_t},\qquad w_t = \frac{n_t}{n_t + \lambda},

with :math:`m_t` the mean of the :math:`n_t` cells that are labelled :math:`t` or surely predicted so, :math:`\mu_t` and
:math:`\sigma^2` mean and variance in the reference. Centres, unlike cells, gain nothing from being drawn together. The
spread of types is left as it is: on development sets, matching it to the reference's cost neighbours of the right type.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from more_scvi.annotate._annotator import CERTAINTY
from more_scvi.data._arguments import listing
from more_scvi.model._fit import weigh_compositions
from more_scvi.model._forward import forward, registered
from more_scvi.module._module import MoREModule

if TYPE_CHECKING:
    from more_scvi.model._more import MoRE

logger = logging.getLogger("more_scvi")

N_EPOCHS, LEARNING_RATE = 100, 0.02
"""Steps, each on all cells, and their size. Source: plain value, not tuned."""

FEW_CELLS = 10
"""A type with as many cells in a batch counts half. Source: plain value, not tuned."""

PENALTY = 1.0
"""Price of the squared size of a step, relative to the variance of the embedding, as in joint training. Source: plain
value, not tuned."""

HELD_OUT, FEWEST_LABELS = 0.2, 20
"""Share of the cells that is held out, and labels among them from which on these decide. Source: plain value, not
tuned."""

LEAST_CELLS = 3
"""Cells of a type in a batch from which on their mean is looked at. Source: plain value, not tuned."""

LEAST_GAIN = 0.1
"""Share by which the distance of held-out centres must fall; what gains less is noise. Source: plain value, not
tuned."""

LEAST_LIKELIHOOD = 0.01
"""The same of the mean log-likelihood of held-out labels. Source: plain value, not tuned."""


def count_labelled(model: MoRE, sign: int = 1) -> None:
    """Add the labelled registered cells to the sums that types are told by, or take them away."""
    annotator, data = model.module.annotator, registered(model, "load_query_data")
    labels = model.schema.label_codes(data)
    if annotator is None or not (labels >= 0).any():
        return
    rows = np.flatnonzero(labels >= 0)
    z = forward(model.module, model.reader.arrays(data), lambda out: out["z_labels"], rows)
    annotator.types.added.add(z, labels[rows], sign)


def forget_compositions(model: MoRE, labelled: bool) -> None:
    """Weigh the query's batches no longer: those with a label, which says more, or the new ones."""
    annotator, data = model.module.annotator, registered(model, "load_query_data")
    if annotator is None:
        return
    arrays, labels = model.reader.arrays(data), model.schema.label_codes(data)
    which = arrays.domain >= model.schema.n_trained["domains"]
    if labelled:
        which = (arrays.batch < 0) & (arrays.domain >= 0) & np.isin(arrays.batch, arrays.batch[labels >= 0])
    annotator.composition[np.unique(arrays.domain[which])] = 0.0


def weigh_new_batches(model: MoRE) -> None:
    """Learn what the query's new batches hold if none of their cells is labelled; cells of new types aside."""
    module, data = model.module, registered(model, "train")
    if module.annotator is None:
        return
    forget_compositions(model, labelled=False)
    arrays, labels = model.reader.arrays(data), model.schema.label_codes(data)
    lone = arrays.domain >= model.schema.n_trained["domains"]
    lone &= ~np.isin(arrays.batch, arrays.batch[labels >= 0])
    lone &= forward(module, arrays, lambda out: out["log_probs"].argmax(1)) < module.n_labels
    weigh_compositions(module, arrays, np.flatnonzero(lone), module.annotator.types.reference.count.numpy())


def fit_new_batches(
    model: MoRE, sets: tuple[np.ndarray, np.ndarray, np.ndarray], n_epochs: int = N_EPOCHS, lr: float = LEARNING_RATE
) -> dict[str, pd.DataFrame]:
    """Fit the refinement of the query's new batches; return the curves.

    Parameters
    ----------
    model
        A reference with a query.
    sets
        Training, validation and test cells. Without validation cells a fifth of the training cells is held out.
    n_epochs, lr
        Steps and learning rate.
    """
    module, schema = model.module, model.schema
    arrays = model.reader.arrays(registered(model, "train"))
    first = schema.n_trained["domains"]
    new = np.unique(arrays.domain[arrays.domain >= first])
    if module.annotator is None or not module.refinement.n_steps or not len(new):
        why = "it has no new batch" if not len(new) else "the reference has no labels, or was made without refinement"
        logger.info("No refinement is fitted to the query: %s.", why)
        return {}
    train, held = sets[0], sets[1]
    if not len(held):
        order = np.random.default_rng(model.seed).permutation(train)
        held, train = np.split(order, [int(np.ceil(HELD_OUT * len(order)))])
    labels = schema.label_codes(registered(model, "train"))
    p = forward(module, arrays, lambda out: out["log_probs"].exp())
    types = np.where(labels >= 0, labels, np.where(p.max(1) >= CERTAINTY, p.argmax(1), -1))
    types = np.where(types < module.n_labels, types, -1)
    aims = _Aims(module, types, arrays.domain, first)
    adapted = torch.from_numpy(forward(module, arrays, lambda out: out["adapted"]))
    domain = torch.from_numpy(arrays.domain)
    curves: dict[str, list[float]] = {"distance_train": [], "distance_validation": []}
    count_labelled(model, -1)

    before = {k: v.clone() for k, v in module.refinement.state_dict().items()}
    judged = held[(types[held] >= 0) & (labels[held] >= 0)]
    by_labels = len(judged) >= FEWEST_LABELS

    def likelihood() -> float:
        said = forward(module, arrays, lambda out: out["log_probs"], judged)
        return float(np.maximum(said[np.arange(len(judged)), labels[judged]], np.log(1e-4)).mean())

    start = likelihood() if by_labels else 0.0
    for weights in _descend(module, adapted, domain, first, train, aims, n_epochs, lr):
        module.refinement.load_state_dict(weights)
        with torch.no_grad():
            z = adapted + module.refinement(adapted, domain)[0]
            for name, rows in (("train", train), ("validation", held)):
                curves[f"distance_{name}"].append(float(aims.distance(z, rows)))
    distances = curves["distance_validation"]
    helps = distances[-1] < (1 - LEAST_GAIN) * distances[0]
    if by_labels:
        curves["label_likelihood_validation"] = [start, likelihood()]
        helps = curves["label_likelihood_validation"][1] > start + LEAST_LIKELIHOOD
    numbers = "; ".join(f"{k} {v[0]:.4g} before, {v[-1]:.4g} after" for k, v in curves.items() if "validation" in k)
    names = listing(dict.fromkeys(schema.domains[code][0] for code in new))
    logger.info(
        "Refinement of the new batches %s, on %d held-out cells: %s: %s.",
        names, len(held), numbers, "kept" if helps else "not kept, as it helps too little",
    )  # fmt: skip
    if not helps:
        module.refinement.load_state_dict(before)

    count_labelled(model)
    return {k: pd.DataFrame({k: v}, index=pd.RangeIndex(len(v), name="epoch")) for k, v in curves.items()}


class _Aims:
    """Where the types of new domains should be: at the centres of the reference.

    ``types``: codes, (cells,), -1 = not sure; ``domain``: codes, (cells,); ``first``: the first new one.
    """

    def __init__(self, module: MoREModule, types: np.ndarray, domain: np.ndarray, first: int):
        assert module.annotator is not None
        known = module.annotator.types.reference
        counted = known.count.numpy() > 0
        usable = (types >= 0) & (domain >= first) & counted[types]
        self.group = np.where(usable, (domain - first) * module.n_labels + types, -1)
        self.centres, self.n_labels = known.centres.float(), module.n_labels
        self.variance = float(known.covariance().trace())

    def distance(self, z: Tensor, rows: np.ndarray) -> Tensor:
        """Weighted mean squared distance of the centres of ``rows``, in units of the variance within types."""
        rows = rows[self.group[rows] >= 0]
        names, code, n = np.unique(self.group[rows], return_inverse=True, return_counts=True)
        if not len(rows):
            return z.sum() * 0.0
        counts = torch.from_numpy(n).to(z)
        at = torch.from_numpy(code)
        mean = z.new_zeros(len(names), z.shape[1]).index_add(0, at, z[torch.from_numpy(rows)]) / counts[:, None]
        apart = (mean - self.centres[torch.from_numpy(names % self.n_labels)]).square().sum(1)
        weight = torch.where(counts >= LEAST_CELLS, counts / (counts + FEW_CELLS), 0.0)
        return (weight * apart).sum() / weight.sum().clamp_min(1e-12) / self.variance


def _descend(
    module: MoREModule, adapted: Tensor, domain: Tensor, first: int, train: np.ndarray, aims: _Aims, n: int, lr: float
) -> Any:
    """Weights of the refinement before the first step and after each."""
    weights = {k: v.detach().clone() for k, v in module.refinement.state_dict().items()}
    rows = {k: v[first:].clone().requires_grad_() for k, v in weights.items() if k.startswith("embedding.")}
    leaves = dict(rows)
    if not any(weights[k][:first].any() for k in rows):  # of one batch: no step was learned that could be shared
        leaves |= {k: v.clone().requires_grad_() for k, v in weights.items() if k not in rows}

    def state() -> dict[str, Tensor]:
        return weights | leaves | {k: torch.cat([weights[k][:first], v]) for k, v in rows.items()}

    yield {k: v.detach() for k, v in state().items()}
    optimiser = torch.optim.Adam(leaves.values(), lr=lr)
    mine, theirs = adapted[torch.from_numpy(train)], domain[torch.from_numpy(train)]
    z = torch.zeros_like(adapted)
    spread = mine.square().sum(1).mean().clamp_min(1e-8)
    for _ in range(n):
        optimiser.zero_grad()
        offset, sizes = torch.func.functional_call(module.refinement, state(), (mine, theirs))
        loss = aims.distance(z.index_add(0, torch.from_numpy(train), mine + offset), train)
        (loss + PENALTY * torch.stack(sizes).sum() / spread).backward()
        optimiser.step()
        yield {k: v.detach().clone() for k, v in state().items()}
