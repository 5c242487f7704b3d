"""Bad input: every refusal names object, value, legal values and the next step, and leaves nothing changed."""

import hashlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from more_scvi import MoRE
from more_scvi.backbones import get_backbone
from more_scvi.data import simulate_batches

SETUP = {"batch_key": "batch", "labels_key": "cell_type", "unlabeled_category": "Unknown"}
QUIET = {"accelerator": "cpu", "enable_progress_bar": False}


def make_data(n_cells: int = 120, seed: int = 0) -> ad.AnnData:
    """Counts of 60 genes the bundled backbone knows; three types, two batches, a fifth of the cells unlabelled."""
    genes = get_backbone("more-mini").vocabulary.human_symbol[:60]
    adata = simulate_batches(n_cells, n_genes=60, n_types=3, depth=300.0, gene_names=genes, seed=seed)
    adata.obs_names = [f"s{seed}_{name}" for name in adata.obs_names]
    adata.obs["cell_type"] = adata.obs["cell_type"].astype(object).where(np.arange(n_cells) % 5 > 0, "Unknown")
    adata.obs["score"] = np.linspace(0, 1, n_cells)
    adata.var["symbol"] = list(adata.var_names)
    adata.layers["counts"] = adata.X.copy()
    adata.obsm["X_own"] = np.random.default_rng(seed).normal(size=(n_cells, 6)).astype(np.float32)
    return adata


def digest(value: Any) -> str:
    """Hash of anything an AnnData holds: values, dtype and container."""
    if sp.issparse(value):
        return type(value).__name__ + "".join(digest(part) for part in (value.data, value.indices, value.indptr))
    if isinstance(value, pd.DataFrame):
        hashed = pd.util.hash_pandas_object(value.astype(str), index=True).to_numpy()
        return digest(hashed) + str(list(value.columns)) + str(list(map(str, value.dtypes)))
    if isinstance(value, np.ndarray):
        raw = value.astype(str) if value.dtype == object else value
        return str(value.dtype) + hashlib.sha256(np.ascontiguousarray(raw).tobytes()).hexdigest()
    return repr(value)


def state(data: Any) -> dict[str, str]:
    """Digest of every part of an AnnData (of anything else: its repr)."""
    if not isinstance(data, ad.AnnData):
        return {"object": repr(data)}
    parts = {"X": data.X, "obs": data.obs, "var": data.var, "is_view": data.is_view}
    for name in ("layers", "obsm", "uns"):
        parts |= {f"{name}[{key}]": value for key, value in getattr(data, name).items()}
    return {name: digest(value) for name, value in parts.items()}


def weights(model) -> dict[str, str]:
    return {name: digest(value.cpu().numpy()) for name, value in model.module.state_dict().items()}


@dataclass
class Bench:
    """What a case works with: data of its own, a trained model it may only read, and an empty folder."""

    adata: ad.AnnData
    model: MoRE
    folder: Path

    def new(self, **setup) -> MoRE:
        """An untrained model on the data of this case."""
        MoRE.setup_anndata(self.adata, **{**SETUP, **setup})
        return MoRE(self.adata)

    def saved(self) -> Path:
        self.model.save(self.folder / "saved")
        return self.folder / "saved"


@pytest.fixture(scope="session")
def shared_model():
    adata = make_data()
    MoRE.setup_anndata(adata, **SETUP)
    model = MoRE(adata)
    model.train(max_epochs=2, **QUIET)
    return model


@pytest.fixture
def bench(shared_model, tmp_path) -> Bench:
    return Bench(make_data(seed=1), shared_model, tmp_path)


@pytest.fixture
def refused() -> Callable[..., None]:
    """Assert that a call is refused in these words, leaving the data, the model and the folder as they were."""

    def check(
        bench: Bench, call: Callable[[], Any], error: type[Exception], words: list[str], data: Any = None
    ) -> None:
        data = bench.adata if data is None else data
        files = {file: file.read_bytes() for file in bench.folder.rglob("*") if file.is_file()}
        before, weights_before, history = state(data), weights(bench.model), str(bench.model.history)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pytest.raises(error) as caught:
                call()
        said = str(caught.value)
        missing = [word for word in words if word not in said]
        assert not missing, f"{missing} not in: {said}"
        assert state(data) == before, "the user's object was changed"
        assert weights(bench.model) == weights_before, "the model was changed"
        assert str(bench.model.history) == history
        assert {file: file.read_bytes() for file in bench.folder.rglob("*") if file.is_file()} == files

    return check
