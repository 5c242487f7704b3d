"""Sentences of the report: what protocols hide, what metrics mean, and the verdict, all from numbers."""

import inspect

import numpy as np
import pandas as pd

from more_scvi.evaluation._compare import Comparison, compare, split_values, with_chosen
from more_scvi.evaluation.methods._method import get_method
from more_scvi.pl._table import is_control, over_seeds, select

CLEAR = 0.02
"""A smaller difference of macro-F1 or CiLISI is called none: another split of the same cells may turn it around."""

METRICS = {
    "own": ("F1 own", "macro-F1 of the hidden labels by the method's own classifier; rare types count as common ones"),
    "LR": ("F1 probe", "the same by a logistic regression on the embedding, fitted on the visible labels"),
    "kNN": ("F1 15-NN", "the same by the 15 nearest cells with a visible label"),
    "transfer": ("transfer", "macro-F1 by the 15 nearest cells of other batches, mean over batches"),
    "CiLISI": ("CiLISI", "are batches mixed within each type? 1 is as mixed as by chance, 0 is apart"),
    "structure": ("structure", "are distances within a type and batch those of the data? 1 is unchanged, 0 is lost"),
    "novelty_own": ("novelty own", "AUROC: is the classifier unsure of the type without labels? 0.5 is chance"),
    "novelty_LR": ("novelty probe", "the same by the probe on the embedding"),
    "novelty_kNN": ("novelty 15-NN", "the same by the distance to labelled cells"),
    "purity": ("purity", "share of a cell's neighbours that are of the held-out type, as it is"),
    "target_own": ("rare own", "F1 of the rare type by the method's own classifier"),
    "target_LR": ("rare probe", "F1 of the rare type by the probe"),
    "target_kNN": ("rare 15-NN", "F1 of the rare type by neighbours"),
    "target_AP": ("rare AP", "average precision of the rare type"),
    "pearson": ("Pearson", "correlation of imputed with measured values, mean over features"),
    "spearman": ("Spearman", "the same by rank"),
    "FOSCTTM": ("FOSCTTM", "share of cells closer than the matched one; 0 is best, 0.5 is chance"),
    "recall@10": ("recall@10", "is the matched cell among the 10 nearest?"),
    "BRAS": ("BRAS", "batch mixing within types by distances to other batches"),
    "kBET": ("kBET", "share of neighbourhoods whose batches are those of the type"),
    "NMI": ("NMI", "do Leiden clusters of the hidden cells match their types?"),
    "ARI": ("ARI", "the same by pairs of cells"),
    "connectivity": ("connectivity", "share of a type's cells in one piece of the neighbour graph"),
    "isolated_F1": ("isolated F1", "are types that few batches have found as a cluster?"),
    "cLISI": ("cLISI", "do neighbours have the same type?"),
    "scGraph": ("scGraph", "are distances between types those within batches? Favours PCA: an alarm, not a target"),
}
"""Metric → column header and explanation, in the order of columns."""


def protocol_words(protocol: str) -> str:
    """What a protocol hides, in plain words."""
    head, _, tail = protocol.partition("-")
    half = "the labels of a random half of the cells"
    sentences = {
        "S1": half + (f" of {tail} random ones" if tail else ""),
        "S2a": "all labels of one batch, in turn; its cells are present without labels",
        "S2b": "one whole batch, in turn: absent from training, mapped afterwards",
        "S3": f"{half}, and all labels of one type, in turn: is it noticed as new?",
        "S4": f"all labels but {tail} per type",
        "S5": f"{half}; one type, in turn, is thinned to {tail} % of the cells",
        "S5b": f"{half}; one type, in turn, is thinned to {tail} % of the cells and left in one batch only",
        "S6": f"the labels and the modality {tail} of one batch, in turn",
        "S7": "every label: integration without labels",
        "S8": f"all labels of one batch, in turn, whose composition is changed ({tail})",
        "S8m": f"one whole batch, in turn, mapped afterwards with its composition changed ({tail})",
        "S9": f"one whole batch, in turn, mapped afterwards by some of the genes ({tail})",
        "S10": f"{half} of a reference, which batches join in rounds, one with a type it lacks",
    }
    return sentences.get(head, protocol)


