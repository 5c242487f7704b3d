"""Controls: what the metrics give to an embedding that holds nothing, only the class, or the hidden labels."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np

from more_scvi.evaluation._data import give_labels, modalities, own_obsm

from ._linear import fit_genes
from ._method import Given, Method, Result, register_method
from ._shared import labels_of, rna, variable_genes, with_query


@register_method
class Random(Method):
    """Gaussian noise."""

    name = "random"
    seeded = True
    maps_queries = True

    def run(self, given: Given, n_latent: int = 30) -> Result:
        """Draw noise for every cell, and for every modality of two."""
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
        """Fit the regression, embed cells by its decision."""
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
        """Fit on all labels."""
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
        """Permute the visible labels, then the rows of the PCs."""
        rng = np.random.default_rng(given.seed)
        labels, visible = labels_of(given.data)
        permuted = labels.copy()
        permuted[visible] = rng.permutation(labels[visible])
        blind = copy.copy(given)
        blind.data = give_labels(given.data, permuted)
        z = with_query(given, lambda data: rna(data).obsm["view"])
        return replace(fit_genes(blind)[1], z=z[rng.permutation(len(z))])


@register_method
class Stored(Method):
    """An embedding that the data hold already; ``get_method("obsm:X_mine")``. Whether it saw labels is not known."""

    name = "obsm"

    def run(self, given: Given, key: str = "X_mine") -> Result:
        """Take ``.obsm[key]``."""
        known = own_obsm(given.data)
        if key not in known:
            raise KeyError(f"The data hold no embedding {key!r} in .obsm; they hold {', '.join(known) or 'none'}.")
        return Result(np.asarray(known[key], dtype=np.float32))
