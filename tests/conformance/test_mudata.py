"""Several modalities in one MuData: rows, pairing and columns. For models with ``setup_mudata``."""

import mudata
import numpy as np
import pytest

pytestmark = [pytest.mark.needs("mudata"), pytest.mark.filterwarnings("ignore::FutureWarning")]


def paired(data, rows=slice(None)) -> mudata.MuData:
    """RNA and a second modality of the same cells; `rows` orders or selects the cells of the second."""
    rna, adt = data(), data(seed=0)[:, :12].copy()
    adt.var_names = [f"adt_{name}" for name in adt.var_names]
    out = mudata.MuData({"rna": rna, "adt": adt[rows].copy()})
    out.obs["batch"] = rna.obs["batch"].reindex(out.obs_names).to_numpy()
    return out


def embed(case, mdata) -> np.ndarray:
    case.cls.setup_mudata(mdata, modalities={"rna": "rna", "adt": "adt"}, batch_key="batch")
    return case.latent(case.fit(case.cls(mdata, **case.init)))


def test_t07_modalities_in_another_order_of_cells(case, data):
    """The same cells in reverse order in one modality: the same embedding or an error, never a mixture."""
    expected = embed(case, paired(data))
    try:
        z = embed(case, paired(data, slice(None, None, -1)))
    except ValueError:
        return
    np.testing.assert_allclose(z, expected, atol=1e-3)


def test_t08_modalities_of_other_cells(case, data):
    """Cells measured in one modality only: a finite embedding or an error that says how to pad."""
    try:
        assert np.isfinite(embed(case, paired(data, slice(0, 100)))).all()
    except ValueError as error:
        said = str(error)
    else:
        said = "pad"
    assert "pad" in said


def test_t48_a_batch_column_of_one_modality(case, data):
    """A column that only the RNA modality has is found there."""
    mdata = paired(data)
    del mdata.obs["batch"]
    assert np.isfinite(embed(case, mdata)).all()
