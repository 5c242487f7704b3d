"""One test per private scvi-tools name: what this package relies on it for."""

import warnings

import anndata as ad
import mudata
import numpy as np
import pytest
import scvi
import torch

from more_scvi import _compat


@pytest.fixture(scope="module")
def registered():
    adata = ad.AnnData(np.random.default_rng(0).poisson(1.0, (20, 5)).astype(np.float32))
    adata.obs["batch"] = ["a", "b"] * 10
    scvi.model.SCVI.setup_anndata(adata, batch_key="batch")
    return adata, scvi.model.SCVI(adata).registry


def test_every_name_is_exported():
    imported = {"AbstractContextManager", "TrainingPlan", "mudata", "nullcontext"}
    assert {name for name in vars(_compat) if not name.startswith("_")} - imported == set(_compat.__all__)


def test_no_pull_keeps_columns_in_their_modality():
    rna = ad.AnnData(np.ones((3, 2)), obs={"type": ["a", "b", "c"]})
    with _compat.no_pull(), warnings.catch_warnings(action="error", category=FutureWarning):
        assert not list(mudata.MuData({"rna": rna}).obs)


def test_keys_of_the_registry(registered):
    assert registered[1]["setup_args"]["batch_key"] == "batch"
    assert list(registered[1]["field_registries"]["batch"]["state_registry"]["categorical_mapping"]) == ["a", "b"]


def test_uuid_key(registered):
    assert _compat.SCVI_UUID_KEY in registered[0].uns


def test_parse_device_args():
    accelerator, _, device = _compat.parse_device_args("cpu", "auto", return_device="torch")
    assert accelerator == "cpu"
    assert torch.device(device).type == "cpu"


def test_compute_and_log_metrics_is_the_undecorated_method():
    assert _compat.compute_and_log_metrics.__name__ == "compute_and_log_metrics"
    assert _compat.compute_and_log_metrics is not scvi.train.TrainingPlan.compute_and_log_metrics
    with torch.no_grad():
        assert "inference_mode" not in _compat.compute_and_log_metrics.__code__.co_names
