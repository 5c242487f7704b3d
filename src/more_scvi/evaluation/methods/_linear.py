"""Linear methods on RNA."""

from __future__ import annotations

import numpy as np
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression

from ._method import Given, Method, Result, register_method
from ._shared import centred_view, labels_of, probabilities, rna, rna_watch, variable_genes, with_query


@register_method
class PCARaw(Method):
    """No integration: principal components of 2,000 batch-aware genes."""

    name = "pca_raw"
    maps_queries = True
    needs = ("rna",)

    def run(self, given: Given) -> Result:
        """Return the shared PCs."""
        watch = rna_watch(given.data)
        return Result(with_query(given, lambda data: rna(data).obsm["view"]), None, None, watch.cpu, watch.wall)


@register_method
class PCACentred(Method):
    """The same components with the mean of each batch removed."""

    name = "pca"
    maps_queries = True
    needs = ("rna",)

    def run(self, given: Given) -> Result:
        """Centre the shared PCs."""
        watch = rna_watch(given.data)
        with watch("embedding"):
            z = with_query(given, centred_view)
        return Result(z, None, None, watch.cpu, watch.wall)


@register_method
class GeneRegression(Method):
    """Logistic regression on the log-normalised genes; no embedding."""

    name = "lr_hvg"
    maps_queries = True
    needs = ("rna",)

    def run(self, given: Given) -> Result:
        """Fit on the visible labels."""
        return fit_genes(given)[1]


@register_method
class Discriminant(Method):
    """Linear discriminant analysis of the centred components, fitted on visible labels."""

    name = "lda"
    maps_queries = True
    needs = ("rna",)

    def run(self, given: Given) -> Result:
        """Fit on the visible labels; the discriminant scores are the embedding."""
        watch = rna_watch(given.data)
        labels, visible = labels_of(given.data)
        with watch("training"):
            x = with_query(given, centred_view)
            seen = np.flatnonzero(visible)
            model = LinearDiscriminantAnalysis().fit(x[seen], labels[seen])
        with watch("embedding"):
            z, prediction = model.transform(x).astype(np.float32), model.predict(x)
            probability = probabilities(model.predict_proba(x), model.classes_)
        parameters = {"trained": int(model.scalings_.size), "frozen": 0}
        return Result(z, prediction, probability, watch.cpu, watch.wall, parameters)


def fit_genes(given: Given) -> tuple[LogisticRegression, Result]:
    """Logistic regression on the log-normalised genes, and its result without an embedding."""
    watch = rna_watch(given.data, "normalise", "genes")
    labels, visible = labels_of(given.data)
    with watch("training"):
        model = LogisticRegression(C=1.0, max_iter=300).fit(variable_genes(given.data)[visible], labels[visible])
    with watch("embedding"):
        values = with_query(given, lambda data: model.predict_proba(variable_genes(data)))
        prediction = model.classes_[values.argmax(axis=1)]
    parameters = {"trained": int(model.coef_.size + model.intercept_.size), "frozen": 0}
    return model, Result(None, prediction, probabilities(values, model.classes_), watch.cpu, watch.wall, parameters)
