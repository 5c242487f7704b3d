"""What the results pages know beside the numbers: data sets, methods, columns, and which rows belong together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class DataSet:
    kind: str
    types: int
    words: str
    source: str = ""
    """Data set that holds the same cells; empty: none."""


DATASETS = {
    "bm_vangalen": DataSet("rna", 15, "bone marrow, 13 donors, healthy and leukaemic (GSE116256)"),
    "pbmc_kang": DataSet("rna", 8, "blood, control and interferon-β (GSE96583)"),
    "pbmc_4batch": DataSet("rna", 9, "blood, four 10x platforms"),
    "pbmc_cite": DataSet("rna", 7, "blood, three donors, the RNA alone"),
    "snareseq": DataSet("rna", 22, "mouse cortex, 12 libraries, the RNA alone"),
    "pbmc_cite_multi": DataSet("multi", 7, "blood, three donors, RNA and 7 proteins", "pbmc_cite"),
    "snareseq_multi": DataSet("multi", 22, "mouse cortex, 12 libraries, RNA and chromatin", "snareseq"),
    "pbmc_mosaic": DataSet("multi", 7, "pbmc_cite with modalities taken away: RNA, proteins, or both", "pbmc_cite"),
    "pbmc_mosaic_hao": DataSet("multi", 8, "blood, four donors, RNA, 224 proteins, or both (GSE164378)"),
    "sln_diagonal": DataSet("multi", 26, "mouse spleen and lymph node, RNA or 110 proteins, never both (GSE150599)"),
    "her2_breast_st": DataSet("spatial", 7, "breast tumours, 8 sections, spots"),
    "starmap_mpfc": DataSet("spatial", 15, "mouse prefrontal cortex, 3 mice, 166 genes"),
    "starmap_mpfc_layer": DataSet("spatial", 4, "the same cells, labels are cortical layers", "starmap_mpfc"),
}

CONTROLS = ("random", "shuffled", "onehot-LR", "LEAK", "ceiling")
"""Neither peers nor rivals: they show what a figure rewards, and how high it can get."""

CLASSIFIERS = ("lr_hvg", "lda", "lr_features", "lr_shared", "lr_shared_raw", "lr_bridge", "knn_shared")
"""Peers that annotate and do not integrate."""

BACKBONES = {
    "more:no-backbone": "no backbone",
    "more:random-backbone": "random weights",
    "more:untrained-backbone": "untrained programmes",
}

METHODS = {
    "more": "MoRE with its default settings",
    "scanvi": "scANVI, started from scVI; 2,500 minibatches, then 20 epochs",
    "scvi": "scVI, 2,500 minibatches; sees no labels",
    "totalvi": "totalVI, 2,500 minibatches; sees no labels",
    "totalvi:background": "totalVI; imputed values keep the background",
    "multivi": "MultiVI, 2,500 minibatches; sees no labels",
    "multivi:7500": "MultiVI, 7,500 minibatches",
    "harmony": "Harmony on principal components",
    "scanorama": "Scanorama on the variable genes",
    "pca": "principal components, the mean of each batch removed",
    "pca_raw": "principal components, batches left as they are",
    "cca": "canonical correlation of gene-linked features; labels by anchors",
    "linked": "gene-linked features as they are",
    "blocks_centred": "views of all modalities side by side, batch means removed",
    "blocks": "views of all modalities side by side",
    "rna_view": "the RNA view alone, batch means removed",
    "prot_view": "the protein view alone, batch means removed",
    "atac_view": "the chromatin view alone, batch means removed",
    "niche": "principal components beside their mean over spatial neighbours, batch means removed",
    "niche_raw": "the same, batches left as they are",
    "backbone": "features of the frozen backbone",
    "backbone_centred": "the same, batch means removed",
    "backbone_untrained": "its linear programmes without the transformer, batch means removed",
    "backbone_random": "a transformer of random weights, batch means removed",
    "backbone_finetuned": "the backbone, all weights trained on the visible labels",
    "lr_hvg": "logistic regression on the variable genes; a classifier only",
    "lda": "linear discriminant on centred components",
    "lr_features": "logistic regression on the features of all modalities; a classifier only",
    "lr_shared": "logistic regression per modality, batch means removed; a classifier only",
    "lr_shared_raw": "the same, batches left as they are",
    "lr_bridge": "the same, paired cells are labelled first and carry the labels over",
    "knn_shared": "15 nearest neighbours per modality; a classifier only",
    "ridge_impute": "proteins by ridge regression on components",
    "knn_impute": "proteins by nearest neighbours",
    "ceiling": "logistic regression that is given half of the labels of the target cells",
    "LEAK": "logistic regression that was given the hidden labels",
    "onehot-LR": "the class that a logistic regression predicts, and nothing else",
    "shuffled": "components of other cells; regression on permuted labels",
    "random": "noise",
}
"""Name → words, in the order of tables; variants of MoRE come after it."""

SHORT = {
    "scanvi": "scANVI (2,500 steps)",
    "scvi": "scVI (2,500 steps)",
    "totalvi": "totalVI (2,500 steps)",
    "totalvi:background": "totalVI with background (2,500 steps)",
    "multivi": "MultiVI (2,500 steps)",
    "multivi:7500": "MultiVI (7,500 steps)",
}
"""Peers that were trained for less than the default epochs of scvi-tools → the name they are shown under. Nothing that
is said of them is bold, and none stands for the best peer of a row."""


def named(method: str) -> str:
    """Name of a method in tables and figures."""
    return SHORT.get(method, method)


COLUMNS = {
    "annotation": "macro-F1", "novelty": "novelty AUROC", "rare": "F1 of the rare type", "own": "own", "LR": "LR",
    "kNN": "kNN", "own_balanced": "own, recall", "LR_balanced": "LR, recall", "novelty_own": "novelty own",
    "novelty_LR": "novelty LR", "novelty_kNN": "novelty kNN", "novelty_share": "novelty share",
    "target_own": "rare own", "target_LR": "rare LR", "target_kNN": "rare kNN", "target_AP_own": "rare AP own",
    "target_AP_LR": "rare AP LR", "purity": "purity", "pearson": "Pearson", "spearman": "Spearman",
    "FOSCTTM": "FOSCTTM", "recall@10": "recall@10", "CiLISI": "CiLISI", "structure": "structure",
    "structure_rna": "of RNA", "structure_prot": "of protein", "structure_atac": "of chromatin",
    "dimension": "dimension", "BRAS": "BRAS", "kBET": "kBET", "NMI": "NMI", "ARI": "ARI",
    "isolated_F1": "isolated F1", "cLISI": "cLISI", "scGraph": "scGraph",
}  # fmt: skip
"""Figure → header, in the order of tables."""

CHOICES = {
    "annotation": ("own", "LR"),
    "novelty": ("novelty_own", "novelty_LR", "novelty_kNN", "novelty_share"),
    "rare": ("target_own", "target_LR"),
}
"""Figure that represents a method → what it is chosen from, once per method."""

Belongs = Callable[[str, str], bool]
"""Of a data set and a protocol."""


def kind_of(dataset: str) -> str:
    return DATASETS[dataset].kind if dataset in DATASETS else "rna"


def family(protocol: str) -> str:
    """Protocol without its number; ``S1-300`` is ``S1-n``."""
    head, _, rest = protocol.partition("-")
    if head == "S1":
        return "S1-n" if rest else "S1"
    return head if head in ("S3", "S4", "S5", "S5b") else protocol


def rows_of(kind: str, *families: str) -> Belongs:
    return lambda dataset, protocol: kind_of(dataset) == kind and family(protocol) in families


def _any(*families: str) -> Belongs:
    return lambda dataset, protocol: family(protocol) in families


ELSEWHERE = ("S3", "S4", "S1-n", "S2b", "S5", "S5b")
TRANSFER = ("hide-rna", "hide-prot", "rna-to-prot", "prot-to-rna", "S6-half", "S6-third")


def _elsewhere(kind: str) -> Belongs:
    return lambda dataset, protocol: kind_of(dataset) == kind and family(protocol) not in ELSEWHERE


@dataclass(frozen=True)
class Group:
    """A page: its file, title, what is hidden, the figure of its comparisons, and which rows it has."""

    file: str
    title: str
    words: str
    metric: str
    belongs: Belongs


GROUPS = (
    Group("rna", "RNA: many labels",
        "S1 hides the labels of a random half of the cells. S2a hides all labels of one batch, whose cells are there: "
        "a new, unlabelled sample in a joint analysis.", "annotation", rows_of("rna", "S1", "S2a")),
    Group("few_labels", "Few labels", "S4-n hides all labels but n per type.", "annotation", _any("S4")),
    Group("few_cells", "Few cells, and a new batch",
        "S1-n is S1 on n random cells. In S2b one batch is absent from training and mapped afterwards: a new sample "
        "after the model was made.", "annotation", _any("S1-n", "S2b")),
    Group("unseen_types", "Unseen types",
        "S3 hides the labels of a random half of the cells and all labels of one type. Is that type noticed (AUROC of "
        "one minus the highest probability, or of the distance to labelled cells), and do its cells stay together "
        "(purity of their neighbourhoods)? The macro-F1 is of the other types.", "novelty", _any("S3")),
    Group("rare_types", "Rare types",
        "S5-p thins one type to p % of the cells and hides the labels of a random half; in S5b-p it is left in one "
        "batch only. F1 and average precision (AP) of that type.", "rare", _any("S5", "S5b")),
    Group("modalities", "Several modalities",
        "S1 and S2a hide labels as for RNA. S6: proteins and labels of one batch. S6-half and S6-third: libraries keep "
        "RNA or chromatin, a third of them both in S6-third; cells without RNA are scored. hide-x hides the labels of "
        "the cells with modality x alone; x-to-y leaves labels only on cells with x alone and scores those with y "
        "alone. For these, CiLISI is the mixing of cells with different modalities.", "annotation",
        _elsewhere("multi")),
    Group("spatial", "Spatial sections", "S2a hides all labels of one section.", "annotation", _elsewhere("spatial")),
)  # fmt: skip

REGIMES = (
    ("half of the labels (S1)", "annotation", rows_of("rna", "S1")),
    ("an unlabelled batch (S2a)", "annotation", rows_of("rna", "S2a")),
    ("a new batch (S2b)", "annotation", rows_of("rna", "S2b")),
    ("few labels (S4)", "annotation", rows_of("rna", "S4")),
    ("few cells (S1-n)", "annotation", rows_of("rna", "S1-n")),
    ("an unseen type (S3)", "novelty", rows_of("rna", "S3")),
    ("a rare type (S5, S5b)", "rare", rows_of("rna", "S5", "S5b")),
    ("several modalities (S1, S2a)", "annotation", rows_of("multi", "S1", "S2a")),
    ("several modalities, few labels (S4)", "annotation", rows_of("multi", "S4")),
    ("across modalities", "annotation", rows_of("multi", *TRANSFER)),
    ("spatial sections (S2a)", "annotation", rows_of("spatial", "S1", "S2a")),
)
"""Words, figure, rows: where methods are told apart."""