METHODS = {
    "more": "MoRE with its default settings.",
    "pca_raw": "Principal components of the genes, batches left as they are.",
    "pca": "Principal components of the genes, the mean of each batch removed.",
    "harmony": "Harmony on principal components.",
    "lr_hvg": "Logistic regression on the genes; a classifier only, no embedding.",
    "scvi": "scVI.",
    "scanvi": "scANVI, started from scVI; it sees the visible labels.",
    "random": "Noise: what a metric gives to an embedding that holds nothing.",
    "onehot-LR": "The class that a logistic regression predicts, and nothing else.",
    "LEAK": "A logistic regression that was given the hidden labels: the ceiling, and what leaks look like.",
}
"""Methods in plain words; others are described by the first line of their docstring."""


def method_words(method: str) -> str:
    """What a method is, in a sentence; empty for those that are not registered."""
    if method in METHODS:
        return METHODS[method]
    if method.startswith("LEAK:"):
        return f"{method.removeprefix('LEAK:')}, given the hidden labels: a ceiling."
    if method.startswith("obsm:"):
        return f"The embedding that the data hold in obsm[{method.removeprefix('obsm:')!r}]; it may have seen labels."
    try:
        return (inspect.getdoc(type(get_method(method))) or "").split("\n")[0].replace("``", "")
    except KeyError:
        return ""


def compare_annotation(table: pd.DataFrame) -> Comparison | float | None:
    """MoRE against the best of the others at naming hidden cells; alone, its mean; ``None`` without annotation.

    Each method counts by the better of its own classifier and the probe, chosen once by the mean.
    """
    rows = with_chosen(table[table["value"].notna()], "annotation", ("own", "LR"))
    rows = rows[rows["metric"] == "annotation"]
    if "more" not in set(rows["method"]):
        return None
    others = [name for name in rows["method"].unique() if name != "more" and not is_control(name)]
    found = [compare(rows, "more", name, "annotation") for name in others]
    if shared := [one for one in found if one.n_rows]:
        return min(shared, key=lambda one: one.difference)  # ours is least ahead of the strongest
    return float(split_values(rows, "annotation")["more"].mean())


def verdict(table: pd.DataFrame, correct: int, scored: int) -> str:
    """One sentence in plain words: annotation, then integration, each against the best or simplest alternative."""
    sentence = f"MoRE named {correct:,} of {scored:,} hidden cells correctly"
    found = compare_annotation(table)
    if isinstance(found, Comparison):
        won, n_splits = int((found.splits["difference"] > 0).sum()), len(found.splits)
        ahead = f", ahead in {won} of {n_splits} splits" if n_splits > 1 else ""
        more, other = found.rows["ours"].mean(), found.rows["other"].mean()
        numbers = f"(mean macro-F1 {more:.2f} against {other:.2f}{ahead})"
        if abs(found.difference) < CLEAR:
            sentence += f" and annotates about as well as the best other method, {found.other} {numbers}"
        elif found.difference > 0:
            sentence += f" and annotates better than every other method; the next is {found.other} {numbers}"
        else:
            sentence += f" but annotates less well than {found.other} {numbers}"
    elif found is not None:
        sentence += f" (macro-F1 {found:.2f})"
    parts = [part for part in (_mixing(table), _structure(table)) if part]
    return sentence + (f"; it {' and '.join(parts)}" if parts else "") + "."


def _means(table: pd.DataFrame, metric: str) -> pd.Series:
    """Mean of a metric per method; empty where no method has it."""
    if not ((table["metric"] == metric) & table["value"].notna()).any():
        return pd.Series(dtype=float)
    return over_seeds(select(table, metric))["mean"].groupby(level="method").mean()


def _mixing(table: pd.DataFrame) -> str:
    means = _means(table, "CiLISI")
    mine = means.get("more", np.nan)
    if np.isnan(mine):
        return ""
    plain = next((name for name in ("pca_raw", "pca") if name in means), None)
    if plain is None:
        return f"mixes batches within types by {mine:.2f} (CiLISI, 1 is complete)"
    gain = mine - means[plain]
    how = "about as well as" if abs(gain) < CLEAR else ("better than" if gain > 0 else "less than")
    return f"mixes batches within types {how} {plain} (CiLISI {mine:.2f} against {means[plain]:.2f})"


def _structure(table: pd.DataFrame) -> str:
    mine = _means(table, "structure").get("more", np.nan)
    if np.isnan(mine):
        return ""
    if mine >= 0.7:
        return f"keeps the distances within types (structure {mine:.2f} of 1)"
    return f"{'bends' if mine >= 0.4 else 'loses most of'} the distances within types (structure {mine:.2f} of 1)"
