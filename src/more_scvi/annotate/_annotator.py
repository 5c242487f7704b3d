r"""Labels of cells, from what is solved in closed form and from the trained head.

Before training, :meth:`Annotator.teach` solves experts on the wide input; what they say of the registered cells,
:math:`p_w`, is handed to training as fixed numbers. After training, :meth:`Annotator.finish` solves classifiers on the
finished base and embedding. No loss reads this module: what training learns cannot depend on when answers were asked
for.

The answer is a mixture of the trained head :math:`p_h`, with several modalities averaged with a regression on the
embedding, of the expert, solved again on wide input and linear base together, and of discriminant analyses of base and
embedding, :math:`p_g`; what hangs on the base alone counts as far as held-out labels :math:`t` trust it
(:func:`~more_scvi.annotate._trust.trust_in_base`), and types are believed to be less unequally frequent than
:math:`n_t` labels make them:

.. math:: p \propto \left\{(1 - g) \left[t\, (1 - s)\, p_h + s\, p_w\right] + t\, g\, p_g\right\}
          \frac{n_t + n_0}{n_t}

Shallow cells, of which far less was read than of others, have an expert of their own: on a scale of expression on which
one of their counts is about 1, they look as thinned deep cells do. In batches without labels it says most of them,
:math:`s = 0.8`, and the discriminant analyses nothing, :math:`g = 0`: no labelled cell vouches for how the embedding
places them. A batch is shallow if its cells show less than half as many genes as those of all batches do, a cell of a
batch that the model does not know if it shows less than 0.4 of them.

In batches without labels the answer is weighed by the composition found there (:mod:`more_scvi.annotate._composition`).
"""

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from more_scvi.annotate._closed_form import GAUSSIAN_SHARE, GaussianClassifier, ProbeClassifier
from more_scvi.annotate._completion import fit_experts
from more_scvi.annotate._composition import composition_shift
from more_scvi.annotate._experts import UNSEEN_SHARE, WideClassifier
from more_scvi.annotate._niche import niche_helps
from more_scvi.annotate._self_training import needs_self_training, self_train
from more_scvi.annotate._statistics import NewTypes
from more_scvi.annotate._trust import Placed, trust_in_base
from more_scvi.base._arrays import Arrays
from more_scvi.base._layout import Layout

BELIEF = 5.0
"""Cells of each type that are believed in beside the labelled ones when it comes to how frequent types are. Source:
record tuning/few_labels.md."""

CERTAINTY = 0.9
"""Probability from which what an expert says of a cell counts as its type when batches are compared. Source: plain
value, not tuned."""

BLOCK = 4096


@dataclass(frozen=True, eq=False)
class Lessons:
    """What labels teach before the first step.

    Attributes
    ----------
    labels
        Visible labels and those that self-training added, (cells,) codes; -1 = none. Those of cells that do not train
        are there to validate on.
    types
        Those of training cells, filled up with what experts are nearly certain of.
    guess, share
        What experts say of each cell, log-probabilities (cells, n_labels), and how much that counts, (cells, 1).
        Without experts the share is 0.
    keeps_niche
        Whether what surrounds a cell helps to tell labels apart.
    """

    labels: np.ndarray
    types: np.ndarray
    guess: np.ndarray
    share: np.ndarray
    keeps_niche: bool


