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
