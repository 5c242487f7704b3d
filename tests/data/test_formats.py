"""However a matrix or a column is stored, it is read as the canonical one. Random cases, the same in every run."""

import tempfile
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from more_scvi.data import RowReader, _matrix, check_matrix
from more_scvi.data._covariates import CovariateDesign
from more_scvi.data._fields import BatchField, LabelsField

QUICK = settings(
    max_examples=40,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
DTYPES = ["?", "u1", "i2", "i4", "i8", "f2", "f4", "f8", ">i4", ">f4", ">f8"]


@st.composite
def matrices(draw):
    """A matrix as users store it, and its values as float32."""
    n, m = draw(st.integers(1, 12)), draw(st.integers(1, 7))
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    stored = draw(st.sampled_from(["C", "F", "csr", "csc", "csr_array", "csc_array"]))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    x = rng.poisson(0.8, (n, m)) if dtype.kind in "iu" else rng.integers(0, 9, (n, m)) / 4 * (rng.random((n, m)) < 0.5)
    x = x.astype(dtype)
    if stored in "CF":
        return np.asarray(x, order=stored), x.astype(np.float32)
    dense = x.astype(np.float32)
    rows, columns = np.nonzero(np.ones((n, m)) if draw(st.booleans()) else x)  # explicit zeros, or none
    values = x[rows, columns]
    if draw(st.booleans()) and dtype.kind != "b":  # each value in two parts
        part = values // 2
        rows, columns, values = np.tile(rows, 2), np.tile(columns, 2), np.r_[part, values - part]
    order = rng.permutation(len(rows)) if draw(st.booleans()) else np.arange(len(rows))
    rows, columns, values = rows[order], columns[order], values[order].astype(dtype)
    major, minor, lines = (rows, columns, n) if stored.startswith("csr") else (columns, rows, m)
    by_line = np.argsort(major, kind="stable")
    indptr = np.r_[0, np.cumsum(np.bincount(major, minlength=lines))]
    out = getattr(sp, stored if stored.endswith("array") else f"{stored}_matrix")((n, m), dtype=np.float32)
    out.data, out.indices, out.indptr = values[by_line], minor[by_line].astype(np.int32), indptr.astype(np.int32)
    return out, dense


def parts(x) -> list[np.ndarray]:
    return [x.data.copy(), x.indices.copy(), x.indptr.copy()] if sp.issparse(x) else [x.copy()]


@QUICK
@given(matrices(), st.booleans(), st.integers(1, 5), st.integers(1, 30))
def test_any_matrix_is_read_as_the_canonical_one(case, backed, size, block):
    x, dense = case
    before = parts(x)
    adata = ad.AnnData(obs=pd.DataFrame(index=pd.Index([f"c{i}" for i in range(x.shape[0])])), shape=x.shape)
    adata.layers["x"] = x
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(_matrix, "BLOCK_VALUES", block)
        if backed:
            whole = ad.AnnData(x, obs=adata.obs, var=adata.var)
            whole.write_h5ad(Path(folder) / "a.h5ad")
            adata = ad.read_h5ad(Path(folder) / "a.h5ad", backed="r")
        layer = None if backed else "x"
        genes = np.arange(x.shape[1])[::-2]
        got = sp.vstack([rows for _, rows in RowReader(adata, layer).chunks(size)])
        some = RowReader(adata, layer, genes)[:]
        scan = _matrix.scan_values(adata.X if backed else adata.layers["x"])
        if backed:
            adata.file.close()
    assert got.dtype == some.dtype == np.float32
    assert got.nnz == len(set(zip(*got.nonzero(), strict=True))) + (got.data == 0).sum(), "each place once"
    np.testing.assert_array_equal(got.toarray(), dense)
    np.testing.assert_array_equal(some.toarray(), dense[:, genes])
    assert scan.n_nonzero == np.count_nonzero(dense)
    assert scan.n_fractional == np.count_nonzero(dense % 1)
    assert scan.maximum == dense.max()
    np.testing.assert_array_equal(scan.empty_cells, np.flatnonzero(~dense.any(1)))
    for a, b in zip(before, parts(x), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def test_parts_that_are_no_counts_may_add_up_to_counts():
    x = sp.csr_matrix((np.float32([0.5, 0.5, -1, 3]), [0, 0, 1, 1], [0, 4]), shape=(1, 2))
    assert check_matrix(ad.AnnData(x))[1] == "counts"
    assert x.nnz == 4


def test_a_sum_of_parts_does_not_wrap_around():
    x = sp.csr_matrix((np.uint8([200, 200]), [0, 0], [0, 2]), shape=(1, 1))
    assert RowReader(ad.AnnData(x))[:].toarray() == 400


VALUES = st.sampled_from(["a", "b", "c", "10", "9"])


@QUICK
@given(st.lists(VALUES, min_size=1, max_size=15), st.permutations(["a", "b", "c", "10", "9", "unused"]), st.data())
def test_order_and_type_of_a_column_do_not_matter(values, levels, data):
    plain = pd.Series(values, dtype=object)
    stored = data.draw(
        st.sampled_from(
            [
                pd.Series(pd.Categorical(values, categories=levels)),
                pd.Series(pd.Categorical(values, categories=levels, ordered=True)),
                pd.Series(values, dtype="string"),
                pd.Series(values, dtype="str"),
                pd.Series(pd.Categorical(pd.array(values, dtype="string"))),
            ]
        )
    )
    numbers = pd.Series(np.arange(len(values)))
    number = numbers.astype(data.draw(st.sampled_from(["i8", "u1", "f4", "f8", "Int64", "Float32"])))
    got, want = (
        ad.AnnData(obs=pd.DataFrame({"k": column.to_numpy() if column is plain else column.array, "n": n.array}))
        for column, n in ((stored, number), (plain, numbers))
    )
    for field in (BatchField("k"), LabelsField("k", "a")):
        assert field.values(got).tolist() == field.values(want).tolist()
        mapping = field.categories(want)
        assert field.categories(got).tolist() == mapping.tolist()
        assert field.codes(got, mapping).tolist() == field.codes(want, mapping).tolist()
    one, other = (CovariateDesign.fit(adata.obs, ["k"], ["n"]) for adata in (got, want))
    assert one == other
    np.testing.assert_allclose(one.transform(got.obs), other.transform(want.obs), rtol=1e-6)
    order = np.random.default_rng(0).permutation(len(values))
    np.testing.assert_allclose(one.transform(got.obs.iloc[order]), one.transform(got.obs)[order], rtol=1e-6)


@QUICK
@given(st.floats(-1e10, 1e10), st.integers(3, 12))
def test_the_origin_of_a_covariate_does_not_matter(origin, n):
    values = np.linspace(0, 3e5, n)
    designs = []
    for shift in (0, origin):
        adata = ad.AnnData(obs=pd.DataFrame({"time": values + shift}))
        designs.append(CovariateDesign.fit(adata.obs, [], ["time"]).transform(adata.obs))
    np.testing.assert_allclose(designs[0], designs[1], atol=1e-5)


@pytest.mark.parametrize(
    ("value", "dtype", "error"),
    [
        (np.nan, float, ValueError),
        (np.inf, float, ValueError),
        (pd.NA, "Float64", ValueError),
        ("?", object, TypeError),
    ],
    ids=["nan", "inf", "NA", "text"],
)
def test_a_covariate_of_other_data_is_checked_as_that_of_setup(value, dtype, error):
    adata = ad.AnnData(obs=pd.DataFrame({"age": [1.0, 2.0, 3.0]}, index=list("xyz")))
    design = CovariateDesign.fit(adata.obs, [], ["age"])
    adata.obs["age"] = pd.Series([1.0, value, 3.0], index=list("xyz"), dtype=dtype)
    with pytest.raises(error, match=r"adata.obs\['age'\]" + (".*1 of 3 cells.*'y'" if error is ValueError else "")):
        design.transform(adata.obs)


def test_a_new_level_of_a_covariate_is_not_said_to_be_centred():
    adata = ad.AnnData(obs=pd.DataFrame({"sex": ["f", "m"]}, index=list("xy")))
    design = CovariateDesign.fit(adata.obs, ["sex"], [])
    adata.obs["sex"] = ["f", "d"]
    with pytest.warns(UserWarning, match=r"'d' \(1 of 2 cells.*effect is not removed") as caught:
        out = design.transform(adata.obs)
    assert "centred" not in str(caught[0].message)
    assert out.tolist() == [[1, 0], [0, 0]]


def test_the_user_is_not_warned_by_numpy():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_matrix(ad.AnnData(np.full((3, 2), 60_000, dtype=np.float16)))
