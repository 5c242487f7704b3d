"""The public names. A change here is a change users see: it belongs in CHANGELOG.md."""

import inspect
from importlib import import_module

import pytest

import more_scvi

PUBLIC = {
    "backbones": """Backbone FeatureCache Geneformer MoreMini MoreMiniSizes Precomputed ScGPT compute_features
        get_backbone list_backbones make_panels register_backbone""",
    "data": "GeneMatch GeneVocabulary load_demo match_genes simulate_batches simulate_platform",
    "diagnosis": "Check Diagnosis",
    "evaluation": """DATASETS Comparison Given Method Result Split Task compare evaluate get_method inner_split
        list_methods load_dataset load_results load_splits make_splits make_tasks prefilter register_method run
        run_benchmark run_task tidy tune""",
    "losses": """align_batches classify contrast_labels contrast_views intra_class_variance keep_distances
        masked_gaussian masked_negative_binomial""",
    "metrics": """average_precision balanced_accuracy benchmarker cilisi confusion effective_dimension fidelity foscttm
        imputation knn_novelty knn_overlap knn_predict knn_probe linear_probe macro_f1 neighbour_novelty novelty_auroc
        per_type_f1
        probe_probabilities purity recall_at sc_graph scib scorable structure""",
    "modalities": "Modality get_modality list_modalities match_antibodies peak_to_gene register_modality",
    "model": "MoRE",
    "module": """LOSS_WEIGHTS Classifier DirectPath ExpressionDecoder GatedAdapter MoREModule PathBase Projection
        Refinement""",
    "pl": """compare confusion diagnosis embedding history modality_weights per_type_f1 regimes scores sensitivity
        tradeoff""",
    "pretraining": "Pool finetune fit_front pretrain read_pool",
    "report": "ReportInputs write_report",
    "student": "Student StudentNetwork",
    "train": "BalancedBatchSampler MoRETrainingPlan",
}
METHODS = {
    "setup_anndata": """layer batch_key labels_key unlabeled_category categorical_covariate_keys
        continuous_covariate_keys gene_key data_type""",
    "train": """max_epochs accelerator devices train_size validation_size batch_size early_stopping
        datasplitter_kwargs plan_kwargs""",
    "get_latent_representation": "adata indices batch_size obsm_key",
    "predict": "adata indices soft batch_size",
    "diagnose": "adata labels",
    "save": "dir_path overwrite save_anndata",
    "load": "dir_path adata",
    "parameter_counts": "",
    "distill": "extra indices holdout seed progress",
    "student_fidelity": "student adata indices labels",
}


def test_top_level_names():
    assert more_scvi.__all__ == ["MoRE", "Student", *PUBLIC]
    assert set(more_scvi.__all__) <= set(dir(more_scvi))
    assert more_scvi.MoRE is more_scvi.model.MoRE


@pytest.mark.parametrize("namespace", PUBLIC)
def test_namespace_keeps_its_names_and_documents_all(namespace):
    module = import_module(f"more_scvi.{namespace}")
    assert set(PUBLIC[namespace].split()) <= set(module.__all__)
    assert len(module.__all__) == len(set(module.__all__))
    for name in module.__all__:
        assert getattr(module, name).__doc__, f"{namespace}.{name} has no docstring"


@pytest.mark.parametrize("method", METHODS)
def test_methods_keep_their_arguments(method):
    function = getattr(more_scvi.MoRE, method)
    assert set(METHODS[method].split()) <= set(inspect.signature(function).parameters)
    assert function.__doc__


def test_unknown_name_lists_the_legal_ones():
    with pytest.raises(AttributeError, match="backbones"):
        _ = more_scvi.tl