class Annotator(nn.Module):
    """Everything that annotates beside the trained head; buffers only.

    Parameters
    ----------
    layout
        Columns of the modalities.
    n_latent, n_labels
        Width of the embedding and number of classes.
    n_wide
        Width of the wide input; 0: no experts.
    patterns
        bool (patterns, modalities): combinations of measured modalities that occur.
    niche
        Columns of the niche in the base of the first modality, None: the data are not spatial.
    n_new
        Types that came with queries.
    n_domains
        Number of batches × measured modalities that occur.
    depth_counts
        Whether cells can be shallow; then they have experts of their own.
    """

    composition: Tensor
    taught: Tensor
    prior: Tensor
    trust: Tensor

    def __init__(
        self,
        layout: Layout,
        n_latent: int,
        n_labels: int,
        n_wide: int,
        patterns: np.ndarray,
        niche: slice | None,
        n_new: int = 0,
        n_domains: int = 1,
        depth_counts: bool = False,
    ):
        super().__init__()
        self.register_buffer("composition", torch.zeros(n_domains, n_labels))
        self.register_buffer("taught", torch.zeros(n_domains, dtype=torch.bool))  # of batches with a label
        self.register_buffer("prior", torch.zeros(n_labels))
        self.register_buffer("trust", torch.ones(len(patterns)))  # in the base, by the expert that stands beside it
        self.layout, self.n_labels, self.niche = layout, n_labels, niche
        self.experts = WideClassifier(n_wide + layout.width, n_labels, patterns) if n_wide else None
        self.shallow_experts = WideClassifier(n_wide, n_labels, patterns) if n_wide and depth_counts else None
        self.probe = ProbeClassifier(n_latent, n_labels) if len(layout.modalities) > 1 else None
        self.gaussian = GaussianClassifier(n_latent, n_labels, patterns)
        of_base = (GaussianClassifier(layout.width, n_labels, pattern[None]) for pattern in patterns)
        self.of_base = nn.ModuleList(of_base)  # its columns are those of modalities, so that each pattern has its own
        self.types = NewTypes(n_latent, n_labels, n_new)

    def teach(
        self,
        arrays: Arrays,
        deep: Arrays,
        thin: Arrays | None,
        visible: np.ndarray,
        cells: np.ndarray,
        seed: int,
    ) -> Lessons:
        """Solve what is solved before training, anew.

        Parameters
        ----------
        arrays
            All registered cells.
        deep, thin
            The same with the wide input that deep cells have, and that of shallow ones; None: no cell can be shallow.
        visible
            Codes of their visible labels, (cells,); -1 = not labelled.
        cells
            Positions of the training cells: labels of others are not looked at.
        seed
            Seed.
        """
        labels, keeps = np.full(len(arrays), -1, dtype=np.int64), True
        labels[cells] = visible[cells]
        counts = np.bincount(labels[labels >= 0], minlength=self.n_labels)
        self.prior.copy_(torch.from_numpy(_log_share(_believed(counts)) - _log_share(counts)))
        of_taught = np.isin(arrays.batch, arrays.batch[labels >= 0])
        self.taught.zero_()
        self.taught[np.unique(arrays.domain[of_taught])] = True
        if self.niche is not None:
            own = arrays.base[:, self.layout.columns(self.layout.modalities[0])]
            keeps = niche_helps(own, self.niche, arrays.batch, labels)
            if not keeps:
                arrays, deep = (replace(x, wide=self._without_niche(x.wide)) for x in (arrays, deep))
                thin = None if thin is None else replace(thin, wide=self._without_niche(thin.wide))
        if self.experts is None:
            return Lessons(visible, labels, *_silent(len(labels), self.n_labels), keeps)
        if len(self.experts.patterns) == 1 and needs_self_training(labels[cells]):
            parts = (deep.wide[cells].astype(np.float32), deep.base[cells], labels[cells], deep.batch[cells])
            labels[cells] = self_train(*parts, seed)
        fit_experts(self.experts, self.layout, deep, labels, seed, with_base=False)
        if self.shallow_experts is not None and thin is not None:
            fit_experts(self.shallow_experts, self.layout, thin, labels, seed, with_base=False)
        guess, share = self.say(arrays)
        sure = (guess.max(1) >= math.log(CERTAINTY)) & (share[:, 0] > 0)
        types = np.where(labels >= 0, labels, np.where(sure, guess.argmax(1), -1))
        return Lessons(np.where(labels >= 0, labels, visible), types, guess, share, keeps)

    @torch.inference_mode()
    def say(self, arrays: Arrays) -> tuple[np.ndarray, np.ndarray]:
        """What the experts say of cells: log-probabilities (cells, n_labels) float32, and their share (cells, 1)."""
        device, guess, share = self.gaussian.bias.device, *_silent(len(arrays), self.n_labels)
        for start in range(0, len(arrays), BLOCK):
            rows = slice(start, start + BLOCK)
            parts = (arrays.wide, arrays.base, arrays.present, arrays.domain, arrays.shallow)
            wide, base, present, domain, shallow = (torch.from_numpy(x[rows]).to(device) for x in parts)
            heard = self.hear(wide, base, present, shallow, self.vouched(domain, shallow))
            guess[rows], share[rows] = (x.cpu().numpy() for x in heard)
        return guess, share

    def hear(
        self, wide: Tensor, base: Tensor, present: Tensor, shallow: Tensor, vouched: Tensor
    ) -> tuple[Tensor, Tensor]:
        """As :meth:`say`, of tensors (cells, n_wide), (cells, width), bool (cells, modalities), bool (cells,) each.

        ``vouched``: from :meth:`vouched`.
        """
        if self.experts is None:
            return wide.new_zeros((len(wide), self.n_labels), dtype=torch.float32), wide.new_zeros(
                (len(wide), 1)
            ).float()
        guess, share = self.experts(torch.cat([wide.float(), base], 1), present)
        if self.shallow_experts is not None and shallow.any():
            own = self.shallow_experts(wide.float(), present)
            guess, share = (torch.where(shallow[:, None], x, y) for x, y in zip(own, (guess, share), strict=True))
        return guess, torch.where(vouched[:, None] | (share == 0), share, UNSEEN_SHARE)

    def vouched(self, domain: Tensor, shallow: Tensor) -> Tensor:
        """Cells for which labelled ones vouch: those that are not shallow, and all of batches with a label in training.

        Codes of batch × measured modalities and bool, (cells,) each -> bool (cells,).
        """
        return ~shallow | ((domain >= 0) & self.taught[domain.clamp_min(0)])

    def finish(
        self,
        arrays: Arrays,
        z: np.ndarray,
        cells: np.ndarray,
        given: np.ndarray,
        lessons: Lessons,
        placed: Placed,
        seed: int,
    ) -> None:
        """Solve the classifiers on what training left.

        Parameters
        ----------
        arrays
            All registered cells, the base as it is after training.
        z, cells
            Embedding of training cells with a label, (labelled cells, n_latent), and their positions.
        given
            Whether that label was given rather than found by self-training, bool (labelled cells,).
        lessons
            From :meth:`teach`.
        placed
            Base by types.
        seed
            Seed.
        """
        labels = np.full(len(arrays), -1, dtype=np.int64)
        labels[cells] = lessons.labels[cells]
        if self.niche is not None and not lessons.keeps_niche:
            base = arrays.base.copy()
            base[:, self.niche] = 0.0  # of the first modality, whose columns come first
            arrays = replace(arrays, base=base, wide=self._without_niche(arrays.wide))
            placed = partial(_without_columns, placed, self.niche)
        deep = np.where(arrays.shallow, -1, labels)  # the wide input of shallow cells is another
        if self.experts is not None and (deep >= 0).any():
            fit_experts(self.experts, self.layout, arrays, deep, seed, with_base=True)
        if self.probe is not None:
            self.probe.fit(z, labels[cells])
        self.gaussian.fit(z, labels[cells], arrays.present[cells])
        for own in self._of_base():
            rows = cells[(arrays.present[cells] == own.patterns.cpu().numpy()).all(1)]
            own.fit(arrays.base[rows], labels[rows], arrays.present[rows])
        self._learn_trust(arrays, cells[given & (deep[cells] >= 0)], labels, placed, seed)
        self.types.reference.reset()
        self.types.reference.add(z, labels[cells])

    def _learn_trust(self, arrays: Arrays, cells: np.ndarray, labels: np.ndarray, placed: Placed, seed: int) -> None:
        """Ask labels of ``cells``, held out in turn, how far the base is to be trusted in each pattern."""
        self.trust.fill_(1.0)
        if self.experts is None:
            return
        for at, pattern in enumerate(self.experts.patterns.cpu().numpy()):
            rows = cells[(arrays.present[cells] == pattern).all(1)]
            self.trust[at] = trust_in_base(arrays, rows, labels, placed, seed)

    def forward(
        self, head: Tensor, z: Tensor, base: Tensor, guess: Tensor, share: Tensor, present: Tensor, vouched: Tensor
    ) -> Tensor:
        """Log-probabilities of the answer, (cells, n_labels).

        Parameters
        ----------
        head
            Log-probabilities of the trained head, (cells, n_labels).
        z
            Embedding that it read, (cells, n_latent).
        base
            Linear base, (cells, width).
        guess, share
            From :meth:`say`.
        present
            bool (cells, modalities).
        vouched
            From :meth:`vouched`.
        """
        head, trust = self._probed(head, z), self._trust(present)
        third, speaks = self.discriminant(base, z, present)
        silent = ~vouched & (share[:, 0] > 0)  # where no expert answers, the others are all there is
        others = share + trust * (1.0 - share)
        own, rest = trust * GAUSSIAN_SHARE * (speaks & ~silent)[:, None], others * (1.0 - GAUSSIAN_SHARE)
        out = mix(mix(head, guess, share / others), third, own / (own + rest))
        return (out + self.prior).log_softmax(1)

    def voices(self, head: Tensor, z: Tensor, base: Tensor, guess: Tensor, share: Tensor, present: Tensor) -> Tensor:
        """What each classifier says alone, (cells, 3, n_labels) log-probabilities; the head speaks for silent ones.

        Parameters as of :meth:`forward`.
        """
        head = self._probed(head, z)
        third, speaks = self.discriminant(base, z, present)
        third = torch.where(speaks[:, None], third, head)
        return (torch.stack([head, torch.where(share > 0, guess, head), third], 1) + self.prior).log_softmax(2)

    def discriminant(self, base: Tensor, z: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Mean of the discriminant analyses of base and embedding, (cells, n_labels), and whom it serves, (cells,).

        Log-probabilities; those of cells that it does not serve mean nothing.
        """
        of_base, serves = z.new_zeros(len(z), self.n_labels), self.gaussian.serves(present)
        by_pattern = torch.zeros_like(serves)
        for own in self._of_base():
            rows = own.serves(present)
            of_base[rows] = own(base[rows])
            by_pattern |= rows
        both = self.gaussian(z).log_softmax(1), of_base.log_softmax(1)
        serves = serves & by_pattern
        return torch.where(serves[:, None], torch.logaddexp(*both) - math.log(2.0), 0.0), serves

    def _trust(self, present: Tensor) -> Tensor:
        """How far the base of cells is to be trusted, (cells, 1); only where there is an expert to trust more."""
        if self.experts is None:
            return self.trust.new_ones((len(present), 1))
        expert = self.experts.choose(present)
        return torch.where(expert >= 0, self.trust[expert.clamp_min(0)], 1.0)[:, None]

    def _of_base(self) -> list[GaussianClassifier]:
        return cast(list[GaussianClassifier], list(self.of_base))

    def weigh(
        self, answer: np.ndarray, voices: np.ndarray, domain: np.ndarray, shallow: np.ndarray, counts: np.ndarray
    ) -> None:
        """Learn what batches without labels hold.

        Parameters
        ----------
        answer, voices
            Of their cells, as :meth:`forward` and :meth:`voices` give them.
        domain, shallow
            Codes of batch × measured modalities and bool, (cells,) each. In shallow batches the expert's word counts,
            which is most of the answer: head and discriminant analyses do not know such cells.
        counts
            Labelled cells of each type, (n_labels,).
        """
        for code in np.unique(domain):
            rows = domain == code
            said = voices[rows].swapaxes(0, 1)
            if (said == said[:1]).all():  # the head alone speaks: nobody can agree with it
                continue
            shift = composition_shift(list(said), _believed(counts), answer[rows] if shallow[rows].any() else None)
            self.composition[int(code)] = torch.from_numpy(shift).to(self.composition)

    def in_batch(self, answer: Tensor, domain: Tensor) -> Tensor:
        """The answer, (cells, n_labels), weighed by what their batches hold; ``domain``: codes, < 0: not known."""
        shift = self.composition[domain.clamp_min(0)] * (domain >= 0)[:, None]
        return torch.where(shift.any(1, keepdim=True), (answer + shift).log_softmax(1), answer)  # others to the bit

    def _probed(self, head: Tensor, z: Tensor) -> Tensor:
        """The trained head's log-probabilities, averaged with the regression on the embedding if there is one."""
        if self.probe is None or not self.probe.is_fitted:
            return head
        return torch.logaddexp(head, self.probe(z).log_softmax(1)) - math.log(2.0)  # mean of probabilities

    def _without_niche(self, wide: np.ndarray) -> np.ndarray:
        """Wide input in which the niche says nothing; it stands last among the columns of the first modality."""
        assert self.niche is not None
        wide, stop = wide.copy(), self.layout.wide_columns(self.layout.modalities[0]).stop  # others read it
        wide[:, stop - (self.niche.stop - self.niche.start) : stop] = 0.0
        return wide


def mix(head: Tensor, guess: Tensor, share: Tensor) -> Tensor:
    """Mixture of two classifiers' log-probabilities, (cells, n_labels), of which the second has a ``share``."""
    return torch.logaddexp(head + torch.log1p(-share), guess + share.log())  # of share 0 the log, -inf, adds nothing


def _without_columns(placed: Placed, columns: slice, cells: np.ndarray, types: np.ndarray) -> np.ndarray:
    base = placed(cells, types)
    base[:, columns] = 0.0
    return base


def _believed(counts: np.ndarray) -> np.ndarray:
    """Cells of each type, (types,), of which answers follow how frequent types are, given labelled ones of each."""
    return np.where(counts > 0, counts + BELIEF, 0.0)


def _log_share(counts: np.ndarray) -> np.ndarray:
    """Logarithms of shares, (types,); 0 for types without cells."""
    return np.log(np.where(counts > 0, counts / max(counts.sum(), 1), 1.0))


def _silent(n_cells: int, n_labels: int) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros((n_cells, n_labels), np.float32), np.zeros((n_cells, 1), np.float32)
