"""What users of scvi-tools reach for and MoRE does not have: each name leads to the next step."""

import functools
import inspect
import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import lightning
from scvi.train import Trainer

from more_scvi.data._arguments import listing, nearest

_STEPS = {
    "differential_abundance": "compare shares of model.predict() between samples, or use Milo on obsm['X_more']",
    "differential_accessibility": "scanpy.tl.rank_genes_groups on the peaks, grouped by model.predict()",
    "differential_expression": (
        "sum counts per sample and model.predict() and test these (pydeseq2), or scanpy.tl.rank_genes_groups"
    ),
    "from_scvi_model": "train MoRE on the same AnnData; to score SCVI beside it use more_scvi.evaluation.run",
    "get_aggregated_posterior": (
        "a cell is one point; read model.get_latent_representation(), and model.predict(soft=True) for doubt"
    ),
    "get_batch_representation": "model.batches names the batches; compare mean embeddings of the cells of each",
    "get_elbo get_importance_weights get_marginal_ll get_reconstruction_error": (
        "MoRE has no likelihood of a cell; model.history holds its losses, model.diagnose() says what went wrong,"
        " more_scvi.evaluation.run scores what was hidden"
    ),
    "get_feature_correlation_matrix": "numpy.corrcoef on the normalised counts, or on model.impute(modality)",
    "get_latent_library_size get_library_size_factors": (
        "the total count of a cell is taken as it is: adata.X.sum(axis=1)"
    ),
    "get_likelihood_parameters get_normalized_accessibility get_normalized_expression posterior_predictive_sample": (
        "MoRE does not denoise; model.impute(modality) gives expected values in models of several modalities,"
        " otherwise use the normalised counts, or scvi.model.SCVI"
    ),
    "get_protein_background_mean get_protein_foreground_probability": (
        "model.impute('protein') gives expected counts; for the background use scvi.model.TOTALVI"
    ),
    "get_ranked_features shap_adata_predict shap_predict": (
        "scanpy.tl.rank_genes_groups on the normalised counts, grouped by model.predict()"
    ),
    "get_region_factors": "use the share of cells in which a peak is open, or scvi.model.PEAKVI",
    "minify_adata minify_mudata": (
        "model.save(dir) keeps no cells, MoRE.load(dir) needs none; model.distill() makes a small copy"
    ),
}
NOT_OFFERED = {name: step for names, step in _STEPS.items() for name in names.split()}
"""Attribute of scvi-tools' models → what to do instead."""

_BUILT_IN = "MoRE has no such layers; its sizes are n_latent, n_bottleneck and n_components"
_LIKELIHOOD = "the likelihood follows from the data, counts or log-normalised values"
_ONE_POINT = "a cell is one point, the same at every call"

_FROZEN = "all that the reference learned stays frozen; unfrozen=True trains all of it"

IGNORED = {
    "setup_anndata": {"size_factor_key": "cells are scaled to their own total count"},
    "setup_mudata": {"size_factor_key": "cells are scaled to their own total count"},
    "__init__": {
        **dict.fromkeys(("n_hidden", "n_layers", "use_batch_norm", "use_layer_norm"), _BUILT_IN),
        **dict.fromkeys(("gene_likelihood", "dispersion", "latent_distribution"), _LIKELIHOOD),
        **dict.fromkeys(("encode_covariates", "deeply_inject_covariates"), "covariates are regressed out of the base"),
    },
    "train": {
        "use_gpu": "accelerator= says where to train, and by default takes a GPU if there is one",
        "n_samples_per_label": "minibatches are drawn evenly from the batches",
    },
    "get_latent_representation": dict.fromkeys(("give_mean", "mc_samples", "use_posterior_mean"), _ONE_POINT),
    "load_query_data": {
        **dict.fromkeys(
            ("freeze_dropout", "freeze_expression", "freeze_decoder_first_layer", "freeze_batchnorm_encoder"), _FROZEN
        ),
        **dict.fromkeys(("freeze_batchnorm_decoder", "freeze_classifier"), _FROZEN),
        "transfer_batch": "batches that the reference lacks are always added",
    },
    "predict": dict.fromkeys(("give_mean", "mc_samples", "use_posterior_mean"), _ONE_POINT),
}
"""Method → argument of scvi-tools' models that changes nothing here, and why."""

REFUSED = {
    "setup_anndata": {
        "protein_expression_obsm_key": "put the proteins into a MuData and call MoRE.setup_mudata",
        "copy": "give adata.copy()",
    },
    "__init__": {"dropout_rate": "it is called dropout here"},
    "train": {"lr": "give plan_kwargs={'lr': ...}", "use_gpu=False": "give accelerator='cpu'"},
    "load_query_data": {
        "registry": "the query is registered as the reference's cells were; leave the argument out",
        "datamodule": "give the query as AnnData or MuData",
    },
    "get_latent_representation": {"return_dist": _ONE_POINT + "; leave the argument out"},
}
"""Method → argument (or argument=value) of scvi-tools' models that cannot be ignored, and the next step."""

PASSED_ON = {
    **dict.fromkeys(("setup_anndata", "setup_mudata"), ("source_registry", "extend_categories")),
    "train": {
        *inspect.signature(Trainer).parameters,
        *inspect.signature(lightning.Trainer).parameters,
        *("trainer_config", "ckpt_path"),
    },
}
"""Method → arguments that it hands on, beside its own."""

T = TypeVar("T", bound=type)


class _NotOffered:
    """An attribute that is not there: ``hasattr`` is False, and the error tells the next step."""

    def __init__(self, name: str):
        self.name = name

    def __get__(self, instance: Any, owner: type) -> Any:
        raise AttributeError(f"{owner.__name__} has no {self.name}: {NOT_OFFERED[self.name]}.")


def guide_users_of_scvi(cls: T) -> T:
    """Class decorator: attributes of :data:`NOT_OFFERED` and arguments of scvi-tools' models lead to the next step."""
    for name in NOT_OFFERED:
        setattr(cls, name, _NotOffered(name))
    for name, ignored in IGNORED.items():
        method = getattr(cls, name)
        bound = hasattr(method, "__func__")  # a class method
        wrapped = _guided(method.__func__ if bound else method, ignored, REFUSED.get(name, {}))
        setattr(cls, name, classmethod(wrapped) if bound else wrapped)
    return cls


def _guided(method: Callable[..., Any], ignored: Mapping[str, str], refused: Mapping[str, str]) -> Callable[..., Any]:
    """``method`` that drops the arguments of ``ignored``, with a warning where they have a value."""
    where = "MoRE" if method.__name__ == "__init__" else method.__name__
    own = [name for name in inspect.signature(method).parameters if name != "self"]
    legal = {*own, *PASSED_ON.get(method.__name__, ())}

    @functools.wraps(method)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        for name in [key for key in kwargs if key in ignored or key in refused]:
            value = kwargs.pop(name)
            if step := refused.get(name) or refused.get(f"{name}={value}"):
                raise TypeError(f"{where} has no argument {name} (given {name}={value!r}): {step}.")
            if value is not None:
                warnings.warn(f"{where} ignores {name}={value!r}: {ignored[name]}.", UserWarning, stacklevel=2)
        for name in set(kwargs) - legal:
            raise TypeError(f"{where} has no argument {name!r}.{nearest(name, legal)} It has {listing(own, 30)}.")
        return method(self, *args, **kwargs)

    return wrapped
