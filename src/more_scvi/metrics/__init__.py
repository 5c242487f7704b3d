"""Metrics of an embedding: annotation of hidden labels, mixing of batches, biology kept, novelty, modalities.

All functions take plain arrays and are deterministic. Labels given here are for *scoring*: true labels, hidden ones
included.

============================  ================================================================  ======================
metric                        question                                                          what a control scores
============================  ================================================================  ======================
:func:`linear_probe`,         are hidden labels recoverable from the embedding?                 one-hot predictions:
:func:`knn_probe`                                                                               high
:func:`macro_f1`,             are predicted labels right, types counting alike?                 the largest type for
:func:`balanced_accuracy`                                                                       all: 1 / types or less
:func:`per_type_f1`,          which types, and what are they taken for?
:func:`confusion`
:func:`average_precision`     does a probability find the cells of a rare type?                 chance: its share
:func:`novelty_auroc`         is a type without labels found by :func:`neighbour_novelty` or    chance: 0.5
                              another score?
:func:`purity`                is a type kept apart from the others?                             Gaussian noise: about
                                                                                                its share
:func:`cilisi`                do batches mix where they share a type?                           Gaussian noise: ~1
:func:`transfer`              do a cell's neighbours in other batches share its type?           Gaussian noise: ~0
:func:`graph_scores`          do clusters follow the types, is a type one piece?                one-hot: 1
:func:`structure`             is what a type looks like inside one batch still there?           one-hot, noise: ~0
:func:`effective_dimension`   how many directions does a type still use?                        one-hot: ~0
:func:`sc_graph`              do types lie to each other as within the batches?                 one-hot: 0, noise: ~0
:func:`scib`                  how would scIB score it? (extra ``benchmark``)                    one-hot wins most
:func:`foscttm`               is a cell's other half nearer than other cells?                   0.5 (0 is perfect)
:func:`recall_at`             is it among the nearest?                                          ``k / n_cells``
:func:`imputation`            do imputed values follow the observed ones, feature by feature?   0
:func:`knn_overlap`,          does another embedding (a distilled student's) keep the           ``k / n_cells``
:func:`fidelity`              neighbours, the types and the mixing?
============================  ================================================================  ======================
"""

from ._annotation import (
    MIN_SCORED,
    average_precision,
    balanced_accuracy,
    confusion,
    knn_predict,
    knn_probe,
    linear_probe,
    macro_f1,
    per_type_f1,
    probe_probabilities,
    scorable,
)
from ._fidelity import fidelity, knn_overlap
from ._integration import graph_scores, transfer
from ._matching import foscttm, imputation, recall_at
from ._mixing import cilisi
from ._novelty import knn_novelty, neighbour_novelty, novelty_auroc, purity
from ._sc_graph import sc_graph
from ._scib import benchmarker, scib
from ._structure import effective_dimension, structure

__all__ = [
    "MIN_SCORED", "average_precision", "balanced_accuracy", "benchmarker", "cilisi", "confusion",
    "effective_dimension", "fidelity", "foscttm", "graph_scores", "imputation", "knn_novelty", "knn_overlap",
    "knn_predict", "knn_probe", "linear_probe", "macro_f1", "neighbour_novelty", "novelty_auroc", "per_type_f1",
    "probe_probabilities", "purity", "recall_at", "sc_graph", "scib", "scorable", "structure", "transfer",
]  # fmt: skip
