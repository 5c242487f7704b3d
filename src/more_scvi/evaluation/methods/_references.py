"""What maps new batches onto a reference, or lets it grow: Symphony's rule, scArches; and LDA that centres nothing.

Symphony (Kang et al. 2021) keeps of a Harmony integration the components, the centroids and per cluster the number and
the sum of its cells. A query is projected, its cells assigned softly to the clusters, and its batches' offsets per
cluster are removed, estimated together with the reference's intercept by ridge regression. Reference cells stay.

scArches (Lotfollahi et al. 2022) adds weights for new batches to a scANVI and trains these alone (``surgery``); genes
that a query lacks are filled with zeros, as ``prepare_query_anndata`` does. A reference that grows is operated on round
by round; as its classifier knows no new types, labels are then those of 15 neighbours in its embedding.
"""

import logging
import warnings

import numpy as np
import pandas as pd
import scvi
from anndata import AnnData
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.neighbors import KNeighborsClassifier

from more_scvi.evaluation._data import BATCH_KEY, LABELS_KEY, UNLABELED, Data, batches_of

from ._method import Given, Method, Result, register_method
from ._rounds import in_order, rounds_of
from ._scvi import BATCH_SIZE, MINIBATCHES, SURGERY, TRAINER, _genes, _parameters, _trained
from ._shared import labels_of, probabilities, rna, shared_watch, with_query

SIGMA = 0.1
"""Width of the soft assignment, the default of Harmony and Symphony."""


@register_method
class UncentredDiscriminant(Method):
    """Linear discriminant analysis of the components as they are, fitted on visible labels; embeds by its scores."""

    name = "lda_uncentred"
    maps_queries = needs_labels = True
    needs = ("rna",)

    def run(self, given: Given) -> Result:
        watch, (labels, visible) = shared_watch(given.data), labels_of(given.data)
        with watch("training"):
            x = with_query(given, lambda data: rna(data).obsm["view"])
            seen = np.flatnonzero(visible)
            model = LinearDiscriminantAnalysis().fit(x[seen], labels[seen])
        with watch("embedding"):
            values = model.predict_proba(x)
            z, said = model.transform(x).astype(np.float32), model.classes_[values.argmax(axis=1)]
        return Result(z, said, probabilities(values, model.classes_), watch.cpu, watch.wall)


@register_method
class Symphony(Method):
    """A query mapped onto a Harmony reference by Symphony's rule (Kang et al. 2021); labels of 5 neighbours."""

    name = "symphony"
    seeded = maps_queries = needs_labels = True
    needs = whole = ("rna",)

    def suits(self, data: Data, has_query: bool = False) -> bool:
        return has_query and super().suits(data, has_query)

    def run(self, given: Given, n_neighbors: int = 5) -> Result:
        import harmonypy

        assert given.query is not None
        logging.getLogger("harmonypy").setLevel(logging.WARNING)
        watch, (labels, visible) = shared_watch(given.data), labels_of(given.data)
        with watch("training"):
            obs = pd.DataFrame({BATCH_KEY: batches_of(given.data)})
            pcs = rna(given.data).obsm["view"]
            reference = harmonypy.run_harmony(pcs, obs, BATCH_KEY, sigma=SIGMA, random_state=given.seed)
            known = np.asarray(reference.Z_corr)
        with watch("embedding"):
            mapped = symphony(rna(given.query).obsm["view"], batches_of(given.query), known, reference.R, reference.Y)
            z = np.concatenate([known, mapped]).astype(np.float32)
            vote = KNeighborsClassifier(min(n_neighbors, int(visible.sum()))).fit(known[visible], labels[visible])
            values = vote.predict_proba(z)
        said = vote.classes_[values.argmax(axis=1)]
        return Result(z, said, probabilities(values, vote.classes_), watch.cpu, watch.wall)


