"""Linear methods on RNA; and controls: what metrics give to nothing, to the class alone, or to the hidden labels."""

from dataclasses import replace

import numpy as np
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression

from more_scvi.evaluation._data import give_labels, modalities, own_obsm

from ._method import Given, Method, Result, register_method
from ._shared import centred_view, labels_of, probabilities, rna, shared_watch, variable_genes, with_query


@register_method
class Components(Method):
    """Principal components of 2,000 batch-aware genes, as they are or with the mean of each batch removed."""

    name = "pca_raw"
    maps_queries = True
    needs = ("rna",)

    def run(self, given: Given, centred: bool = False) -> Result:
        watch = shared_watch(given.data)
        with watch("embedding"):
            z = with_query(given, centred_view if centred else lambda data: rna(data).obsm["view"])
        return Result(z, None, None, watch.cpu, watch.wall)


register_method(Components("pca", centred=True))


@register_method
class GeneRegression(Method):
    """Logistic regression on the log-normalised genes; no embedding."""

    name = "lr_hvg"
    maps_queries = True
    needs = ("rna",)

    def run(self, given: Given) -> Result:
        return fit_genes(given)[1]


@register_method
class Discriminant(Method):
    """Linear discriminant analysis of the centred components, fitted on visible labels; embeds by its scores."""

    name = "lda"
    maps_queries = True
    needs = ("rna",)

    def run(self, given: Given) -> Result:
        watch = shared_watch(given.data)
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
    watch = shared_watch(given.data, steps=("normalise", "genes"))
    labels, visible = labels_of(given.data)
    with watch("training"):
        model = LogisticRegression(C=1.0, max_iter=300).fit(variable_genes(given.data)[visible], labels[visible])
    with watch("embedding"):
        values = with_query(given, lambda data: model.predict_proba(variable_genes(data)))
        prediction = model.classes_[values.argmax(axis=1)]
    parameters = {"trained": int(model.coef_.size + model.intercept_.size), "frozen": 0}
    return model, Result(None, prediction, probabilities(values, model.classes_), watch.cpu, watch.wall, parameters)


@register_method
class Random(Method):
    """Gaussian noise, for every cell and for every modality of two."""

    name = "random"
    seeded = True
    maps_queries = True

    def run(self, given: Given, n_latent: int = 30) -> Result:
        rng = np.random.default_rng(given.seed)
        n_cells = given.data.n_obs + (0 if given.query is None else given.query.n_obs)
        z, *halves = rng.standard_normal((3, n_cells, n_latent)).astype(np.float32)
        names = list(modalities(given.data))
        return Result(z, unimodal=dict(zip(names, halves, strict=True)) if len(names) == 2 else {})


@register_method
class OneHot(Method):
    """One-hot of logistic-regression predictions: high F1, and nothing within types."""

    name = "onehot-LR"
    maps_queries = True
    needs = ("rna",)

    def run(self, given: Given) -> Result:
        model, result = fit_genes(given)
        code = np.searchsorted(model.classes_, np.asarray(result.prediction))
        return replace(result, z=np.eye(model.classes_.size, dtype=np.float32)[code])


@register_method
class Leak(Method):
    """Logits of a logistic regression that was given the hidden labels: what a comparison that leaks would report."""

    name = "LEAK"
    sees_hidden = True
    needs = ("rna",)

    def run(self, given: Given) -> Result:
        model, result = fit_genes(given)
        z = model.decision_function(variable_genes(given.data)).reshape(given.data.n_obs, -1)
        return replace(result, z=z.astype(np.float32))


@register_method
class Shuffled(Method):
    """Components of other cells, and a regression on permuted labels: chance at the true frequencies."""

    name = "shuffled"
    seeded = True
    maps_queries = True
    needs = ("rna",)

    def run(self, given: Given) -> Result:
        rng = np.random.default_rng(given.seed)
        labels, visible = labels_of(given.data)
        permuted = labels.copy()
        permuted[visible] = rng.permutation(labels[visible])
        blind = replace(given, data=give_labels(given.data, permuted))
        z = with_query(given, lambda data: rna(data).obsm["view"])
        return replace(fit_genes(blind)[1], z=z[rng.permutation(len(z))])


@register_method
class Stored(Method):
    """An embedding that the data hold already; ``get_method("obsm:X_mine")``. Whether it saw labels is not known."""

    name = "obsm"

    def run(self, given: Given, key: str = "X_mine") -> Result:
        known = own_obsm(given.data)
        if key not in known:
            raise KeyError(f"The data hold no embedding {key!r} in .obsm; they hold {', '.join(known) or 'none'}.")
        return Result(np.asarray(known[key], dtype=np.float32))
