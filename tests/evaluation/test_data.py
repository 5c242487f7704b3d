"""What the evaluation takes over from a user's data."""

from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse as sp
from anndata import AnnData

from more_scvi.data import simulate_batches
from more_scvi.evaluation import _data
from more_scvi.evaluation._data import standardise


@pytest.mark.parametrize("make", [sp.csr_matrix, sp.csc_matrix])
def test_counts_stored_in_parts_are_the_counts(make):
    adata = simulate_batches(40, n_genes=10)
    whole = adata.X.toarray()
    x = make(whole)
    half = np.floor(x.data / 2) + 0.5  # the parts are no counts, their sums are
    parts = np.c_[half, x.data - half].ravel(), np.repeat(x.indices, 2), x.indptr * 2
    adata.X = make(parts, shape=whole.shape)
    data, _ = standardise(adata, "batch", "cell_type")
    np.testing.assert_array_equal(data.X.toarray(), whole)
    assert data.X.has_canonical_format
    assert adata.X.nnz == 2 * x.nnz


def test_labels_that_read_like_no_label_are_warned_of():
    adata = simulate_batches(40, n_genes=10)
    adata.obs["cell_type"] = adata.obs["cell_type"].astype(object).where(np.arange(40) > 4, "unassigned")
    with pytest.warns(UserWarning, match="'unassigned' in 5 of .*unlabeled_category='unassigned'"):
        standardise(adata, "batch", "cell_type")


def test_the_matrix_among_the_layers_is_no_layer(monkeypatch):
    """Newer anndata lists ``X`` under the key ``None``."""
    x = sp.csr_matrix(np.ones((3, 2), np.float32))
    listed = SimpleNamespace(layers={None: x, "counts": x})
    assert list(_data.named_layers(listed)) == ["counts"]
    monkeypatch.setattr(_data, "named_layers", lambda _: {"counts": x})
    with pytest.raises(KeyError, match="no layer 'raw'; it has counts"):
        _data.counts_of(AnnData(x), "raw", "data")


@pytest.mark.parametrize("value", [-1, 0.5, np.nan, np.inf])
def test_values_that_are_no_counts_are_found_wherever_they_are(value):
    x = np.ones((400, 300), np.float32)
    x[-1, -1] = value  # beyond any sample from the top
    with pytest.raises(ValueError, match="X of data holds values that are not counts"):
        _data.counts_of(AnnData(x), None, "data")