def symphony(x: NDArray, batches: NDArray, reference: NDArray, shares: NDArray, centroids: NDArray) -> NDArray:
    """Query ``x`` ``(n_query, d)`` in the space of a corrected ``reference`` ``(n, d)``.

    ``shares`` ``(n, k)`` are the reference's soft assignments, ``centroids`` ``(d, k)`` those of its clusters.
    """
    y = centroids / np.linalg.norm(centroids, axis=0)
    own = softmax(-2 * (1 - x / np.linalg.norm(x, axis=1, keepdims=True) @ y) / SIGMA, axis=1)
    design = np.column_stack([np.ones(len(x)), *(batches == name for name in np.unique(batches))]).astype(float)
    ridge, z = np.diag([0.0, *np.ones(design.shape[1] - 1)]), x.astype(float).copy()
    for weight, sizes, total in zip(own.T, shares.sum(axis=0), shares.T @ reference, strict=True):
        weighted = design * weight[:, None]
        left, right = weighted.T @ design + ridge, weighted.T @ x
        left[0, 0] += sizes
        right[0] += total
        offsets = np.linalg.solve(left, right)[1:]
        z -= weighted[:, 1:] @ offsets
    return z


@register_method
class ScArches(Method):
    """scANVI trained on the reference, then surgery on each batch that comes (scArches, Lotfollahi et al. 2022)."""

    name = "scarches"
    seeded = whole = maps_queries = any_genes = grows = needs_labels = True
    needs = ("rna",)

    def suits(self, data: Data, has_query: bool = False) -> bool:
        return has_query and super().suits(data, has_query)

    def run(self, given: Given, minibatches: int | None = MINIBATCHES, epochs: int = 20) -> Result:
        assert given.query is not None
        options = {"batch_size": BATCH_SIZE, "n_samples_per_label": 100, "logger": False, **TRAINER}
        labels, parts = labels_of(given.data)[0], list(rounds_of(given))
        with warnings.catch_warnings(action="ignore"):
            base, watch = _trained(given.data, minibatches, given.cache_dir)
            scvi.settings.seed = given.seed
            with watch("training"):
                model = scvi.model.SCANVI.from_scvi_model(base, UNLABELED, labels_key=LABELS_KEY)
                model.train(max_epochs=epochs, **options)
            first = model.get_latent_representation()
            pieces, frames = [], [model.predict(soft=True)]
            for part in parts:
                with watch("growing"):
                    model = self.operate(part, model, set(labels))
                frames.append(model.predict(soft=True))
                pieces.append(model.adata)
            with watch("embedding"):
                z = in_order(given, [model.get_latent_representation(of) for of in (_genes(given.data), *pieces)])
        if not given.rounds:
            probability = pd.DataFrame(in_order(given, frames), columns=frames[0].columns)
            said = probability.idxmax(axis=1).to_numpy()
            return Result(z, said, probability, watch.cpu, watch.wall, _parameters(model))
        labels = np.concatenate([labels, labels_of(given.query)[0]])
        seen = labels != UNLABELED
        n = given.data.n_obs
        said = KNeighborsClassifier(15).fit(z[seen], labels[seen]).predict(z)
        before = KNeighborsClassifier(15).fit(first[seen[:n]], labels[:n][seen[:n]]).predict(first)
        return Result(z, said, None, watch.cpu, watch.wall, _parameters(model), before=(first, before))

    @staticmethod
    def operate(part: AnnData, model: scvi.model.SCANVI, known: set[str]) -> scvi.model.SCANVI:
        """The model with weights for the batch of ``part``; labels that it does not know are taken for none."""
        query = AnnData(part.X.copy(), part.obs.copy(), part.var[[]].copy())
        query.layers["counts"] = query.X
        query.obs[LABELS_KEY] = np.where(query.obs[LABELS_KEY].isin(known), query.obs[LABELS_KEY], UNLABELED)
        scvi.model.SCANVI.prepare_query_anndata(query, model)
        query.layers["counts"] = query.X
        mapped = scvi.model.SCANVI.load_query_data(query, model, accelerator="cpu")
        mapped.train(**SURGERY)
        return mapped
