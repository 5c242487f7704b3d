"""What the evaluation takes over from a user's data."""

import numpy as np
import pytest
import scipy.sparse as sp

from more_scvi.data import simulate_batches
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
