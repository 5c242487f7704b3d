from types import SimpleNamespace

import numpy as np
import pytest
from anndata import AnnData
from scipy import sparse

from more_scvi.evaluation import _data


def test_the_matrix_among_the_layers_is_no_layer(monkeypatch):
    """Newer anndata lists ``X`` under the key ``None``."""
    x = sparse.csr_matrix(np.ones((3, 2), np.float32))
    listed = SimpleNamespace(layers={None: x, "counts": x})
    assert list(_data.named_layers(listed)) == ["counts"]
    monkeypatch.setattr(_data, "named_layers", lambda _: {"counts": x})
    with pytest.raises(KeyError, match="no layer 'raw'; it has counts"):
        _data._counts(AnnData(x), "raw", "data")


@pytest.mark.parametrize("value", [-1, 0.5, np.nan, np.inf])
def test_values_that_are_no_counts_are_found_wherever_they_are(value):
    x = np.ones((400, 300), np.float32)
    x[-1, -1] = value  # beyond any sample from the top
    with pytest.raises(ValueError, match="X of data holds values that are not counts"):
        _data._counts(AnnData(x), None, "data")


def test_repeated_entries_are_added_up_and_left_as_they_were():
    twice = sparse.csr_matrix(([1.0, 2.0, 4.0], ([0, 0, 1], [1, 1, 0])), (2, 2), dtype=np.float32)
    repeated = sparse.csr_matrix((np.float32([1, 2, 4]), [1, 1, 0], [0, 2, 3]), (2, 2))
    read = _data._counts(AnnData(repeated), None, "data")
    np.testing.assert_array_equal(read.data, [3, 4])
    np.testing.assert_array_equal(read.toarray(), twice.toarray())
    np.testing.assert_array_equal(repeated.data, [1, 2, 4])
