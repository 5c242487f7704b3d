"""All checks: of the embedding, of labels, of the training curves, of modalities, of the data."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import chi2_contingency
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.neighbors import NearestNeighbors

from more_scvi.diagnosis._evidence import Evidence
from more_scvi.diagnosis._groups import N_NEIGHBORS, SHARED, groups_dissolve
from more_scvi.diagnosis._result import Check, Rule
from more_scvi.metrics._mixing import cilisi
from more_scvi.metrics._structure import effective_dimension, structure

MIN_MIXING = 0.35
"""Of mixing within types. 0.29 is PCA of four PBMC batches without any integration; trained models reach 0.5 to 1."""

MIN_MIXING_UNTYPED = 0.25
"""Of the best-mixed quarter of the cells, where no types are known; batches of partly other types stay above 0.5."""

MIN_STRUCTURE = 0.6
"""Of the rank correlation of distances within types. Trained models keep 0.8 to 1; collapsed types reach 0.2 to 0.4."""


def batches_separate(evidence: Evidence) -> Check:
    """Mixing of batches where they share a type (:func:`more_scvi.metrics.cilisi`).

    Without types: mixing of the best-mixed quarter of the cells. Batches may hold different types, but hardly none in
    common.
    """
    rule = Rule("batches_separate", MIN_MIXING, "above")
    z, batches, types = evidence.z, evidence.batches, evidence.types
    if len(np.unique(batches)) < 2:
        return rule.not_checked("There is one batch.", "If not, give batch_key at setup.")
    if types is None:
        value = _best_mixed(z, batches)
        return Rule(rule.check, MIN_MIXING_UNTYPED, "above").judge(
            value,
            f"The best-mixed quarter of the cells reaches {value:.2f} of the mixing that batch sizes allow.",
            "Batches stay apart, or share no type. Raise MoRE(strength=...) (default 1), so that clusters must hold"
            " cells of all batches and are aligned more; model.strength_curve() shows what that costs. Or give"
            " labels_key at setup: types stand in for clusters, and labels of a few cells are enough.",
        )
    per_type = {str(t): cilisi(z[types == t], types[types == t], batches[types == t]) for t in np.unique(types)}
    per_type = {t: value for t, value in per_type.items() if np.isfinite(value)}
    if not per_type:
        message = "No type has ten cells in each of two batches, so there is nothing to mix."
        return rule.not_checked(message, "See batch_and_type_confounded.")
    value, worst = float(np.mean(list(per_type.values()))), min(per_type, key=per_type.__getitem__)
    return rule.judge(
        value,
        f"Within types, batches reach {value:.2f} of the mixing that their sizes allow ({evidence.source}); least"
        f" {str(worst)!r}: {per_type[worst]:.2f}.",
        "Train longer, or raise MoRE(strength=...) (default 1; for the alignment alone,"
        " train(loss_weights={'align_batch': ...})) and MoRE(n_refinement_steps=...) (default 2; 0 switches refinement"
        " off). Further nuisance columns go into categorical_covariate_keys.",
    )


def types_collapse(evidence: Evidence) -> Check:
    """Agreement of distances within types and batches with those of the data (:func:`more_scvi.metrics.structure`).

    Those of the data are taken in the direct view. Without types: within batches.
    """
    rule = Rule("types_collapse", MIN_STRUCTURE, "above")
    types = np.full(len(evidence.z), "all cells") if evidence.types is None else evidence.types
    value = structure(evidence.z, evidence.direct, types, evidence.domains)
    if not np.isfinite(value):
        return rule.not_checked("No type has ten cells in a batch.")
    used, given = (effective_dimension(x, types, evidence.domains) for x in (evidence.z, evidence.direct))
    directions = f"; they use {used:.0f} directions of {given:.0f}" if np.isfinite(used) else ""
    return rule.judge(
        value,
        f"Distances within types and batches correlate {value:.2f} with those of the data{directions}.",
        "Raise train(loss_weights={'keep': ...}) (default 20); lower 'variance', 'contrast' (0.1 each) and 'classify'"
        " (1), plan_kwargs={'lr': ...} or max_epochs.",
    )


def _best_mixed(z: NDArray, batches: NDArray, n_neighbors: int = 30) -> float:
    """Upper quartile over cells of LISI, scaled as in :func:`more_scvi.metrics.cilisi` with all cells as one type."""
    codes = np.unique(batches, return_inverse=True)[1]
    k = min(n_neighbors, len(z) - 1)
    near = codes[NearestNeighbors(n_neighbors=k).fit(z).kneighbors(return_distance=False)]
    shares = np.stack([(near == code).mean(1) for code in range(codes.max() + 1)], 1)
    expected = 1.0 / np.square(np.bincount(codes) / len(codes)).sum()
    return float(np.quantile((1.0 / np.square(shares).sum(1) - 1.0) / (expected - 1.0), 0.75))


MIN_RARE = 5

MIN_RECALL = 0.5
"""Of the rarest kind of type: most of its cells lie among cells of other types below it."""


def rare_types_lost(evidence: Evidence) -> Check:
    """Recall of rare types by their neighbours, of the worst one.

    Every labelled cell is named by its 15 nearest labelled cells, itself left out; each vote counts one over the number
    of cells of its type, so that a rare type is not outvoted where it has neighbours at all. Rare: at least 5 labelled
    cells, but fewer than half of an even share.

    Optimistic, if less so than the trained classifier: the embedding was trained with these labels, and long
    training gathers even cells that were labelled at random. :func:`overfitting` watches over that.
    """
    rule = Rule("rare_types_lost", MIN_RECALL, "above")
    labelled = evidence.labels != ""
    types, counts = np.unique(evidence.labels[labelled], return_counts=True)
    rare = (counts >= MIN_RARE) & (counts < counts.sum() / (2 * max(len(types), 1)))
    if not rare.any():
        if len(types):
            return rule.not_checked("No type is rare among the labelled cells.")
        return rule.not_checked("No cell has a visible label.", "Give labels_key at setup, or diagnose(labels=...).")
    recall = _recall(evidence.z[labelled], evidence.labels[labelled], types, counts)
    lost = [t for t in np.flatnonzero(rare) if recall[t] < MIN_RECALL]
    worst = np.flatnonzero(rare)[recall[rare].argmin()]
    common = np.flatnonzero(~rare & (counts >= MIN_RARE))
    others = f"; frequent types {recall[common].mean():.2f}" if len(common) else ""
    also = f"; {len(lost)} of {rare.sum()} rare types are below the limit" if len(lost) > 1 else ""
    return rule.judge(
        float(recall[worst]),
        f"Neighbours recover {recall[worst]:.0%} of the {counts[worst]} cells of {str(types[worst])!r}, the worst rare"
        f" type{also}{others}.",
        "Check these labels first. Then raise MoRE(n_variable=..., n_components=...), so that their genes are read, or"
        " train(loss_weights={'contrast': ..., 'keep': ...}); label more of these cells, or join the type with its"
        " parent.",
    )


def _recall(z: NDArray, labels: NDArray, types: NDArray, counts: NDArray) -> NDArray:
    """Share of the cells of each type that their neighbours name rightly, (types,)."""
    code = np.searchsorted(types, labels)
    k = min(N_NEIGHBORS, len(z) - 1)
    near = code[NearestNeighbors(n_neighbors=k).fit(z).kneighbors(return_distance=False)]
    votes = np.stack([(near == t).sum(1) / counts[t] for t in range(len(types))], 1)
    own = np.arange(len(z)), code
    votes[own] *= counts[code] / np.maximum(counts[code] - 1, 1)  # the cell itself cannot vote
    right = votes.argmax(1) == code
    return np.array([right[code == t].mean() for t in range(len(types))])


CURVE = "loss_classify"
MIN_EPOCHS = 5

MAX_LEFT = 0.5
"""Of the training loss that is left, in units of chance. Default training leaves less than 0.2."""

MAX_LOST = 0.2
"""Of the rise of the validation loss, in units of chance. Models that annotate well lose up to 0.14: they grow too sure
of themselves before they grow wrong. Labels half of which are wrong, learned by heart, lose 0.35 and more."""


def labels_not_learned(evidence: Evidence) -> Check:
    """Classification loss of the training cells at the end, in units of chance.

    Chance is the loss of a prediction that only knows how frequent the types are. The mean over the last tenth of the
    epochs is taken. Of several modalities, the curve holds cells seen by some of them, too.
    """
    rule = Rule("labels_not_learned", MAX_LEFT, "below")
    chance = evidence.chance
    curve = evidence.history.get(f"{CURVE}_train")
    if curve is None or not len(curve) or chance == 0:
        return _no_curve(rule, curve is None)
    losses = curve.iloc[:, 0].to_numpy(float)
    last = float(losses[-max(1, len(losses) // 10) :].mean())
    return rule.judge(
        last / chance,
        f"The classifier's loss on training cells ends at {last:.2f} after {len(losses)} epochs (chance:"
        f" {chance:.2f}).",
        "Train longer: raise max_epochs, or leave it out for the default; lower train(batch_size=...) if there are few"
        " cells. If that does not help, the labels contradict the data.",
    )


def overfitting(evidence: Evidence) -> Check:
    """Rise of the classification loss of validation cells while that of training cells falls.

    The rise from the best epoch to the last (means over a tenth of the epochs), in units of chance. Other terms are not
    read: their validation curves are too noisy, or do not overfit.
    """
    rule = Rule("overfitting", MAX_LOST, "below")
    chance = evidence.chance
    how = "Train with train(train_size=0.9): the other cells then validate."
    train, validation = (evidence.history.get(f"{CURVE}_{kind}") for kind in ("train", "validation"))
    if train is None or chance == 0:
        return _no_curve(rule, train is None)
    if validation is None:
        return rule.not_checked("No cells were held out for validation.", how)
    epochs = train.index.intersection(validation.index)
    if len(epochs) < MIN_EPOCHS:
        return rule.not_checked(f"{len(epochs)} epochs were validated; {MIN_EPOCHS} are needed to see a trend.", how)
    window = max(1, len(epochs) // 10)
    mean = np.full(window, 1 / window)
    fitted, held = (np.convolve(x.loc[epochs].iloc[:, 0].to_numpy(float), mean, "valid") for x in (train, validation))
    best = int(held.argmin())
    value = float(held[-1] - held[best]) / chance if fitted[-1] < fitted[best] else 0.0  # both rising is not it
    return rule.judge(
        value,
        f"The classifier's loss on validation cells ends at {held[-1]:.2f}; its best was {held[best]:.2f} around epoch"
        f" {epochs[best] + 1} of {epochs[-1] + 1} (chance: {chance:.2f}).",
        "Stop earlier: train(early_stopping=True), or a lower max_epochs. Check the labels for errors; raise"
        " MoRE(dropout=...) or plan_kwargs={'weight_decay': ...}.",
    )


def _no_curve(rule: Rule, missing: bool) -> Check:
    """Where the loss of the classifier says nothing."""
    if not missing:
        return rule.not_checked("Fewer than two types are visible.")
    how = "Give labels_key at setup; keep the weight of 'classify'."
    return rule.not_checked("There is no curve of the classification loss.", how)


MIN_PAIRED = 50
N_COORDINATES = 5

MIN_EFFECT = 0.002
"""Of the share of the embedding that hangs on a modality."""

MIN_EXPLAINED = 0.02
"""Of the share of a modality that the others predict; shuffled or noisy modalities reach 0 at most."""

ONE = "The model has one modality."


def modality_ignored(evidence: Evidence) -> Check:
    r"""Share of the embedding that hangs on the modality that is heard least.

    A modality's measurements are shuffled among the cells of a batch that have it and another one. Of all variance of
    the embedding within batches, half of the mean squared change is what hangs on the modality: 0 = ignored, 1 = all.
    Not read off the fusion's weights: a modality with the same values in all cells may weigh much and say nothing, and
    one of several that agree may weigh little and still be heard.
    """
    rule = Rule("modality_ignored", MIN_EFFECT, "above")
    if len(evidence.present) < 2:
        return rule.not_checked(ONE)
    if not evidence.effects:
        return rule.not_checked("No batch has cells with two modalities.")
    least, listed = _least(evidence.effects, ".3f")
    return rule.judge(
        evidence.effects[least],
        f"Share of the embedding that hangs on each modality: {listed}.",
        f"Check that {least!r} varies between cells and is registered with the right layer and data type; raise"
        " train(loss_weights={'align_modality': ...}) (default 5), or give every modality its own axes with"
        " MoRE(fusion='concatenation').",
    )


def modality_uninformative(evidence: Evidence) -> Check:
    """Share of a modality that the others of the same cell predict, of the least predicted.

    Ridge regressions predict the first coordinates of a modality's own view from those of the others, in cells that
    were not used for fitting (5 folds), batches centred. What is noise cannot be predicted, nor can a modality whose
    rows belong to other cells. It still moves the embedding, which is how it does harm.
    """
    rule = Rule("modality_uninformative", MIN_EXPLAINED, "above")
    if len(evidence.present) < 2:
        return rule.not_checked(ONE)
    explained = {}
    for role, here in evidence.present.items():
        others = [other for other in evidence.present if other != role]
        rows = np.flatnonzero(here & np.any([evidence.present[other] for other in others], axis=0))
        if len(rows) >= MIN_PAIRED:
            x = np.concatenate([evidence.views[other][rows] for other in others], 1)
            explained[role] = _explained(x, evidence.views[role][rows], evidence.domains[rows])
    if not explained:
        return rule.not_checked(f"Fewer than {MIN_PAIRED} cells have two modalities.")
    least, listed = _least(explained, ".2f")
    strangers = " and ".join(repr(role) for role, value in explained.items() if value < MIN_EXPLAINED)
    return rule.judge(
        explained[least],
        f"Share of each modality that the others predict: {listed}.",
        f"Check that rows of {strangers} are named after the cells they belong to, and their layers and depth; leave a"
        " modality of noise out of setup_mudata(modalities=...).",
    )


def _least(values: Mapping[str, float], digits: str) -> tuple[str, str]:
    """The modality with the least value, and a list of all for the message."""
    return min(values, key=values.__getitem__), ", ".join(f"{name} {value:{digits}}" for name, value in values.items())


def _explained(x: NDArray, y: NDArray, groups: NDArray) -> float:
    """Share of variance of the main axes of ``y`` that ``x`` predicts in held-out cells; at least 0."""
    frames = (pd.DataFrame(values, dtype=float) for values in (x, y))
    x, y = ((frame - frame.groupby(groups).transform("mean")).to_numpy() for frame in frames)
    axes = np.linalg.svd(y, full_matrices=False)[2][:N_COORDINATES]
    target = y @ axes.T
    total = np.square(target).sum()
    if total <= 1e-9 or not x.any():  # constant, or nothing to predict it from
        return 0.0
    penalty = 0.1 * np.square(x).sum() / x.shape[1]  # in units of the mean variance, whatever the scale of x
    predicted = cross_val_predict(Ridge(penalty), x, target, cv=KFold(5, shuffle=True, random_state=0))
    return max(0.0, float(1.0 - np.square(target - predicted).sum() / total))


MIN_OVERLAP = 0.3
"""Of the share of genes that the backbone knows. Ten real data sets have 0.59 to 0.89; all genes of an annotation with
its non-coding ones about 0.35; names of another kind 0 to 0.2."""

MAX_ASSOCIATION = 0.75
"""Of Cramér's V. Four real data sets of 2 to 13 batches have 0.2 to 0.35; two batches of turned-round composition (60 %
against 10 % of a type) 0.6."""


def low_vocabulary_overlap(evidence: Evidence) -> Check:
    """Share of the genes that the backbone knows, of the modality with the least."""
    rule = Rule("low_vocabulary_overlap", MIN_OVERLAP, "above")
    if not evidence.overlaps:
        return rule.not_checked("The model has no backbone that reads genes.")
    least, listed = _least(evidence.overlaps, ".0%")
    return rule.judge(
        evidence.overlaps[least],
        f"Genes known to the backbone: {listed}.",
        f"Name the column with gene symbols or Ensembl ids of {least!r} at setup (gene_key, for peaks peak_genes); for"
        " other species or panels take MoRE(backbone=None).",
    )


def batch_and_type_confounded(evidence: Evidence) -> Check:
    """Association of batch and type: Cramér's V, bias-corrected.

    Where each type has its own batch, nobody can tell a difference of types from one of batches, and no integration
    can: batch centring alone takes part of the difference away.
    """
    rule = Rule("batch_and_type_confounded", MAX_ASSOCIATION, "below")
    if len(np.unique(evidence.batches)) < 2:
        return rule.not_checked("There is one batch.")
    if evidence.types is None or len(np.unique(evidence.types)) < 2:
        return rule.not_checked("Fewer than two types are known.", "Give labels_key at setup, or diagnose(labels=...).")
    table = pd.crosstab(evidence.types, evidence.batches)
    value = _cramers_v(table.to_numpy(dtype=float))
    alone = table.index[table.max(axis=1) >= SHARED * table.sum(axis=1)]
    share = table.loc[alone].to_numpy().sum() / table.to_numpy().sum()
    return rule.judge(
        value,
        f"Batch and type are associated with V = {value:.2f} ({evidence.source}); {len(alone)} of {len(table)} types,"
        f" {share:.0%} of the cells, occur in one batch only.",
        "Choose a batch_key whose values share types (donor or run instead of sorted population or tissue), or add a"
        " batch that holds several of them. Do not read differences between such types as biology.",
    )


def _cramers_v(counts: NDArray) -> float:
    """Bias-corrected Cramér's V of a table of counts (Bergsma 2013), which SciPy has without the correction."""
    n, (r, c) = counts.sum(), counts.shape
    phi = max(0.0, chi2_contingency(counts, correction=False).statistic / n - (r - 1) * (c - 1) / (n - 1))
    r_free, c_free = (k - (k - 1) ** 2 / (n - 1) for k in (r, c))
    least = min(r_free, c_free) - 1
    return float(np.sqrt(phi / least)) if least > 0 else float("nan")


CHECKS = (
    batches_separate, groups_dissolve, types_collapse, rare_types_lost, labels_not_learned, overfitting,
    modality_ignored, modality_uninformative, low_vocabulary_overlap, batch_and_type_confounded,
)  # fmt: skip
"""In the order in which they are reported."""
